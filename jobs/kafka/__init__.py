"""Claim, stage and publish messages, whatever their content."""

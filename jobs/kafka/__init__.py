"""Claiming, staging and publishing messages, whatever they carry."""

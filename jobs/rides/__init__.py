"""The rides vertical: contract, pricing, sinks and ledger."""

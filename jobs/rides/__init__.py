"""The rides vertical: its contract, its price, its sinks and the ledger that holds them together."""

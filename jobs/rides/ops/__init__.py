"""Looking after the rides: the ledger, following one ride, repairs and clean-up."""

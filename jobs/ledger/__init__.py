"""What every ledger shares: its figures, its verdict, its exit code."""

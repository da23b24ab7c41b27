"""What every vertical's ledger shares: figures, verdict, exit code."""

"""Schema versions of the ledger, one Alembic revision per file; opening a ledger brings it up to date."""

"""A ledger tells where it was moved to; from here on events also withdraw and lock what was said."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: a ledger that was not moved lives where it is."""
    op.add_column("tip", sa.Column("moved_to", sa.Text, nullable=False, server_default=""))

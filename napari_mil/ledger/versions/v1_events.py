"""Events that can only be added, and the tip of their chain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the two tables and the triggers that refuse any change of an event."""
    words = ("id", "at", "by", "kind", "slide_id", "payload", "previous", "hash")
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(word, sa.Text, nullable=False, unique=word in {"id", "hash"}) for word in words),
    )
    op.create_index("events_by_slide", "events", ["slide_id", "seq"])
    op.create_index("events_by_kind", "events", ["kind", "seq"])
    tip = op.create_table(
        "tip",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )
    op.bulk_insert(tip, [{"id": 1, "seq": 0, "hash": "0" * 64}])
    refusal = "'the ledger is insert-only'"
    if op.get_bind().dialect.name == "sqlite":
        for act in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER events_refuse_{act.lower()} BEFORE {act} ON events "
                f"BEGIN SELECT RAISE(ABORT, {refusal}); END"
            )
        return
    op.execute(
        "CREATE FUNCTION events_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION {refusal}; END $$"
    )
    op.execute(
        "CREATE TRIGGER events_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON events "
        "EXECUTE FUNCTION events_refuse()"
    )

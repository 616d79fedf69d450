"""Which site the registry serves for each queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The identity of the site."""
    op.create_table(
        "queue_sites",
        sa.Column("queue", sa.String(), primary_key=True),
        sa.Column("site", sa.String(), nullable=False),
    )

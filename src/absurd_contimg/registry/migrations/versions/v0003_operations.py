"""Processes of the site, free space over time, alerts, actions of operators."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What operators see and do."""
    op.create_table(
        "service_records",
        sa.Column("kind", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("queues", sa.String(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("stopped_at", sa.Double()),
        sa.Column("activity", sa.String(), nullable=False),
        sa.Column("problem", sa.String(), nullable=False),
        sa.Column("clock_offset_seconds", sa.Double(), nullable=False),
        sa.Column("memory_bytes", sa.Double(), nullable=False),
    )
    op.create_table(
        "disk_samples",
        sa.Column("host", sa.String(), primary_key=True),
        sa.Column("folder", sa.String(), primary_key=True),
        sa.Column("at", sa.Double(), primary_key=True),
        sa.Column("free_bytes", sa.Double(), nullable=False),
        sa.Column("total_bytes", sa.Double(), nullable=False),
        sa.Column("free_inodes", sa.Double()),
        sa.Column("total_inodes", sa.Double()),
    )
    op.create_table(
        "alerts",
        sa.Column("rule", sa.String(), primary_key=True),
        sa.Column("subject", sa.String(), primary_key=True),
        sa.Column("state", sa.JSON(), nullable=False),
    )
    op.create_table(
        "operator_actions",
        sa.Column("action_id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("at", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False, index=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
    )
    op.add_column(
        "queue_pauses",
        sa.Column("ends_running", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.create_table(
        "removed_products",
        sa.Column("product_key", sa.String(), primary_key=True),
        sa.Column("stage", sa.String(), nullable=False, index=True),
        sa.Column("group_id", sa.String(), nullable=False, index=True),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
    )

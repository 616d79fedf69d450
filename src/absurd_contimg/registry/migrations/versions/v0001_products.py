"""Groups, their files, products, calibrations, images, validations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables of the first version."""
    op.create_table(
        "registry_schema",
        sa.Column("version", sa.Integer(), primary_key=True),
    )
    op.create_table(
        "observation_groups",
        sa.Column("group_id", sa.String(), primary_key=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String()),
    )
    op.create_table(
        "subband_files",
        sa.Column("path", sa.String(), primary_key=True),
        _group_id(),
        sa.Column("subband", sa.Integer(), nullable=False),
        sa.Column("timestamp_seconds", sa.BigInteger(), nullable=False, index=True),
    )
    op.create_table(
        "products",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("stage_version", sa.Integer(), nullable=False),
        _group_id(),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("outputs", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("attempt", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "measurement_sets",
        sa.Column("path", sa.String(), primary_key=True),
        sa.Column(
            "product_key", sa.String(), sa.ForeignKey("products.key"), nullable=False, index=True
        ),
        _group_id(),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("start_mjd", sa.Double(), nullable=False),
        sa.Column("mid_mjd", sa.Double(), nullable=False),
        sa.Column("end_mjd", sa.Double(), nullable=False),
        sa.Column("ra_deg", sa.Double(), nullable=False),
        sa.Column("dec_deg", sa.Double(), nullable=False),
        sa.Column("declination_deg", sa.Double(), nullable=False),
        sa.Column("n_rows", sa.BigInteger(), nullable=False),
        sa.Column("n_channels", sa.Integer(), nullable=False),
        sa.Column("flagged_fraction", sa.Double(), nullable=False),
    )
    op.create_table(
        "caltable_sets",
        _product_key(),
        sa.Column("set_name", sa.String(), nullable=False),
        _group_id(),
        sa.Column("source_ms", sa.String(), nullable=False),
        sa.Column("calibrator", sa.String(), nullable=False),
        sa.Column("refant", sa.String(), nullable=False),
        sa.Column("declination_deg", sa.Double(), nullable=False),
        sa.Column("mid_mjd", sa.Double(), nullable=False, index=True),
        sa.Column("valid_start_mjd", sa.Double(), nullable=False),
        sa.Column("valid_end_mjd", sa.Double(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("retired_reason", sa.String()),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("quality", sa.JSON(), nullable=False),
    )
    op.create_table(
        "caltables",
        sa.Column("path", sa.String(), primary_key=True),
        sa.Column(
            "product_key",
            sa.String(),
            sa.ForeignKey("caltable_sets.product_key"),
            nullable=False,
            index=True,
        ),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("apply_order", sa.Integer(), nullable=False),
        sa.Column("interp", sa.String(), nullable=False),
    )
    op.create_table(
        "images",
        _product_key(),
        _group_id(),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
    )
    op.create_table(
        "validations",
        _product_key(),
        _group_id(),
        sa.Column("details", sa.JSON(), nullable=False),
    )


def _group_id() -> sa.Column[str]:
    return sa.Column(
        "group_id",
        sa.String(),
        sa.ForeignKey("observation_groups.group_id"),
        nullable=False,
        index=True,
    )


def _product_key() -> sa.Column[str]:
    return sa.Column("product_key", sa.String(), sa.ForeignKey("products.key"), primary_key=True)

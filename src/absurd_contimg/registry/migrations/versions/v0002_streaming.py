"""Windows, mosaics, photometry, publications, batches, slots, pauses, schedules.

Products may belong to a window, so their group is no foreign key any more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From groups of one night to a stream."""
    _extend_groups_and_files()
    _free_products_of_groups()
    _create_derived_tables()
    _create_streaming_tables()
    _create_batch_tables()
    op.execute("delete from registry_schema")
    op.execute("insert into registry_schema (version) values (2)")


def _extend_groups_and_files() -> None:
    op.add_column("observation_groups", sa.Column("mid_mjd", sa.Double()))
    op.add_column("observation_groups", sa.Column("declination_deg", sa.Double()))
    op.add_column(
        "observation_groups",
        sa.Column("ingest_state", sa.String(), nullable=False, server_default="closed"),
    )
    op.add_column("observation_groups", sa.Column("closed_reason", sa.String()))
    op.add_column("observation_groups", sa.Column("n_subbands", sa.Integer()))
    op.add_column("observation_groups", sa.Column("closed_at", sa.String()))
    op.add_column(
        "observation_groups",
        sa.Column("files_version", sa.Integer(), nullable=False, server_default="1"),
    )
    op.add_column("observation_groups", sa.Column("task_id", sa.String()))
    op.add_column("observation_groups", sa.Column("photometry_task_id", sa.String()))
    for column in ("mid_mjd", "declination_deg"):
        op.execute(
            f"update observation_groups set {column} = (select max({column}) from "
            "measurement_sets where kind = 'raw' and "
            "measurement_sets.group_id = observation_groups.group_id)"
        )
    op.create_index("ix_observation_groups_mid_mjd", "observation_groups", ["mid_mjd"])
    op.create_index("ix_observation_groups_ingest_state", "observation_groups", ["ingest_state"])
    op.add_column("subband_files", sa.Column("size", sa.BigInteger()))
    op.add_column("subband_files", sa.Column("mtime_ns", sa.BigInteger()))
    op.add_column(
        "subband_files",
        sa.Column("state", sa.String(), nullable=False, server_default="whole"),
    )
    op.add_column("subband_files", sa.Column("reason", sa.String()))
    op.add_column("subband_files", sa.Column("first_seen", sa.String()))
    op.add_column("subband_files", sa.Column("unchanged_since", sa.String()))
    op.create_index("ix_subband_files_state", "subband_files", ["state"])


def _free_products_of_groups() -> None:
    # SQLite's keys have no names: the convention is that of Postgres, so one name serves both.
    convention = {"fk": "%(table_name)s_%(column_0_name)s_fkey"}
    with op.batch_alter_table("products", naming_convention=convention) as products:
        products.drop_constraint("products_group_id_fkey", type_="foreignkey")
        products.create_index("ix_products_stage_group_id", ["stage", "group_id"])


def _create_derived_tables() -> None:
    op.create_table(
        "mosaics",
        _product_key(),
        sa.Column("window_id", sa.String(), nullable=False, index=True),
        sa.Column("tier", sa.String(), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("mid_mjd", sa.Double(), nullable=False, index=True),
        sa.Column("details", sa.JSON(), nullable=False),
    )
    op.create_table(
        "photometry",
        _product_key(),
        sa.Column("source", sa.String(), primary_key=True),
        sa.Column("group_id", sa.String(), nullable=False, index=True),
        sa.Column("mjd", sa.Double(), nullable=False),
        sa.Column("ra_deg", sa.Double(), nullable=False),
        sa.Column("dec_deg", sa.Double(), nullable=False),
        sa.Column("flux_jy", sa.Double(), nullable=False),
        sa.Column("error_jy", sa.Double(), nullable=False),
        sa.Column("catalogue_jy", sa.Double()),
        sa.Column("flags", sa.String(), nullable=False),
    )
    op.create_index("ix_photometry_source_mjd", "photometry", ["source", "mjd"])


def _create_streaming_tables() -> None:
    op.create_table(
        "windows",
        sa.Column("window_id", sa.String(), primary_key=True),
        sa.Column("state", sa.String(), nullable=False, index=True),
        sa.Column("start_mjd", sa.Double(), nullable=False, index=True),
        sa.Column("end_mjd", sa.Double(), nullable=False),
        sa.Column("declination_deg", sa.Double(), nullable=False),
        sa.Column("members", sa.JSON(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("closed_reason", sa.String()),
        sa.Column("superseded_by", sa.String()),
        sa.Column("task_id", sa.String()),
    )
    op.create_table(
        "publications",
        sa.Column("product_key", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False, index=True),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("published_at", sa.String()),
    )


def _create_batch_tables() -> None:
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False, index=True),
        sa.Column("queue", sa.String(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("reason", sa.String()),
    )
    op.create_table(
        "batch_items",
        sa.Column("batch_id", sa.String(), sa.ForeignKey("batches.batch_id"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("task_id", sa.String()),
        sa.Column("params", sa.JSON(), nullable=False),
    )
    op.create_index(
        "ix_batch_items_batch_id_state", "batch_items", ["batch_id", "state", "position"]
    )
    op.create_table(
        "resource_slots",
        sa.Column("resource", sa.String(), primary_key=True),
        sa.Column("holder", sa.String(), primary_key=True),
        sa.Column("taken", sa.Boolean(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
    )
    op.create_table(
        "queue_pauses",
        sa.Column("queue", sa.String(), primary_key=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("since", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
    )
    op.create_table(
        "schedules",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("spec", sa.String(), nullable=False),
        sa.Column("action", sa.JSON(), nullable=False),
        sa.Column("catch_up", sa.String(), nullable=False),
        sa.Column("last_slot", sa.BigInteger()),
        sa.Column("last_run", sa.String()),
        sa.Column("outcome", sa.String()),
    )


def _product_key() -> sa.Column[str]:
    return sa.Column("product_key", sa.String(), sa.ForeignKey("products.key"), primary_key=True)

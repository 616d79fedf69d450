"""The dashboard: pages over a site, live or recorded."""

from absurd_contimg.operations.dashboard.app import LOGIN_PATHS, add_dashboard
from absurd_contimg.operations.dashboard.charts import FaultMark
from absurd_contimg.operations.dashboard.serving import dashboard_rules, make_app, serve
from absurd_contimg.operations.dashboard.sources import (
    Source,
    history_source,
    production_source,
    simulation_source,
)

__all__ = [
    "LOGIN_PATHS",
    "FaultMark",
    "Source",
    "add_dashboard",
    "dashboard_rules",
    "history_source",
    "make_app",
    "production_source",
    "serve",
    "simulation_source",
]

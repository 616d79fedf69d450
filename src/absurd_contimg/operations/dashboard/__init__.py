"""The dashboard: pages over a site, live or recorded."""

from absurd_contimg.operations.dashboard.app import LOGIN_PATHS, add_dashboard
from absurd_contimg.operations.dashboard.charts import FaultMark
from absurd_contimg.operations.dashboard.serving import Server, make_app, serve
from absurd_contimg.operations.dashboard.sources import (
    Source,
    history_source,
    production_source,
    simulation_source,
)

__all__ = [
    "LOGIN_PATHS",
    "FaultMark",
    "Server",
    "Source",
    "add_dashboard",
    "history_source",
    "make_app",
    "production_source",
    "serve",
    "simulation_source",
]

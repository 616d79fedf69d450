"""The services of a site on this host: units of systemd and their environment file."""

from absurd_contimg.operations.deploy.environment import (
    environment_file,
    read_environment_file,
)
from absurd_contimg.operations.deploy.installation import (
    ENVIRONMENT_FILE,
    PlannedFile,
    find_credentials,
    install,
    next_commands,
    plan_files,
)
from absurd_contimg.operations.deploy.units import (
    DeployedSite,
    render_units,
    this_site,
    worker_stop_seconds,
)

__all__ = [
    "ENVIRONMENT_FILE",
    "DeployedSite",
    "PlannedFile",
    "environment_file",
    "find_credentials",
    "install",
    "next_commands",
    "plan_files",
    "read_environment_file",
    "render_units",
    "this_site",
    "worker_stop_seconds",
]

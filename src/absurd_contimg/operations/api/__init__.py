"""The HTTP API of a site."""

from absurd_contimg.operations.api.access import LOOPBACK_HOSTS, SESSION_COOKIE, AccessRules
from absurd_contimg.operations.api.app import make_api
from absurd_contimg.operations.api.guard import Bounds
from absurd_contimg.operations.api.quicklooks import draw_quicklook
from absurd_contimg.operations.api.server import address, open_socket, run_server
from absurd_contimg.operations.api.service import (
    access_rules,
    open_production,
    reported_server,
    serve_api,
)
from absurd_contimg.operations.api.shared_read import SharedRead

__all__ = [
    "LOOPBACK_HOSTS",
    "SESSION_COOKIE",
    "AccessRules",
    "Bounds",
    "SharedRead",
    "access_rules",
    "address",
    "draw_quicklook",
    "make_api",
    "open_production",
    "open_socket",
    "reported_server",
    "run_server",
    "serve_api",
]

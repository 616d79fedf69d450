"""The HTTP API of a site."""

from absurd_contimg.operations.api.access import LOOPBACK_HOSTS, SESSION_COOKIE, AccessRules
from absurd_contimg.operations.api.app import make_api
from absurd_contimg.operations.api.guard import Bounds

__all__ = ["LOOPBACK_HOSTS", "SESSION_COOKIE", "AccessRules", "Bounds", "make_api"]

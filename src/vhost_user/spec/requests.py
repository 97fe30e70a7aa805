"""The request table: every message of both directions, and the ids by name."""

from vhost_user.spec.backend_requests import BACKEND_REQUESTS
from vhost_user.spec.frontend_requests import FRONTEND_REQUESTS
from vhost_user.spec.ids import BackendRequest, FrontendRequest
from vhost_user.spec.table import (
    Direction,
    ErrorReply,
    FdRule,
    ReplyKind,
    ReplyRule,
    RequestRow,
    RequestTable,
    Rule,
)

__all__ = [
    "BACKEND_REQUESTS",
    "FRONTEND_REQUESTS",
    "BackendRequest",
    "Direction",
    "ErrorReply",
    "FdRule",
    "FrontendRequest",
    "ReplyKind",
    "ReplyRule",
    "RequestRow",
    "RequestTable",
    "Rule",
]

"""Errors as problem documents (RFC 9457): every status above 399 is one of these."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from absurd_contimg.core.errors import (
    BackendError,
    BackendUnavailable,
    QueueNotFound,
    SchemaMissing,
    UnsuitableDatabase,
)
from absurd_contimg.errors import (
    AwayError,
    CorruptInputError,
    InputError,
    MissingInputError,
    SettingError,
    UserError,
)
from absurd_contimg.operations.client import Problem
from absurd_contimg.operations.console import jsonable
from absurd_contimg.secrets import mask

RETRY_AFTER_SECONDS = 5
"""For what is away: the database, the registry."""

_CHARACTERS_MAX = 2000

_REMEDIES: Mapping[int, str] = {
    400: "Send a request of HTTP/1.1 with a body of JSON.",
    404: "Look for it in the list that it belongs to; /openapi.json has all addresses.",
    405: "Use a method that /openapi.json names for this address.",
    408: "Send the request again, whole.",
    409: "Look at its present state, then ask again.",
    413: "Send less in one request.",
    414: "Send fewer or shorter parameters.",
    422: "Correct this value: /openapi.json describes which are taken.",
    431: "Send fewer or shorter headers.",
    500: "It is a mistake of this program: the log of its service (contimg api) has the "
    "traceback. Report it with that.",
    503: "Ask again later: it comes back by itself, or contimg doctor says what it lacks.",
}
"""What to do about a problem that says no more than its status."""

_NO_ADDRESS = (
    f"{_REMEDIES[404]} A queue whose name holds a / or is . or .. cannot be reached over HTTP: "
    "contimg --queue NAME status"
)
"""What to do where nothing has such an address: a / is decoded before it is looked up, and clients
take dots away.
"""


class ProblemError(Exception):
    """Ends a request with a problem document."""

    def __init__(self, status: int, detail: str, remedy: str = "") -> None:
        super().__init__(detail)
        self.problem = problem(status, detail, remedy)


def problem(status: int, detail: str, remedy: str = "") -> Problem:
    """The document of a status; passwords are masked, long texts shortened.

    Without a remedy of its own it has that of its status.
    """
    remedy = remedy or _REMEDIES.get(status, "See /openapi.json.")
    texts = (mask(text)[:_CHARACTERS_MAX] for text in (detail, remedy))
    return Problem(HTTPStatus(status).phrase, status, *texts)


def problem_response(document: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The response; what is away says when to ask again."""
    extra = dict(headers or {})
    if document.status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    return JSONResponse(
        jsonable(document),
        status_code=document.status,
        headers=extra,
        media_type="application/problem+json",
    )


def problem_of(error: Exception) -> Problem:
    """The problem document of an error of backend, registry or operator."""
    match error:
        case ProblemError():
            return error.problem
        case AwayError() | BackendUnavailable() | SchemaMissing() | UnsuitableDatabase():
            status = HTTPStatus.SERVICE_UNAVAILABLE
        case MissingInputError() | QueueNotFound():
            status = HTTPStatus.NOT_FOUND
        case CorruptInputError() | SettingError():
            status = HTTPStatus.CONFLICT
        case UserError() if not isinstance(error, InputError):
            status = HTTPStatus.CONFLICT
        case _:  # a value that cannot be used, or that the database refuses
            status = HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(error, UserError):
        return problem(status, error.problem, error.remedy)
    return problem(status, str(error))


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error with a problem document."""

    async def known(_: Request, error: Exception) -> Response:
        return problem_response(problem_of(error))

    for kind in (ProblemError, UserError, BackendError):
        app.add_exception_handler(kind, known)

    @app.exception_handler(HTTPException)
    async def of_framework(_: Request, error: HTTPException) -> Response:
        remedy = _NO_ADDRESS if error.status_code == HTTPStatus.NOT_FOUND else ""
        document = problem(error.status_code, str(error.detail), remedy)
        return problem_response(document, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        places = [_explain(each) for each in error.errors()[:5]]
        return problem_response(problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{'; '.join(places)}."))


def _explain(error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: {error['msg']}"


_SCHEMA = {"$ref": f"#/components/schemas/{Problem.__name__}"}
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {"application/problem+json": {"schema": _SCHEMA}},
    }
    for status, description in {
        400: "The request is no HTTP or JSON that can be read.",
        401: "The token is missing or wrong.",
        403: "Not allowed: no token is configured, or the request is from another site.",
        404: "There is no such thing.",
        405: "There is no such method here.",
        408: "The request took too long to arrive.",
        409: "It cannot be done now.",
        413: "The body is too large.",
        414: "The address is too long.",
        415: "The body is no JSON.",
        421: "The Host header names another site.",
        422: "A parameter or the body has a value that cannot be used.",
        431: "The headers are too long.",
        503: "The database or the registry is away.",
    }.items()
}
"""For the description of each operation."""
PROBLEM_RESPONSES[503]["model"] = Problem
"""Once is enough for the schema to be there: each model costs a millisecond, in 34 operations."""

"""Parameters and bodies that several operations have, with their bounds."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from fastapi import Header, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from absurd_contimg.operations.api.problems import PROBLEM_RESPONSES, ProblemError
from absurd_contimg.operations.services import Actions
from absurd_contimg.registry.database import Database
from absurd_contimg.settings import QUEUE_BYTES_MAX

QueueName = Annotated[
    str, Path(min_length=1, max_length=QUEUE_BYTES_MAX, description="A queue's name.")
]
TaskId = Annotated[UUID, Path(description="The id of a task.")]
Name = Annotated[str, Path(min_length=1, max_length=200)]
"""Of a group, window or batch."""

Tables = Callable[[], Database | None]
"""The registry's tables, None where there are none; blocks for a moment."""

Time = Annotated[AwareDatetime | None, Query(description="ISO 8601 with its offset.")]

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        description="The same request with the same key again finds what it has made, and makes "
        "nothing; another request with a key that is known is refused (422).",
    ),
]


class Reason(BaseModel):
    """The body of an action."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(
        "", max_length=1000, pattern=r"^[^\x00]*$", description="Why; it is recorded."
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented errors of an operation: these, and those that every request can meet."""
    always = (400, 401, 403, 408, 413, 414, 421, 422, 431, 503)
    return {status: PROBLEM_RESPONSES[status] for status in sorted({*always, *statuses})}


def read_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same of a read, which has an ETag."""
    not_modified: dict[str, Any] = {"description": "As the client has it (If-None-Match)."}
    return {304: not_modified, **responses(*statuses)}


def required(actions: Actions | None) -> Actions:
    """The actions, or a problem where there are none."""
    if actions is None:
        raise ProblemError(
            HTTPStatus.FORBIDDEN, "Nothing can be changed here: it is a record of the past."
        )
    return actions

"""Responses of reads: JSON with an ETag, cursors of pages, and what every operation documents."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import Query, Request, Response

from absurd_contimg.operations.api.problems import ProblemError
from absurd_contimg.operations.client import Page
from absurd_contimg.operations.console import jsonable

T = TypeVar("T")

LIMIT_MAX = 500
"""The most items of a page."""

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="How many items at most.")]
Cursor = Annotated[
    str | None, Query(max_length=400, description="`next_cursor` of the page before.")
]


def read_response(request: Request, record: object) -> Response:
    """The record as JSON with an ETag, or 304 if the client has it."""
    body = json.dumps(jsonable(record), separators=(",", ":")).encode()
    return tagged(request, body, "application/json")


def tagged(request: Request, body: bytes, media_type: str) -> Response:
    """The body with an ETag, or 304 if the client has it."""
    etag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    known = [each.strip().removeprefix("W/") for each in _known_tags(request)]
    if etag in known or "*" in known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": etag})
    return Response(body, media_type=media_type, headers={"ETag": etag})


def _known_tags(request: Request) -> Sequence[str]:
    return request.headers.get("if-none-match", "").split(",")


def encode_cursor(of_list: str, key: str) -> str:
    """The cursor that stands for the last key of a page of this list."""
    text = f"{_list_digest(of_list)} {key}"
    return base64.urlsafe_b64encode(text.encode(errors="surrogatepass")).decode()


def decode_cursor(of_list: str, cursor: str | None) -> str | None:
    """The key of a cursor; raises a problem for one that we did not write, or for another list."""
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise no_cursor() from None
    digest, _, key = text.partition(" ")
    if digest != _list_digest(of_list):
        raise no_cursor()
    return key


def _list_digest(of_list: str) -> str:
    """Short, whatever the name of a queue or a batch is."""
    name = of_list.encode(errors="surrogatepass")
    return hashlib.blake2b(name, digest_size=6).hexdigest()


def no_cursor() -> ProblemError:
    """The problem of a cursor that we did not write, or that is of another list."""
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "The cursor is none that this API has given for this list.",
        "Begin without a cursor.",
    )


def page_of(
    of_list: str,
    items: Sequence[T],
    key: Callable[[T], str],
    cursor: str | None,
    limit: int,
) -> Page[T]:
    """A page of a list that is read whole; its keys are unique, and items after the cursor's come.

    When the item of the cursor has gone meanwhile, the page begins at the start of the list.
    """
    last = decode_cursor(of_list, cursor)
    keys = [key(item) for item in items]
    start = 0 if last is None or last not in keys else keys.index(last) + 1
    chosen = tuple(items[start : start + limit])
    more = start + limit < len(items)
    return Page(chosen, encode_cursor(of_list, key(chosen[-1])) if more and chosen else None)

"""What a reader with the token can do: log in, retry, fork, cancel, pause, to one task or to many.

Every action is one of `services.Actions`, which records it. After a POST the reader is sent to a
page (303), so that a reload does nothing twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.records import LIVE_STATES, Task
from absurd_contimg.errors import MissingInputError, UserError
from absurd_contimg.operations.api import SESSION_COOKIE
from absurd_contimg.operations.dashboard.frame import Frame, form_of
from absurd_contimg.operations.dashboard.task_filters import PageFilter, task_filter
from absurd_contimg.operations.dashboard.task_pages import address_of, queue_problem
from absurd_contimg.operations.services import Actions

LOGIN = "/login"
_BULK_MAX = 1000
"""Tasks that one click changes at most."""
_SHOWN_MAX = 20
_SESSION_SECONDS = 12 * 3600
_STATES = {"retry": ("failed",), "cancel": LIVE_STATES}
"""The tasks that an action on many concerns."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The tasks that an action on many would change."""

    page: PageFilter
    action: str
    tasks: tuple[Task, ...]
    total: int
    """Of which one click changes `_BULK_MAX`."""


def add_action_pages(router: APIRouter, frame: Frame) -> None:
    """The forms' targets."""
    _add_login(router, frame)
    _add_task_actions(router, frame)
    _add_bulk(router, frame)
    _add_queue_actions(router, frame)


def _local(address: str) -> str:
    """An address of this server, or the first page."""
    safe = (
        address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    )
    return address if safe else "/"


def _add_login(router: APIRouter, frame: Frame) -> None:
    @router.get(LOGIN)
    async def login_form(request: Request) -> HTMLResponse:
        following = _local(request.query_params.get("next", "/"))
        return frame.bare_page(request, "login.html.jinja", "Log in", 200, next=following, wrong="")

    @router.post(LOGIN)
    async def login(request: Request) -> Response:
        form = await form_of(request)
        following = _local(form.get("next", "/"))
        session = frame.rules.session
        if session is None or not frame.rules.accepts_token(form.get("token", "").strip()):
            text = "That is not the token of the settings." if session else frame.control_note
            return frame.bare_page(
                request, "login.html.jinja", "Log in", 403, next=following, wrong=text
            )
        response = RedirectResponse(following, 303)
        response.set_cookie(
            SESSION_COOKIE,
            session,
            max_age=_SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    @router.post("/logout")
    async def logout() -> Response:
        response = RedirectResponse("/", 303)
        response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return response


def _add_task_actions(router: APIRouter, frame: Frame) -> None:
    @router.post("/tasks/{queue}/{task_id}/{action}")
    async def act(request: Request, queue: str, task_id: str, action: str) -> Response:
        actions = frame.require_actions(request)
        try:
            number = UUID(task_id)
        except ValueError:
            raise MissingInputError(f"There is no task {task_id}.") from None
        form = await form_of(request)
        reason, address = form.get("reason", ""), address_of(queue, number)
        try:
            if action == "retry":
                await actions.retry(queue, number, reason)
                return frame.done(address, "It is tried again, from its last checkpoint.")
            if action == "cancel":
                return frame.done(address, await actions.cancel(queue, number, reason))
            if action == "fork":
                task = await actions.fork(queue, number, form.get("step", ""), reason)
                text = f"Forked from task {number} at {form.get('step', '')}."
                return frame.done(address_of(queue, task.task_id), text)
        except (UserError, BackendError, ValueError) as error:
            return frame.done(address, f"Nothing was done: {error}", "failure")
        raise MissingInputError(f"There is no action {action}.")


def _add_bulk(router: APIRouter, frame: Frame) -> None:
    @router.get("/bulk")
    async def bulk(request: Request) -> HTMLResponse:
        page = PageFilter.from_query(request.query_params)
        selection = await select(frame, page, request.query_params.get("action", ""))
        page = selection.page
        return await frame.page(
            request,
            "bulk.html.jinja",
            "tasks",
            f"{selection.action.capitalize()} {selection.total} tasks",
            selection=selection,
            shown=selection.tasks[:_SHOWN_MAX],
            newest=selection.tasks[0].task_id if selection.tasks else "",
            fields=[(name, getattr(page, name)) for name in PageFilter.__slots__],
            back=f"/tasks?{page.query}",
        )

    @router.post("/bulk")
    async def do_bulk(request: Request) -> Response:
        actions = frame.require_actions(request)
        form = await form_of(request)
        page = PageFilter.from_query(form)
        selection = await select(frame, page, form.get("action", ""), form.get("newest", ""))
        page = selection.page
        done, refused = 0, []
        for task in selection.tasks:
            try:
                await _act(
                    actions, page.queue, task.task_id, selection.action, form.get("reason", "")
                )
                done += 1
            except (UserError, BackendError, ValueError) as error:
                refused.append(f"{task.task_id}: {error}")
        rest = selection.total - len(selection.tasks)
        text = f"{selection.action}: {done} tasks done, {len(refused)} refused."
        text += f" {rest} more are left: do it again." if rest > 0 else ""
        text += "".join(f"\n{line}" for line in refused[:5])
        return frame.done(f"/tasks?{page.query}", text, "failure" if refused else "")


async def select(frame: Frame, page: PageFilter, action: str, newest: str = "") -> Selection:
    """The tasks of a filter that an action concerns, up to the newest that was shown before."""
    if action not in _STATES:
        raise MissingInputError(f"There is no action {action} on many tasks.")
    queues = await frame.site.queues()
    page = replace(page, queue=page.queue or next(iter(queues), ""))
    if page.queue not in queues:  # its tasks would be changed
        raise MissingInputError(await queue_problem(frame, page.queue, queues))
    wanted, problems = await asyncio.to_thread(task_filter, page, await frame.database())
    if problems:
        raise UserError(f"The filter is not understood: {' '.join(problems)}")
    states = [s for s in _STATES[action] if wanted.states is None or s in wanted.states]
    wanted = replace(wanted, states=states)
    before = UUID(int=min(_number(newest) + 1, 2**128 - 1)) if newest else None
    tasks = await frame.site.inspection.find_tasks(
        page.queue, wanted, before=before, limit=_BULK_MAX
    )
    total = sum((await frame.site.inspection.count_tasks(page.queue, wanted)).values())
    return Selection(page, action, tuple(tasks), max(total, len(tasks)))


def _number(task_id: str) -> int:
    try:
        return UUID(task_id).int
    except ValueError:
        raise MissingInputError(f"There is no task {task_id}.") from None


async def _act(actions: Actions, queue: str, task_id: UUID, action: str, reason: str) -> None:
    if action == "retry":
        await actions.retry(queue, task_id, reason)
    else:
        await actions.cancel(queue, task_id, reason)


def _add_queue_actions(router: APIRouter, frame: Frame) -> None:
    @router.post("/queues/{queue}/{action}")
    async def act(request: Request, queue: str, action: str) -> Response:
        actions = frame.require_actions(request)
        reason = (await form_of(request)).get("reason", "")
        address = "/queues"
        try:
            if action == "pause":
                await actions.pause_queue(queue, reason)
                return frame.done(address, f"Queue {queue} is paused: workers claim nothing more.")
            if action == "resume":
                await actions.resume_queue(queue, reason)
                return frame.done(address, f"Workers claim from queue {queue} again.")
        except (UserError, BackendError, ValueError) as error:
            return frame.done(address, f"Nothing was done: {error}", "failure")
        raise MissingInputError(f"There is no action {action}.")

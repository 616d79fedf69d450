"""The filter of the list of tasks: from the address of the page, and back into it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID

from sqlalchemy import func, select

from absurd_contimg.core.arguments import params_problem
from absurd_contimg.core.records import LIVE_STATES, Json, State
from absurd_contimg.core.task_queries import TaskFilter
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import ObservationGroup, Product
from absurd_contimg.regular_files import parse_typed_json

STATES: tuple[State, ...] = (*LIVE_STATES, "completed", "failed", "cancelled")
_DECLINATION_REACH_DEG = 0.1
_TASKS_OF_STRIP_MAX = 5000
_LENGTH_MAX = 500
_END_OF_ID = re.compile(r"[0-9a-fA-F-]{4,36}")
_WINDOW = re.compile(r"W\d{4}-")


@dataclass(frozen=True, slots=True)
class PageFilter:
    """What the form says; empty texts say nothing."""

    queue: str = ""
    state: str = ""
    name: str = ""
    """Of the workflow."""
    kind: str = ""
    """Kind or rule of a failure."""
    group: str = ""
    """Group or window, or the end of a task's id."""
    night: str = ""
    declination: str = ""
    product: str = ""
    arguments: str = ""
    """JSON of members that the parameters have."""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> PageFilter:
        """From the address; what it does not know it leaves alone."""
        return cls(**{name: query.get(name, "").strip()[:_LENGTH_MAX] for name in cls.__slots__})

    @property
    def query(self) -> str:
        """The address's part of this filter."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return urlencode({name: value for name, value in values.items() if value}, errors="replace")

    @property
    def is_set(self) -> bool:
        """Whether it leaves anything out, apart from other queues."""
        return replace(self, queue="").query != ""


def task_filter(page: PageFilter, database: Database | None) -> tuple[TaskFilter, list[str]]:
    """The question to the backend, and what of the filter was not understood.

    Declination and product are known to the registry alone; it is asked in a thread.
    """
    problems: list[str] = []
    wanted = TaskFilter()
    if page.state == "live":
        wanted = replace(wanted, states=LIVE_STATES)
    elif page.state in STATES:
        wanted = replace(wanted, states=(page.state,))
    elif page.state:
        problems.append(f"There is no state {page.state}: {', '.join(STATES)}.")
    if page.night:
        try:
            begin = datetime.strptime(page.night, "%Y-%m-%d").replace(tzinfo=UTC)
            wanted = replace(wanted, enqueued_from=begin, enqueued_before=begin + timedelta(days=1))
        except (ValueError, OverflowError):
            problems.append(f"The night {page.night} is no date: write it as 2025-01-15.")
    params, ids = _arguments(page, problems), None
    if page.group:
        if _END_OF_ID.fullmatch(page.group):
            wanted = replace(wanted, id_suffix=page.group.lower())
        else:
            name = "window_id" if _WINDOW.match(page.group) else "group_id"
            params = {**(params or {}), name: page.group}
    if page.declination or page.product:
        if database is None:
            problems.append("Without a registry, declination and product are not known.")
        else:
            ids, of_product = _from_registry(page, database, problems)
            params = params if of_product is None else {**(params or {}), **of_product}
    return (
        replace(
            wanted,
            task_name=page.name or None,
            failure=page.kind or None,
            params=params,
            task_ids=ids,
        ),
        problems,
    )


def _arguments(page: PageFilter, problems: list[str]) -> dict[str, Json] | None:
    if not page.arguments:
        return None
    try:
        value = parse_typed_json(page.arguments)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        problems.append('The arguments are no JSON object: write them as {"calibrator": "auto"}.')
        return None
    if problem := params_problem(value):
        problems.append(f"The JSON of the arguments {problem}.")
        return None
    return value


def _from_registry(
    page: PageFilter, database: Database, problems: list[str]
) -> tuple[list[UUID] | None, dict[str, Json] | None]:
    """The ids of the tasks of a strip, and the parameter that a product's task has."""
    ids: list[UUID] | None = None
    of_product: dict[str, Json] | None = None
    with database.reading() as session:
        if page.declination:
            try:
                declination = float(page.declination)
            except ValueError:
                problems.append(f"The declination {page.declination} is no number of degrees.")
            else:
                away = func.abs(ObservationGroup.declination_deg - declination)
                query = (
                    select(ObservationGroup.task_id)
                    .where(away <= _DECLINATION_REACH_DEG)
                    .where(ObservationGroup.task_id.is_not(None))
                    .order_by(ObservationGroup.group_id.desc())
                    .limit(_TASKS_OF_STRIP_MAX)
                )
                ids = [task_id for text in session.scalars(query) if (task_id := _uuid(text))]
        if page.product:
            begins = Product.key.startswith(page.product, autoescape=True)
            group = session.scalar(select(Product.group_id).where(begins).limit(1))
            if group is None:
                problems.append(f"The registry has no product {page.product}.")
                ids = []
            else:
                of_product = {"group_id": group}
    return ids, of_product


def _uuid(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None

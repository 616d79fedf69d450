"""Publications that did not succeed, tried again by a task of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from absurd_contimg.config.publication import PublicationConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import TERMINAL_STATES, SpawnedTask
from absurd_contimg.core.retries import retry_options
from absurd_contimg.errors import InputError, MissingInputError
from absurd_contimg.products.manifest import MANIFEST_NAME
from absurd_contimg.products.store import load_committed
from absurd_contimg.registry.publications import Publication, PublicationState
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.workflows.publication import TASK_NAME, reason_against, spawn_options


@dataclass(frozen=True, slots=True)
class RetriedPublication:
    """What became of one request."""

    product_key: str
    task: SpawnedTask | None
    note: str


def select_publications(publications: Sequence[Publication], name: str | None) -> list[Publication]:
    """Those of a key, the beginning of one or a folder's name, or all that are not there.

    Raises `MissingInputError` for a name that none or several have.
    """
    if name is None:
        return [
            each
            for each in publications
            if each.state is not PublicationState.PUBLISHED or is_gone(each)
        ]
    fitting = [
        each
        for each in publications
        if each.product_key.startswith(name) or each.destination.name == name
    ]
    if len(fitting) != 1:
        count = f"{len(fitting)} publications are" if fitting else "No publication is"
        names = [each.destination.name for each in publications]
        hint = did_you_mean(name, names, "contimg publish list shows them.")
        raise MissingInputError(f"{count} called {name!r}.", hint)
    return fitting


def is_gone(publication: Publication) -> bool:
    """Whether a copy that was published is not in its place: removed, or on a disk that is away."""
    is_there = (publication.destination / MANIFEST_NAME).is_file()
    return publication.state is PublicationState.PUBLISHED and not is_there


def refusal(publication: Publication, settings: PublicationConfig) -> str | None:
    """Why the quality of its product does not allow to publish it; None if a task can try."""
    if publication.state is PublicationState.PUBLISHED and not is_gone(publication):
        return None
    try:
        return reason_against(load_committed(publication.source), settings)
    except (InputError, OSError):  # its task says what is wrong with it
        return None


async def retry_publication(
    backend: Backend, queue_name: str, publication: Publication
) -> RetriedPublication:
    """Have a product published: a failed task of it goes on, or a new one begins."""
    key = publication.product_key
    if publication.state is PublicationState.PUBLISHED and not is_gone(publication):
        return RetriedPublication(key, None, "is published")
    options, number = spawn_options(key), 1
    first_key = options.idempotency_key
    while True:
        task = await backend.spawn_task(queue_name, TASK_NAME, {"product_key": key}, options)
        if task.created:
            return RetriedPublication(key, task, "spawned")
        history = await backend.history(queue_name, task.task_id)
        if history is not None and history.task.state not in TERMINAL_STATES:
            return RetriedPublication(key, task, f"is {history.task.state}")
        if history is not None and history.task.state == "failed":
            options_of_retry = retry_options(history.task)
            again = await backend.retry_task(queue_name, task.task_id, options_of_retry)
            return RetriedPublication(key, again, "runs again")
        number += 1  # it has completed, or was cancelled
        options = replace(options, idempotency_key=f"{first_key}#{number}")

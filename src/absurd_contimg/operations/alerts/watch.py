"""The evaluator of a site as a loop: beside the daemon, or by ``contimg alerts run``."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from absurd_contimg.core.errors import BackendError
from absurd_contimg.errors import AwayError, UserError
from absurd_contimg.operations.alerts.look import make_look
from absurd_contimg.operations.alerts.receivers import make_receivers
from absurd_contimg.operations.alerts.records import Alert, Notice, Severity
from absurd_contimg.operations.alerts.rules import make_rules
from absurd_contimg.operations.alerts.service import AlertService
from absurd_contimg.operations.alerts.stored_states import SiteAlerts, from_rows
from absurd_contimg.operations.overview import Site, open_site
from absurd_contimg.registry.alerts import list_alerts
from absurd_contimg.registry.database import Database
from absurd_contimg.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RaisedAlert:
    """An alert that holds."""

    rule: str
    subject: str
    severity: Severity
    since: datetime
    fact: str
    command: str
    task: str | None
    not_told: tuple[str, ...]
    """Receivers that have not got all messages about it yet."""


def raised_alerts(site: SiteAlerts) -> list[RaisedAlert]:
    """The raised alerts, critical ones first, then by age."""
    raised = [
        RaisedAlert(
            rule,
            subject,
            alert.severity,
            datetime.fromtimestamp(alert.raised_at, UTC),
            _fact(alert),
            alert.command,
            alert.task,
            tuple(
                dict.fromkeys(
                    name
                    for message in site.messages
                    if (message.notice.rule, message.notice.subject) == (rule, subject)
                    for name in message.unsent
                )
            ),
        )
        for (rule, subject), alert in site.alerts.items()
        if alert.raised_at is not None
    ]
    return sorted(raised, key=lambda alert: (alert.severity != "critical", alert.since))


def _fact(alert: Alert) -> str:
    """What is wrong; of an alert that is held, since when nothing is any more."""
    if alert.good_since is None:
        return alert.fact
    since = datetime.fromtimestamp(alert.good_since, UTC)
    return (
        f"In order since {since:%H:%M} UTC, and the alert ends when it stays so for the hold time "
        f"(contimg alerts rules). {alert.fact}"
    )


def read_alerts(database: Database) -> list[RaisedAlert]:
    """The raised alerts of a site, from its registry."""
    return raised_alerts(from_rows(list_alerts(database)))


def count_alerts(site: Site) -> Mapping[tuple[str, str], int]:
    """How many alerts are raised, by rule and severity; none while the registry is away. Blocks."""
    try:
        database = site.registry()
        raised = [] if database is None else read_alerts(database)
    except AwayError:
        raised = []
    return Counter((alert.rule, str(alert.severity)) for alert in raised)


@asynccontextmanager
async def open_evaluator(settings: Settings) -> AsyncIterator[AlertService]:
    """The evaluator of the site of these settings; `SettingError` for rules and receivers."""
    config = settings.pipeline.alerts
    rules, receivers = make_rules(config), make_receivers(settings)
    paths = settings.pipeline.paths
    async with open_site(settings) as site:
        service = AlertService(
            look=make_look(site, 60.0 * config.failed_window_minutes),
            open_registry=lambda: Database(settings.registry_url, output_dir=paths.output_dir),
            rules=rules,
            receivers=receivers,
            config=config,
        )
        try:
            yield service
        finally:
            await service.close()


async def look_once(settings: Settings) -> tuple[Notice, ...] | None:
    """One look, with its deliveries; None while another process evaluates.

    Raises `AwayError` if the registry cannot hold the look: the next one knows nothing of it.
    """
    async with open_evaluator(settings) as service:
        notices = await service.look_once()
        await service.wait_for_deliveries()
        if service.registry_error is not None:
            raise service.registry_error
        return notices


async def watch_site(settings: Settings, stop: asyncio.Event) -> None:
    """Look again and again until `stop` is set; the first time after one interval."""
    known_problem = ""
    while not await _stopped(stop, settings.pipeline.alerts.look_seconds):
        try:
            async with open_evaluator(settings) as service:
                while not stop.is_set():
                    await service.look_once()
                    await _stopped(stop, settings.pipeline.alerts.look_seconds)
        except (UserError, BackendError) as error:  # there is no database yet
            if known_problem != str(error):
                _log.warning("alerts are not evaluated: %s", error)
            known_problem = str(error)


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Whether `stop` is set within so many seconds."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()

"""What a night is: a UTC day. The nights that a registry knows, and whether one has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from absurd_contimg.errors import InputError, MissingInputError, SettingError
from absurd_contimg.products.subband_files import parse_group_id
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.ingestion_records import IngestGroup

LAST = "last"
_UNIX_EPOCH_MJD = 40587.0
_MARGIN = timedelta(minutes=10)
"""A group is named by its first file, and belongs to the night of its middle."""
_NEWEST_MAX = 20_000
"""The latest groups: two months of a telescope that never rests."""
_GROUP_DAYS = 309.0 / 86400.0


@dataclass(frozen=True, slots=True)
class Night:
    """A night by its date: the UTC day, 16 h to 16 h of local standard time, as for mosaics.

    The dark hours at the telescope (02 to 14 h UTC) and the evening before them have one date.
    """

    day: date

    @property
    def start_mjd(self) -> float:
        """Its beginning, 00 h UTC."""
        return self.begins_at.timestamp() / 86400.0 + _UNIX_EPOCH_MJD

    @property
    def begins_at(self) -> datetime:
        """The same as a time."""
        return datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC)

    def holds(self, mjd: float) -> bool:
        """Whether a time lies in it."""
        return self.start_mjd <= mjd < self.start_mjd + 1.0


def night_of(mjd: float) -> date:
    """The date of the night of a time."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=mjd - _UNIX_EPOCH_MJD)).date()


def parse_day(text: str) -> date:
    """The date of ``2025-01-15``; `ValueError` also for one at an end of the calendar."""
    day = date.fromisoformat(text)
    if day.year in (date.min.year, date.max.year):
        raise ValueError(f"{text} has no day before or after it")
    return day


def parse_night(text: str, database: Database) -> Night:
    """The night of ``2025-01-15`` or ``last``.

    Raises `SettingError` for another text, `MissingInputError` for ``last`` without any group.
    """
    if text == LAST:
        nights = known_nights(database)
        if not nights:
            raise MissingInputError(
                "The registry has no observation group, so there is no last night.",
                "contimg groups lists the groups.",
            )
        return Night(nights[0])
    try:
        return Night(parse_day(text))
    except ValueError:
        raise SettingError(
            f"{text!r} is no night.", "Write its UTC date as 2025-01-15, or last."
        ) from None


def known_nights(database: Database, groups: int = _NEWEST_MAX) -> list[date]:
    """The dates of the nights of the latest `groups`, the newest first, by the groups' names."""
    nights = {
        night_of(mjd)
        for name in IngestionTables(database).newest_groups(groups)
        if (mjd := _mjd_of_name(name)) is not None
    }
    return sorted(nights, reverse=True)


def groups_of(database: Database, night: Night) -> list[IngestGroup]:
    """The groups whose middle lies in a night, in the order of time."""
    begin = datetime(night.day.year, night.day.month, night.day.day, tzinfo=UTC)
    first, last = begin - _MARGIN, begin + timedelta(days=1) + _MARGIN
    names = (f"{moment:%Y-%m-%dT%H:%M:%S}" for moment in (first, last))
    groups = IngestionTables(database).groups_between(*names)
    chosen = [(mjd, g) for g in groups if (mjd := middle_of(g)) is not None and night.holds(mjd)]
    return [group for _, group in sorted(chosen, key=lambda item: (item[0], item[1].group_id))]


def middle_of(group: IngestGroup) -> float | None:
    """The middle of a group: of its header, else of its name; None for a name that is no time."""
    return _mjd_of_name(group.group_id) if group.mid_mjd is None else group.mid_mjd


def _mjd_of_name(name: str) -> float | None:
    try:
        return parse_group_id(name) / 86400.0 + _UNIX_EPOCH_MJD + _GROUP_DAYS / 2.0
    except InputError:
        return None


def quiet_seconds(groups: Sequence[IngestGroup], now: float) -> float:
    """How long no group of these was closed (Unix seconds); 0 while one collects files."""
    if not groups or any(group.ingest_state == "collecting" for group in groups):
        return 0.0
    return max(0.0, now - max(group.closed_at or 0.0 for group in groups))

"""When a schedule is due: civil times (UTC) and sidereal times at the site. Pure, without a clock.

A slot is one due time. Its name is the same after every restart, because it is computed from the
slot's number and never from the moment of the question.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from absurd_contimg.errors import SettingError

Kind = Literal["civil", "sidereal"]
CatchUp = Literal["all", "latest", "skip"]
"""What becomes of slots that passed while no daemon ran or the earlier slot still ran: all of them
one after another, only the latest, or none."""

LATE_SECONDS = 300.0
"""A slot that is seen later than this was missed: five polls of the daemon."""
_CLOCK_STEP_SECONDS = 3600.0
"""A clock that is corrected by less makes a schedule wait, and no slot come again."""

_DEGREES_PER_DAY = 360.98564736629
_DEGREES_AT_EPOCH = 280.46061837
_EPOCH_JD = 2451545.0
"""Greenwich mean sidereal time is the second plus the first for each day of UT1 since the third
(Meeus, Astronomical Algorithms, 12.4). The terms left out are 0.01 s in this century, and UTC is
within 0.9 s of UT1."""
_UNIX_EPOCH_JD = 2440587.5
_ROUNDING = 1e-9
"""Of a turn, 0.1 ms: more than the errors of the computation."""
_DAY_SECONDS = 86_400.0

_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")


@dataclass(frozen=True, slots=True)
class Slot:
    """One due time of a schedule."""

    number: int
    """Ascending with time."""
    at: datetime
    """UTC."""
    name: str
    """Part of idempotency keys: what was due, and when."""


class Times(Protocol):
    """The slots of one schedule."""

    def latest(self, now: datetime) -> Slot | None:
        """The last slot that is due at `now`, None if none ever was."""

    def following(self, number: int) -> Slot | None:
        """The next slot after one of that number, None if there is none."""

    def time_of(self, number: int) -> datetime:
        """When the slot of that number is due."""


@dataclass(frozen=True, slots=True)
class CivilTimes:
    """Slots by a cron expression in UTC; a slot's number is its minute since the Unix epoch."""

    expression: str

    def latest(self, now: datetime) -> Slot | None:
        """See `Times`."""
        whole = now.astimezone(UTC).replace(microsecond=0)
        return self._next(whole + timedelta(seconds=1), reverse=True)

    def following(self, number: int) -> Slot | None:
        """See `Times`."""
        return self._next(self.time_of(number), reverse=False)

    def time_of(self, number: int) -> datetime:
        """See `Times`."""
        return datetime.fromtimestamp(number * 60, UTC)

    def _next(self, start: datetime, *, reverse: bool) -> Slot | None:
        # Imported here: other commands and the daemon's other parts work without it.
        from cronsim import CronSim  # noqa: PLC0415

        at = next(CronSim(self.expression, start, reverse), None)
        if at is None:
            return None
        return Slot(int(at.timestamp()) // 60, at, f"{at:%Y-%m-%dT%H:%MZ}")


@dataclass(frozen=True, slots=True)
class SiderealTimes:
    """One slot each sidereal day, when the sidereal time at the site is `lst_seconds`.

    A slot's number counts sidereal days since 2000.
    """

    lst_seconds: float
    """Of 86,400 in a sidereal day."""
    longitude_deg: float
    """East of Greenwich."""

    @property
    def _phase_deg(self) -> float:
        lst_deg = self.lst_seconds * 360.0 / _DAY_SECONDS
        return _DEGREES_AT_EPOCH + self.longitude_deg - lst_deg

    def latest(self, now: datetime) -> Slot | None:
        """See `Times`."""
        days = now.timestamp() / _DAY_SECONDS + _UNIX_EPOCH_JD - _EPOCH_JD
        number = math.floor((days * _DEGREES_PER_DAY + self._phase_deg) / 360.0 + _ROUNDING)
        # Slots begin with a whole second, so the one of that number may still be to come.
        return self._slot(max(n for n in (number - 1, number) if self.time_of(n) <= now))

    def following(self, number: int) -> Slot | None:
        """See `Times`."""
        return self._slot(number + 1)

    def time_of(self, number: int) -> datetime:
        """See `Times`."""
        days = (number * 360.0 - self._phase_deg) / _DEGREES_PER_DAY
        seconds = (days + _EPOCH_JD - _UNIX_EPOCH_JD) * _DAY_SECONDS
        return datetime.fromtimestamp(math.ceil(seconds), UTC)

    def _slot(self, number: int) -> Slot:
        name = f"sidereal-{number}-{format_lst(self.lst_seconds)}"
        return Slot(number, self.time_of(number), name)


def parse_times(kind: Kind, spec: str, longitude_deg: float) -> Times:
    """The times of a stored or given `spec`, or `SettingError`.

    Civil: five fields of cron, or ``HH:MM``. Sidereal: ``HH:MM:SS``, after which a calibrator's
    name may stand.
    """
    if kind == "civil":
        return CivilTimes(_cron_expression(spec))
    time = _TIME_OF_DAY.fullmatch(spec.strip().partition(" ")[0])
    if time is None:
        raise SettingError(
            f"The sidereal time {spec!r} is not understood.", "Write it as HH:MM or HH:MM:SS."
        )
    hours, minutes, seconds = (int(part or 0) for part in time.groups())
    return SiderealTimes(hours * 3600.0 + minutes * 60.0 + seconds, longitude_deg)


def _cron_expression(spec: str) -> str:
    """Five fields that cronsim accepts."""
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - as above

    text = spec.strip()
    if (time := _TIME_OF_DAY.fullmatch(text)) and time[3] is None:
        return f"{int(time[2])} {int(time[1])} * * *"
    remedy = "Write HH:MM (UTC) or the five fields of cron: minute hour day month weekday."
    if ":" in text:
        raise SettingError(f"There is no time of day {spec!r}.", remedy)
    if len(text.split()) != 5:
        raise SettingError(f"The time {spec!r} has not five fields.", remedy)
    try:
        CronSim(text, datetime.now(UTC))
    except CronSimError as error:
        raise SettingError(f"The time {spec!r} is not understood ({error}).", remedy) from error
    return text


def transit_seconds(ra_deg: float, dec_deg: float, at: datetime) -> float:
    """The sidereal time, in seconds of 86,400, at which a source (ICRS) crosses the meridian.

    By its mean right ascension of date: annual precession 3.0750 s + 1.3362 s sin(RA) tan(Dec)
    (Meeus, chapter 21); aberration and nutation, 1.5 s at most, are left out.
    """
    years = (at.timestamp() / _DAY_SECONDS + _UNIX_EPOCH_JD - _EPOCH_JD) / 365.25
    ra, dec = math.radians(ra_deg), math.radians(dec_deg)
    precession_seconds = years * (3.0750 + 1.3362 * math.sin(ra) * math.tan(dec))
    return (ra_deg * _DAY_SECONDS / 360.0 + precession_seconds) % _DAY_SECONDS


def format_lst(seconds: float) -> str:
    """Sidereal time as ``HH:MM:SS``."""
    whole = round(seconds) % int(_DAY_SECONDS)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def cursor_at(times: Times, last_number: int | None, now: datetime) -> int | None:
    """The number after which slots are due: the last one's, unless the clock was wrong.

    A last slot that is far in the future was started by a clock that has been put back since; the
    schedule would be silent until then. Slots that come a second time have their old names.
    """
    if last_number is None:
        return None
    if (times.time_of(last_number) - now).total_seconds() <= _CLOCK_STEP_SECONDS:
        return last_number
    latest = times.latest(now)
    return None if latest is None else latest.number


def due_slot(times: Times, cursor: int | None, now: datetime, catch_up: CatchUp) -> Slot | None:
    """The slot to start now, the first of several after the cursor; None if there is none."""
    latest = times.latest(now)
    if latest is None or (cursor is not None and latest.number <= cursor):
        return None
    if catch_up == "all" and cursor is not None:
        return times.following(cursor)
    if catch_up == "skip" and (now - latest.at).total_seconds() > LATE_SECONDS:
        return None
    return latest


def sidereal_seconds(at: datetime, longitude_deg: float) -> float:
    """The mean sidereal time at the site, in seconds of 86,400."""
    days = at.timestamp() / _DAY_SECONDS + _UNIX_EPOCH_JD - _EPOCH_JD
    degrees = _DEGREES_AT_EPOCH + days * _DEGREES_PER_DAY + longitude_deg
    return degrees % 360.0 * _DAY_SECONDS / 360.0

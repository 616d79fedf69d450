"""When something at a site becomes an alert, and to whom it is sent (`docs/alerts.md`)."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, model_validator

from absurd_contimg.config.section import Section

_RECEIVERS_MAX = 20
_ADDRESS = re.compile(r"[!#-'*+/-9=?A-Z^-~.-]{1,64}@[A-Za-z0-9.-]{1,253}")
"""Without names, comments and quotes: each address is one receiver."""


class AlertsConfig(Section):
    """Thresholds of the rules, their hold times, receivers.

    Passwords and the address of the webhook are no settings of a file: see ABSURD_SMTP_PASSWORD
    and ABSURD_SLACK_WEBHOOK_URL.
    """

    by_daemon: bool = True
    """Whether the daemon looks at the rules; else only ``contimg alerts run`` does."""
    look_seconds: float = Field(60.0, gt=0)
    """Between two looks at the site. A daemon that polls less often looks less often."""
    looks: int = Field(3, ge=1)
    """A fact that is seen in so many looks in a row is an alert: one late heartbeat is none."""
    hold_minutes: float = Field(15.0, ge=0)
    """An alert is cleared when its value was below the lower threshold for so long."""
    disabled: tuple[str, ...] = ()
    """Names of rules that are not looked at; their alerts are cleared."""
    failed_tasks: int = Field(3, ge=1)
    """Tasks of a queue that failed within the window."""
    failed_window_minutes: float = Field(60.0, gt=0)
    """Failed tasks are counted over this time."""
    enqueued_minutes: float = Field(60.0, gt=0)
    """A task that could run waits so long for a worker (predecessor: 60 min, critical)."""
    paused_minutes: float = Field(15.0, gt=0)
    """Work that waits for so long behind a pause of its queue is a problem: a pause that was
    forgotten."""
    silent_seconds: float = Field(180.0, gt=60)
    """A worker or daemon has not been heard of for so long (predecessor: 180 s). They renew their
    record every 15 s; the predecessor's 10 s with a heartbeat every 30 s raised alerts for ever."""
    cadence_seconds: float = Field(309.2, gt=0)
    """From one group to the next: 24 integrations of 12.885 s."""
    cadences: float = Field(3.0, gt=0)
    """No new file for so many cadences."""
    observing_hours_utc: tuple[float, float] = (0.0, 24.0)
    """The telescope should observe from the first to the second hour (UTC); outside no file is
    expected. Over midnight the first is the greater one."""
    disk_full_hours: float = Field(12.0, gt=0)
    """A disk is full so soon: within a night. Monitor, dashboard and night report warn then too."""
    disk_failure_hours: float = Field(2.0, gt=0)
    """A disk that is full so soon is shown as a failure."""
    disk_used_share: float = Field(0.95, gt=0, lt=1)
    """Used part of a disk (predecessor: 0.95, critical)."""
    inodes_used_share: float = Field(0.95, gt=0, lt=1)
    """Used part of the inodes of a disk."""
    noise_max_mjy: float = Field(18.6, gt=0)
    """Noise of an image, per beam (the telescope's gate of an epoch; the predecessor's 1 mJy was
    exceeded by every image)."""
    flux_ratio_min: float = Field(0.8, gt=0, lt=1)
    """A median of measured over catalogue flux below this is out of band (the gate of an epoch)."""
    flux_ratio_max: float = Field(1.2, gt=1)
    """And above this."""
    bad_images: int = Field(3, ge=1)
    """So many images in a row are out of a band."""
    slow_factor: float = Field(3.0, gt=1)
    """A stage runs for so many times the 95th percentile of its own durations. The predecessor's
    300 s without a completion are shorter than one conversion with its imaging."""
    slow_seconds_min: float = Field(300.0, ge=0)
    """A stage that runs shorter than this is not slow."""
    email_to: tuple[str, ...] = Field((), max_length=_RECEIVERS_MAX)
    """Addresses (ABSURD_ALERT_EMAIL_TO); without any, no e-mail is sent."""
    email_from: str = "absurd-alerts@dsa110"
    """The sender (ABSURD_SMTP_FROM)."""
    smtp_host: str = "localhost"
    """The mail server (ABSURD_SMTP_HOST)."""
    smtp_port: int = Field(587, ge=1, le=65_535)
    """Its port."""
    smtp_user: str = ""
    """Who logs in there; empty: nobody (ABSURD_SMTP_USER)."""
    smtp_tls: bool = True
    """Encrypt by STARTTLS, or from the first byte at port 465."""
    send_seconds: float = Field(20.0, gt=0)
    """A receiver that has not taken a message after so long is tried again later."""
    retry_seconds: float = Field(30.0, gt=0)
    """After the first attempt that fails, doubling from attempt to attempt."""
    retry_seconds_max: float = Field(900.0, gt=0)
    """A delivery that fails is tried again after at most this time."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(not 0 <= hour <= 24 for hour in self.observing_hours_utc):
            raise ValueError(
                f"alerts.observing_hours_utc are {list(self.observing_hours_utc)}: they must be "
                "hours from 0 to 24"
            )
        for name, addresses in (("email_to", self.email_to), ("email_from", (self.email_from,))):
            unusable = [each for each in addresses if not _ADDRESS.fullmatch(each)]
            if unusable:
                raise ValueError(
                    f"alerts.{name} has {unusable[0][:80]!a}: it must be an address like name@host"
                )
        return self

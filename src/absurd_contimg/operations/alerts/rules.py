"""The rules of a site by its settings; `docs/alerts.md` lists them."""

from __future__ import annotations

from functools import partial

from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.history.stage_figures import SAMPLE_MIN
from absurd_contimg.operations.alerts import measures
from absurd_contimg.operations.alerts.records import Dependency, Rule
from absurd_contimg.operations.overview import FORGOTTEN_HOURS
from absurd_contimg.similar_names import did_you_mean

_DATABASE: frozenset[Dependency] = frozenset({"database"})
_REGISTRY: frozenset[Dependency] = frozenset({"database", "registry"})

REGISTRY_AWAY = "registry-away"
"""The rule whose alert is told from what a process remembers."""


def make_rules(config: AlertsConfig) -> tuple[Rule, ...]:
    """All rules that the settings do not disable; `SettingError` names one that does not exist."""
    rules = all_rules(config)
    names = [rule.name for rule in rules]
    for name in config.disabled:
        if name not in names:
            raise SettingError(
                f"alerts.disabled names {name!r}, which is no rule.",
                did_you_mean(name, names, f"The rules: {', '.join(names)}."),
            )
    return tuple(rule for rule in rules if rule.name not in config.disabled)


def all_rules(config: AlertsConfig) -> tuple[Rule, ...]:
    """All rules with the thresholds of the settings."""
    looks, hold = config.looks, 60.0 * config.hold_minutes
    return (
        Rule(
            name="database-away",
            meaning="1 if the database of the tasks does not answer, or takes no changes (a "
            "standby; no transaction ID left)",
            severity="critical",
            raised=1.0,
            cleared=0.5,
            looks=looks,
            hold_seconds=min(hold, 300.0),
            source="`alerts.looks`: workers wait out shorter outages",
            remedy="`contimg doctor`; start Postgres. Nothing is lost: workers and daemon go on by "
            "themselves.",
            measure=partial(measures.away, dependency="database"),
        ),
        Rule(
            name=REGISTRY_AWAY,
            meaning="1 if the registry does not answer",
            severity="critical",
            raised=1.0,
            cleared=0.5,
            looks=looks,
            hold_seconds=min(hold, 300.0),
            source="`alerts.looks`: a busy registry answers within 10 s",
            remedy="`contimg doctor`; free its disk, start its server, or `contimg registry "
            "rebuild`.",
            measure=partial(measures.away, dependency="registry"),
        ),
        Rule(
            name="tasks-failed",
            meaning="tasks of a queue that failed within `alerts.failed_window_minutes`",
            severity="warning",
            raised=config.failed_tasks,
            cleared=min(config.failed_tasks, 1),
            looks=1,
            hold_seconds=hold,
            source="`alerts.failed_tasks`; a share, as the predecessor's 10 % of an hour's tasks, "
            "says nothing at eleven groups an hour",
            remedy="`contimg status` and `contimg history TASK` say why and what to do; then "
            "`contimg retry TASK`.",
            measure=measures.failed_tasks,
            needs=_DATABASE,
        ),
        Rule(
            name="enqueued-too-long",
            meaning="seconds for which the oldest task that could run has waited for a worker; not "
            "measured while the queue is paused, nor of batches",
            severity="warning",
            raised=60.0 * config.enqueued_minutes,
            cleared=30.0 * config.enqueued_minutes,
            looks=looks,
            hold_seconds=hold,
            source="`alerts.enqueued_minutes` (predecessor: 60 min)",
            remedy="Are workers running, and for this queue? `contimg status`. Start more, or "
            "wait: a large batch takes its time.",
            measure=measures.enqueued_seconds,
            needs=_DATABASE,
        ),
        Rule(
            name="queue-paused",
            meaning="seconds for which the oldest task that could run has waited because an "
            "operator has paused or stopped its queue",
            severity="warning",
            raised=60.0 * config.paused_minutes,
            cleared=30.0 * config.paused_minutes,
            looks=looks,
            hold_seconds=0.0,
            source="`alerts.paused_minutes`: a pause that was forgotten, also of `contimg "
            "emergency drain` or `stop`",
            remedy="`contimg queue resume NAME`, of all queues `contimg emergency resume`. For a "
            "longer pause on purpose: `alerts.disabled`.",
            measure=measures.behind_pause_seconds,
            needs=_REGISTRY,
        ),
        Rule(
            name="queue-blocked",
            meaning="tasks of a queue that are stuck, or that block all others",
            severity="critical",
            raised=1.0,
            cleared=0.5,
            looks=looks,
            hold_seconds=hold,
            source="one is too many; workers end most of them by themselves",
            remedy="The message has the command: `contimg cancel TASK`.",
            measure=measures.blocked,
            needs=_DATABASE,
        ),
        Rule(
            name="worker-silent",
            meaning="seconds since a worker that has not stopped in order was heard of; not "
            "measured while all queues are paused",
            severity="warning",
            raised=config.silent_seconds,
            cleared=60.0,
            looks=looks,
            hold_seconds=hold,
            source="`alerts.silent_seconds` (predecessor: 180 s)",
            remedy="`systemctl status` on its host. Its task is taken up by another worker. Of "
            f"a worker that is gone for good it ends {FORGOTTEN_HOURS:g} h after its last sign.",
            measure=partial(measures.silent_seconds, kind="worker"),
            needs=_REGISTRY,
        ),
        Rule(
            name="daemon-silent",
            meaning="the same of the daemon; a daemon cannot report itself: run `contimg alerts "
            "run` on another host, or use the rules for Prometheus",
            severity="critical",
            raised=config.silent_seconds,
            cleared=60.0,
            looks=looks,
            hold_seconds=hold,
            source="`alerts.silent_seconds`",
            remedy="`systemctl restart dsa110-mosaic-daemon`: it goes on where it was.",
            measure=partial(measures.silent_seconds, kind="daemon"),
            needs=_REGISTRY,
        ),
        Rule(
            name="no-new-files",
            meaning="cadences since the newest file was seen, at a site with a daemon; 0 outside "
            "`alerts.observing_hours_utc`",
            severity="warning",
            raised=config.cadences,
            cleared=min(2.0, 0.9 * config.cadences),
            looks=looks,
            hold_seconds=hold,
            source="`alerts.cadences` of `alerts.cadence_seconds`",
            remedy="Does the telescope write? Is the incoming folder mounted? `contimg groups`.",
            measure=partial(measures.file_age_cadences, config=config),
            needs=_REGISTRY,
        ),
        Rule(
            name="disk-fills",
            meaning="hours until a disk is full at the rate of the last hours",
            severity="warning",
            raised=config.disk_full_hours,
            cleared=2.0 * config.disk_full_hours,
            looks=looks,
            hold_seconds=hold,
            source="`alerts.disk_full_hours`: there is a night to act",
            remedy="Make room: `contimg doctor` shows the disks, maintenance removes what is old.",
            measure=measures.hours_to_full,
            needs=_REGISTRY,
        ),
        Rule(
            name="disk-full",
            meaning="used part of a disk",
            severity="critical",
            raised=config.disk_used_share,
            cleared=config.disk_used_share - 0.5 * (1.0 - config.disk_used_share),
            looks=looks,
            hold_seconds=hold,
            source="`alerts.disk_used_share` (predecessor: 85 % and 95 %)",
            remedy="Workers claim nothing below CONTIMG_DISK_CRITICAL_GB and go on by themselves "
            "when there is room.",
            measure=measures.used_share,
            needs_for_all=_REGISTRY,
        ),
        Rule(
            name="disk-read-only",
            meaning="1 if the disk of a folder can only be read, on the host that looks",
            severity="critical",
            raised=1.0,
            cleared=0.5,
            looks=looks,
            hold_seconds=hold,
            source="workers claim nothing meanwhile",
            remedy="Mount it for writing (`mount -o remount,rw`); if it was so, `dmesg` tells why.",
            measure=measures.read_only_disks,
            needs_for_all=_REGISTRY,
        ),
        Rule(
            name="stage-lacks-space",
            meaning="stages that a full disk has ended in the last hour, in tasks that have not "
            "ended: what they wrote is removed, so that the disk looks well again",
            severity="warning",
            raised=1.0,
            cleared=0.5,
            looks=1,
            hold_seconds=hold,
            source="one is enough: all that follow will meet the same disk",
            remedy="Make room for what the message says: `contimg maintenance plan`. The stage is "
            "tried again by itself.",
            measure=measures.shortages,
            needs=_DATABASE,
        ),
        Rule(
            name="maintenance-failed",
            meaning="1 if the last `contimg maintenance run` has failed, or skipped what it may "
            "not remove",
            severity="warning",
            raised=1.0,
            cleared=0.5,
            looks=1,
            hold_seconds=0.0,
            source="it runs once a day: what it skips stays until somebody acts",
            remedy="The message names the folder, what is wrong with it and the command; then "
            "`contimg maintenance run`.",
            measure=measures.failed_maintenance,
            needs=_REGISTRY,
        ),
        Rule(
            name="inodes-full",
            meaning="used part of the inodes of a disk; not measured where their number is not "
            "fixed",
            severity="critical",
            raised=config.inodes_used_share,
            cleared=config.inodes_used_share - 0.5 * (1.0 - config.inodes_used_share),
            looks=looks,
            hold_seconds=hold,
            source="`alerts.inodes_used_share`",
            remedy="Remove many small files: old scratch and logs.",
            measure=measures.used_inodes_share,
            needs_for_all=_REGISTRY,
        ),
        Rule(
            name="image-noise",
            meaning="newest images in a row with more noise than `alerts.noise_max_mjy`; images "
            "without a measured noise are passed over",
            severity="warning",
            raised=config.bad_images,
            cleared=1.0 if config.bad_images > 1 else 0.5,
            looks=1,
            hold_seconds=hold,
            source="`alerts.bad_images`, `alerts.noise_max_mjy` (the telescope's gate: 17.1, later "
            "18.6 mJy/beam)",
            remedy="Look at flags, antennas and the calibration of the newest group: `contimg "
            "report`.",
            measure=partial(measures.noisy_images, config=config),
            needs=_REGISTRY,
        ),
        Rule(
            name="flux-ratio",
            meaning="newest images in a row whose median of measured over catalogue flux is out of "
            "`alerts.flux_ratio_min` to `alerts.flux_ratio_max`",
            severity="warning",
            raised=config.bad_images,
            cleared=1.0 if config.bad_images > 1 else 0.5,
            looks=1,
            hold_seconds=hold,
            source="`alerts.bad_images`; the telescope's gate is 0.8 to 1.2",
            remedy="A wrong calibration: `contimg calibration plan`; one of another declination "
            "gives 0.06.",
            measure=partial(measures.wrong_fluxes, config=config),
            needs=_REGISTRY,
        ),
        Rule(
            name="nothing-flagged",
            meaning="newest images in a row of whose data exactly nothing is flagged",
            severity="warning",
            raised=1.0,
            cleared=0.5,
            looks=1,
            hold_seconds=hold,
            source="exactly 0 means that flagging did not happen",
            remedy="`contimg logs GROUP` of the flag stage; are the flagging settings all off?",
            measure=measures.unflagged_images,
            needs=_REGISTRY,
        ),
        Rule(
            name="stage-slow",
            meaning="the running time of a stage over the 95th percentile of its own durations, "
            f"longest start; not measured with fewer than {SAMPLE_MIN} durations",
            severity="warning",
            raised=config.slow_factor,
            cleared=config.slow_factor * 2.0 / 3.0,
            looks=looks,
            hold_seconds=0.0,
            source="`alerts.slow_factor`, and longer than `alerts.slow_seconds_min`",
            remedy="`contimg logs TASK`. Its deadline ends it; earlier: `contimg cancel TASK`.",
            measure=partial(measures.slow_factor, seconds_min=config.slow_seconds_min),
            needs=_DATABASE,
        ),
    )

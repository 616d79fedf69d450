"""How many of its parts a group or window has, and what it waits for, in words.

For commands and whatever else shows them; looks at no disk.
"""

from __future__ import annotations

from absurd_contimg.ingest.arrivals import collecting_group, describe_files
from absurd_contimg.ingest.closing import ClosingRules, decide, name_subbands
from absurd_contimg.ingest.windows import waits_for
from absurd_contimg.registry.ingestion_records import IngestGroup
from absurd_contimg.registry.models import FileState, GroupStatus, IngestState
from absurd_contimg.registry.windows import Window


def present_subbands(group: IngestGroup) -> int:
    """Accepted sub-bands, or those that are there or arriving while the group is collected."""
    there = (FileState.WHOLE, FileState.ARRIVING)
    present = {file.subband for file in group.files if file.state in there}
    return len(present) if group.n_subbands is None else group.n_subbands


def subbands_text(group: IngestGroup, expected: int) -> str:
    """``15 of 16``; of a closed group also how many files have changed since."""
    text = f"{present_subbands(group)} of {expected}"
    changed = sum(file.state is FileState.CHANGED for file in group.files)
    return f"{text}, {changed} changed" if changed else text


def group_note(group: IngestGroup, next_seen: float | None, rules: ClosingRules, now: float) -> str:
    """Why it is closed, or what it waits for; and its files that are not accepted.

    `next_seen` is when the first file of the next group was seen.
    """
    reason = group.closed_reason
    if group.ingest_state is IngestState.COLLECTING:
        names = {file.path.name for file in group.files}
        collecting = collecting_group(group, next_seen, names, rules)
        decision = decide(collecting, rules, now)
        reason = decision.reason
        if decision.state is not IngestState.COLLECTING:
            reason += "; a poll of the daemon closes it"
        if not any(file.was_looked_at for file in group.files):  # no daemon knows since when
            missing = name_subbands(set(range(rules.expected_subbands)) - collecting.whole)
            reason = f"waits for {missing or 'contimg spawn'}; a command has entered it"
            if missing:
                seconds = f"{rules.group_wait_seconds:g} s after its first file came"
                reason += f", and contimg spawn takes it {seconds}, with --now at once"
    parts = (reason, _failure(group), describe_files(group), _reopen(group))
    return "; ".join(part for part in parts if part)


_ENDED_BADLY = (GroupStatus.FAILED, GroupStatus.QUARANTINED)


def _failure(group: IngestGroup) -> str:
    """Why a group did not end well: a sub-band that cannot be read, say, of 16 that have come."""
    lines = group.reason.splitlines()
    return f"{group.status}: {lines[0]}" if lines and group.status in _ENDED_BADLY else ""


_TAKEN_BY_REOPEN = {FileState.LATE, FileState.CHANGED, FileState.REFUSED}


def _reopen(group: IngestGroup) -> str:
    """The command that takes files into a group that is closed; empty if there are none.

    A rejected group takes whatever is there now.
    """
    if group.ingest_state is IngestState.COLLECTING:
        return ""
    if group.ingest_state is IngestState.REJECTED:
        return f"when its files are there: contimg reopen {group.group_id}"
    if any(file.state in _TAKEN_BY_REOPEN for file in group.files):
        text = f"to process it again with these: contimg reopen {group.group_id}"
        if group.status in _ENDED_BADLY:
            text += f" (where its conversion has failed also: contimg retry {group.group_id})"
        return text
    return ""


def window_note(window: Window) -> str:
    """Why it is closed, what it waits for, which window has taken its place."""
    waits = waits_for(window)
    parts = [window.closed_reason or "", f"waits for {waits}" if waits else ""]
    if window.superseded_by:
        parts.append(f"now {window.superseded_by}")
    left_out = sum(not member.used for member in window.members)
    if left_out and not waits:
        parts.append(f"{left_out} left out")
    return "; ".join(part for part in parts if part)

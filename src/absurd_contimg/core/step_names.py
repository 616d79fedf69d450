"""Names of checkpoints: those of waits and child tasks, and those that a step cannot have."""

from __future__ import annotations

from absurd_contimg.core.forks import FORKED
from absurd_contimg.core.jsonb_sanitizer import require_name, shortened
from absurd_contimg.core.step_journal import JOURNAL_PREFIXES
from absurd_contimg.core.step_order_check import STEPS_CHANGED

TIMEOUT_PREFIX = "$timeout:"
"""The checkpoint of this prefix and a wait's own name says that the wait has timed out. The wait's
own name stays free, so that absurd-sdk, which knows no such outcome, takes it for no payload."""

SPAWN_PREFIX, EVENT_PREFIX, RESULT_PREFIX = "$spawn:", "$awaitEvent:", "$awaitTaskResult:"
"""The checkpoints of child tasks and of waits without a name of their own."""
_OWN_PREFIXES = (*JOURNAL_PREFIXES, TIMEOUT_PREFIX, SPAWN_PREFIX, EVENT_PREFIX, RESULT_PREFIX)


def require_step_name(name: str) -> None:
    """Refuse a name that would be taken for a checkpoint of the worker's or a wait's own."""
    require_name("step", name)
    if name in (STEPS_CHANGED, FORKED) or name.startswith(_OWN_PREFIXES):
        raise ValueError(
            f"step name {shortened(ascii(name), 200)} is the name of a checkpoint that the worker "
            "keeps for itself. Use a name that does not begin with $."
        )

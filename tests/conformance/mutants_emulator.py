# ruff: noqa: E501 - a mutant is one line, so that the list can be scanned
"""Mutants of the emulator, one a rule: the comparison with Postgres must find each.

A mutant is a replacement in the source of one of the engine's modules; the changed module is loaded
in place of the true one while a recorded sequence is replayed. `EQUIVALENT` names replacements
that change nothing that can be seen, with the reason.
"""

from __future__ import annotations

from typing import NamedTuple

R, S, C, E, Q, P, K, L = (
    "procedures.runs", "procedures.tasks", "procedures.events", "procedures.events",
    "procedures.queues", "procedures.partitions", "procedures.tasks", "procedures.queues",
)  # fmt: skip


class Mutant(NamedTuple):
    """`wrong` in place of `right` in a module."""

    name: str
    module: str
    right: str
    wrong: str


MUTANTS = (
    # claims
    Mutant("claim takes runs before they are due", R, "runs.due.pop(tx, runs.rows, now)", "runs.due.pop(tx, runs.rows, now + 40 * SECOND_US)"),
    Mutant("claim forgets cancellation rules", R, "            cancel_task(tx, queue_name, task_id)\n", "            pass\n"),
    Mutant("claim forgets the sweep", R, "        sweep_expired_leases(tx, queue_name, now, limit)\n", "        pass\n"),
    Mutant("claim keeps the old lease", R, "claim_expires_at=until", "claim_expires_at=candidate.claim_expires_at"),
    Mutant("claim without worker id is anonymous", R, 'worker_id or "worker"', "worker_id"),
    Mutant("claim does not set started_at", R, "            started_at=now,\n", "            started_at=candidate.started_at,\n"),
    Mutant("claim keeps available_at", R, "            available_at=now,\n", "            available_at=candidate.available_at,\n"),
    Mutant("claim resets first_started_at", R, "first_started_at=now if task.first_started_at is None else task.first_started_at", "first_started_at=now"),
    Mutant("claim leaves the task's state", R, '                state="running",\n                attempts=max', "                state=task.state,\n                attempts=max"),
    Mutant("claim leaves last_attempt_run", R, "                last_attempt_run=run.run_id,\n            )\n            tasks.put", "                last_attempt_run=task.last_attempt_run,\n            )\n            tasks.put"),
    Mutant("claim leaves timed-out waits", R, "wait.timeout_at <= now:\n                waits.delete", "wait.timeout_at < now - 10**15:\n                waits.delete"),
    Mutant("claim deletes waits without timeout", R, "if wait.timeout_at is not None and wait.timeout_at <= now:", "if wait.timeout_at is None or wait.timeout_at <= now:"),
    Mutant("claim of quantity 0 takes none", R, "limit = max(1 if qty is None else qty, 1)", "limit = 1 if qty is None else qty"),
    Mutant("claim ignores its quantity", R, "limit = max(1 if qty is None else qty, 1)", "limit = 1"),
    Mutant("null claim timeout means none", R, "30 if claim_timeout is None else claim_timeout, 0", "0 if claim_timeout is None else claim_timeout, 0"),
    Mutant("claim timeout 0 is a lease of 0 s", R, "if timeout > 0 else None", "if timeout >= 0 else None"),
    Mutant("claim takes runs of ended tasks", R, "task is None or task.state not in LIVE:\n            passed", "task is None:\n            passed"),
    Mutant("claim waits for locked rows", R, "elif tx.alone or (runs.try_lock(tx, run.run_id) and tasks.try_lock(tx, run.task_id)):", "elif (runs.lock(tx, run.run_id), tasks.lock(tx, run.task_id)):"),
    Mutant("claim clears the wake event in its answer", R, "task.headers, run.wake_event, run.event_payload", "task.headers, None, run.event_payload"),
    # the sweep
    Mutant("sweep takes every expired lease", R, "while len(expired) < limit and (run := runs.leases", "while (run := runs.leases"),
    Mutant("sweep spares leases that end now", "tables", "if moment > until:", "if moment >= until:"),
    Mutant("sweep names no worker", R, 'workerId=None if run.claimed_by is None else jsonb.dumps(run.claimed_by)', "workerId=None"),
    Mutant("sweep shows the expiry in UTC", R, "tx.session.zone, iso=True", "__import__('datetime').UTC, iso=True"),
    # completing and scheduling
    Mutant("complete accepts a sleeping run", R, 'if run.state != "running":\n        refuse_ended_run', 'if run.state not in ("running", "sleeping"):\n        refuse_ended_run'),
    Mutant("complete forgets the result on the task", R, "completed_payload=state, ", "completed_payload=None, "),
    Mutant("complete forgets its waits", R, '    catalog.waits(tx, queue_name).delete_where(tx, "run_id", run.run_id)\n\n\n_completed', "\n\n_completed"),
    Mutant("complete clears the lease", R, "_completed_run(run, state", "_completed_run(run._replace(claimed_by=None), state"),
    Mutant("schedule keeps the lease", R, "available_at=wake_at, wake_event=None, **NO_LEASE", "available_at=wake_at, wake_event=None"),
    Mutant("schedule keeps the wake event", R, "available_at=wake_at, wake_event=None, **NO_LEASE", "available_at=wake_at, **NO_LEASE"),
    Mutant("schedule forgets the task", R, '    update_task(tx, queue_name, run.task_id, state="sleeping")\n', ""),
    # failing
    Mutant("fail accepts a pending run", R, 'if run.state not in ("running", "sleeping"):', 'if run.state not in ("running", "sleeping", "pending"):'),
    Mutant("fail refuses a sleeping run", R, 'if run.state not in ("running", "sleeping"):', 'if run.state != "running":'),
    Mutant("fail gives one attempt too many", R, "next_attempt <= max_attempts", "run.attempt <= max_attempts"),
    Mutant("fail gives one attempt too few", R, "next_attempt <= max_attempts", "next_attempt < max_attempts"),
    Mutant("fail ignores retry_at", R, "    if retry_at is not None:\n", "    if False:\n"),
    Mutant("fail lets retry_at lie in the past", R, "        return max(retry_at, now)", "        return retry_at"),
    Mutant("fail ignores max_duration", R, "if _exceeds_max_duration(task, available_at):", "if False:"),
    Mutant("fail makes every next run pending", R, 'state_after = "sleeping" if available_at > now else "pending"', 'state_after = "pending"'),
    Mutant("fail leaves attempts", R, "attempts=max(task.attempts, recorded_attempt)", "attempts=task.attempts"),
    Mutant("fail keeps the wake event", R, 'state="failed", wake_event=None, failed_at', 'state="failed", failed_at'),
    Mutant("fail forgets its waits", R, '            cancelled_at=cancelled_at if task.cancelled_at is None else task.cancelled_at,\n        )\n    catalog.waits(tx, queue_name).delete_where(tx, "run_id", run.run_id)', "            cancelled_at=cancelled_at if task.cancelled_at is None else task.cancelled_at,\n        )"),
    Mutant("AB001 and AB002 are confused", "procedures.checks", 'if state == "cancelled":\n        raise task_cancelled()', 'if state == "cancelled":\n        raise EngineError("AB002", "failed")'),
    Mutant("fail overwrites cancelled_at", R, "cancelled_at=cancelled_at if task.cancelled_at is None else task.cancelled_at", "cancelled_at=cancelled_at"),
    # leases
    Mutant("extend adds to the old lease", R, "expires = add_us(now, extend_by", "expires = add_us(run.claim_expires_at, extend_by"),
    Mutant("extend accepts 0", R, "extend_by is None or extend_by <= 0", "extend_by is None or extend_by < 0"),
    Mutant("extend gives a lease to a run without one", R, "if run.claim_expires_at is None:\n        refuse", "if False:\n        refuse"),
    # spawning and retrying
    Mutant("spawn does not check the strategy", S, "        retry_delay_seconds(tx, retry_strategy, 1)\n", ""),
    Mutant("spawn accepts 0 attempts", S, "value is not None and value < 1", "value is not None and value < 0"),
    Mutant("spawn accepts a name of spaces", "procedures.checks", 'not text.strip(" ")', "not text"),
    Mutant("spawn ignores idempotency keys", S, '        idempotency_key = jsonb.field_text(options, "idempotency_key")\n', ""),
    Mutant("an idempotent spawn counts as created", S, "existing.last_attempt_run, existing.attempts, False", "existing.last_attempt_run, existing.attempts, True"),
    Mutant("a partitioned queue has no keys", S, "if is_partitioned(tx, queue_name):", "if False:"),
    Mutant("JSON null headers become SQL null", S, 'headers = jsonb.field(options, "headers")', 'headers = jsonb.field(options, "headers"); headers = None if headers == "null" else headers'),
    Mutant("null strategy is no strategy", S, "    if strategy is None:\n        return 0.0\n", '    if strategy is None or strategy == "null":\n        return 0.0\n'),
    Mutant("fixed delay defaults to 30", S, '60.0 if kind == "fixed" else 30.0', "30.0"),
    Mutant("exponent counts from 1", S, "max((1 if attempt is None else attempt) - 1, 0)", "max(1 if attempt is None else attempt, 0)"),
    Mutant("delay is not capped", S, "return min(delay, seconds_max)", "return delay"),
    Mutant("overflow is not saturated", S, "return 0.0 if factor < 1 else seconds_max", "return 0.0"),
    Mutant("retry in place resets nothing", S, '        state="pending",\n        attempts=max', "        attempts=max"),
    Mutant("retry accepts a running task", S, 'if task.state != "failed":', 'if task.state == "pending":'),
    Mutant("retry accepts too few attempts", S, "if requested_max_attempts <= task.attempts:", "if requested_max_attempts < task.attempts:"),
    Mutant("retry as new copies no parameters", S, "task.task_name, task.params, spawn_options", 'task.task_name, "null", spawn_options'),
    Mutant("retry as new loses max_attempts", S, "max_attempts=None if max_attempts is None else str(max_attempts),", "max_attempts=None,"),
    Mutant("retry by hand counts from the attempts made", S, "base = task.attempts if task.max_attempts is None else task.max_attempts", "base = task.attempts"),
    Mutant("retry in place keeps cancelled_at", S, "        last_attempt_run=run_id,\n        cancelled_at=None,", "        last_attempt_run=run_id,"),
    # checkpoints
    Mutant("an earlier attempt overwrites a later checkpoint", C, "if owner is None or run.attempt >= owner.attempt:", "if True:"),
    Mutant("an equal attempt may not overwrite", C, "run.attempt >= owner.attempt", "run.attempt > owner.attempt"),
    Mutant("checkpoint of a cancelled task is taken", "procedures.checks", "state = run.state if task is None else task.state", "state = run.state"),
    Mutant("checkpoint of a failed run is taken", C, "    refuse_ended_run(run, queue_name, task)\n", "    refuse_ended_run(run._replace(state='running'), queue_name, task)\n"),
    Mutant("checkpoint does not extend the lease", C, "extend_claim_by > 0:", "extend_claim_by > 10**10:"),
    Mutant("checkpoint gives a lease to a sleeping run", C, 'leased is not None and leased.state == "running" and leased.claim_expires_at is not None', "leased is not None"),
    Mutant("pending checkpoints are shown", C, 'include_pending or row.status == "committed"', "True"),
    Mutant("pending checkpoints are never shown", C, 'include_pending or row.status == "committed"', 'row.status == "committed"'),
    Mutant("pending checkpoints are in the list", C, 'if row.status == "committed" and (owner', "if (owner"),
    Mutant("checkpoints of another task may be read", C, "if task_id is not None and run.task_id != task_id:", "if False:"),
    Mutant("a checkpoint whose owner is gone is kept", C, "if owner is None or run.attempt >= owner.attempt:", "if existing is None or (owner is not None and run.attempt >= owner.attempt):"),
    Mutant("checkpoints without owner are not in the list", C, "(owner is None or owner.attempt <= run.attempt)", "(owner is not None and owner.attempt <= run.attempt)"),
    # events
    Mutant("await leaves no placeholder", E, "events.put(tx, EventRow(event_name, None, _EPOCH))", "pass"),
    Mutant("placeholder is dated now", E, "EventRow(event_name, None, _EPOCH)", "EventRow(event_name, None, tx.session.current_time())"),
    Mutant("await ignores checkpoints", E, "if checkpoint is not None and checkpoint.state is not None:", "if False:"),
    Mutant("await writes no checkpoint", E, "        write_checkpoint(tx, queue_name, task_id, step_name, resolved, run.run_id, now)\n", ""),
    Mutant("await keeps the received payload", E, "run = catalog.runs(tx, queue_name).update(tx, run, event_payload=None)", "run = run._replace(event_payload=None)"),
    Mutant("a timeout is not recognised", E, "if run.wake_event == event_name and received is None:", "if False:"),
    Mutant("a timeout is recognised twice", E, "        catalog.runs(tx, queue_name).update(tx, run, wake_event=None)\n", ""),
    Mutant("await accepts a run that does not run", E, 'if run.state != "running":\n        raise_exception', "if False:\n        raise_exception"),
    Mutant("await without timeout is due at once", E, "INFINITY if timeout_at is None else timeout_at", "now if timeout_at is None else timeout_at"),
    Mutant("await keeps the lease", E, "        event_payload=None,\n        **NO_LEASE,", "        event_payload=None,"),
    Mutant("await forgets the task", E, '    update_task(tx, queue_name, task_id, state="sleeping")\n', ""),
    Mutant("await sets no wait", E, "    waits.put(tx, WaitRow(", "    (tx, WaitRow("),
    Mutant("the last emit wins", E, "        if event.payload is not None:\n            return\n", ""),
    Mutant("emit of null is no payload", E, "payload = jsonb.NULL if payload is None else payload", "pass"),
    Mutant("emit wakes nobody", E, "    _wake_waiting_runs(tx, queue_name, event_name, payload, now)\n", ""),
    Mutant("emit wakes who has timed out", E, "if wait.timeout_at is None or wait.timeout_at > now]", "]"),
    Mutant("emit leaves timed-out waits", E, "if expired or wait.run_id in updated:", "if wait.run_id in updated:"),
    Mutant("emit leaves the waits", E, "if expired or wait.run_id in updated:", "if expired:"),
    Mutant("emit writes no checkpoint", E, "            write_checkpoint(\n                tx, queue_name, wait.task_id, wait.step_name, payload, wait.run_id, now\n            )", "            pass"),
    Mutant("emit leaves the wake event", E, "                wake_event=None,\n                event_payload=payload,", "                event_payload=payload,"),
    Mutant("emit leaves the task asleep", E, '        update_task(tx, queue_name, task_id, state="pending")\n', "        pass\n"),
    Mutant("a checkpoint of nothing answers a wait", E, "checkpoint is not None and checkpoint.state is not None:", "checkpoint is not None:"),
    Mutant("the payload received counts more than the event's", E, "if event_payload is not None and jsonb.equal(event_payload, received):", "if event_payload is not None:"),
    Mutant("payloads are compared as text", E, "jsonb.equal(event_payload, received)", "event_payload == received"),
    Mutant("a wait that was left keeps its event", E, "step_name, event_name, timeout_at, now))", "step_name, event_name if waiting is None else waiting.event_name, timeout_at, now))"),
    # cancelling
    Mutant("cancel leaves the runs", K, 'runs.update(tx, run, state="cancelled", **NO_LEASE)', "pass"),
    Mutant("cancel leaves the waits", K, '    catalog.waits(tx, queue_name).delete_where(tx, "task_id", task_id)\n', ""),
    Mutant("cancel reopens an ended task", K, "    if task.state not in LIVE:\n        return\n", ""),
    Mutant("max_delay is exceeded, not reached", K, "elapsed_us(now, since) >= seconds", "elapsed_us(now, since) > seconds"),
    Mutant("max_duration is forgotten", "tables", "(started, max_duration)", "(started, None)"),
    Mutant("a malformed rule is passed over", "tables", 'return None if text is None else integer_in(text, "bigint")', "return int(text) if text is not None and text.isdigit() else None"),
    # clean-up and queues
    Mutant("a month to live has 31 days", L, "row.cleanup_ttl.epoch_us() // SECOND_US", "(row.cleanup_ttl.epoch_us() + row.cleanup_ttl.months * 86_400 * SECOND_US) // SECOND_US"),
    Mutant("clean-up of all queues ignores the limit", L, "(tx, row.queue_name, ttl, row.cleanup_limit)", "(tx, row.queue_name, ttl)"),
    Mutant("clean-up takes what ends at the cutoff", L, "at < cutoff]", "at <= cutoff]"),
    Mutant("clean-up forgets runs", L, "catalog.checkpoints(tx, queue_name), runs", "catalog.checkpoints(tx, queue_name)"),
    Mutant("clean-up forgets checkpoints", L, "catalog.checkpoints(tx, queue_name), runs", "runs"),
    Mutant("clean-up forgets keys", L, "    if partitioned:\n        of_tasks", "    if False:\n        of_tasks"),
    Mutant("clean-up takes live tasks", L, "    if task.state in LIVE:\n        return None\n", ""),
    Mutant("clean-up spares cancelled tasks", L, '    if task.state == "cancelled":\n        return task.cancelled_at\n', '    if task.state == "cancelled":\n        return None\n'),
    Mutant("clean-up ignores its limit", L, "return nsmallest(limit, items, key=lambda item: item[0])", "return items"),
    Mutant("clean-up spares placeholders", L, "if row.emitted_at < cutoff)", "if row.emitted_at < cutoff and row.payload)"),
    Mutant("a failed task shows a result", S, 'task.completed_payload if task.state == "completed" else None', "task.completed_payload"),
    Mutant("a waiting task shows a reason", S, 'if task.state == "failed" and run is not None', "if run is not None"),
    Mutant("a queue may change its mode", Q, "if row.storage_mode != mode:", "if False:"),
    Mutant("drop leaves the queue's row", Q, "    queues.delete(tx, queue_name)\n", ""),
    Mutant("drop leaves a table", Q, 'for letter in "iwecrt":', 'for letter in "iwert":'),
    Mutant("policy keys are not checked", Q, "        if key not in _POLICY_KEYS:", "        if False:"),
    Mutant("negative intervals are accepted", "schema", "number: int = value.span() if isinstance(value, Interval) else value", "number: int = 1 if isinstance(value, Interval) else value"),
    Mutant("disabling the default partition keeps it", Q, "            detach_default_partitions(tx, name)", "            pass"),
    Mutant("partitions begin on Sunday", P, "(day + 3) % 7", "(day + 4) % 7"),
    Mutant("one week of partitions is missing", P, "while week <= last:", "while week < last:"),
    Mutant("full partitions may be detached", P, "if not partition_rows(tx, parent.table, partition):", "if True:"),
    # transactions
    Mutant("rollback keeps what was written", "transaction", "                table.restore_row(key, row)", "                pass"),
    Mutant("uncommitted rows are seen", "table", "            if mark is not None and mark[0] is not tx:\n                return mark[1]", "            pass"),
    Mutant("settings survive a rollback", "session", "            self.settings = self._at_begin\n", ""),
    Mutant("a failed transaction goes on", "session", "            self.failed = True\n            position", "            position"),
    Mutant("rollback to a savepoint leaves it failed", "session", "        del self._savepoints[index + 1 :]\n        self.failed = False", "        del self._savepoints[index + 1 :]"),
    Mutant("nobody waits for a row", "transaction", "            if holder is not self and held in conflicts:", "            if False:"),
    # jsonb
    Mutant("keys keep the order in which they came", "jsonb", "return len(key) if key.isascii() else len(_joined(key).encode()), _joined(key)", "return 0, ''"),
    Mutant("keys are ordered by bytes alone", "jsonb", "return len(key) if key.isascii() else len(_joined(key).encode()), _joined(key)", "return 0, key"),
    Mutant("large floats keep their exponent", "jsonb", 'shown = format(Decimal((0, digits, exponent)), "f")', "shown = text.lstrip('-')"),
    Mutant("numbers lose their scale", "jsonb", 'shown = format(Decimal((0, digits, exponent)), "f")', 'shown = format(Decimal((0, digits, exponent)).normalize(), "f")'),
    Mutant("null characters are taken", "jsonb", 'if not value.isascii() or "\\0" in value:', "if not value.isascii():"),
)  # fmt: skip

EQUIVALENT: dict[str, str] = {
    "clean-up takes live tasks": "a live task's last run has not ended, so it has no time of ending",
}
"""Mutants that cannot be seen, by name, with the reason."""

"""Digests of the function bodies that the emulator was written against (Absurd 0.5.1).

See `drift.digest`. When a new release changes one, read the change, follow it in the procedure of
the same name, let the comparison with Postgres pass, and only then put the new digest here.
"""

from __future__ import annotations

BODIES: dict[str, str] = {
    "function await_event(text, uuid, uuid, text, text, int4)": "637100f67920d230",
    "function cancel_task(text, uuid)": "74fba7e3f47b1c86",
    "function claim_task(text, text, int4, int4)": "3e2c5f50a55db820",
    "function cleanup_all_queues(text)": "097a8cc0432ab36f",
    "function cleanup_events(text, int4, int4)": "539a571a1849c752",
    "function cleanup_tasks(text, int4, int4)": "f910961cc5661f3d",
    "function complete_run(text, uuid, jsonb)": "a347e84bec785a57",
    "function create_queue(text)": "aa08f4c2d18bac11",
    "function create_queue(text, text)": "4f5fe9d54974b24c",
    "function current_time()": "3e590dd5e0aeff8b",
    "function disable_cron(text)": "efdaed15d94b555f",
    "function drop_detached_partition(text, text)": "6d641cce122966cf",
    "function drop_queue(text)": "15ef08651c12d290",
    "function emit_event(text, text, jsonb)": "4fb5541e0ea1f08c",
    "function enable_cron(text, text, text, text)": "6d492dbe1c8a08f8",
    "function ensure_partitions(text)": "9f04cb004f69c816",
    "function ensure_queue_tables(text)": "519c277b409282b1",
    "function extend_claim(text, uuid, int4)": "b92693ba920613a2",
    "function fail_run(text, uuid, jsonb, timestamptz)": "554984a4a9c64582",
    "function get_queue_policy(text)": "7482cc6e16c767ce",
    "function get_schema_version()": "5111ee42aa49434c",
    "function get_task_checkpoint_state(text, uuid, text, bool)": "a21fa7abcbfc2d1d",
    "function get_task_checkpoint_states(text, uuid, uuid)": "a870f96176fb4ab9",
    "function get_task_result(text, uuid)": "464a8e1adc973350",
    "function list_detach_candidates(text)": "1ea82ec2e58ee760",
    "function list_queues()": "329ef5ebf2120e67",
    "function partition_week_tag(timestamptz)": "1a42e86969f4e57f",
    "function portable_uuidv7()": "efb384cc90ff9a5e",
    "function retry_delay_seconds(jsonb, int4)": "43560fadce2c15e0",
    "function retry_task(text, uuid, jsonb)": "8ce7715a4d8b272e",
    "function schedule_detach_jobs(text)": "44b4d0d1d30cafbf",
    "function schedule_run(text, uuid, timestamptz)": "a004484882a7f8ba",
    "function set_queue_policy(text, jsonb)": "50a323a7ce2b6d96",
    "function set_task_checkpoint_state(text, uuid, text, jsonb, uuid, int4)": "9dd08ecfe5480276",
    "function spawn_task(text, text, jsonb, jsonb)": "c559abf5a363cef7",
    "function uuidv7_floor(timestamptz)": "c1faa2f3bf3bbfd9",
    "function uuidv7_timestamp(uuid)": "7791e74e8297d130",
    "function validate_queue_name(text)": "74a5e631f9ea35a9",
    "function week_bucket_utc(timestamptz)": "06a42ab0e5bc3265",
}

ATTRIBUTES: dict[str, str] = {
    "function partition_week_tag(timestamptz)": "immutable, strict",
    "function retry_delay_seconds(jsonb, int4)": "immutable",
    "function uuidv7_floor(timestamptz)": "immutable, strict",
    "function uuidv7_timestamp(uuid)": "immutable, strict",
    "function week_bucket_utc(timestamptz)": "immutable, strict",
}
"""What a function is declared as beside its body: what Postgres may assume of it."""

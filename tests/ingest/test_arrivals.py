"""Files as they arrive, each stream fault with its fate, and when a group is closed."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from arriving_groups import DaemonSite, file_name, group_id, write_subband

from absurd_contimg.errors import CorruptInputError
from absurd_contimg.ingest import arrivals
from absurd_contimg.ingest.closing import ArrivalRules, ClosingRules
from absurd_contimg.ingest.group_notes import group_note, subbands_text
from absurd_contimg.ingest.incoming_folder import IncomingFolder
from absurd_contimg.ingest.spawn import spawn_groups
from absurd_contimg.registry.models import FileState, GroupStatus, IngestState
from absurd_contimg.science.raw_pointing import read_pointing
from absurd_contimg.settings import load_settings


async def test_a_whole_group_is_closed_and_has_one_task(site: DaemonSite) -> None:
    site.write(0)
    await site.poll()
    assert site.group(0).ingest_state is IngestState.COLLECTING  # one look is not enough
    await site.polls(60, 3)
    group = site.group(0)
    assert (group.ingest_state, group.closed_reason, group.n_subbands) == (
        IngestState.CLOSED, "all 16 sub-bands", 16,
    )  # fmt: skip
    assert group.declination_deg == pytest.approx(16.27)
    assert group.mid_mjd == pytest.approx(40587 + (1_769_380_000 + 154.6) / 86400, abs=1e-8)
    assert await site.tasks() == [("pipeline", f"pipeline:{group_id(0)}")]


@pytest.mark.parametrize(("count", "state"), [(15, "closed"), (12, "closed"), (11, "rejected")])
async def test_missing_subbands_are_waited_for_until_the_deadline(
    site: DaemonSite, count: int, state: str
) -> None:
    site.write(0, range(count))
    await site.polls(60, 5)
    assert site.group(0).ingest_state is IngestState.COLLECTING
    await site.poll(70)
    group = site.group(0)
    assert group.ingest_state == state
    assert group.closed_reason.startswith(f"{count} of 16 sub-bands 300 s after its first file")
    assert f"sb{count:02d}" in group.closed_reason
    assert len(await site.tasks()) == (state == "closed")


async def test_the_next_group_ends_an_incomplete_one_after_a_grace(site: DaemonSite) -> None:
    site.write(0, range(14))
    await site.poll()
    site.write(1, [0])
    await site.poll(10)
    await site.poll(100)
    assert site.group(0).ingest_state is IngestState.COLLECTING
    await site.poll(30)
    assert site.group(0).closed_reason == (
        "14 of 16 sub-bands 120 s after the next group began; missing: sb14, sb15"
    )


async def test_a_late_subband_is_listed_and_changes_nothing(
    site: DaemonSite, caplog: pytest.LogCaptureFixture
) -> None:
    site.write(0, range(15))
    await site.polls(60, 7)
    before = site.group(0)
    site.write(0, [15])
    site.write(0, [3], late_seconds=-2)  # its earlier name does not rename a closed group
    await site.polls(60, 3)
    after = site.group(0)
    assert site.file_states(0)[FileState.LATE] == [3, 15]
    assert (after.ingest_state, after.n_subbands, after.closed_reason) == (
        before.ingest_state, before.n_subbands, before.closed_reason,
    )  # fmt: skip
    assert len(await site.tasks()) == 1
    assert caplog.text.count("came after the group was closed") == 2
    note = group_note(after, None, site.closing, site.clock.now())
    assert note.endswith(f"to process it again with these: contimg reopen {group_id(0)}")
    assert "reopen" not in group_note(before, None, site.closing, site.clock.now())


async def test_many_late_files_are_told_in_one_line(
    site: DaemonSite, caplog: pytest.LogCaptureFixture
) -> None:
    """Old raw files that were put elsewhere are new by their names: each had a line of its own."""
    site.closing = ClosingRules(expected_subbands=16, subbands_min=1)
    for number in range(2):
        site.write(number, [0])
    await site.polls(400, 4)
    for number in range(2):
        site.write(number, range(1, 16))
    await site.polls(60, 3)
    late = [record for record in caplog.records if "after the" in record.getMessage()
            and "closed" in record.getMessage()]  # fmt: skip
    assert len(late) == 1
    assert "30 files of 2 groups came after their groups were closed" in late[0].getMessage()
    assert len(site.file_states(1)[FileState.LATE]) == 15


async def test_a_duplicated_subband_counts_once(site: DaemonSite) -> None:
    """The same observation sent again under the name of another clock."""
    site.write(0, range(15))
    site.write(0, [7], late_seconds=2)
    await site.polls(60, 7)
    assert site.group(0).n_subbands == 15
    assert site.file_states(0)[FileState.REFUSED] == [7]
    (refused,) = [file for file in site.group(0).files if file.state is FileState.REFUSED]
    assert refused.reason == f"{file_name(0, 7)} has the same sub-band"


async def test_a_truncated_subband_is_refused_and_counts_as_missing(site: DaemonSite) -> None:
    site.write(0)
    path = site.incoming / file_name(0, 4)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    os.utime(path, (site.clock.now() - 7200, site.clock.now() - 7200))
    await site.polls(60, 7)
    group = site.group(0)
    assert (group.ingest_state, group.n_subbands) == (IngestState.CLOSED, 15)
    assert site.file_states(0)[FileState.REFUSED] == [4]


async def test_a_refused_file_that_is_sent_again_is_accepted(site: DaemonSite) -> None:
    site.write(0)
    path = site.incoming / file_name(0, 4)
    path.write_bytes(b"no HDF5")
    os.utime(path, (site.clock.now() - 7200, site.clock.now() - 7200))
    await site.polls(60, 2)
    assert site.file_states(0)[FileState.REFUSED] == [4]
    site.write(0, [4])
    await site.polls(60, 3)
    assert site.group(0).n_subbands == 16


async def test_a_growing_file_is_waited_for_but_not_for_ever(site: DaemonSite) -> None:
    """A fixed wait is too short where a copy is slow; one that stalls is left out."""
    site.write(0, range(15))
    await site.poll()
    growing = site.incoming / file_name(0, 15)
    for size in range(1, 16):
        growing.write_bytes(b"\x89HDF\r\n\x1a\n" * size)
        await site.poll(60)
    assert site.group(0).ingest_state is IngestState.COLLECTING
    await site.polls(60, 4)
    assert site.file_states(0)[FileState.LATE] == [15]
    assert site.group(0).n_subbands == 15


async def test_a_change_after_acceptance_is_reported_and_processed_on_command(
    site: DaemonSite, caplog: pytest.LogCaptureFixture
) -> None:
    site.write(0, range(15))
    await site.polls(60, 7)
    write_subband(site.incoming, 0, 3, declination_deg=16.3)
    site.write(0, [15])
    await site.polls(60, 3)
    assert site.file_states(0)[FileState.CHANGED] == [3]
    assert subbands_text(site.group(0), 16) == "15 of 16, 1 changed"
    failed = replace(site.group(0), status=GroupStatus.FAILED)
    note = group_note(failed, None, site.closing, site.clock.now())
    assert note.endswith(
        f"reopen {group_id(0)} (where its conversion has failed also: contimg retry {group_id(0)})"
    )
    assert "changed after the group was closed" in caplog.text
    assert len(await site.tasks()) == 1
    assert site.tables.reopen_group(group_id(0), site.clock.now()) == 2
    await site.polls(60, 3)
    group = site.group(0)
    assert (group.n_subbands, group.closed_reason) == (16, "all 16 sub-bands")
    assert await site.tasks() == [
        ("pipeline", f"pipeline:{group_id(0)}"),
        ("pipeline", f"pipeline:{group_id(0)}#2"),
    ]


async def test_names_that_are_no_files_are_named_once_and_never_opened(
    site: DaemonSite, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe would block what opens it."""
    (site.incoming / "2026-02-30T10:00:00_sb00.hdf5").touch()
    (site.incoming / file_name(0, 0)).mkdir()
    os.mkfifo(site.incoming / file_name(0, 1))
    (site.incoming / file_name(0, 2)).symlink_to("/nowhere")
    (site.incoming / file_name(0, 3)).symlink_to(site.incoming / file_name(0, 3))
    (site.incoming / file_name(0, 16)).touch()
    await site.polls(60, 5)
    assert not site.tables.groups()
    for name in ["2026-02-30T10:00:00_sb00.hdf5", *(file_name(0, n) for n in (0, 1, 2, 3, 16))]:
        assert caplog.text.count(f"{site.incoming / name} is") == 1


async def test_links_to_files_and_hidden_or_incomplete_names(site: DaemonSite) -> None:
    """A link to a file is a file; rsync's and the writer's temporary names are none."""
    elsewhere = site.root / "elsewhere"
    elsewhere.mkdir()
    for subband in range(16):
        path = write_subband(elsewhere, 0, subband, modified=site.clock.now())
        (site.incoming / path.name).symlink_to(path)
        (site.incoming / f".{file_name(1, subband)}.Xy12").touch()
        (site.incoming / f"{file_name(1, subband)[:-5]}_incomplete.hdf5").touch()
    await site.polls(60, 3)
    (group,) = site.tables.groups()
    assert group.n_subbands == 16


@pytest.mark.parametrize("fault", ["missing", "unmounted"])
async def test_absence_is_not_believed_while_the_folder_is_away(
    site: DaemonSite, fault: str
) -> None:
    """An unmounted disk leaves an empty folder: nothing is closed, and nothing counts as gone."""
    site.write(0, range(14))
    await site.polls(60, 2)
    away = site.root / "away"
    site.incoming.rename(away)
    if fault == "unmounted":
        site.incoming.mkdir()
    for _ in range(10):
        report = await site.poll(60)
        (outage,) = report.outages
        assert outage.key == "files: IncomingAwayError"
    assert site.group(0).ingest_state is IngestState.COLLECTING
    shutil.rmtree(site.incoming, ignore_errors=True)
    away.rename(site.incoming)
    site.write(0, [14, 15])
    await site.polls(60, 3)
    assert site.group(0).n_subbands == 16


async def test_a_single_file_that_vanished_is_missing_when_the_group_is_closed(
    site: DaemonSite,
) -> None:
    site.write(0, range(15))
    await site.polls(60, 2)
    (site.incoming / file_name(0, 2)).unlink()
    await site.polls(60, 5)
    assert site.group(0).n_subbands == 14
    assert site.file_states(0)[FileState.GONE] == [2]


@pytest.mark.parametrize("hours", [-5, 5])
async def test_a_clock_that_is_set_cuts_no_wait(
    site: DaemonSite, hours: int, caplog: pytest.LogCaptureFixture
) -> None:
    site.write(0, range(10))
    await site.polls(60, 2)
    site.clock.set_by = hours * 3600.0
    await site.poll(60)
    assert site.group(0).ingest_state is IngestState.COLLECTING
    site.write(0, range(10, 16))
    await site.polls(60, 2)
    assert site.group(0).n_subbands == 16
    assert caplog.text.count("the clock of this host was set by") == 1


async def test_a_name_from_a_clock_far_ahead_ends_no_other_group(site: DaemonSite) -> None:
    site.write(0, range(10))
    site.write(100_000, [0])
    await site.polls(60, 4)
    assert site.group(0).ingest_state is IngestState.COLLECTING


@pytest.mark.parametrize("arrival", ["rename", "done"])
async def test_a_producer_that_marks_whole_files_needs_no_second_look(
    site: DaemonSite, arrival: str
) -> None:
    site.arrival = ArrivalRules(arrival, 3600.0)  # type: ignore[arg-type] # one of the two
    site.write(0)
    await site.poll()
    assert (site.group(0).n_subbands == 16) == (arrival == "rename")
    for subband in range(16):
        (site.incoming / f"{file_name(0, subband)}.done").touch()
    await site.poll()
    assert site.group(0).n_subbands == 16


async def test_files_without_a_day_in_between_are_no_header(tmp_path: Path) -> None:
    """A header whose time is not that of the name places its group nowhere."""
    path = write_subband(tmp_path, 0, 0)
    other = path.rename(tmp_path / file_name(20, 0))
    with pytest.raises(CorruptInputError, match="from the time in the name"):
        read_pointing(other)


async def test_groups_that_were_spawned_by_hand_keep_their_task(
    site: DaemonSite, caplog: pytest.LogCaptureFixture
) -> None:
    """`contimg spawn` fixes the files of what it spawns; the daemon goes on with the rest.

    It does not take the files of the former for changed: their size was not known.
    """
    settings = load_settings(
        {
            "input_dir": site.incoming,
            "output_dir": site.root / "products",
            "catalog": site.catalog,
        },
        environment={},
    )
    site.write(0)
    site.write(1, range(14))
    (first, second) = await spawn_groups(site.backend, settings, site.registry)
    assert first.task is not None
    assert second.task is None
    await site.poll()
    site.write(1, [14, 15])
    await site.polls(60, 3)
    assert [site.group(n).ingest_state for n in (0, 1)] == [IngestState.CLOSED] * 2
    assert site.group(0).task_id == str(first.task.task_id)
    assert site.group(0).mid_mjd is not None
    assert [key for _, key in await site.tasks()] == [f"pipeline:{group_id(n)}" for n in (0, 1)]
    assert site.file_states(0) == {FileState.WHOLE: list(range(16))}
    assert "changed" not in caplog.text
    write_subband(site.incoming, 0, 3, declination_deg=16.3)
    await site.poll(60)
    assert site.file_states(0)[FileState.CHANGED] == [3]


async def test_only_new_names_are_looked_at(site: DaemonSite) -> None:
    """A look at each of 40,000 files would hang for minutes on a network."""
    looks: list[str] = []

    class Counting(IncomingFolder):
        def look(self, path: Path):  # type: ignore[no-untyped-def] # as there
            looks.append(path.name)
            return super().look(path)

    for number in range(3):
        site.write(number)
    site.daemon = site.new_daemon(incoming=Counting(site.incoming))
    await site.polls(60, 3)
    assert all(group.n_subbands == 16 for group in site.tables.groups())
    await site.poll(3601)  # no longer watched
    looks.clear()
    site.write(3, [0])
    await site.poll(60)
    assert set(looks) == {file_name(3, 0)}


async def test_files_that_come_after_a_spawn_by_hand_are_late(site: DaemonSite) -> None:
    """`contimg spawn --now` has fixed the files of the group."""
    settings = load_settings(
        {"input_dir": site.incoming, "output_dir": site.root / "out", "catalog": site.catalog},
        environment={},
    )
    site.write(0, range(14))
    await spawn_groups(site.backend, settings, site.registry, incomplete_now=True)
    site.write(0, [14, 15])
    await site.polls(60, 3)
    assert site.group(0).closed_reason == "14 sub-bands, by command"
    assert site.file_states(0)[FileState.LATE] == [14, 15]
    assert len(await site.tasks()) == 1


async def test_the_first_look_of_a_daemon_ends_no_wait(site: DaemonSite) -> None:
    """The transfer was down with the daemon: what is missing comes a moment later."""
    site.write(0, range(14))
    await site.polls(60, 2)
    site.daemon = None
    await site.poll(3600)
    assert site.group(0).ingest_state is IngestState.COLLECTING
    site.write(0, [14, 15])
    await site.polls(20, 2)
    assert site.group(0).n_subbands == 16


async def test_a_backlog_is_opened_in_parts_the_newest_groups_first(
    site: DaemonSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each poll opens so many files and closes the groups that it has seen whole."""
    monkeypatch.setattr(arrivals, "_LOOKS_MAX", 5)
    site.closing = ClosingRules(expected_subbands=2, subbands_min=2)
    for number in range(5):
        site.write(number, [0, 1])
    while len(site.tables.known_paths()) < 10:
        await site.poll()
    closed, reports = [], []
    while len(closed) < 5:
        reports.append((await site.poll(0 if reports else 100)).more)
        new = {
            group.group_id
            for group in site.tables.groups([IngestState.CLOSED])
            if group.group_id not in closed
        }
        closed += sorted(new, reverse=True)
        assert len(new) <= 3
    assert closed == [group_id(number) for number in reversed(range(5))]
    assert reports == [True, False]


async def test_polls_of_separate_processes_end_the_wait_of_an_incomplete_group(
    site: DaemonSite,
) -> None:
    """`contimg daemon --once` from cron: each poll was the first look of its process, for ever."""
    site.write(0, range(15))
    for seconds in (0, 60, 250):
        await site.single_poll(seconds)
    assert site.group(0).ingest_state is IngestState.COLLECTING, "only one look found it over"
    await site.single_poll(60)
    group = site.group(0)
    assert group.ingest_state is IngestState.CLOSED
    assert group.closed_reason.startswith("15 of 16 sub-bands 300 s after its first file")
    assert len(await site.tasks()) == 1


@pytest.mark.parametrize("seconds", [15, 60, 900, 86_000])
async def test_however_rare_the_polls_are_each_group_is_closed(
    site: DaemonSite, seconds: float
) -> None:
    """A bound between looks would leave groups open where cron is slower than it."""
    site.closing = ClosingRules(group_wait_seconds=20)
    site.write(0)
    site.write(1, range(12))
    for _ in range(5):
        await site.single_poll(seconds)
    assert site.group(0).closed_reason == "all 16 sub-bands"
    assert site.group(1).closed_reason.startswith("12 of 16 sub-bands 20 s after its first file")


async def test_a_file_that_comes_while_no_single_poll_ran_is_still_taken(site: DaemonSite) -> None:
    """Also where the wait was found over before cron stood still."""
    site.write(0, range(15))
    for seconds in (0, 60, 300):
        await site.single_poll(seconds)
    site.clock.elapsed += 3600
    site.write(0, [15])
    await site.single_poll(0)
    assert site.group(0).ingest_state is IngestState.COLLECTING
    await site.single_poll(60)
    assert site.group(0).closed_reason == "all 16 sub-bands"


async def test_single_polls_wait_for_a_growing_file_but_not_for_ever(site: DaemonSite) -> None:
    """Its size is compared with that of the poll before, another process's."""
    site.write(0)
    path = site.incoming / file_name(0, 5)
    for minute in range(33):
        with path.open("ab") as file:
            file.write(b"more")
        os.utime(path, (site.clock.now(), site.clock.now()))
        await site.single_poll(60 if minute else 0)
        if minute < 30:
            assert site.group(0).ingest_state is IngestState.COLLECTING, minute
    group = site.group(0)
    assert (group.ingest_state, group.n_subbands) == (IngestState.CLOSED, 15)
    assert site.file_states(0)[FileState.LATE] == [5]


async def test_one_process_ends_no_wait_in_looks_that_leave_files(
    site: DaemonSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--once` looks on while files are left: that is still its first look."""
    site.write(0, range(15))
    await site.single_poll(0)
    monkeypatch.setattr(arrivals, "_LOOKS_MAX", 4)
    await site.single_poll(400)
    assert site.group(0).ingest_state is IngestState.COLLECTING
    await site.single_poll(60)
    assert site.group(0).ingest_state is IngestState.CLOSED

"""Files that grow at the correlator's pace, and what reads beside it."""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.config import ConversionConfig, SiteConfig
from absurd_contimg.ingest.spawn import spawn_groups
from absurd_contimg.registry import Registry
from absurd_contimg.science.raw_file import read_raw_header
from absurd_contimg.science.raw_group import read_raw_group
from absurd_contimg.settings import load_settings
from absurd_contimg.synthesis import SynthesisResult
from absurd_contimg.synthesis.replay import Pace, replay


@dataclass
class Clock:
    """Time that passes only in sleep."""

    seconds: float = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_files_grow_in_time_and_are_renamed_when_whole(
    tiny: SynthesisResult, tmp_path: Path
) -> None:
    sizes: list[int] = []
    whole: list[int] = []
    clock = Clock()

    def sleep(seconds: float) -> None:
        files = list(tmp_path.iterdir())
        sizes.append(sum(path.stat().st_size for path in files))
        whole.append(sum(not path.stem.endswith("_incomplete") for path in files))
        clock.sleep(seconds)

    replay([tiny.groups[0].files], tmp_path, Pace(10.0, clock.now, sleep))
    assert whole == [*[0] * 6, *range(16)]
    assert sizes[:6] == sorted(set(sizes[:6]))
    assert abs(clock.seconds - (5 * 12.884902 + 16 * 0.1) / 10.0) < 0.1
    written = read_raw_group(sorted(tmp_path.iterdir()), ConversionConfig(), SiteConfig())
    original = read_raw_header(tiny.groups[0].files[3])
    assert written.subbands[3].shape == original.shape
    assert (written.times_jd == original.integrations()[1]).all()


def test_a_damaged_file_arrives_as_it_is(tiny: SynthesisResult, tmp_path: Path) -> None:
    source = tmp_path / tiny.groups[0].files[0].name
    source.write_bytes(b"this is not HDF5")
    (tmp_path / "out").mkdir()
    replay([[source]], tmp_path / "out", Pace(10.0, Clock().now, Clock().sleep))
    assert (tmp_path / "out" / source.name).read_bytes() == b"this is not HDF5"


async def test_spawn_beside_the_writer_sees_each_group_once_and_whole(
    tiny: SynthesisResult, tmp_path: Path
) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (tmp_path / "state").mkdir()
    shutil.copy(tiny.catalog, incoming)
    folders = {f"{name}_dir": tmp_path / name for name in ("state", "scratch", "output")}
    settings = load_settings({"input_dir": incoming, **folders}, environment={})
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(settings.queue_name)
    registry = Registry(settings.registry_url)
    loop = asyncio.get_running_loop()
    created: list[tuple[str, ...]] = []
    waited: list[str] = []

    async def spawn() -> None:
        if not list(incoming.glob("*_sb*")):
            return  # the first file begins to grow after the first wait
        for spawned in await spawn_groups(backend, settings, registry):
            if spawned.task is None:
                waited.append(spawned.waits_for)
            elif spawned.task.created:
                created.append(tuple(path.name for path in spawned.group.files))

    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        asyncio.run_coroutine_threadsafe(spawn(), loop).result(60)

    groups = [group.files for group in tiny.groups]
    await asyncio.to_thread(replay, groups, incoming, Pace(100.0, clock.now, sleep))
    await spawn()
    expected = [sorted(path.name for path in group) for group in groups]
    assert [sorted(names) for names in created] == expected
    assert len(waited) == 2 * 15
    assert all(re.match(r"sb\d\d\b.* until ", reason) for reason in waited)

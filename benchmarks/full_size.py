"""What each stage of full-size groups costs, as the stage server of a worker runs them.

    contimg synth --preset full -o science_groups=1 full
    python benchmarks/full_size.py full --work DIR

One group after the other, one stage at a time. Processor time is exact; memory and bytes are the
largest values seen in 50 ms steps. "x raw" is bytes over those of the group's files. "copy" is
the least that a stage could take: the processor time in which plain calls read and write as many
bytes. Above the table stands an FFT of the imager's grid, of which tclean makes two a major cycle.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.fft

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import IsolatedStageExecutor
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.products.subband_files import parse_subband_name
from absurd_contimg.registry import Registry
from absurd_contimg.workflows.assembly import make_stage_server
from absurd_contimg.workflows.orchestrator import standard_imaging_stages

_STEP_SECONDS = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Usage:
    """Of one stage."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass
class _Watch:
    """Looks at the processes below this one until it is told to stop."""

    usage: Usage = field(default_factory=Usage)
    stopped: threading.Event = field(default_factory=threading.Event)
    io: dict[int, tuple[int, int]] = field(default_factory=dict)

    def look(self) -> None:
        """Note the peak of all stage processes and what each has read and written so far."""
        while not self.stopped.wait(_STEP_SECONDS):
            resident = 0
            for pid in stage_processes():
                with suppress(OSError, StopIteration):  # it has ended
                    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
                    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
                    resident += int(line.split()[1]) * 1024
                    io = dict(
                        x.split(": ") for x in Path(f"/proc/{pid}/io").read_text().splitlines()
                    )
                    self.io[pid] = int(io["rchar"]), int(io["write_bytes"])
            self.usage.peak_bytes = max(self.usage.peak_bytes, resident)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            children += map(int, thread.read_text(encoding="utf-8").split())
    return children


def stage_processes() -> list[int]:
    """What the stage server, the one child of this process, has forked."""
    return [stage for server in _children(os.getpid()) for stage in _children(server)]


def server_cpu_seconds() -> float:
    """Of the stage server and all that it has waited for."""
    total = 0
    for pid in _children(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / _TICKS


@contextmanager
def measured() -> Iterator[Usage]:
    """The usage is complete at the end of the block."""
    watch = _Watch()
    thread = threading.Thread(target=watch.look)
    began, cpu = time.perf_counter(), server_cpu_seconds()
    thread.start()
    try:
        yield watch.usage
    finally:
        watch.stopped.set()
        thread.join()
        watch.usage.seconds = time.perf_counter() - began
        watch.usage.cpu_seconds = server_cpu_seconds() - cpu
        watch.usage.read_bytes = sum(read for read, _ in watch.io.values())
        watch.usage.written_bytes = sum(written for _, written in watch.io.values())


def groups_of(folder: Path) -> list[list[Path]]:
    """The files of each group, whose names lie within a few seconds."""
    files = sorted(folder.glob("*_sb??.hdf5"))
    groups: list[list[Path]] = []
    for path in files:
        seconds = parse_subband_name(path).timestamp_seconds
        if groups and seconds - parse_subband_name(groups[-1][0]).timestamp_seconds < 60:
            groups[-1].append(path)
        else:
            groups.append([path])
    return groups


def copy_seconds_a_byte(folder: Path) -> tuple[float, float]:
    """Of one process that reads a file which is in memory, and that writes one."""
    block, blocks = bytes(2**24), 32
    path = folder / "copied"
    began = time.process_time()
    with path.open("wb", buffering=0) as file:
        for _ in range(blocks):
            file.write(block)
    written = time.process_time()
    with path.open("rb", buffering=0) as file:
        while file.read(len(block)):
            pass
    read = time.process_time()
    path.unlink()
    size = len(block) * blocks
    return (read - written) / size, (written - began) / size


def fft_seconds(size_px: int) -> float:
    """Of one FFT of a square grid of complex numbers of single precision, on one core."""
    grid = np.ones((size_px, size_px), np.complex64)
    began = time.process_time()
    scipy.fft.fft2(grid)
    return time.process_time() - began


async def process(
    files: Sequence[Path], catalog: Path, runner: StageRunner, registry: Registry
) -> list[tuple[str, Usage]]:
    """Run all stages of a group."""
    inputs = {
        "group_id": files[0].name.partition("_")[0],
        "input_files": [str(path) for path in files],
        "catalog_path": str(catalog),
        "calibrator": "auto",
    }
    context, rows = PipelineContext(runner.config, inputs), []
    for stage in standard_imaging_stages(registry):
        with measured() as usage:
            result = await runner.run(stage, context, attempt=f"benchmark-{stage.name}")
        rows.append((stage.name, usage))
        context = context.with_outputs(result.outputs)
    image = context.outputs["image"]
    print(f"\n{inputs['group_id']}: one FFT of {image['size_px']} px: ", end="")
    print(f"{fft_seconds(image['size_px']):.2f} s")
    return rows


def show(rows: Sequence[tuple[str, Usage]], raw_bytes: int, copying: tuple[float, float]) -> None:
    """A table, with the sum of all stages."""
    print(
        f"{'stage':20}{'s':>7}{'CPU s':>7}{'copy s':>8}{'GiB':>6}{'read':>7}{'written':>9}  (x raw)"
    )
    total = Usage()
    for name, usage in [*rows, ("all", total)]:
        print(
            f"{name:20}{usage.seconds:7.1f}{usage.cpu_seconds:7.1f}"
            f"{usage.read_bytes * copying[0] + usage.written_bytes * copying[1]:8.1f}"
            f"{usage.peak_bytes / 2**30:6.2f}"
            f"{usage.read_bytes / raw_bytes:7.2f}{usage.written_bytes / raw_bytes:9.2f}"
        )
        total.seconds += usage.seconds
        total.cpu_seconds += usage.cpu_seconds
        total.peak_bytes = max(total.peak_bytes, usage.peak_bytes)
        total.read_bytes += usage.read_bytes
        total.written_bytes += usage.written_bytes


def main() -> None:
    """Measure all groups of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    paths = PathsConfig.below(arguments.work).model_copy(update={"input_dir": folder})
    config = PipelineConfig(paths=paths)
    prepare_folders(paths)
    copying = copy_seconds_a_byte(paths.output_dir)
    registry = Registry(paths.state_dir / "registry.sqlite3")
    with (
        ScratchOwner(paths.scratch_dir, "benchmark") as owner,
        make_stage_server(config, registry, owner) as server,
    ):
        executor = IsolatedStageExecutor(casa_environment, server=server)
        runner = StageRunner(config, executor, registry, owner)
        for files in groups_of(folder):
            rows = asyncio.run(process(files, folder / "catalog.csv", runner, registry))
            show(rows, sum(path.stat().st_size for path in files), copying)
    registry.close()


if __name__ == "__main__":
    main()

"""The same seed gives the same world in any process, whatever the hash of a string is there."""

from __future__ import annotations

import os
import subprocess
import sys

from search_extent import is_search

_PRINTS_DIGESTS = """
import hashlib
import sys
from dataclasses import replace
from absurd_contimg.simulation.campaign.campaign import Campaign, digest_of
from absurd_contimg.simulation.model.worker_factory import (
    SETTINGS, PipelineWorkers, pipeline_params
)
from absurd_contimg.simulation.exploration.crash_run import CrashRun
from absurd_contimg.simulation.exploration.example_workflows import pipeline_spec
from absurd_contimg.simulation.exploration.explorer import explore
from absurd_contimg.simulation.model.faults import FaultKind, parse_schedule
from absurd_contimg.simulation.exploration.exploration_spec import Job
from absurd_contimg.simulation.campaign.scenario import load_scenario, shipped_scenarios

for name in shipped_scenarios()[:: int(sys.argv[1])]:
    for label, one in load_scenario(name).variants()[-1:]:
        parts = one.model_dump() | {"days": 0.02}
        for planned in ("outages", "processing_stops", "disk_fills"):
            parts["faults"][planned] = [(600, 60) for _ in parts["faults"][planned][:1]]
        parts["faults"]["plan"] = ["kill-0@1000"] if parts["faults"]["plan"] else []
        print(name, label, Campaign(type(one).model_validate(parts), 7).run().digest)
for shuffle_seed in (None, 2):
    workers = PipelineWorkers(replace(SETTINGS, concurrency=2))
    one = pipeline_spec(workers, shuffle_seed=shuffle_seed, time_matters=True)
    second = Job(one.jobs[0].queue, one.jobs[0].task_name, pipeline_params("other"))
    spec = replace(one, jobs=[*one.jobs, second])
    found = explore(spec, faults=[FaultKind.KILL_OTHER], part=(0, 40))
    run = CrashRun(spec, parse_schedule("pause@40,kill@9"))
    run.run()
    histories = run.world.histories()
    text = repr(list(map(str, found.crash_points))) + digest_of(histories)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    print("exploration", shuffle_seed, found.futures, len(found.findings), digest)
"""


def digests(hash_seed: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PRINTS_DIGESTS, "1" if is_search() else "4"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.splitlines()


def test_every_scenario_and_shuffled_explorations_are_the_same_everywhere() -> None:
    first, second = digests("0"), digests("4711")
    assert first == second
    assert len(first) > 4
    plain, *shuffled = [line.split() for line in first if line.startswith("exploration")]
    assert all(int(item[2]) > 4 and item[3] == "0" for item in (plain, *shuffled))
    assert len({item[4] for item in (plain, *shuffled)}) > 1, "the order was shuffled"

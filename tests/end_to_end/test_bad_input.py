"""Bad input through the whole system: one clear error, the right kind, no retry, no product.

One worker on real Postgres gets a night in which almost every group has a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from absurd_contimg.core.records import History
from absurd_contimg.history.timeline import group_of, step_starts
from absurd_contimg.products.outputs import ConvertOutputs, from_json
from absurd_contimg.stages.catalog_setup import CatalogSetupStage
from absurd_contimg.stages.convert import ConvertStage
from absurd_contimg.stages.flag import FlagStage
from absurd_contimg.synthesis import Fault, FaultKind, SynthesisConfig, synthesize

pytestmark = pytest.mark.timeout(600)

SUBBAND = 5
FAILING_STAGES = (CatalogSetupStage, ConvertStage, FlagStage)
PRODUCT_FOLDERS = {stage.name: str(stage.product_folder) for stage in FAILING_STAGES}


@dataclass(frozen=True, slots=True)
class Case:
    """A fault of one group, and the texts that its failure must contain."""

    name: str
    faults: tuple[tuple[FaultKind, int], ...]
    stage: str
    texts: tuple[str, ...]


CASES = (
    Case("truncated", ((FaultKind.TRUNCATED, SUBBAND),), "", ("_sb05.hdf5",)),
    Case("not HDF5", ((FaultKind.NOT_HDF5, SUBBAND),), "", ("_sb05.hdf5",)),
    Case("duplicated", ((FaultKind.DUPLICATED, SUBBAND),), "catalog_setup", ("_sb05.hdf5",)),
    Case("other observation", ((FaultKind.SHIFTED, SUBBAND),), "catalog_setup", ("_sb05.hdf5",)),
    Case(
        "11 of 16", tuple((FaultKind.MISSING, n) for n in range(5)), "catalog_setup", ("11", "12")
    ),
    Case("all flagged", tuple((FaultKind.ALL_FLAGGED, n) for n in range(16)), "", ("flagged",)),
    Case("file gone", (), "", ("_sb05.hdf5",)),
    # This one is accepted.
    Case(
        "NaN, 12 of 16",
        ((FaultKind.NAN, SUBBAND), *((FaultKind.MISSING, n) for n in range(4))),
        "",
        (),
    ),
)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, new_site: Callable[[], Any]) -> Any:
    """The site after its worker has processed every group, with the histories by case."""
    faults = tuple(
        Fault(kind=kind, group=number + 1, subband=subband)
        for number, case in enumerate(CASES)
        for kind, subband in case.faults
    )
    folder = tmp_path_factory.mktemp("night")
    config = SynthesisConfig.tiny(science_groups=len(CASES), faults=faults)
    site = new_site(synthesize(folder, config))
    site.spawn()
    gone = 1 + [case.name for case in CASES].index("file gone")
    lost = next(p for p in site.observation.groups[gone].files if f"_sb{SUBBAND:02d}" in p.name)
    lost.unlink()
    worker = site.start_worker("--until-idle")
    assert worker.wait(500) == 0, (site.root / "worker.log").read_text()
    by_file = {
        name: history
        for history in site.histories()
        for name in history.task.params["input_files"]  # type: ignore[index,call-overload]
    }
    cases = zip(CASES, site.observation.groups[1:], strict=True)
    return site, {case.name: by_file[str(group.files[-1])] for case, group in cases}


@pytest.mark.parametrize("case", CASES[:-1], ids=lambda case: case.name)
def test_bad_group_fails_at_once_with_one_clear_error(case: Case, night: Any) -> None:
    site, histories = night
    history: History = histories[case.name]
    assert history.task.state == "failed"
    assert len(history.runs) == 1
    reason = history.runs[0].failure_reason
    assert isinstance(reason, Mapping)
    assert reason["kind"] == "permanent", reason["message"]
    assert reason["advice"]
    for text in case.texts:
        assert text in str(reason["message"])
    if case.stage:
        assert reason["step"] == case.stage
    assert all(start.start == 1 for start in step_starts(history))
    assert all(Path(log).exists() for log in reason["logs"])
    group_id = group_of(history)
    folder = PRODUCT_FOLDERS[str(reason["step"])]
    assert not list((site.root / "products" / folder).glob(f"{group_id}*"))


def test_group_with_missing_data_is_imaged(night: Any) -> None:
    """NaN are flagged, and missing sub-bands become flagged placeholders."""
    _, histories = night
    history: History = histories[CASES[-1].name]
    assert history.task.state == "completed", history.runs[-1].failure_reason
    outputs = history.task.completed_payload["outputs"]  # type: ignore[index,call-overload]
    ms = from_json(ConvertOutputs, outputs).measurement_set
    assert len(ms.placeholder_subbands) == 4
    assert ms.flagged_fraction > 0

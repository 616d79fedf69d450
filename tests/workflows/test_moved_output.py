"""A group whose output folder moves between two attempts goes on in the new place."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.workflows.group import PipelineWorkflow


class SavedSteps:
    """A context in which every step has its checkpoint."""

    task_id = "task"

    def __init__(self, saved: dict[str, Any]) -> None:
        self.saved = saved

    async def tracked_step(self, name: str, _function: Any) -> Any:
        return self.saved[name]


async def outputs_of(root: Path, saved: dict[str, Any]) -> Any:
    stages = [SimpleNamespace(name=name, provides=frozenset()) for name in saved]
    runner = SimpleNamespace(config=PipelineConfig(paths=PathsConfig.below(root)), files=LOCAL)
    registry = SimpleNamespace(set_group_status=lambda *_: None)
    workflow = PipelineWorkflow(cast(Any, stages), cast(Any, runner), cast(Any, registry))
    incoming = PathsConfig.below(root).input_dir
    params = {
        "group_id": "2025-01-14T00:00:00",
        "input_files": [f"{incoming}/a.hdf5"],
        "catalog_path": f"{incoming}/sky.csv",
    }
    return (await workflow(params, cast(Any, SavedSteps(saved))))["outputs"]


async def test_paths_of_checkpoints_follow_the_output_folder(tmp_path: Path) -> None:
    """Those of steps without a product too; other paths stay."""
    output_dir = PathsConfig.below(tmp_path).output_dir
    (output_dir / "groups" / "G" / "convert").mkdir(parents=True)
    (output_dir / "groups" / "G" / "convert" / "manifest.json").touch()
    saved = {
        "convert": {"outputs": {"ms": {"path": "/old/groups/G/convert/x.ms"}, "input": "/in/a"}},
        "select_calibration": {"outputs": {"tables": ["/old/calibration/t"]}, "product": None},
    }
    saved["convert"]["product"] = "/old/groups/G/convert"
    assert await outputs_of(tmp_path, saved) == {
        "ms": {"path": f"{output_dir}/groups/G/convert/x.ms"},
        "input": "/in/a",
        "tables": [f"{output_dir}/calibration/t"],
    }
    saved["convert"]["product"] = "/elsewhere/of/another"
    assert (await outputs_of(tmp_path, saved))["tables"] == ["/old/calibration/t"]

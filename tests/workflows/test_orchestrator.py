"""The order of stages, and a plain run of them with real processes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_stages import Ask, Make, Refine

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import IsolatedStageExecutor, StageFailed, no_environment
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.registry import Registry
from absurd_contimg.registry.models import Product
from absurd_contimg.workflows.orchestrator import (
    PipelineOrchestrator,
    StageOrderError,
    resolve_order,
)


def stage(
    called: str, requires: set[str], provides: set[str], after: frozenset[str] = frozenset()
) -> PipelineStage:
    class Some(PipelineStage):
        name = called
        product_folder = None
        runs_after = after

        def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
            return {}

    Some.requires, Some.provides = frozenset(requires), frozenset(provides)
    return Some()


def names(stages: tuple[PipelineStage, ...]) -> list[str]:
    return [stage.name for stage in stages]


def test_stages_follow_their_providers() -> None:
    """Whatever order they are listed in."""
    ordered = resolve_order([stage("c", {"y"}, {"z"}), stage("b", {"x"}, {"y"})], {"x"})
    assert names(ordered) == ["b", "c"]


def test_order_of_the_list_breaks_ties() -> None:
    """Independent stages stay as they were listed, so a run is the same every time."""
    ordered = resolve_order([stage("b", set(), {"x"}), stage("a", set(), {"y"})], set())
    assert names(ordered) == ["b", "a"]


def test_soft_dependency_orders_only_when_there_is_a_provider() -> None:
    """The choice of calibration follows the solving of one, but does not need it."""
    choose = stage("choose", {"x"}, {"c"}, frozenset({"t"}))
    assert names(resolve_order([choose, stage("solve", {"x"}, {"t"})], {"x"})) == [
        *("solve", "choose"),
    ]
    assert names(resolve_order([choose], {"x"})) == ["choose"]


@given(size=st.integers(1, 8), seed=st.integers(0, 10_000))
def test_any_pipeline_without_circles_is_ordered(size: int, seed: int) -> None:
    """Each stage comes after all that it requires."""
    chance = random.Random(seed)
    stages = [
        stage(f"s{n}", {f"o{m}" for m in range(n) if chance.random() < 0.5}, {f"o{n}"})
        for n in range(size)
    ]
    chance.shuffle(stages)
    there: set[str] = set()
    ordered = resolve_order(stages, set())
    for item in ordered:
        assert item.requires <= there
        there |= item.provides
    assert sorted(names(ordered)) == sorted(stage.name for stage in stages)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([stage("a", {"x"}, {"y"})], "'a' requires x"),
        ([stage("a", {"y"}, {"x"}), stage("b", {"x"}, {"y"})], "circle: a .*b "),
        ([stage("a", set(), {"x"}), stage("b", set(), {"x"})], "stage 'a' and by stage 'b'"),
        ([stage("a", set(), {"given"})], "the inputs and by stage 'a'"),
        ([stage("a", set(), {"x"}), stage("a", set(), {"y"})], "two stages named 'a'"),
    ],
)
def test_stages_that_do_not_fit_are_named(stages: list[PipelineStage], message: str) -> None:
    """Nothing runs before the whole pipeline has been understood."""
    with pytest.raises(StageOrderError, match=message):
        resolve_order(stages, {"given"})


async def test_plain_run_makes_all_products_and_a_second_run_adopts_them(tmp_path: Path) -> None:
    """Without any database: what is committed is all there is to remember."""
    config = PipelineConfig(paths=PathsConfig.below(tmp_path))
    prepare_folders(config.paths)
    (tmp_path / "source").write_bytes(b"data")
    context = PipelineContext(config, {"group_id": "G", "source": str(tmp_path / "source")})
    registry = Registry(tmp_path / "registry.sqlite3")
    with ScratchOwner(config.paths.scratch_dir, "here") as owner:
        runner = StageRunner(config, IsolatedStageExecutor(no_environment), registry, owner)
        orchestrator = PipelineOrchestrator([Refine(), Ask(), Make()], runner)
        broken = PipelineContext(config, {**context.inputs, "do": "raise"})
        with pytest.raises(StageFailed, match="it broke"):
            await orchestrator.run(broken)
        first = await orchestrator.run(context)
        again = await orchestrator.run(context)
    assert [stage.stage for stage in first.stages] == ["make", "refine", "ask"]
    assert first.context.outputs["bytes"] == 4
    assert [stage.adopted for stage in again.stages] == [True, True, False]
    assert again.context.outputs == first.context.outputs
    assert len(registry.rows(Product)) == 2

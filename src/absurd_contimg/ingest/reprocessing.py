"""The plan of a reprocessing: what will run, what depends on it and how long it takes.

Nothing is spawned and nothing is changed. What a stage would adopt is told from the manifests on
disk by what its product key is made of, except for the contents of raw files, which are not read.
The catalogue is: a stage that read another content of it runs again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.records import History, Json
from absurd_contimg.errors import MissingInputError
from absurd_contimg.execution.context import GroupInputs, PipelineContext
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.history.metrics import measure
from absurd_contimg.ingest.selection import RAW_FILES, GroupFacts, read_groups
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.products.outputs import CalibrateSolveOutputs, SelectCalibrationOutputs, names
from absurd_contimg.products.subband_files import is_subband_name
from absurd_contimg.registry import CaltableSet, Registry
from absurd_contimg.registry.calibration_use import BetterSet, CalibrationUse, better_sets
from absurd_contimg.registry.calibrations import rank_sets
from absurd_contimg.registry.models import CaltableSetRow
from absurd_contimg.registry.mosaics import MosaicTier, list_mosaics
from absurd_contimg.registry.publications import Publications
from absurd_contimg.registry.windows import WindowState, list_windows

_DigestOf = Callable[[Path], str]


@dataclass(frozen=True, slots=True)
class ChangedSetting:
    """A setting that a product was made with and that is another one now."""

    setting: str
    old: Json
    """None: it was not there."""
    new: Json


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What reprocessing one group would do."""

    group: GroupFacts
    runs: tuple[str, ...]
    """The stages whose products are made, in their order."""
    adopted: tuple[str, ...]
    """The stages whose products are there and stay."""
    left_out: str | None = None
    """Why it is not part of the batch."""
    damaged: tuple[str, ...] = ()
    """What lies damaged where a stage puts its product: it has to be moved away before."""
    changed: Mapping[str, tuple[ChangedSetting, ...]] = field(default_factory=dict)
    """Of the stages that run, what differs from the settings of their newest products.

    Of a stage behind the first that runs nothing is known where its settings depend on what that
    one makes.
    """
    changed_files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """Of the stages that run, the files whose content is not that of their newest products.

    Other than raw files: the catalogue.
    """

    @property
    def removed(self) -> Mapping[str, str]:
        """Of the stages that run, those whose products retention has removed: when and why."""
        return {name: text for name, text in self.group.removed.items() if name in self.runs}


@dataclass(frozen=True, slots=True)
class Dependents:
    """What was made from the groups that change; reprocessing leaves it as it is."""

    windows: tuple[str, ...]
    mosaics: tuple[str, ...]
    """Product keys."""
    publications: tuple[str, ...]
    """Product keys."""


@dataclass(frozen=True, slots=True)
class ReprocessingPlan:
    """The plan for all groups of a selection."""

    groups: tuple[GroupPlan, ...]
    dependents: Dependents
    stage_runs: Mapping[str, int]
    """How often each stage runs."""
    seconds: float
    """The work of one worker, by the median durations of the stages in the histories."""
    unknown_stages: tuple[str, ...]
    """Stages that run and whose duration no history knows: they are not in `seconds`."""

    @property
    def included(self) -> list[GroupPlan]:
        """The groups that become items of a batch."""
        return [plan for plan in self.groups if plan.left_out is None]


def plan_reprocessing(
    registry: Registry,
    config: PipelineConfig,
    stages: Sequence[PipelineStage],
    groups: Sequence[GroupFacts],
    catalog: Path,
    open_names: Mapping[str, str],
    histories: Iterable[History],
) -> ReprocessingPlan:
    """The plan; `open_names` are the groups of batches that go on, and their batch."""
    sets = _active_sets(registry)
    digest_of = cache(LOCAL.digest)  # of the same catalogue for all groups
    plans = []
    for group in groups:
        inputs = group_inputs(group, catalog)
        reason = _reason_against(group, open_names)
        if inputs is None or reason is not None:
            removed = group.removed.get(RAW_FILES)
            no_files = "it has no files" if removed is None else f"its raw files were {removed}"
            plans.append(GroupPlan(group, (), (), reason or no_files))
            continue
        best = _best_set(group, sets, config)
        plans.append(_predict(stages, config, inputs, group, best, digest_of))
    changing = [plan.group for plan in plans if plan.left_out is None]
    stage_runs = Counter(name for plan in plans for name in plan.runs)
    medians = {
        step: median(seconds)
        for step, seconds in measure(histories).step_seconds.items()
        if seconds
    }
    return ReprocessingPlan(
        groups=tuple(plans),
        dependents=find_dependents(registry, changing),
        stage_runs={
            stage.name: stage_runs[stage.name] for stage in stages if stage_runs[stage.name]
        },
        seconds=sum(medians.get(name, 0.0) * count for name, count in stage_runs.items()),
        unknown_stages=tuple(name for name in stage_runs if name not in medians),
    )


def _active_sets(registry: Registry) -> list[CaltableSet]:
    """The sets in use, without their tables."""
    return [
        CaltableSet(**{key: row[key] for key in _SET_COLUMNS}, tables=())
        for row in registry.rows(CaltableSetRow)
        if row["status"] == "active"
    ]


def planned_improvements(
    registry: Registry, config: PipelineConfig, set_name: str | None = None
) -> tuple[list[GroupFacts], list[BetterSet]]:
    """All groups, and those that a set in use (this one) would serve better than what they have.

    Raises `MissingInputError` for a name that no set in use has.
    """
    groups, sets, settings = read_groups(registry), _active_sets(registry), config.calibration
    key = next((each.product_key for each in sets if each.set_name == set_name), None)
    if set_name is not None and key is None:
        raise MissingInputError(
            f"There is no set of caltables {set_name!r} in use.",
            f"There are: {', '.join(sorted(each.set_name for each in sets)) or 'none'}.",
        )
    uses = [
        CalibrationUse(group.group_id, group.mid_mjd, group.declination_deg, applied[-1])
        for group in groups
        if group.mid_mjd is not None
        and group.declination_deg is not None
        and (applied := group.caltables)
    ]
    reach = settings.declination_tolerance_deg, settings.reach_hours
    return groups, better_sets(uses, sets, *reach, key)


def group_inputs(group: GroupFacts, catalog: Path) -> GroupInputs | None:
    """The parameters of the group's task, None if it has no files."""
    if not group.files:
        return None
    return GroupInputs(group_id=group.group_id, input_files=group.files, catalog_path=catalog)


def _predict(
    stages: Sequence[PipelineStage],
    config: PipelineConfig,
    inputs: GroupInputs,
    group: GroupFacts,
    best_set: str | None,
    digest_of: _DigestOf,
) -> GroupPlan:
    """Which stages would make a product and which would adopt one, and what has changed.

    `best_set` is the product key of the caltables that would be selected now.
    """
    context = PipelineContext(config, inputs.model_dump(mode="json"))
    available = {*context.inputs}
    keys = set() if best_set is None else {best_set}
    runs, adopted = [], []
    changed: dict[str, tuple[ChangedSetting, ...]] = {}
    changed_files: dict[str, tuple[Path, ...]] = {}
    for stage in stages:
        if stage.product_folder is None:
            if stage.provides == names(SelectCalibrationOutputs):
                keys -= set() if "calibrate_solve" not in runs else _own_sets(group)
                available |= stage.provides
            continue
        manifest = None
        if stage.requires <= available:
            manifest = _adoptable(stage, context, group, keys, digest_of)
        if manifest is None:
            runs.append(stage.name)
            if stage.requires <= available:
                newest = _newest_manifest(stage, group)
                if newest is not None and (changes := _changes(stage, context, newest)):
                    changed[stage.name] = changes
                if newest is not None and (
                    files := _changed_files(stage, context, newest, digest_of)
                ):
                    changed_files[stage.name] = files
        else:
            adopted.append(stage.name)
            context = context.with_outputs(manifest.outputs)
            available |= stage.provides
            if stage.provides != names(CalibrateSolveOutputs):  # only what is selected is applied
                keys.add(manifest.key)
    reason = None if runs else "all its products are up to date"
    damaged = _damaged(group, runs)
    return GroupPlan(group, tuple(runs), tuple(adopted), reason, damaged, changed, changed_files)


def _newest_manifest(stage: PipelineStage, group: GroupFacts) -> Manifest | None:
    """Of the newest product of the stage that can be read."""
    manifests = (product.manifest() for product in group.products.get(stage.name, ()))
    return next((manifest for manifest in manifests if manifest is not None), None)


def _changed_files(
    stage: PipelineStage, context: PipelineContext, newest: Manifest, digest_of: _DigestOf
) -> tuple[Path, ...]:
    """The files, other than raw ones, with another content than when that product was made."""
    digests = _file_digests(newest)
    return tuple(path for path in _other_files(stage, context) if digest_of(path) not in digests)


def _file_digests(manifest: Manifest) -> set[str]:
    """Of the files that a product was made from, other than raw ones."""
    return {
        entry.digest
        for entry in manifest.inputs
        if entry.kind == "file" and not is_subband_name(Path(entry.path).name)
    }


def _other_files(stage: PipelineStage, context: PipelineContext) -> list[Path]:
    """What the stage reads of the task's own inputs and that is no raw file."""
    if not stage.requires & context.inputs.keys():
        return []  # it reads products, some of which may not be known before it runs
    output_dir = context.config.paths.output_dir
    return [
        path
        for path in stage.input_paths(context)
        if not path.is_relative_to(output_dir) and not is_subband_name(path.name)
    ]


def _changes(
    stage: PipelineStage, context: PipelineContext, newest: Manifest
) -> tuple[ChangedSetting, ...]:
    """How the settings differ from those of the newest product of the stage."""
    parameters = stage.parameters(context)
    # The parameters of some stages are one section of the settings, without its name.
    sections = context.config.model_dump(mode="json")
    name = next((name for name, values in sections.items() if values == parameters), "")
    old, new = (dict(_flat(values, name)) for values in (newest.parameters, parameters))
    return tuple(
        ChangedSetting(key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )


def _flat(values: Json, name: str) -> Iterator[tuple[str, Json]]:
    """Each value that is no mapping, with its path in dots."""
    if not isinstance(values, Mapping):
        yield name, values
        return
    for key, value in values.items():
        yield from _flat(value, f"{name}.{key}".lstrip("."))


def _adoptable(
    stage: PipelineStage,
    context: PipelineContext,
    group: GroupFacts,
    keys: set[str],
    digest_of: _DigestOf,
) -> Manifest | None:
    """The manifest of a product that the stage would find under its key."""
    reads_raw = "input_files" in stage.requires
    raw_names = _raw_names(stage.input_paths(context)) if reads_raw else set()
    other_files = _other_files(stage, context)
    for product in group.products.get(stage.name, ()):
        if product.stage_version != stage.version:
            continue
        manifest = product.manifest()
        if manifest is None or product.damage() is not None:
            continue
        sources = {e.digest.partition("/")[0] for e in manifest.inputs if e.kind == "product"}
        if (
            sources <= keys
            and _raw_names(Path(entry.path) for entry in manifest.inputs) == raw_names
            and _file_digests(manifest) == set(map(digest_of, other_files))
            and manifest.parameters == stage.parameters(context)
        ):
            return manifest.moved_to(str(context.config.paths.output_dir))
    return None


def _raw_names(paths: Iterable[Path]) -> set[str]:
    return {path.name for path in paths if is_subband_name(path.name)}


def _damaged(group: GroupFacts, runs: Sequence[str]) -> tuple[str, ...]:
    """What is wrong with products of stages that run again and would find them in their way."""
    products = (product for name in runs for product in group.products.get(name, ()))
    return tuple(damage for product in products if (damage := product.damage()) is not None)


def _own_sets(group: GroupFacts) -> set[str]:
    return {product.key for product in group.products.get("calibrate_solve", ())}


def _best_set(group: GroupFacts, sets: Sequence[CaltableSet], config: PipelineConfig) -> str | None:
    """The set that the group's selection would take now: its own before others."""
    if group.mid_mjd is None or group.declination_deg is None:
        return None
    settings = config.calibration
    ranked = rank_sets(
        sets,
        *(group.mid_mjd, group.declination_deg),
        *(settings.declination_tolerance_deg, settings.reach_hours),
    )
    ranked.sort(key=lambda candidate: candidate.group_id != group.group_id)
    return ranked[0].product_key if ranked else None


def _reason_against(group: GroupFacts, open_names: Mapping[str, str]) -> str | None:
    batch_id = open_names.get(group.group_id)
    if batch_id is not None:
        return f"batch {batch_id} has not done it yet"
    missing = [path for path in group.files if not path.is_file()]
    if missing:
        return f"{len(missing)} of its files are not there, the first is {missing[0]}"
    return None


def find_dependents(registry: Registry, groups: Sequence[GroupFacts]) -> Dependents:
    """Windows that use one of the groups, their mosaics, and what is published of them.

    A mosaic of another tier counts if a group lies in its span of time.
    """
    changing = {group.group_id for group in groups}
    times = [group.mid_mjd for group in groups if group.mid_mjd is not None]
    windows = tuple(
        window.window_id
        for window in list_windows(registry.database)
        if window.state is not WindowState.SUPERSEDED
        and any(member.used and member.group_id in changing for member in window.members)
    )
    mosaics = tuple(
        mosaic.product_key
        for mosaic in list_mosaics(registry.database)
        if mosaic.window_id in windows
        or (mosaic.tier is not MosaicTier.QUICKLOOK and _spans(mosaic.details, times))
    )
    publications = tuple(
        publication.product_key
        for publication in Publications(registry.database).all()
        if publication.product_key in mosaics
    )
    return Dependents(windows, mosaics, publications)


def _spans(details: Mapping[str, Any], times: Sequence[float]) -> bool:
    mosaic = details.get("mosaic")
    if not isinstance(mosaic, Mapping):
        return False
    start, end = mosaic.get("start_mjd"), mosaic.get("end_mjd")
    if not isinstance(start, float) or not isinstance(end, float):
        return False
    return any(start <= time <= end for time in times)


def batch_items(
    plan: ReprocessingPlan, catalog: Path, newest_first: bool
) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and parameters of each task of the plan, in the order in which they are to run."""
    items: list[tuple[str, Mapping[str, Any]]] = []
    for included in plan.included:
        inputs = group_inputs(included.group, catalog)
        if inputs is not None:
            items.append((inputs.group_id, inputs.model_dump(mode="json")))
    return items[::-1] if newest_first else items


_SET_COLUMNS = tuple(each.name for each in fields(CaltableSet) if each.name != "tables")

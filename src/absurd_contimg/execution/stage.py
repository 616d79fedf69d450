"""The contract of a stage: a pure function from its context to one product folder.

The order is `validate`, `execute`, `validate_outputs`, after a failure `cleanup`. Each attempt has
a new workspace, whose ``product`` folder the runner commits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Generic

from typing_extensions import TypeVar

from absurd_contimg.core.records import Json
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.products.filesystem import LOCAL

OutputsT = TypeVar("OutputsT", default=Any)
"""A record of `products.outputs`, or a mapping of JSON values."""
Parameters = Mapping[str, Json]


TABLES_BYTES = 16_000_000
"""A Measurement Set of a few integrations with the tables of a calibration or an image."""


class Resource(StrEnum):
    """What a stage needs most of: where it competes with others."""

    IO = "io"
    """The disks: raw files, conversion, checks of finished products."""
    CALIBRATION = "calibration"
    """Passes over a Measurement Set in place."""
    IMAGING = "imaging"
    """Cores and memory."""


def stage_queues(queue_name: str) -> dict[Resource, str]:
    """The queue of each resource, beside the main queue."""
    return {resource: f"{queue_name}-{resource}" for resource in Resource}


@dataclass(frozen=True, slots=True)
class Workspace:
    """An attempt's folders: `product`, to be kept as `committed`; `temporary` for the rest."""

    product: Path
    temporary: Path
    casa_log: Path
    committed: Path

    def final_path(self, path: Path) -> Path:
        """The later path, in the committed product, of a path inside `product`."""
        return self.committed / path.relative_to(self.product)


class PipelineStage(ABC, Generic[OutputsT]):
    """One stage. Subclasses are stateless; settings come from ``context.config``."""

    name: ClassVar[str]
    """As in checkpoints, logs and reports: ``convert``, ``calibrate_solve`` and so on."""
    version: ClassVar[int] = 1
    """Part of the product key: raise it when the same inputs give another product."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """The inputs and outputs of the context that the stage needs."""
    provides: ClassVar[frozenset[str]]
    """The names in what `execute` returns, no more and no fewer."""
    runs_after: ClassVar[frozenset[str]] = frozenset()
    """Outputs that it does not need, but whose providers must run before it."""
    resource: ClassVar[Resource] = Resource.IO
    """Decides the queue of the stage where each stage is a task (`workflows.stage_tasks`)."""
    isolated: ClassVar[bool] = True
    """False: it only asks the registry, and runs in the worker's own process."""
    product_folder: ClassVar[str | None]
    """The folder of its products below the output folder (``images``); None: no product."""

    bytes_min: ClassVar[int] = 0
    """What its files take however small the data are: tables of casacore have many."""

    def parameters(self, context: PipelineContext) -> Parameters:
        """The settings that shape the product: part of its key and of its manifest."""
        return {}

    def input_paths(self, context: PipelineContext) -> list[Path]:
        """What the product is made from; the digests, or the key of a product, are in its key."""
        return []

    def expected_bytes(self, context: PipelineContext) -> int:
        """The space to reserve; by default twice the inputs, for a working copy and a product, and
        at least `bytes_min`."""
        read = sum(LOCAL.tree_size(path) for path in self.input_paths(context))
        return max(2 * read, self.bytes_min)

    def validate(self, context: PipelineContext) -> None:
        """Check the inputs; raise a `UserError` that says what is wrong with which of them."""

    @abstractmethod
    def execute(self, context: PipelineContext, workspace: Workspace) -> OutputsT:
        """Do the work, write into ``workspace.product``, return the outputs."""

    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: OutputsT
    ) -> None:
        """Check the product (post-conditions); raise `OutputError` or `DataQualityError`."""

    def cleanup(self, context: PipelineContext, workspace: Workspace) -> None:
        """After a failure, release what is held outside the workspace, which the runner removes."""

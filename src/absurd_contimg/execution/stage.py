"""The contract between a stage and the code that runs it.

A stage is a pure function from its context to one product folder. In the stage process the methods
are called in this order: `validate` the inputs, `execute` into the workspace, `validate_outputs` of
the product; after a failure `cleanup`. The runner gives each attempt a new workspace and turns the
workspace's ``product`` folder into a committed product; no attempt sees the files of another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic

from typing_extensions import TypeVar

from absurd_contimg.core.records import Json
from absurd_contimg.execution.context import PipelineContext

OutputsT = TypeVar("OutputsT", default=Any)
"""A record of `products.outputs`, or a mapping of JSON values."""
Parameters = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders of one attempt, all inside its scratch folder.

    `product` becomes the committed product when the stage succeeds; only what is in it is kept.
    `temporary` is for working copies. `casa_log`, the file for CASA's log, is kept even after a
    failure. `committed` is the final place of `product`: a stage that writes absolute paths into
    its outputs uses `final_path`.
    """

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
    isolated: ClassVar[bool] = True
    """False: it only asks the registry, and runs in the worker's own process."""
    product_folder: ClassVar[str | None]
    """The folder of its products below the output folder (``images``); None: no product."""

    def parameters(self, context: PipelineContext) -> Parameters:
        """The settings that shape the product: part of its key and of its manifest."""
        return {}

    def input_paths(self, context: PipelineContext) -> list[Path]:
        """The files and folders that the product is made from; their digests are in its key.

        Of a committed product, the key is the digest.
        """
        return []

    def expected_bytes(self, context: PipelineContext) -> int:
        """About how much the stage writes into its workspace; reserved before it starts.

        By default twice its inputs: a working copy and a product.
        """
        return 2 * sum(_size(path) for path in self.input_paths(context))

    def product_name(self, context: PipelineContext) -> str:
        """The readable part of the product's folder name; the key is appended to it."""
        return context.group_id

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
        """Release what this attempt holds outside its workspace; called only on failure.

        The workspace itself is removed by the runner.
        """


def _size(path: Path) -> int:
    """The bytes of a file or of all files in a folder; 0 when it is not there."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0

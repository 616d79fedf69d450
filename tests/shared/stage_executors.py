"""Executors of toy stages: each stage's process starts by itself or is forked by a stage server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absurd_contimg.execution.executor import IsolatedStageExecutor, no_environment
from absurd_contimg.execution.stage_server import StageServer

THREADS = 2
"""Of the toys' configuration."""
servers: list[StageServer] = []
"""The one in use, if any; a fixture of ``tests/execution`` puts it here."""


def server_in(folder: Path) -> StageServer:
    """A server for toy stages."""
    return StageServer(folder, no_environment, ["toy_stages"], THREADS)


def isolated(**options: Any) -> IsolatedStageExecutor:
    """An executor with the server in use."""
    return IsolatedStageExecutor(no_environment, server=next(iter(servers), None), **options)


def isolated_by(start: str, folder: Path) -> IsolatedStageExecutor:
    """An executor for a script of a test: `start` is ``process`` or ``server``."""
    server = server_in(folder / "server") if start == "server" else None
    return IsolatedStageExecutor(no_environment, server=server)

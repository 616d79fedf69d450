"""The project has no words of its own: names, text and documents use the field's.

`docs/glossary.md` lists the words that are used. The list here is of words that earlier versions
used in a private meaning; each is followed by what is said today.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

REPLACED = {
    r"settlements?|settler|settles?|settled|settling": "retry decision, failure handling",
    r"hand_?backs?|handed back|hands back": "RunReleased, releases the run",
    r"parked|parkings?": "waiting for a resource",
    r"storable": "jsonb_sanitizer",
    r"troubles": "problems",
    r"makers?": "provenance",
    r"guardians?": "lease watchdog",
    r"escalat(?:e|es|ed|ing|ion|ions)": "fallback",
    r"stand_ins?|stand-ins?": "placeholder, replacement",
    r"blows?": "fault, kill",
    r"struck": "injected",
    r"strikes?": "injected fault",
    r"doors?|doorway": "gateway, port",
    r"crews?": "worker factory",
    r"specimens?": "example workflow",
    r"stimul(?:us|i)": "external input",
    r"undisturbed": "baseline",
    r"doom(?:ed)?|bury|buried": "terminate, reap",
    r"NothingCanHappen|Runaway": "Deadlock, Livelock",
    r"SimRegistry": "SimulatedRegistry",
    r"wrongs": "violations",
    r"anew": "again, --respawn",
    r"planted": "mutants",
    r"sharpness": "mutation score",
    r"witness(?:es)?": "process observer",
    r"takeovers?": "failover",
    r"whoever|whomever": "a plain sentence",
}
"""Regular expression of whole words, and what to say instead."""

KEPT = {
    "CHANGELOG.md": "names what was renamed",
    "src/absurd_contimg/core/failures.py": "reads stored failure reasons",
    "src/absurd_contimg/core/step_journal.py": "reads stored journals",
    "src/absurd_contimg/products/manifest.py": "reads stored manifests",
    "src/absurd_contimg/products/outputs.py": "reads stored outputs",
    "src/absurd_contimg/products/output_warnings.py": "reads stored outputs",
    "src/absurd_contimg/operations/cli/run.py": "names the new option to who types the old one",
    "tests/core/test_step_journal.py": "stored journals of earlier versions",
    "tests/products/test_outputs.py": "stored outputs of earlier versions",
    "tests/products/test_output_warnings.py": "stored outputs of earlier versions",
    "tests/products/test_products.py": "stored manifests of earlier versions",
    "tests/operations/test_cli_inspect.py": "stored outputs, and the old option",
}
"""Files in which an old word is right, and why: what is stored is not renamed."""

ANONYMOUS = frozenset({"one", "found", "said", "told", "mine"})
"""Names that say nothing of the thing they name."""


def text_files() -> list[Path]:
    """Every file of the repository that people read, without this one."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = (ROOT / name for name in listed.stdout.splitlines())
    return [
        path
        for path in paths
        if path.suffix in {".py", ".md", ".toml", ".jinja"}
        and path.is_file()
        and path != Path(__file__)
        and str(path.relative_to(ROOT)) not in KEPT
    ]


def lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Place, text, and the text with its names taken apart, of every line."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        yield f"{path.relative_to(ROOT)}:{number}", line, words(line)


def words(text: str) -> str:
    """The text with names taken apart, so that a word inside a name stands alone."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return apart.replace("_", " ")


def test_no_private_word_is_left() -> None:
    """Neither in names nor in messages, comments and documents."""
    patterns = {re.compile(rf"\b(?:{each})\b", re.IGNORECASE): REPLACED[each] for each in REPLACED}
    each_word = re.compile(rf"\b(?:{'|'.join(REPLACED)})\b", re.IGNORECASE)
    places = [
        f"{place}: {line.strip()} (say {', '.join(better)})"
        for path in text_files()
        if each_word.search(text := path.read_text()) or each_word.search(words(text))
        for place, line, apart in lines(path)
        if each_word.search(line) or each_word.search(apart)
        if (better := [text for each, text in patterns.items() if each.search(f"{line} {apart}")])
    ]
    assert not places, "\n".join(places[:20])


def assigned_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that is bound, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno


def test_variables_are_named_by_the_thing() -> None:
    """No `one`, `found`, `said`, `told`, `mine`."""
    name = rf"\b(?:{'|'.join(ANONYMOUS)})\b"
    name_of_nothing = re.compile(rf"{name}\s*[=:,)]|\b(?:as|for)\b.*{name}")
    places = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in text_files()
        if path.suffix == ".py" and name_of_nothing.search(text := path.read_text())
        for name, line in assigned_names(ast.parse(text))
        if name in ANONYMOUS
    ]
    assert not places, f"{len(places)} of them:\n" + "\n".join(places[:20])

"""Scripts of others are those of a named release, with their licence; nothing else is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from absurd_contimg.operations import dashboard

STATIC = Path(dashboard.__file__).parent / "static"
OURS = {"site.css", "site.js", "icon.svg", "vendored.json"}
LICENCES = {"0BSD": "Permission to use, copy, modify, and/or distribute this software"}


def test_vendored_files_have_version_digest_and_licence() -> None:
    entries = json.loads((STATIC / "vendored.json").read_text())
    for entry in entries:
        content = (STATIC / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]
        assert entry["version"][0].isdecimal()
        licence = (STATIC / entry["licence_file"]).read_text()
        assert LICENCES[entry["licence"]] in " ".join(licence.split())
    files = {path.name for path in STATIC.iterdir() if path.is_file()}
    assert files == OURS | {entry["file"] for entry in entries}
    assert b'version:"2.0.11"' in (STATIC / "htmx.min.js").read_bytes()


def test_our_files_name_no_other_host() -> None:
    templates = STATIC.parent / "templates"
    for path in (*templates.iterdir(), *(STATIC / name for name in OURS - {"vendored.json"})):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", ""), path.name
        assert "style=" not in text, path.name
        assert "onclick" not in text, path.name

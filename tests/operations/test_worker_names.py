"""Names of workers: of hosts with any name, and those that are given."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from absurd_contimg.core.arguments import text_problem
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.scratch import is_path_part
from absurd_contimg.operations.cli.main import app
from absurd_contimg.settings import load_settings


@given(st.binary(max_size=64).filter(lambda name: b"\0" not in name))
def test_a_host_of_any_name_has_workers(name: bytes) -> None:
    """The kernel takes any bytes; Python reads those that are no UTF-8 as half surrogate pairs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: name.decode(errors="surrogateescape"))
        worker_id = load_settings(environment={}).worker_id
    assert text_problem(worker_id) is None
    assert is_path_part(worker_id)


def test_a_usual_host_gives_its_name() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "dsa-110_a.ovro.pvt")
        assert load_settings(environment={}).worker_id == "dsa-110_a.ovro.pvt:1"


@pytest.mark.parametrize("name", ["../x", "b\udcff", ".", "a/b", "x" * 300, "\x00"])
def test_a_name_that_cannot_be_is_refused_before_anything_is_made(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "site"
    arguments = ["--folder", str(folder), "worker", "--worker-id", name, "--until-idle"]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, SettingError)
    for text in ("The worker's name", "--worker-id NAME", "ABSURD_WORKER_ID"):
        assert text in str(error)
    assert not folder.exists()

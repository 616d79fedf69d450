"""State that another local user owns or may write to: refused by name, and found by the doctor."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from other_user import NOBODY, as_user, open_for_others
from typer.testing import CliRunner

from absurd_contimg.config.variables import other_folder
from absurd_contimg.errors import SettingError
from absurd_contimg.file_owners import SITE_NAME
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.doctor.site_folders import state_owners
from absurd_contimg.operations.services import require_own_state
from absurd_contimg.registry import Registry
from absurd_contimg.settings import Settings, load_settings

DAEMON = 1
AWAY = "postgresql://nobody@127.0.0.1:1/none"
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one, for the socket of a private server; others may enter it."""
    with tempfile.TemporaryDirectory(prefix="o-") as name:
        open_for_others(Path(name))
        (Path(name) / "products").mkdir()
        yield Path(name)


def settings_of(folder: Path, url: str | None = None) -> Settings:
    names = {"input_dir": folder, "output_dir": folder / "products", "state_dir": folder / "state"}
    return load_settings(names | {"database_url": url}, [], {})


def contimg(folder: Path, *arguments: str) -> Any:
    """Run a command on the site of a folder, with its private database."""
    options = [
        *("--input-dir", str(folder), "--output-dir", str(folder / "products")),
        *("--state-dir", str(folder / "state")),
    ]
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    return CliRunner().invoke(app, [*options, *arguments], env={**clean, "COLUMNS": "1000"})


def give(user: int, *paths: Path) -> None:
    for path in paths:
        os.chown(path, user, user, follow_symlinks=False)


def made(state: Path, mode: int = 0o700) -> Path:
    state.mkdir()
    state.chmod(mode)
    return state


def folder_of_another(state: Path) -> str:
    """The known one: ``mkdir`` in /scratch, before the first command of the operator."""
    give(DAEMON, made(state, 0o777))
    return f"{state} belongs to the user daemon, and this process runs as {{user}}"


def folder_of_another_for_him_alone(state: Path) -> str:
    give(DAEMON, made(state))
    return f"{state} belongs to the user daemon, and this process runs as {{user}}"


def private_database_of_another(state: Path) -> str:
    give(DAEMON, made(made(state, 0o755) / "postgres"))
    return f"{state}/postgres belongs to the user daemon, and this process runs as {{user}}"


def link_of_another(state: Path) -> str:
    """It leads to a folder that is this user's, as long as he likes."""
    state.symlink_to(made(state.with_name("own"), 0o755))
    give(DAEMON, state)
    return f"{state} is a link of the user daemon"


def link_on_the_way(state: Path) -> str:
    """The link is this user's, and leads through one that is not."""
    made(made(state.with_name("deep"), 0o755) / "own", 0o755)
    state.with_name("his").symlink_to("deep")
    give(DAEMON, state.with_name("his"))
    state.symlink_to("his/own")
    return f"{state.with_name('his')} is a link of the user daemon"


def registry_of_another(state: Path) -> str:
    """Put where the sticky bit lets everybody put something."""
    file = made(state, 0o1777) / "registry.sqlite3"
    Registry(file)
    give(DAEMON, file)
    return f"{file} belongs to the user daemon, and this process runs as {{user}}"


def log_of_another(state: Path) -> str:
    log = made(state, 0o1777) / "registry.sqlite3-wal"
    log.touch()
    give(DAEMON, log)
    return f"{log} belongs to the user daemon"


OF_ANOTHER = (
    *(folder_of_another, folder_of_another_for_him_alone, private_database_of_another),
    *(link_of_another, link_on_the_way, registry_of_another, log_of_another),
)


def problem_of(settings: Settings) -> str:
    try:
        require_own_state(settings)
    except SettingError as error:
        return str(error)
    return ""


@only_root
@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize("case", OF_ANOTHER)
def test_state_of_another_user_is_refused_by_name(
    folder: Path, case: Callable[[Path], str], user: str
) -> None:
    """The intruder is not who it is run as, whatever it was done by."""
    words = case(folder / "state").format(user=user)
    settings = settings_of(folder)
    if user == "root":
        text = problem_of(settings)
        (finding,) = state_owners(settings)
        assert not finding.ok
        assert f"{finding.finding} {finding.remedy}" == text
    else:
        text = as_user(partial(problem_of, settings))
    assert text.startswith(words)
    assert other_folder("state_dir") in text
    assert "Run as daemon" not in text


@only_root
def test_a_registry_of_another_user_is_not_opened_beside_a_database_elsewhere(folder: Path) -> None:
    """What looks at the tasks goes on, and says what it does not show."""
    words = registry_of_another(folder / "state").format(user="root")
    for command in ("groups", "status", "monitor --once"):
        result = contimg(folder, "--database-url", AWAY, *command.split())
        assert result.exit_code == 1, result.output
    assert words in str(contimg(folder, "--database-url", AWAY, "groups").exception)


@pytest.mark.parametrize("name", ["", "postgres", "registry.sqlite3"])
def test_state_that_all_may_write_to_is_refused(folder: Path, name: str) -> None:
    """Also this user's own; its sticky folder is not."""
    place = made(folder / "state") / name
    if name == "registry.sqlite3":
        place.touch()
    else:
        place.mkdir(exist_ok=True)
    place.chmod(0o777)
    text = problem_of(settings_of(folder))
    assert text.startswith(f"{place} may be written to by every user of this machine (mode 0777)")
    assert f"chmod o-w {place} " in text
    assert "use a new folder below it" in text
    place.chmod(0o775)
    assert problem_of(settings_of(folder)) == ""
    if name != "registry.sqlite3":
        place.chmod(0o1777)
        assert problem_of(settings_of(folder)) == ""


@only_root
@pytest.mark.parametrize("user", [0, DAEMON, NOBODY])
def test_root_and_the_owner_use_a_site_and_others_are_told_whose_it_is(
    folder: Path, user: int
) -> None:
    """As its service and root's `contimg status` on a host: each finds files of the other."""
    products, state = folder / "products", made(folder / "state", 0o755)
    (products / SITE_NAME).touch()
    Registry(state / "registry.sqlite3", output_dir=products)
    made(state / "postgres")
    give(DAEMON, products, products / SITE_NAME, state, state / "registry.sqlite3")
    check = partial(problem_of, settings_of(folder))
    text = check() if user == 0 else as_user(check, user)
    assert text.endswith("It is the site of daemon. Run as daemon." if user == NOBODY else "")
    assert bool(text) == (user == NOBODY)


@only_root
def test_an_identity_that_anybody_could_have_put_there_names_no_owner(folder: Path) -> None:
    """In an output folder that all may write to."""
    mark = folder / "products" / SITE_NAME
    mark.touch()
    give(DAEMON, mark)
    folder_of_another(folder / "state")
    (folder / "state").chmod(0o700)
    assert problem_of(settings_of(folder)) == ""
    mark.parent.chmod(0o1777)
    assert "Run as daemon" not in problem_of(settings_of(folder))
    assert problem_of(settings_of(folder))


@only_root
@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o755, DAEMON), (0o1777, DAEMON)])
def test_the_doctor_finds_a_parent_in_which_others_can_move_the_state_away(
    folder: Path, mode: int, owner: int
) -> None:
    """It keeps nobody from work: what would come in its place is refused."""
    parent = made(folder / "parent", mode)
    give(owner, parent)
    made(parent / "site")
    made(parent / "site" / "products")
    made(parent / "site" / "state")
    settings = settings_of(parent / "site")
    assert problem_of(settings) == ""
    (finding,) = state_owners(settings)
    assert (finding.ok, f"{parent}, above" in finding.finding) == (False, True)
    give(0, parent)
    parent.chmod(0o1777)
    assert state_owners(settings) == []

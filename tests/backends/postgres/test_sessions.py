"""Sessions: settings of role, database, URL and environment change nothing, or are refused."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from transaction_pooler import TransactionPooler

import absurd_contimg
from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.database_errors import unavailable
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.backends.postgres.sessions import SESSION_SETTINGS, Session
from absurd_contimg.core.errors import BackendError, BackendUnavailable, UnsuitableDatabase
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import AwayError, SettingError
from absurd_contimg.history.invariants.check import audit
from absurd_contimg.history.queue_health import find_problems
from absurd_contimg.registry import Registry

POLICY = RetryPolicy(backoff_first_seconds=0.0)

SETTINGS = (
    *("datestyle = 'German'", "datestyle = 'SQL, DMY'", "datestyle = 'Postgres, MDY'"),
    *("intervalstyle = 'iso_8601'", "intervalstyle = 'sql_standard'"),
    *("intervalstyle = 'postgres_verbose'", "timezone = 'America/New_York'"),
    *("timezone = '<+0530>-05:30'", "client_encoding = 'LATIN1'", "client_encoding = 'SQL_ASCII'"),
    *("client_encoding = 'EUC_JP'", "search_path = 'nowhere'", "search_path = ''"),
    *("default_transaction_isolation = 'serializable'",),
    *("default_transaction_isolation = 'repeatable read'", "default_transaction_read_only = on"),
    *("default_transaction_deferrable = on", "statement_timeout = '20ms'", "lock_timeout = '1ms'"),
    *("idle_in_transaction_session_timeout = '1ms'", "idle_session_timeout = '250ms'"),
    *("transaction_timeout = '30ms'", "bytea_output = 'escape'", "extra_float_digits = -15"),
    *("standard_conforming_strings = off", "backslash_quote = off", "array_nulls = off"),
    *("transform_null_equals = on", "row_security = off", "quote_all_identifiers = on"),
    *("absurd.fake_now = '2001-01-01'", "lc_messages = 'C'", "client_min_messages = 'debug5'"),
)
ENVIRONMENTS = (
    {"PGDATESTYLE": "German"},
    {"PGTZ": "Asia/Tokyo"},
    {"PGCLIENTENCODING": "LATIN1"},
    {"PGOPTIONS": "-c datestyle=SQL -c intervalstyle=iso_8601 -c search_path=nowhere"},
    {"PGHOST": "db.example", "PGPORT": "6000", "PGUSER": "other", "PGDATABASE": "other"},
    {"PGHOSTADDR": "192.0.2.1"},
    {"PGPASSWORD": "other", "PGPASSFILE": "/nowhere"},
    {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/nowhere", "PGCHANNELBINDING": "require"},
    {"PGTARGETSESSIONATTRS": "standby", "PGREQUIREAUTH": "none", "PGGSSENCMODE": "require"},
    {"PGMINPROTOCOLVERSION": "3.2", "PGMAXPROTOCOLVERSION": "latest", "PGREQUIREPEER": "nobody"},
)
QUEUES = ("a%sb", "100%", 'say "x"', "it's", "two words", "UPPER", "ä☃", "x" * 57, "a.b;c--", "%s")


async def scenario(url: str, queue: str) -> tuple[Any, ...]:
    """Spawn, sleep, an event with a timeout, a failure and its retry; what is shown of it."""
    failed = []

    async def handler(params: Any, ctx: Any) -> dict[str, Any]:
        await ctx.sleep_for("nap", 0.06)
        event = await ctx.await_event("ready", timeout=3600)

        async def flaky() -> float:
            if not failed:
                failed.append(1)
                raise ConnectionResetError("Zürich ☃ 'quoted' \\ back")
            return 0.1 + 0.2

        return {"name": params["name"], "event": event, "sum": await ctx.step("s", flaky)}

    async with PostgresBackend(url) as backend:
        await backend.create_queue(queue)
        registry = TaskRegistry()
        registry.add("task", handler)
        spawned = await backend.spawn_task(queue, "task", {"name": "Zürich ☃"})
        settings = WorkerSettings(queue, "w", poll_interval_seconds=0.02)
        worker = Worker(backend, registry, settings, policy=POLICY)
        running = asyncio.create_task(worker.run())
        await backend.emit_event(queue, "ready", {"at": "☃"})
        async with asyncio.timeout(10):
            while True:
                result = await backend.get_task_result(queue, spawned.task_id)
                assert result is not None
                if result.state in ("completed", "failed"):
                    break
                await asyncio.sleep(0.02)
        worker.stop()
        await running
        history = await backend.history(queue, spawned.task_id)
        assert history is not None
        assert history.task.enqueue_at.utcoffset() is not None
        listed = await backend.list_tasks(queue, states=["completed"])
        policy = await backend.get_queue_policy(queue)
        assert policy is not None
        return (
            result.result,
            [run.state for run in history.runs],
            [task.task_id for task in listed] == [spawned.task_id],
            policy.cleanup_ttl.days,
            (await backend.queue_stats(queue)).tasks_by_state,
            await find_problems(backend, queue),
            audit([history], POLICY),
            abs((await backend.current_time()).year - history.task.enqueue_at.year) <= 1,
        )


UNTOUCHED = (
    {"name": "Zürich ☃", "event": {"at": "☃"}, "sum": 0.1 + 0.2},
    ["failed", "completed"],
    True,
    30,
    {"completed": 1},
    [],
    [],
    True,
)


@pytest.fixture(scope="module")
def administrator(
    postgres_server: EmbeddedPostgres, new_database: Callable[[], str]
) -> Iterator[psycopg.Connection]:
    """A connection to the database whose settings the tests change."""
    with psycopg.connect(new_database(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def queue(administrator: psycopg.Connection, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a queue of this test's own; settings of the database are reset at the end."""
    yield f"q{abs(hash(request.node.name)) % 10**9}"
    administrator.execute(f'alter database "{administrator.info.dbname}" reset all')


def change(administrator: psycopg.Connection, setting: str) -> None:
    administrator.execute(f'alter database "{administrator.info.dbname}" set {setting}')


def url_of(server: EmbeddedPostgres, administrator: psycopg.Connection) -> str:
    return server.url(administrator.info.dbname)


@pytest.mark.parametrize("setting", SETTINGS)
async def test_setting_of_the_database(
    postgres_server: EmbeddedPostgres, administrator: psycopg.Connection, queue: str, setting: str
) -> None:
    change(administrator, setting)
    assert await scenario(url_of(postgres_server, administrator), queue) == UNTOUCHED


@pytest.mark.parametrize("setting", SETTINGS[::7])
async def test_setting_of_the_role(
    postgres_server: EmbeddedPostgres, administrator: psycopg.Connection, queue: str, setting: str
) -> None:
    administrator.execute(f"alter role current_user set {setting}")
    try:
        assert await scenario(url_of(postgres_server, administrator), queue) == UNTOUCHED
    finally:
        administrator.execute("alter role current_user reset all")


@pytest.mark.parametrize("setting", SETTINGS[1::7])
async def test_option_in_the_url(
    postgres_server: EmbeddedPostgres, administrator: psycopg.Connection, queue: str, setting: str
) -> None:
    name, value = setting.replace("'", "").split(" = ")
    escaped = value.replace(" ", "%5C%20")
    url = f"{url_of(postgres_server, administrator)}&options=-c%20{name}%3D{escaped}"
    assert await scenario(url, queue) == UNTOUCHED


@pytest.mark.parametrize("variables", ENVIRONMENTS, ids="+".join)
async def test_environment_of_another_database(
    postgres_server: EmbeddedPostgres,
    administrator: psycopg.Connection,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert await scenario(url_of(postgres_server, administrator), queue) == UNTOUCHED


@pytest.mark.parametrize("name", ["PGSERVICE", "PGTZ", "PGDATESTYLE", "PGGEQO"])
async def test_variable_that_cannot_be_left_out_is_named(
    postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "nowhere")
    with pytest.raises(BackendUnavailable, match=f"Unset {name}"):
        await PostgresBackend(postgres_server.url()).open()


async def test_host_of_the_url_counts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Address and port of another database are not mixed into a URL that names its own host."""
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    monkeypatch.setenv("PGPORT", "6000")
    with pytest.raises(BackendUnavailable, match=r'"127\.0\.0\.1", port 5432'):
        await PostgresBackend("postgresql://user@127.0.0.1/database").open()


@pytest.mark.parametrize("queue_name", QUEUES)
async def test_name_of_a_queue(
    postgres_server: EmbeddedPostgres, administrator: psycopg.Connection, queue_name: str
) -> None:
    assert await scenario(url_of(postgres_server, administrator), queue_name) == UNTOUCHED


@pytest.mark.parametrize("name", ["UPPER", "two words", 'say "x"', "it's 100%", "ä☃", "x" * 63])
async def test_name_of_a_database(postgres_server: EmbeddedPostgres, name: str) -> None:
    url = postgres_server.create_database(name)
    assert install_schema(url).startswith("Installed")
    assert await scenario(url, "q") == UNTOUCHED


async def test_encoding_sql_ascii(postgres_server: EmbeddedPostgres) -> None:
    url = create_with_encoding(postgres_server, "SQL_ASCII")
    install_schema(url)
    assert await scenario(url, "ä☃") == UNTOUCHED


@pytest.mark.parametrize("encoding", ["LATIN1", "LATIN9", "EUC_JP", "WIN1252"])
async def test_encoding_that_cannot_hold_every_text_is_refused(
    postgres_server: EmbeddedPostgres, encoding: str
) -> None:
    url = create_with_encoding(postgres_server, encoding)
    with pytest.raises(UnsuitableDatabase, match=f"encoding {encoding}.*createdb --encoding=UTF8"):
        install_schema(url)
    with pytest.raises(UnsuitableDatabase, match=encoding):
        await PostgresBackend(url).open()


@pytest.mark.parametrize(
    "change",
    [
        'alter table absurd."t_q" rename column state to status',
        'alter table absurd."t_q" alter column task_name type bytea using task_name::bytea',
        "create function absurd.list_queues(x int default 1) returns int return x",
    ],
)
async def test_changed_tables_and_procedures_are_told(database_url: str, change: str) -> None:
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue("q")
        await backend.spawn_task("q", "task", {})
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(change.encode())
        with pytest.raises(BackendError, match=r"not as its schema makes them: .*contimg restore"):
            await list_and_claim(backend)


async def list_and_claim(backend: PostgresBackend) -> None:
    await backend.list_queues()
    await backend.claim_task("q", "w", 60)


async def test_rows_that_a_policy_hides_are_an_error(database_url: str) -> None:
    """A queue was empty, and an audit of nothing clean, where a policy hid all tasks."""
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue("q")
        await backend.spawn_task("q", "task", {})
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("create role watched login password 'watched'")
            connection.execute("grant all on schema absurd to watched")
            connection.execute("grant all on all tables in schema absurd to watched")
            connection.execute('alter table absurd."t_q" enable row level security')
        parameters = conninfo_to_dict(database_url)
        parameters |= {"user": "watched", "password": "watched", "passfile": ""}
        try:
            async with PostgresBackend(make_conninfo("", **parameters)) as watched:
                with pytest.raises(BackendError, match="row-level security policy"):
                    await watched.list_tasks("q")
        finally:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("drop owned by watched")
                connection.execute("drop role watched")


def create_with_encoding(server: EmbeddedPostgres, encoding: str) -> str:
    name = f"encoding_{encoding}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL(
                "create database {} encoding {} template template0 lc_collate 'C' lc_ctype 'C'"
            ).format(sql.Identifier(name), sql.Literal(encoding))
        )
    return server.url(name)


@pytest.mark.parametrize(
    "setting",
    [
        *("role = 'postgres'", "datestyle = 'German'", "client_encoding = 'LATIN1'"),
        *("default_transaction_isolation = 'serializable'", "search_path = 'nowhere'"),
        *("default_transaction_read_only = on", "statement_timeout = '20ms'"),
        *("standard_conforming_strings = off", "timezone = 'America/New_York'"),
    ],
)
async def test_pooler_in_transaction_mode(
    postgres_server: EmbeddedPostgres,
    administrator: psycopg.Connection,
    queue: str,
    tmp_path: Path,
    setting: str,
) -> None:
    """No session state is relied on: consecutive transactions meet different sessions."""
    change(administrator, setting)
    pooler = TransactionPooler(url_of(postgres_server, administrator), tmp_path)
    async with pooler.running():
        assert await scenario(pooler.url, queue) == UNTOUCHED
        before = pooler.transactions
        assert await asyncio.to_thread(registered_groups, pooler.url) == []
        assert pooler.transactions > before
    assert not pooler.prepared


def registered_groups(url: str) -> list[Any]:
    registry = Registry(url)
    try:
        return registry.groups()
    finally:
        registry.close()


@pytest.mark.parametrize("setting", ["datestyle = 'German'", "search_path = 'nowhere'"])
def test_registry_in_postgres(
    postgres_server: EmbeddedPostgres, administrator: psycopg.Connection, queue: str, setting: str
) -> None:
    change(administrator, setting)
    assert registered_groups(url_of(postgres_server, administrator)) == []


def test_nothing_else_connects() -> None:
    """One module makes connections, so that none is without the settings of this package."""
    connecting = re.compile(
        r"psycopg\.connect|\b(Async)?Connection\.connect|PGconn|ConnectionPool\b"
    )
    package = Path(absurd_contimg.__file__).parent
    allowed = {"backends/postgres/sessions.py", "backends/postgres/connections.py"}
    places = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if connecting.search(line)
        and not str(path.relative_to(package)).startswith("backends/memory")
        and str(path.relative_to(package)) not in allowed
    ]
    assert not places


def test_session_has_every_setting(
    postgres_server: EmbeddedPostgres, administrator: psycopg.Connection, queue: str
) -> None:
    """Also those whose effect the scenario would not show."""
    for setting in SETTINGS:
        change(administrator, setting)
    with Session.connect(url_of(postgres_server, administrator)) as session:
        rows = session.execute("select name, setting, reset_val from pg_settings").fetchall()
    shown = {name.lower(): (value, before) for name, value, before in rows}
    # The server's side of connections by TCP: on a socket of Unix it shows 0 for them.
    elsewhere = ("absurd.fake_now", "tcp_")
    expected = {
        name: value for name, value, _ in SESSION_SETTINGS if not name.startswith(elsewhere)
    }
    assert {name: shown[name][0] for name in expected} == expected
    assert sum(value != before for value, before in (shown[name] for name in expected)) >= 15


@pytest.mark.parametrize("name", ["UPPER", "two words", 'say "x"@:/', "it's 100%", "ä☃", "u" * 63])
async def test_name_of_a_user(
    postgres_server: EmbeddedPostgres, administrator: psycopg.Connection, name: str
) -> None:
    role = sql.Identifier(name)
    administrator.execute(sql.SQL("create role {} superuser login password '%@:/'").format(role))
    try:
        user, database = quote(name, safe=""), administrator.info.dbname
        socket = quote(str(postgres_server.folder / "socket"), safe="")
        url = f"postgresql://{user}:%25%40%3A%2F@/{database}?host={socket}"
        assert await scenario(url, f"user {name[:20]}") == UNTOUCHED
    finally:
        administrator.execute(sql.SQL("drop owned by {0}; drop role {0}").format(role))


async def test_user_without_rights_is_told(
    postgres_server: EmbeddedPostgres, administrator: psycopg.Connection, queue: str
) -> None:
    """Also where the administrator lets the user be another."""
    administrator.execute("create role reader")
    try:
        change(administrator, "role = 'reader'")
        url = url_of(postgres_server, administrator)
        with pytest.raises(BackendError, match="user lacks a right: permission denied"):
            await PostgresBackend(url).open()
        with pytest.raises(BackendError, match="user lacks a right: permission denied"):
            install_schema(url)
    finally:
        administrator.execute("drop role reader")


@pytest.mark.parametrize("use", [install_schema, Registry])
def test_what_is_missing_in_a_server_that_runs_is_named_with_its_remedy(
    postgres_server: EmbeddedPostgres, administrator: psycopg.Connection, use: Callable[[str], Any]
) -> None:
    """It was advised to look whether the server runs, or to move the registry away."""
    database = f"bare_{use.__name__.lower()}"
    postgres_server.create_database(database)
    administrator.execute("create role newcomer login password 'x'")

    def refusal(user: str, name: str) -> str:
        socket = quote(str(postgres_server.folder / "socket"), safe="")
        with pytest.raises((BackendError, AwayError)) as raised:
            use(f"postgresql://{user}@/{name}?host={socket}")
        assert "that the server runs" not in str(raised.value)
        return str(raised.value)

    try:
        text = refusal("nobody:x", database)
        assert "Correct the user or the password, or make the role: create role nobody" in text
        text = refusal("newcomer:x", "nowhere")
        assert "createdb --owner=ROLE --encoding=UTF8 --template=template0 nowhere" in text
        text = refusal("newcomer:x", database)
        assert f"grant connect, create on database {database} to ROLE" in text
        administrator.execute(f"revoke connect on database {database} from public")
        text = refusal("newcomer:x", database)
        assert f"grant connect, create on database {database} to ROLE" in text
    finally:
        administrator.execute("drop role newcomer")


def test_socket_folder_that_is_too_long_is_told() -> None:
    folder = quote(f"/tmp/{'x' * 108}", safe="")
    with pytest.raises(BackendUnavailable, match="too long"):
        install_schema(f"postgresql://user@/database?host={folder}")


def test_variable_that_nobody_has_set_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of a site with a private server told to check ABSURD_DATABASE_URL."""
    lost = psycopg.OperationalError("server closed the connection unexpectedly")
    monkeypatch.delenv("ABSURD_DATABASE_URL", raising=False)
    assert str(unavailable(lost)).endswith("heck that the server runs (contimg doctor).")
    monkeypatch.setenv("ABSURD_DATABASE_URL", "postgresql://x")
    assert "heck ABSURD_DATABASE_URL and that the server runs" in str(unavailable(lost))


def test_what_libpq_asks_is_left_to_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same question stood there twice, and once for each address that was tried."""
    monkeypatch.setenv("ABSURD_DATABASE_URL", "postgresql://x")
    address = 'connection to server at "127.0.0.1", port 5999 failed: Connection refused'
    question = "\n\tIs the server running on that host and accepting TCP/IP connections?"
    refused = psycopg.OperationalError(f"connection failed: {address}{question}")
    assert str(unavailable(refused)).startswith(f"The database cannot be reached: {address}. ")
    assert "accepting" not in str(unavailable(refused))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://[x", "is malformed: end of string"),
        ("no url", "is malformed: missing"),
        ("postgresql://u@h/d?sslmod=require", 'parameter "sslmod".* Did you mean sslmode'),
        ("postgresql:///d?nosuch=1", 'parameter "nosuch"'),
        ("host=h sslmod=require", 'parameter "sslmod".* Did you mean sslmode'),
        ("postgresql://u:pass@h/d?password=a&word=c", 'parameter "[*]{3}"'),
        ("postgresql://u:12/x?word=y@h/d", 'parameter "[*]{3}"'),
        ("password=a word=c", 'parameter "[*]{3}"'),
        ("postgresql://u:word/x@h/d", "a port is no number"),
        ("postgresql://a:1,b:2,c/d?port=5,6", "it has 3 hosts and 2 ports"),
    ],
)
def test_malformed_url_is_a_wrong_setting(url: str, words: str) -> None:
    """It read as a server that is away, and the name of a wrong parameter was masked."""
    with pytest.raises(SettingError, match=f"ABSURD_DATABASE_URL .*{words}") as refused:
        install_schema(url)
    assert not re.search(r"\bword\b", str(refused.value))
    if "://" in url:
        with pytest.raises(SettingError, match=f"PIPELINE_PRODUCTS_DB .*{words}"):
            Registry(url)


@pytest.mark.parametrize("variable", ["PGPASSFILE", "PGSERVICEFILE", None])
def test_a_file_that_never_ends_is_told_before_libpq_reads_it(
    variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe as the password file blocked every command, and the event loop of a worker."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (str(pipe), "/dev/zero"):
        url = "postgresql://user@127.0.0.1:1/database"
        if variable is None:
            url += f"?passfile={quote(path, safe='')}"
        else:
            monkeypatch.setenv(variable, path)
        with pytest.raises(BackendUnavailable, match=f"'{path}', which is a pipe or a device"):
            install_schema(url)


def test_null_device_is_no_password_file(
    postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSERVICEFILE", "/dev/null")
    Session.connect(postgres_server.create_database("null_device")).close()

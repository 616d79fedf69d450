"""The commands about alerts and metrics, on a real database and registry."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from alert_receivers import webhook_server
from api_sites import client_of
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.operations.alerts import all_rules
from absurd_contimg.operations.api import AccessRules, make_api
from absurd_contimg.operations.cli.alert_page import alert_page
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.overview import open_site
from absurd_contimg.settings import load_settings

QUEUE = "dsa110-pipeline"
RULES = AccessRules(hosts=("api.test",))
Contimg = Callable[..., Any]


@pytest.fixture
def contimg(tmp_path: Path, database_url: str) -> Contimg:
    folders = ("--input-dir", str(tmp_path), "--output-dir", str(tmp_path / "products"))

    def run(*arguments: str, environment: Mapping[str, str] | None = None) -> Any:
        clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
        options = [*folders, "--database-url", database_url, "--set", "alerts.looks=1", *arguments]
        values = {**clean, **(environment or {}), "COLUMNS": "80"}
        return CliRunner().invoke(app, options, env=values)

    assert run("db", "init").exit_code == 0
    return run


async def fail_tasks(url: str, count: int) -> list[str]:
    """Spawn tasks, claim them and let them fail for good; their ids."""
    async with PostgresBackend(url) as backend:
        ids = []
        for _ in range(count):
            options = SpawnOptions(max_attempts=1)
            ids.append(str((await backend.spawn_task(QUEUE, "pipeline", {}, options)).task_id))
        for run in await backend.claim_task(QUEUE, "worker-1", 60, count):
            await backend.fail_run(QUEUE, run.run_id, {"name": "Broken", "message": "x"})
        return ids


async def metrics_of_api(folder: Path, database_url: str) -> str:
    """What the API answers to Prometheus."""
    environment = {"ABSURD_DATABASE_URL": database_url}
    settings = load_settings(
        {"input_dir": folder, "output_dir": folder / "products"}, (), environment
    )
    async with open_site(settings) as site, client_of(make_api(site, None, RULES)) as client:
        return (await client.get("/metrics")).text


def without_times(text: str) -> list[str]:
    """The samples that are the same a second later on any disk."""
    return [
        line
        for line in text.splitlines()
        if not any(word in line for word in ("age", "timestamp", "contimg_disk"))
    ]


def test_failed_tasks_are_told_once_and_shown(
    contimg: Contimg, database_url: str, tmp_path: Path
) -> None:
    """From real rows to the webhook, to the list and to the metrics, of the API too."""
    task_ids = asyncio.run(fail_tasks(database_url, 3))
    with webhook_server() as server:
        environment = {"ABSURD_SLACK_WEBHOOK_URL": server.url}
        for _ in range(3):
            ran = contimg("alerts", "run", "--once", environment=environment)
            assert ran.exit_code == 0, ran.output
    assert [(each["rule"], each["event"]) for each in server.received] == [
        ("tasks-failed", "raised")
    ]
    assert "3 tasks of queue dsa110-pipeline failed" in server.received[0]["fact"]
    shown = contimg("alerts", "--json")
    assert shown.exit_code == 1
    (alert,) = json.loads(shown.output)
    assert (alert["rule"], alert["subject"], alert["not_told"]) == ("tasks-failed", QUEUE, [])
    assert "tasks-failed" in contimg("alerts").output
    metrics = contimg("metrics").output
    assert 'contimg_alerts_raised{rule="tasks-failed",severity="warning"} 1.0' in metrics
    assert f'contimg_recent_ended_tasks{{queue="{QUEUE}",state="failed"}} 3.0' in metrics
    assert alert["task"] in task_ids
    served = asyncio.run(metrics_of_api(tmp_path, database_url))
    assert without_times(served) == without_times(metrics)


def test_a_daemon_tells_of_its_site(contimg: Contimg, database_url: str, tmp_path: Path) -> None:
    """The real process: rules, registry, receiver, and its end while it does so."""
    asyncio.run(fail_tasks(database_url, 3))
    settings = ("alerts.looks=1", "alerts.look_seconds=1", "streaming.poll_seconds=0.2")
    (tmp_path / "catalog.csv").write_text("name\n")
    with webhook_server() as server:
        clean = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("ABSURD_", "PIPELINE_"))
        }
        daemon = subprocess.Popen(
            [
                *(sys.executable, "-m", "absurd_contimg.operations", "--input-dir", str(tmp_path)),
                *("--output-dir", str(tmp_path / "products"), "--database-url", database_url),
                *(part for setting in settings for part in ("--set", setting)),
                *("--catalog", str(tmp_path / "catalog.csv"), "daemon", "--calibrator", "none"),
            ],
            env={**clean, "ABSURD_SLACK_WEBHOOK_URL": server.url},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            give_up = time.monotonic() + 60
            while not server.received and daemon.poll() is None and time.monotonic() < give_up:
                time.sleep(0.02)
        finally:
            daemon.terminate()
            _, log = daemon.communicate(timeout=30)
    assert daemon.returncode == 0, log
    assert [each["rule"] for each in server.received] == ["tasks-failed"], log
    assert json.loads(contimg("alerts", "--json").output)[0]["not_told"] == []


def test_site_without_a_registry_is_no_good_news(contimg: Contimg) -> None:
    """Nobody has looked, or the folders are wrong."""
    shown = contimg("alerts")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "There is no registry yet" in str(shown.exception)


def test_no_alert_is_no_good_news_where_nobody_looks(contimg: Contimg) -> None:
    """With a dead daemon, or none, an operator was told that no alert is raised."""
    assert contimg("db", "init").exit_code == 0
    assert contimg("queue", "pause", "--reason", "makes a registry").exit_code == 0
    shown = contimg("alerts")
    assert shown.exit_code == 0
    assert "no process evaluates the rules now" in " ".join(shown.output.split())


def test_metrics_are_written_for_a_textfile_collector(contimg: Contimg, tmp_path: Path) -> None:
    target = tmp_path / "contimg.prom"
    assert contimg("metrics", "--write", str(target)).exit_code == 0
    assert "# TYPE contimg_tasks gauge" in target.read_text()


def test_test_message_reaches_each_receiver_or_says_why_not(contimg: Contimg) -> None:
    assert "no receiver" in str(contimg("alerts", "test").exception)
    with webhook_server(200, 500) as server:
        environment = {"ABSURD_SLACK_WEBHOOK_URL": server.url}
        sent = contimg("alerts", "test", environment=environment)
        refused = contimg("alerts", "test", environment=environment)
    assert (sent.exit_code, sent.output) == (0, "webhook: delivered\n")
    assert (refused.exit_code, "status 500" in refused.output) == (1, True)
    assert [each["event"] for each in server.received] == ["test"]


_SLOW_DNS = """
import socket, sys, time
def getaddrinfo(*arguments, **options):
    print("asked", flush=True)
    time.sleep(20)
socket.getaddrinfo = getaddrinfo
from absurd_contimg.operations.program import main
main()
"""


@pytest.mark.parametrize(
    "variables",
    [
        {"ABSURD_SLACK_WEBHOOK_URL": "https://hooks.example.org/x"},
        {
            "ABSURD_ALERT_EMAIL_TO": "a@example.org",
            "ABSURD_SMTP_HOST": "mail.example.org",
            "ABSURD_SMTP_FROM": "b@example.org",
        },
    ],
    ids=["webhook", "email"],
)
def test_test_message_ends_at_once_beside_a_dns_that_does_not_answer(
    variables: Mapping[str, str], tmp_path: Path
) -> None:
    """It ended when the look-up did, after half a minute."""
    command = [sys.executable, "-c", _SLOW_DNS, "--output-dir", str(tmp_path), "alerts", "test"]
    environment = {**os.environ, **variables}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "asked\n"
        program.terminate()
        assert program.wait(timeout=8) == -signal.SIGTERM


def test_page_lists_the_rules_and_metrics_of_the_code() -> None:
    written = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text()
    assert written == alert_page(), "contimg alerts rules --markdown > docs/alerts.md"


def test_every_command_that_a_rule_advises_exists() -> None:
    """In the documentation of the rules."""
    program: Any = typer.main.get_command(app)
    for rule in all_rules(AlertsConfig()):
        for command in re.findall(r"`contimg ([a-z ]+)", rule.remedy):
            words, group = command.split(), program
            for word in words:
                if not hasattr(group, "commands"):
                    break
                assert word in group.commands, (rule.name, command)
                group = group.commands[word]

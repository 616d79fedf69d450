"""Messages reach their receivers once, and receivers that are ill hinder nobody."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email.message import EmailMessage
from pathlib import Path

import pytest
import site_overviews as sites
from alert_receivers import CERTIFICATE, mail_server, webhook_server

from absurd_contimg import secrets
from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.alerts.receivers import (
    DeliveryError,
    EmailAddress,
    Mailer,
    Receiver,
    Webhook,
    make_receivers,
    payload,
)
from absurd_contimg.operations.alerts.records import Look, Notice
from absurd_contimg.operations.alerts.rules import make_rules
from absurd_contimg.operations.alerts.service import AlertService
from absurd_contimg.operations.cli.alerts import _send_all
from absurd_contimg.registry.alerts import list_alerts
from absurd_contimg.registry.database import Database
from absurd_contimg.settings import load_settings

GOOD = Look(sites.healthy())
BAD = Look(sites.healthy(disks=(replace(sites.DISK, used_share=0.99),)))
CONFIG = AlertsConfig(looks=1, hold_minutes=5.0, send_seconds=0.4, smtp_tls=False)


def mail_config(port: int, seconds: float = 20.0) -> AlertsConfig:
    server = {"smtp_host": "127.0.0.1", "smtp_port": port, "send_seconds": seconds}
    return CONFIG.model_copy(update=server)


@dataclass
class Site:
    """A site with a registry, and processes that evaluate; its clock is set by the test."""

    registry: Path
    time: float = 1e9
    seen: Look = BAD
    services: list[AlertService] = field(default_factory=list)

    def service(self, *receivers: Receiver, config: AlertsConfig = CONFIG) -> AlertService:
        async def look() -> Look:
            return self.seen

        service = AlertService(
            look=look,
            open_registry=lambda: Database(f"sqlite:///{self.registry}"),
            rules=make_rules(config),
            receivers=receivers,
            config=config,
            now=lambda: self.time,
            holder=f"process {len(self.services)}",
        )
        self.services.append(service)
        return service


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "registry.sqlite3")


@dataclass
class Note:
    """A receiver that notes what it gets, and dies after it as often as it is to."""

    name: str = "note"
    got: list[tuple[str, str]] = field(default_factory=list)
    deaths: int = 0

    async def send(self, message_id: str, notice: Notice) -> None:
        self.got.append((message_id, f"{notice.event} {notice.rule}"))
        if self.deaths:
            self.deaths -= 1
            raise asyncio.CancelledError

    @property
    def events(self) -> list[str]:
        return [event for _, event in self.got]


async def look(service: AlertService) -> None:
    await service.look_once()
    await service.wait_for_deliveries()


async def test_webhook_gets_each_message_once(site: Site) -> None:
    with webhook_server() as server:
        service = site.service(Webhook(server.url, 20.0))
        for minute in range(4):
            site.time += 60
            await look(service)
            assert len(server.received) == 1, minute
        site.seen = GOOD
        for _ in range(8):
            site.time += 60
            await look(service)
        await service.close()
    raised, cleared = server.received
    assert (raised["event"], raised["rule"], raised["severity"]) == (
        "raised",
        "disk-full",
        "critical",
    )
    assert "99.0 % full" in raised["text"]
    assert "Run: contimg" in raised["text"]
    assert (cleared["event"], cleared["subject"]) == ("cleared", raised["subject"])
    assert cleared["id"] != raised["id"]
    assert list_alerts(Database(f"sqlite:///{site.registry}")) == []


async def test_message_is_tried_again_after_errors_and_backoff(site: Site) -> None:
    """500 and 302 are no success; between the attempts lie 30 s and 60 s."""
    with webhook_server(500, 302) as server:
        service = site.service(Webhook(server.url, 20.0))
        requests = []
        for _ in range(12):
            await look(service)
            requests.append(server.requests)
            site.time += 10
        await service.close()
    assert requests == [1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3]
    assert [each["event"] for each in server.received] == ["raised"]


async def test_receiver_that_hangs_delays_nothing(site: Site) -> None:
    """The looks end and the mail goes out meanwhile; the hanging one is tried again later."""
    with webhook_server(0) as server:
        async with mail_server() as mails:
            mail = EmailAddress("a@obs", Mailer(mail_config(mails.port), ""))
            service = site.service(Webhook(server.url, 20.0), mail)
            await service.look_once()
            await service.look_once()
            while not mails.mails:
                await asyncio.sleep(0.01)
            assert server.received == []
            server.free.set()
            await service.wait_for_deliveries()
            site.time += 31
            await look(service)
            await service.close()
    assert [each["event"] for each in server.received] == ["raised"]
    assert [each["Subject"] for each in mails.mails] == [
        "[contimg] RAISED critical: disk-full (h1:/stage)"
    ]


async def test_webhook_that_does_not_answer_is_given_up_in_time() -> None:
    notice = Notice("test", "r", "s", "warning", "f", "contimg", None, sites.AT)
    with webhook_server(0) as server, pytest.raises(DeliveryError, match="did not answer within"):
        await Webhook(server.url, 0.3).send("1", notice)


async def test_receiver_that_refuses_is_tried_again_until_it_is_there(site: Site) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        service = site.service(Webhook(f"http://127.0.0.1:{port}/hook", 0.4))
        await look(service)
        (message,) = service.site.messages
        assert message.unsent["webhook"].attempts == 1
    await service.close()
    with webhook_server() as server:
        again = site.service(Webhook(server.url, 20.0))
        site.time += 31
        await look(again)
        await again.close()
    assert len(server.received) == 1


async def test_restart_sends_nothing_twice_and_loses_nothing(site: Site) -> None:
    """A new process for each look."""
    note = Note()
    for step in range(12):
        site.seen = BAD if step < 4 else GOOD
        service = site.service(note)
        await look(service)
        await service.close()
        site.time += 60
    assert note.events == ["raised disk-full", "cleared disk-full"]


async def test_death_between_send_and_commit_sends_again_with_the_same_id(site: Site) -> None:
    """The one case in which a message comes twice."""
    note = Note(deaths=1)
    dying = site.service(note)
    await look(dying)
    await dying.close()
    site.time += 31
    again = site.service(note)
    await look(again)
    site.time += 60
    await look(again)
    await again.close()
    assert note.events == ["raised disk-full"] * 2
    assert len(set(note.got)) == 1


async def test_of_two_processes_one_evaluates_and_the_other_takes_over(site: Site) -> None:
    """At the end of the lease, here at once: a killed process releases nothing."""
    note = Note()
    short = CONFIG.model_copy(update={"look_seconds": 1.0})
    first, second = site.service(note, config=short), site.service(note, config=short)
    assert await first.look_once() != ()
    assert await second.look_once() is None
    await first.wait_for_deliveries()
    await asyncio.sleep(3.2)
    site.time += 60
    assert await second.look_once() == ()
    assert await first.look_once() is None
    site.seen = GOOD
    for _ in range(7):
        site.time += 60
        await asyncio.gather(first.look_once(), second.look_once())
    await asyncio.gather(first.wait_for_deliveries(), second.wait_for_deliveries())
    assert note.events == ["raised disk-full", "cleared disk-full"]
    await first.close()
    await second.close()


async def test_outage_of_the_registry_is_told_once_by_the_process_that_evaluates(
    site: Site,
) -> None:
    """It goes on from memory; one on standby says nothing; afterwards all is as before."""
    note = Note()
    active, standby = site.service(note), site.service(note)
    await look(active)
    assert await standby.look_once() is None
    os.rename(site.registry, moved := site.registry.with_suffix(".moved"))
    site.seen = replace(BAD, away={"registry": "gone"})
    for _ in range(5):
        site.time += 60
        await look(active)
        assert await standby.look_once() is None
    assert note.events == ["raised disk-full", "raised registry-away"]
    os.rename(moved, site.registry)
    site.seen = GOOD
    for _ in range(8):
        site.time += 60
        await look(active)
    await active.close()
    await standby.close()
    assert sorted(note.events[2:]) == ["cleared disk-full", "cleared registry-away"]


async def test_receiver_that_is_removed_is_waited_for_no_more(site: Site) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = Webhook(f"http://127.0.0.1:{free.getsockname()[1]}/", 0.4)
        service = site.service(gone)
        await look(service)
        assert service.site.messages
        await service.close()
    after = site.service(Note())
    await look(after)
    assert after.site.messages == ()
    await after.close()


async def test_refused_address_hinders_no_other(site: Site) -> None:
    async with mail_server("bad@obs") as mails:
        mailer = Mailer(mail_config(mails.port), "")
        service = site.service(*(EmailAddress(each, mailer) for each in ("bad@obs", "ok@obs")))
        await look(service)
        (message,) = service.site.messages
        await service.close()
    assert set(message.unsent) == {"email bad@obs"}
    (mail,) = mails.mails
    assert mail["To"] == "ok@obs"
    assert "Run: contimg doctor" in mail.get_content()
    assert mail["Message-ID"].endswith("@contimg>")


@pytest.fixture
def slow_mail_server() -> Iterator[int]:
    """Accepts a connection and greets with a byte at a time, for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                for _ in range(400):
                    try:
                        connection.send(b"2")
                    except OSError:
                        return
                    time.sleep(0.05)

        thread = threading.Thread(target=greet)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


async def test_mail_server_that_answers_byte_by_byte_is_cut(
    site: Site, slow_mail_server: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = mail_config(slow_mail_server, seconds=0.4)
    service = site.service(EmailAddress("a@obs", Mailer(config, "")))
    begin = time.monotonic()
    with caplog.at_level(logging.WARNING):
        await look(service)
    assert time.monotonic() - begin < 9
    assert f"The mail server 127.0.0.1:{slow_mail_server} has not taken" in caplog.text
    await service.close()


@pytest.mark.parametrize("method", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("length", [8, None])
def test_a_server_that_quotes_the_login_tells_no_password(method: str, length: int | None) -> None:
    """In base64, whole or cut."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rwb") as stream:
                stream.write(b"220 old\r\n")
                stream.flush()
                for line in stream:
                    command, *words = line.split()
                    reply = b'500 5.5.1 Command unrecognized: "%s %s"\r\n'
                    if command.upper() == b"EHLO":
                        reply = b"250-old\r\n250 AUTH %s\r\n" % method.encode()
                    elif command == b"AUTH" and method == "LOGIN":
                        reply = b"334 UGFzc3dvcmQ6\r\n"
                    elif command != b"QUIT":
                        reply %= command[:length], b" ".join(words)[: length and length + 6]
                    stream.write(reply)
                    stream.flush()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        user = mail_config(server.getsockname()[1]).model_copy(update={"smtp_user": "bob"})
        with pytest.raises(DeliveryError) as refused:
            Mailer(user, "hunter2secret").send(EmailMessage())
        thread.join(10)
    text = str(refused.value)
    assert "Command unrecognized" in text
    assert "***" in text
    for sent in (b"\0bob\0hunter2secret", b"hunter2secret"):
        assert base64.b64encode(sent)[:8].decode() not in text


async def test_mail_is_sent_over_tls_by_a_user(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """STARTTLS and login as most servers want them; another password, and a certificate that
    nobody has signed, are refused without a word about the password."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with mail_server(password="the-pass-phrase") as server:
        environment = {
            "ABSURD_ALERT_EMAIL_TO": "a@obs",
            "ABSURD_SMTP_HOST": "localhost",
            "ABSURD_SMTP_PORT": str(server.port),
            "ABSURD_SMTP_USER": "contimg",
            "ABSURD_SMTP_USE_TLS": "true",
        }

        async def send(password: str) -> None:
            settings = load_settings(environment={**environment, "ABSURD_SMTP_PASSWORD": password})
            (receiver,) = make_receivers(settings)
            notice = Notice("test", "r", "s", "warning", "f", "contimg", None, sites.AT)
            await receiver.send("1", notice)

        await send("the-pass-phrase")
        assert [str(mail["To"]) for mail in server.mails] == ["a@obs"]
        with pytest.raises(DeliveryError, match="SMTPAuthenticationError") as refused:
            await send("another-pass-phrase")
        assert "pass-phrase" not in str(refused.value) + caplog.text
        monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
        with pytest.raises(DeliveryError, match="CERTIFICATE_VERIFY_FAILED"):
            await send("the-pass-phrase")
        assert len(server.mails) == 1


async def test_token_of_the_webhook_is_in_no_log_and_no_state(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with webhook_server(500) as server:
        settings = load_settings(environment={"ABSURD_SLACK_WEBHOOK_URL": server.url})
        service = site.service(*make_receivers(settings))
        with caplog.at_level(logging.DEBUG):
            await look(service)
        state = str(list_alerts(Database(f"sqlite:///{site.registry}")))
        await service.close()
    assert "500" in caplog.text
    assert "s3cr3t-t0ken" not in secrets.mask(caplog.text) + state + repr(settings) + repr(service)
    visible = [r.getMessage() for r in caplog.records if r.name.startswith("absurd_contimg")]
    assert "s3cr3t-t0ken" not in "".join(visible)


def test_receivers_come_from_the_variables_of_the_predecessor(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pa55word-of-mail\n")
    settings = load_settings(
        environment={
            "ABSURD_ALERT_EMAIL_TO": "a@obs, b@obs",
            "ABSURD_SMTP_HOST": "mail.obs",
            "ABSURD_SMTP_PORT": "25",
            "ABSURD_SMTP_USER": "alerts",
            "ABSURD_SMTP_PASSWORD_FILE": str(tmp_path / "password"),
            "ABSURD_SMTP_USE_TLS": "true",
            "ABSURD_SMTP_FROM": "dsa@obs",
            "ABSURD_SLACK_CHANNEL": "#dsa",
            "ABSURD_SLACK_WEBHOOK_URL": "https://hooks/x",
        }
    )
    assert [each.name for each in make_receivers(settings)] == [
        "webhook",
        "email a@obs",
        "email b@obs",
    ]
    assert settings.smtp_password == "pa55word-of-mail"
    assert secrets.mask("login pa55word-of-mail failed") == "login *** failed"
    assert "pa55word" not in repr(settings)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ABSURD_SMTP_USE_TLS": "maybe"}, "true or false"),
        ({"ABSURD_ALERT_EMAIL_TO": "nobody"}, "email_to"),
        ({"ABSURD_ALERT_EMAIL_TO": "a@x\r\nBcc: b@y"}, "email_to"),
        ({"ABSURD_ALERT_EMAIL_TO": "a@x\udcff"}, "email_to"),
        ({"ABSURD_SMTP_FROM": "(a@b"}, "email_from"),
        ({"ABSURD_SMTP_PASSWORD_FILE": "/nowhere/password"}, "/nowhere/password"),
        ({"ABSURD_SLACK_WEBHOOK_URL": "hooks.slack.com/x"}, "is no URL"),
        ({"ABSURD_SLACK_WEBHOOK_URL": "https:///s3cret"}, "names no host"),
        ({"ABSURD_SLACK_WEBHOOK_URL": "https://h:99999/s3cret"}, "port .1 to 65535"),
        ({"ABSURD_SLACK_WEBHOOK_URL": "https://h:0/s3cret"}, "port is 0"),
        ({"ABSURD_SLACK_WEBHOOK_URL": "https://h:x/s3cret"}, "port .1 to 65535"),
        ({"ABSURD_SLACK_WEBHOOK_URL": "https://[::1/s3cret"}, "malformed"),
        ({"ABSURD_SLACK_WEBHOOK_URL": "https://a..b/s3cret"}, "no host can have"),
        ({"ABSURD_SLACK_WEBHOOK_URL": "https://h/\ud800s3cret"}, "cannot be printed"),
        (
            {
                "ABSURD_SMTP_HOST": "mail.obs",
                "ABSURD_SMTP_USE_TLS": "false",
                "ABSURD_SMTP_PASSWORD": "secret-word",
            },
            "unencrypted",
        ),
    ],
)
def test_receivers_that_cannot_be_used_are_refused(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingError, match=message) as refused:
        make_receivers(load_settings(environment=environment))
    assert "s3cret" not in str(refused.value)


HOSTILE = ("\ud800", "a\0b", "x\r\nBcc: evil@x\r\n\r\nbody", "\x1b[2J\u202e", "x" * 2_000_000)


async def test_hostile_texts_are_delivered_and_hinder_no_other(site: Site) -> None:
    """They were neither sent nor given up, and all messages behind them waited for ever."""
    async with mail_server() as mails:
        with webhook_server() as server:
            mailer = Mailer(mail_config(mails.port), "")
            for text in HOSTILE:
                notice = Notice("raised", text, text, "warning", text, text, text, sites.AT)
                await Webhook(server.url, 20.0).send("id", notice)
                await EmailAddress("a@obs", mailer).send("id", notice)
            assert len(server.received) == len(mails.mails) == len(HOSTILE)
            assert max(len(each["text"]) for each in server.received) <= 4000
            assert not any(mail["Bcc"] for mail in mails.mails)
            assert r"\ud800" in server.received[0]["text"]


async def test_any_error_of_a_receiver_is_a_failed_attempt(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """httpx raises groups and Unicode errors for a URL with a port or a name that cannot be."""
    for url in ("http://localhost:99999/s3cret", "http://xn--/s3cret", "http://h/\ud800s3cret"):
        service = site.service(Webhook(url, 1.0))
        await look(service)
        await service.close()
        site.time += 1000
    assert len([text for text in caplog.messages if "not delivered" in text]) == 3
    assert "OverflowError: " in caplog.text
    assert "Group" not in caplog.text
    assert "s3cret" not in caplog.text


async def test_group_that_a_receiver_raises_is_a_sentence_with_its_cause() -> None:
    """``contimg alerts test`` ended in its traceback, and told nothing of the other receivers."""

    class Breaks(Note):
        async def send(self, message_id: str, notice: Notice) -> None:
            raise ExceptionGroup(
                "outer", [ExceptionGroup("inner", [OverflowError("port"), KeyError()])]
            )

    problems = await _send_all((Breaks("broken"), Note()))
    assert problems == {"broken": "It has not taken the message (OverflowError: port).", "note": ""}


def test_text_for_slack_calls_nobody() -> None:
    when = sites.AT
    notice = Notice("raised", "r", "<!channel>", "warning", "a & b", "contimg", None, when)
    assert "&lt;!channel&gt;" in payload("1", notice)["text"]

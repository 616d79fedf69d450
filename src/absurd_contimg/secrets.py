"""Passwords of databases and receivers: text is shown by `mask`, processes start `without_secrets`.

A password is known from the settings (`remember`) and is masked wherever it appears, also in the
pieces in which a parser quotes a malformed URL. URLs and ``password=...`` are masked by their form.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Set
from functools import cache
from itertools import chain
from urllib.parse import quote, unquote, unquote_plus

from absurd_contimg.regular_files import JSON_BYTES_MAX, open_regular

_MASK = "***"
_LENGTH_MIN = 4
"""A shorter text appears too often by chance to be masked wherever it appears."""
_LENGTH_OF_NO_WORD = 8
"""A shorter one is masked as a whole word only."""
_PASSFILE_BYTES_MAX = 100_000

# Bounded, so that the time grows with the length of a text and not with its square.
_URL = re.compile(
    r"((?<![\w+.-])[A-Za-z][\w+.-]{0,40}:/{1,9}[^\s:/@'\"]{0,200}:)[^\s'\"]{0,500}(?=@)"
)
_NO_SCHEME = re.compile(
    r"((?<![\w/.%+-])[\w.%+-]{1,200}:)[^\s:/@'\"]{4,500}(?=@[\w.\[\]-]{1,200}(?::\d{1,5}\b|/))"
)
_SCHEME = re.compile(r"(?:[A-Za-z][\w+.-]*:)*/+|(?:jdbc:)?postgres(?:ql)?(?:\+\w+)?:")
NO_VALID_URL = "*** (is no valid URL)"
"""What is shown of a connection in which nobody can say which part is secret."""

_HOST = r"(?:\[[\da-fA-F:.]{2,60}\]|[\w.%~-]*)(?::\d{1,5})?"
_CONNECTION_URL = re.compile(
    r"(?P<scheme>(?:postgres|postgresql)(?:\+\w+)?://)"
    r"(?:(?P<user>[\w.%~+-]*)(?P<password>:[^/]*)?@)?"
    rf"(?P<place>{_HOST}(?:,{_HOST})*(?:/[\w.%~+-]*)?)(?P<query>\?.*)?",
    re.DOTALL,
)
_FILE_URL = re.compile(r"sqlite(?:\+\w+)?:///")
_PAIR = re.compile(r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?:\s+|$)", re.DOTALL)
_OPTION = re.compile(r"(?:-c\s*|--)([\w.-]+)=\S*")
_PLAIN_OPTIONS = frozenset({
    "search_path", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout",
    "timezone", "datestyle", "work_mem", "client_encoding", "client_min_messages",
    "synchronous_commit",
})  # fmt: skip
_PLAIN_KEYS = frozenset({
    "host", "hostaddr", "port", "dbname", "user", "connect_timeout", "client_encoding",
    "application_name", "options", "fallback_application_name", "keepalives", "keepalives_idle",
    "keepalives_interval", "keepalives_count", "tcp_user_timeout", "replication", "gssencmode",
    "gssdelegation", "gsslib", "krbsrvname", "requirepeer", "require_auth", "channel_binding",
    "sslmode", "sslnegotiation", "sslcompression", "sslcert", "sslkey", "sslcertmode",
    "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "ssl_min_protocol_version", "passfile",
    "service", "ssl_max_protocol_version", "target_session_attrs", "load_balance_hosts",
    "servicefile",
})  # fmt: skip
"""Of libpq, without those of a secret."""
_HIDDEN_KEYS = frozenset({
    "password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key",
})  # fmt: skip
_NO_SECRETS = _PLAIN_KEYS | _HIDDEN_KEYS | {
    "postgres", "postgresql", "psycopg", "sqlite", "localhost", "127.0.0.1", "absurd",
    "services", "workflows", "triggers",
}  # fmt: skip
"""Not learned as parts of what cannot be parsed, or of Slack's webhooks: they are in many texts."""


def _encoded(word: str) -> str:
    """A regular expression for a word of which any character may be percent-encoded."""
    return "".join(f"(?:{c}|%{ord(c):02x}|%{ord(c.upper()):02x})" for c in word)


_SECRET_KEYS = "|".join(
    map(_encoded, ("password", "secret", "scram_client_key", "scram_server_key"))
)
_PARAMETER = re.compile(
    rf"(\b[\w%]{{0,40}}(?:{_SECRET_KEYS})\w{{0,40}}\s{{0,9}}(?:=|%3d)\s{{0,9}})"
    r"('(?:[^'\\]|\\.)*'|(?:[^\s&'\"\\]|\\.)+)",
    re.IGNORECASE,
)
_PASSFILE = re.compile(r"passfile\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&'\"]+)", re.IGNORECASE)
_SECRET_NAME = re.compile("PASS|SECRET|TOKEN|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)
_OWN_NAMES = ("ABSURD_", "PIPELINE_", "CONTIMG_", "PG")

_known: set[str] = set()


def remember(connection: str) -> None:
    """Learn the passwords in a URL or ``key=value`` text, malformed or not, and its passfile."""
    _learn(*_passwords(connection))
    for value in _PASSFILE.findall(connection):
        _learn_passfile(unquote(value.strip("'")))


def remember_database(connection: str) -> None:
    """`remember`; also all that `shown_connection` does not show, in the pieces that errors quote.

    Of a text that no rule fits, that is the whole.
    """
    remember(connection)
    hidden = list(_hidden_parts(connection))
    _learn(*hidden)
    for text in hidden:
        pieces = re.split(r"[\s'\"=&?@/:,]+", text)
        _learn(*(p for p in pieces if len(p) >= _LENGTH_OF_NO_WORD and p not in _NO_SECRETS))
    if _connection(connection, _MASK) == NO_VALID_URL:
        secret = re.search(r"\bpas?s?w\w*\s*=(.*)", connection, re.IGNORECASE | re.DOTALL)
        pieces = re.split(r"[\s'\"=&]+", secret[1]) if secret else []
        _learn(*(piece for piece in pieces if piece not in _NO_SECRETS))


def remember_registry(text: str) -> None:
    """`remember_database`, unless the text is the path of a file."""
    (remember if is_plain_path(text) else remember_database)(text)


def has_password(connection: str) -> bool:
    """Whether there is a password in a URL or ``key=value`` text."""
    return next(_passwords(connection), None) is not None


def is_plain_path(text: str) -> bool:
    """Whether the text can only be meant as a file's path, not as a database, misspelt or not."""
    key = re.match(r"\s*(\w+)\s*=", text)
    if key is not None and key[1] in _PLAIN_KEYS | _HIDDEN_KEYS:
        return False
    return not re.match(r"[A-Za-z][\w+.-]*:|.*@|.*" + _PARAMETER.pattern, text, re.I | re.S)


def known_parameters() -> Set[str]:
    """libpq's names of the parameters of a connection."""
    return _PLAIN_KEYS | _HIDDEN_KEYS


def may_show_parameter(connection: str, name: str) -> bool:
    """Whether the name of an unknown parameter cannot be a piece of a password.

    It can be after the value of a secret parameter, and where an ``@`` follows.
    """
    if any(_PARAMETER.finditer(connection)) or not re.fullmatch(r"\w{1,40}", name):
        return False
    url = _CONNECTION_URL.fullmatch(connection)
    if url is not None:
        return "@" not in (url["query"] or "")
    pairs = list(_PAIR.finditer(connection))
    return "".join(pair[0] for pair in pairs) == connection


def _passwords(connection: str) -> Iterator[str]:
    """The passwords, in the forms and pieces in which errors may quote them."""
    scheme = _SCHEME.match(connection)
    rest = connection[scheme.end() :] if scheme else connection
    user, colon, password = rest.rpartition("@")[0].partition(":")
    if colon and password != user and not connection.startswith("sqlite:"):
        yield from (password, unquote(password), unquote_plus(password))
        yield from (p for p in re.split(r"[#/?@:%\s]", password) if p not in _NO_SECRETS)
    for text in dict.fromkeys((connection, unquote(connection))):
        for _, value in _PARAMETER.findall(text):
            plain = re.sub(r"\\(.)", r"\1", value.strip("'"))
            yield from (value.strip("'"), plain, unquote(plain))


def remember_secret(secret: str) -> None:
    """Learn a password, a token or a URL that holds one, and the parts of that URL's path."""
    _, separator, rest = secret.partition("://")
    account, _, place = rest.rpartition("@")
    path = re.split(r"[/?#]", place, maxsplit=1)[1:] if separator else []
    parts = re.split(r"[/?&=#;:]", "/".join((account, *path)))
    _learn(secret, *(p for p in parts if len(p) >= _LENGTH_OF_NO_WORD and p not in _NO_SECRETS))


def remember_environment(environment: Mapping[str, str]) -> None:
    """Learn the passwords that libpq takes from the environment."""
    _learn(environment.get("PGPASSWORD", ""))
    for name in ("ABSURD_SMTP_PASSWORD", "ABSURD_SLACK_WEBHOOK_URL", "CONTIMG_API_TOKEN"):
        remember_secret(environment.get(name, ""))
    if passfile := environment.get("PGPASSFILE"):
        _learn_passfile(passfile)
    remember_database(environment.get("ABSURD_DATABASE_URL", ""))
    remember_registry(environment.get("PIPELINE_PRODUCTS_DB", ""))


def mask(text: str) -> str:
    """The text with ``***`` in the place of each password."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        if secret not in text:
            continue
        if len(secret) >= _LENGTH_OF_NO_WORD:
            text = text.replace(secret, _MASK)
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _MASK, text)
    for form in (_URL, _NO_SCHEME, _PARAMETER):
        text = form.sub(rf"\1{_MASK}", text)
    return text


def without_password(connection: str) -> str:
    """A URL or ``key=value`` text that can still be used by those who have the password.

    `NO_VALID_URL` where nobody can say which part is secret.
    """
    return mask(_connection(connection, None))


def shown_connection(connection: str) -> str:
    """The same with ``***`` in the place of each value that may be secret.

    Shown is what is known not to be: the values of libpq's other keys.
    """
    return mask(_connection(connection, _MASK))


def _connection(text: str, hidden: str | None) -> str:
    """A connection with `hidden` for each secret value, or without it, key included."""
    if not text.strip():
        return text
    if _FILE_URL.match(text):
        path, mark, _ = text.partition("?")
        return f"{path}{mark}{_MASK if mark else ''}"
    if (url := _CONNECTION_URL.fullmatch(text)) is not None:
        user, query = url["user"], url["query"]
        pairs = [pair.partition("=") for pair in query[1:].split("&")] if query else []
        if all(separator for _, separator, _ in pairs):
            named = [(key, value, unquote(key), unquote(value)) for key, _, value in pairs]
            parts = [part for each in named if (part := _pair(*each, hidden)) is not None]
            secret = f":{hidden}" if url["password"] and hidden is not None else ""
            account = "" if user is None else f"{user}{secret}@"
            return f"{url['scheme']}{account}{url['place']}{'?' if parts else ''}{'&'.join(parts)}"
    pairs_of_text = list(_PAIR.finditer(text))
    is_whole = "".join(pair[0] for pair in pairs_of_text) == text
    if is_whole and all(pair[1] in _PLAIN_KEYS | _HIDDEN_KEYS for pair in pairs_of_text):
        quoted = [
            (pair[1], pair[2], pair[1], re.sub(r"\\(.)", r"\1", pair[2].strip("'")))
            for pair in pairs_of_text
        ]
        return " ".join(part for each in quoted if (part := _pair(*each, hidden)) is not None)
    return NO_VALID_URL


def _pair(key: str, value: str, plain_key: str, plain: str, hidden: str | None) -> str | None:
    """A key and its value, as they are written and as they are meant; None if it is left out."""
    if plain_key in _PLAIN_KEYS and _is_plain(plain_key, plain):
        return f"{key}={value}"
    if hidden is None:
        return None
    return f"{key if plain_key in _PLAIN_KEYS | _HIDDEN_KEYS else hidden}={hidden}"


def _is_plain(key: str, value: str) -> bool:
    """Whether a value cannot hold a secret of another key."""
    if key == "options":
        names = _OPTION.findall(value)
        return not _OPTION.sub("", value).strip() and _PLAIN_OPTIONS.issuperset(names)
    return not re.search(r"[=&?'\"]|://|:.*@", value)


def _hidden_parts(connection: str) -> Iterator[str]:
    """What `shown_connection` does not show."""
    if _connection(connection, _MASK) == NO_VALID_URL:
        yield connection
    for key, value in re.findall(r"([^\s?&=]+)\s*=\s*('[^']*'?|[^\s&]*)", connection):
        text = unquote(value.strip("'"))
        if unquote(key) not in _PLAIN_KEYS or not _is_plain(unquote(key), text):
            yield from (value.strip("'"), text)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that needs no database: no setting of one, no password."""
    known = _secrets()
    return {
        name: value
        for name, value in environment.items()
        if not (name.startswith(_OWN_NAMES) or _SECRET_NAME.search(name) or value in known)
        and not any(form.search(value) for form in (_URL, _NO_SCHEME, _PARAMETER))
    }


def _learn(*passwords: str) -> None:
    """Also in the forms in which URLs, JSON, HTML and Python's messages write them."""
    forms = chain.from_iterable(
        (text, _quoted(text), json.dumps(text)[1:-1], html.escape(text), repr(text)[1:-1])
        for text in passwords
    )
    _known.update(form for form in forms if len(form) >= _LENGTH_MIN)


def _quoted(text: str) -> str:
    try:
        return quote(text, safe="", errors="surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair that stands for no byte: no URL has it
        return quote(text, safe="", errors="backslashreplace")


def _learn_passfile(path: str) -> None:
    try:
        with open_regular(path, JSON_BYTES_MAX) as file:
            lines = file.read(_PASSFILE_BYTES_MAX).decode(errors="replace").splitlines()
    except (OSError, ValueError):
        return  # libpq says so
    for line in lines:
        fields = re.split(r"(?<!\\):", line, maxsplit=4)
        if len(fields) == 5 and not line.startswith("#"):
            _learn(fields[4], re.sub(r"\\(.)", r"\1", fields[4]))


def _secrets() -> Set[str]:
    """All that is known; what the environment has is learnt when this is first asked."""
    _learn_environment()
    return _known


@cache
def _learn_environment() -> None:
    remember_environment(os.environ)

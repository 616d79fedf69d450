"""The token of the API, from the environment or from a file."""

from __future__ import annotations

import stat

from absurd_contimg.errors import SettingError
from absurd_contimg.operations.api.access import TOKEN_CHARACTERS_MIN
from absurd_contimg.regular_files import open_regular
from absurd_contimg.secrets import remember_secret
from absurd_contimg.settings import Settings

_BYTES_MAX = 10_000
_ADVICE = "Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def read_token(settings: Settings) -> str | None:
    """The token, None if there is none: then nothing can be changed. Raises `SettingError`."""
    token = settings.api_token
    if settings.api_token_file is not None:
        if token is not None:
            raise SettingError(
                "Both CONTIMG_API_TOKEN and CONTIMG_API_TOKEN_FILE are set.", "Set one of them."
            )
        token = _read(settings)
    if token is None:
        return None
    remember_secret(token)
    if len(token) < TOKEN_CHARACTERS_MIN or not (token.isascii() and token.isprintable()):
        raise SettingError(
            f"The API's token has fewer than {TOKEN_CHARACTERS_MIN} characters, or some that no "
            "header can have.",
            _ADVICE,
        )
    return token


def _read(settings: Settings) -> str:
    path = settings.api_token_file
    assert path is not None
    try:
        with open_regular(path, _BYTES_MAX) as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = file.read().decode("ascii")
    except (OSError, ValueError) as error:
        raise SettingError(
            f"The file {path} with the API's token cannot be read: {error}.",
            "Correct CONTIMG_API_TOKEN_FILE.",
        ) from None
    if mode & stat.S_IROTH:
        raise SettingError(
            f"Every user can read the API's token in {path}.", f"Run: chmod o-rwx {path}"
        )
    return text.strip()

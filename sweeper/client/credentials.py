"""Where a service is, and the token it wants: from arguments, the environment, or a file that only its owner reads."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from sweeper.errors import SpecError
from sweeper.net import is_loopback

SERVER, TOKEN, TOKEN_FILE = "SWEEPER_SERVER", "SWEEPER_TOKEN", "SWEEPER_TOKEN_FILE"
WHERE = f"{TOKEN}, the file that {TOKEN_FILE} names, or ~/.config/sweeper/token"


def service_address(text: str | None) -> str:
    """Return the address of a service as a URL without `/v1`; None stands for what SWEEPER_SERVER says.

    Raises:
        SpecError: There is none, or it is of another kind.
    """
    text = (os.environ.get(SERVER, "") if text is None else text).strip()
    if not text:
        raise SpecError(f"which server? --server URL, {SERVER} or Client(url) names it, such as http://HOST:8000")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    if parts.username or parts.password:
        raise SpecError(f"credentials do not belong into an address: the token is read from {WHERE}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise SpecError(f"the server must be a URL, such as http://HOST:8000, got {text!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"


def found_token(given: str | None) -> str:
    """Return the token to send, empty where there is none: the one given, of the environment, or of a file.

    Raises:
        SpecError: It is no token, or its file cannot be read or may be read by others.
    """
    if given is None and not (given := os.environ.get(TOKEN, "").strip()):
        given = _from_file(os.environ.get(TOKEN_FILE, "").strip())
    if given and not (given.isascii() and given.isprintable() and " " not in given):
        raise SpecError("the token must be of letters, digits and signs without blanks, as `sweeper token` shows it")
    return given


def _from_file(named: str) -> str:
    file = Path(named or "~/.config/sweeper/token").expanduser()
    try:
        with file.open() as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                raise SpecError(f"the token in {file} may be read by others (mode {mode:03o}): chmod 600 {file}")
            text = stream.read(4096).strip()
    except FileNotFoundError:
        if not named:
            return ""
        raise SpecError(f"there is no file {file}, which {TOKEN_FILE} names") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the token in {file}: {getattr(error, 'strerror', None) or error}") from None
    if not text:
        raise SpecError(f"{file} is empty: write the token into it")
    return text


def check_secret(address: str, token: str) -> None:
    """Refuse to send a token in clear to another machine.

    Raises:
        SpecError: It would be.
    """
    parts = urlsplit(address)
    if token and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise SpecError(
            f"{address} would get the token in clear: use https://, a tunnel (ssh -L), or --insecure (insecure=True)"
        )

"""Address and token of a service: from arguments, the environment, or a file that only its owner can read."""

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
    """Return the address of a service as a URL without `/v1`; None takes SWEEPER_SERVER.

    Raises:
        SpecError: The address is missing, or not an HTTP URL.
    """
    text = (os.environ.get(SERVER, "") if text is None else text).strip()
    if not text:
        raise SpecError(f"no server given: use --server URL, {SERVER} or Client(url), such as http://HOST:8000")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    if parts.username or parts.password:
        raise SpecError(f"the server's URL must not hold credentials: the token comes from {WHERE}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise SpecError(f"the server must be a URL, such as http://HOST:8000, got {text!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"


def read_token(given: str | None) -> str:
    """Return the token from the argument, the environment or a file; empty if none has one.

    Raises:
        SpecError: The text is not a token, or other users can read its file, or it cannot be read.
    """
    if given is None and not (given := os.environ.get(TOKEN, "").strip()):
        given = _read_file(os.environ.get(TOKEN_FILE, "").strip())
    if given and not (given.isascii() and given.isprintable() and " " not in given):
        raise SpecError("the token must be printable ASCII without blanks, as `sweeper token` shows it")
    return given


def _read_file(name: str) -> str:
    file = Path(name or "~/.config/sweeper/token").expanduser()
    try:
        with file.open() as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                raise SpecError(f"other users can read the token in {file} (mode {mode:03o}): chmod 600 {file}")
            text = stream.read(4096).strip()
    except FileNotFoundError:
        if not name:
            return ""
        raise SpecError(f"{TOKEN_FILE} names {file}, which does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the token in {file}: {getattr(error, 'strerror', None) or error}") from None
    if not text:
        raise SpecError(f"{file} is empty: write the token into it")
    return text


def check_secret(address: str, token: str) -> None:
    """Check that the token is not sent unencrypted to another machine.

    Raises:
        SpecError: It would be.
    """
    parts = urlsplit(address)
    if token and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise SpecError(
            f"the token would go to {address} unencrypted: use https://, a tunnel (ssh -L), or --insecure "
            "(insecure=True)"
        )

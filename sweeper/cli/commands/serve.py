"""The commands `serve` and `token`."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper.cli.options import COMMON, COUNT, FLOAT, INTEGER, JSON, PLACE
from sweeper.cli.output import emit
from sweeper.cli.parsing import Argument, Arguments, Choice, Group, Option, command
from sweeper.errors import ExitCode, SpecError
from sweeper.formatting import format_table
from trainables.registry import unknown

if TYPE_CHECKING:
    from sweeper.client.models import Quota, TokenView
    from sweeper.service.config import Config

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_MOST_SECONDS = 100 * 365 * 86400
SECRET = "SWEEPER_WEBHOOK_SECRET"

_PATH = click.Path(path_type=Path)
_SERVE = (
    Option("--host", "ADDR", "Address to listen on. The default is this machine only; others need --auth.",
           default="127.0.0.1", show_default=True),
    Option("--port", "N", "Port to listen on (default: 8000, or the next free one).", type=INTEGER, default=8000),
    *PLACE,
    Option("--address", "ADDR", "Ray cluster: HOST:PORT, or auto (default: a Ray on this machine, started when a sweep "
           "needs it)."),
    Option("--max-running", "N", "Sweeps at a time.", type=COUNT, default=4, show_default=True),
    Option("--inline-memory", "BYTES", "Memory for a sweep of runner inline, such as 8GB; 0 sets no limit (default: "
           "80 % of the machine's, shared among --max-running, at least 4GiB)."),
    Option("--data", "ROOT", "Folder with the data sets (default: data under --root)."),
    Option("--spaces", "DIR", "Folder of space files (.py) that users may name; the server runs their code (default: "
           "none).", type=_PATH),
    Option("--auth", "", "Ask for tokens; `sweeper token` makes them.", default=False),
    Option("--certificate", "FILE", "Serve https with this certificate (PEM).", type=_PATH),
    Option("--key", "FILE", "Key of the certificate, if it is in another file.", type=_PATH),
    Option("--rate", "X", "Requests per second and user; 0 sets no limit.", type=FLOAT, default=200.0,
           show_default=True),
    Option("--max-body", "BYTES", "Largest request.", type=COUNT, default=1 << 20, show_default=True),
    Option("--max-connections", "N", "Largest number of open connections. One address may hold a quarter of them, at "
           "most 256. The default is lower if open files are limited.", type=COUNT, default=2048, show_default=True),
    Option("--trusted-proxy", "ADDR", "Address or network of a proxy in front. It may hold any number of connections, "
           "and its X-Forwarded-For names the client; repeatable.", multiple=True),
    Option("--max-workers", "N", "Largest number of trials at a time of one sweep (default: no limit).", type=COUNT),
    Option("--audit-days", "N", "Days to keep the record of who did what.", type=COUNT, default=400,
           show_default=True),
    Option("--rebuild", "", "List sweeps again whose folders the database does not know.", default=False),
    Option("--webhook", "URL", "Prefix of addresses that may be told when a sweep ends; repeatable.", multiple=True),
    Option("--webhook-secret", "FILE", "File with the secret that signs these messages (default: "
           "SWEEPER_WEBHOOK_SECRET).", type=_PATH),
)  # fmt: skip
ROLES = ("viewer", "submitter", "admin")
_CREATE = (
    Argument("name", "NAME", "Name of the user."),
    Option("--role", "ROLE", "viewer (reads), submitter (also runs sweeps and controls its own) or admin (everything).",
           type=Choice(ROLES), required=True, names=lambda: ROLES),
    Option("--expires", "TIME", "Lifetime in s, m, h, d or w, such as 30d (default: no end)."),
    Option("--quota", "KEY=N", "Limits of the user: running=2 sweeps at a time, waiting=20 in the queue, trials=1000 "
           "and gpu_hours=50 in 30 days (default: unchanged, at first waiting=100).", several=True),
)  # fmt: skip
_ID = Argument("id", "ID", "Id of the token, as `list` shows it.")


@command(_SERVE, COMMON)
def serve(args: Arguments) -> int:
    """`sweeper serve`; it serves until it is interrupted."""
    if not 0 <= args.port <= 65535:
        raise SpecError(f"--port must lie in 0 to 65535, got {args.port}")
    if not 0 <= args.rate <= 1e9:
        raise SpecError(f"--rate must be a number of requests, 0 or more, got {args.rate:g}")
    if args.spaces and not args.spaces.expanduser().is_dir():
        raise SpecError(f"--spaces: there is no folder {args.spaces}")
    try:
        from sweeper.service.serve import Listening
        from sweeper.service.serve import serve as serve_until_stopped
    except ImportError as error:
        raise _missing(error) from None
    proxies = tuple(args.trusted_proxy or ())
    listening = Listening(args.host, args.port, args.certificate, args.key, _secret(args), proxies)
    serve_until_stopped(_config(args), listening, lambda line: print(line, flush=True))
    print("stopped", file=sys.stderr)
    return ExitCode.DONE


def _secret(args: Arguments) -> str:
    if args.webhook_secret is None:
        return os.environ.get(SECRET, "")
    try:
        text = args.webhook_secret.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"--webhook-secret: cannot read {args.webhook_secret}: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not text:
        raise SpecError(f"--webhook-secret: {args.webhook_secret} is empty")
    return text


def _config(args: Arguments) -> Config:
    from sweeper.service.config import Config

    place = {"root": args.root, "state": args.state, "database": args.database}
    if args.command == "token":
        return Config(**place)
    return Config(
        **place,
        address=None if args.address == "local" else args.address,
        max_running=args.max_running,
        inline_memory=_memory(args.inline_memory),
        data=args.data,
        spaces=args.spaces,
        webhooks=tuple(args.webhook or ()),
        auth=args.auth,
        rate=args.rate,
        max_body=args.max_body,
        max_workers=args.max_workers,
        max_connections=args.max_connections,
        audit_days=args.audit_days,
        rebuild=args.rebuild,
    )


def _memory(text: str | None) -> int | None:
    from sweeper.config.fields import parse_bytes

    try:
        found = None if text is None else int(parse_bytes(text))
    except (ValueError, OverflowError) as error:
        raise SpecError(f"--inline-memory {error}") from None
    if found and not 1 << 30 <= found < 1 << 60:
        raise SpecError(f"--inline-memory must be 0 for any, or at least 1GiB, which torch alone takes; got {text}")
    return found


def _token(args: Arguments) -> int:
    """`sweeper token create|list|revoke`."""
    try:
        from sweeper.client.models import Role
        from sweeper.service.db.audit import Audit
        from sweeper.service.db.private import make_private_folder
        from sweeper.service.db.tables import open_database
        from sweeper.service.db.users import Users
        from sweeper.service.service import DATABASE
    except ImportError as error:
        raise _missing(error) from None
    config = _config(args)
    if config.database is None:
        make_private_folder(config.folder)
    engine = open_database(config.database or f"sqlite:///{config.folder / DATABASE}")
    users, audit = Users(engine), Audit(engine)
    try:
        if args.action == "list":
            known = users.tokens()
            emit(args.json, [t.model_dump(mode="json") for t in known], _table(known))
        elif args.action == "revoke":
            shown = users.revoke(args.id)
            audit.write("command line", "revoke_token", shown.id, shown.user, 0)
            emit(args.json, shown.model_dump(mode="json"), f"token {shown.id} of {shown.user} is revoked")
        else:
            expires = None if args.expires is None else time.time() + seconds_of(args.expires)
            shown, text = users.create(args.name, Role(args.role), expires, quota_of(args.quota))
            audit.write("command line", "create_token", shown.id, f"{shown.user}, {shown.role}", 0)
            print("this is shown once: keep it as a password", file=sys.stderr)
            emit(args.json, {**shown.model_dump(mode="json"), "token": text}, text)
    finally:
        engine.dispose()
    return ExitCode.DONE


create = command(_CREATE, PLACE, JSON)(_token)
list_tokens = command(PLACE, JSON)(_token)
revoke = command(_ID, PLACE, JSON)(_token)
_AT = "sweeper.cli.commands.serve:"
_ACTIONS = {
    "create": (f"{_AT}create", "create a token and print it; it is printed only once"),
    "list": (f"{_AT}list_tokens", "list tokens, without their secrets"),
    "revoke": (f"{_AT}revoke", "revoke a token"),
}
token = Group("token", "", _ACTIONS, COMMON)


def _missing(error: ImportError) -> SpecError:
    return SpecError(f"the service needs {error.name}: pip install -e '.[service]' in sweeper's checkout")


def seconds_of(text: str) -> float:
    """Return the seconds of a duration such as 30d.

    Raises:
        SpecError: It is none.
    """
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= _MOST_SECONDS:
        raise SpecError(f"--expires must be a time such as 12h or 30d (s, m, h, d, w), got {text!r}")
    return float(seconds)


def quota_of(texts: list[str] | None) -> Quota | None:
    """Return what `--quota` says; None where it is not given.

    Raises:
        SpecError: An unknown key, or no number.
    """
    from sweeper.client.models import Quota

    if texts is None:
        return None
    found: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in Quota.model_fields:
            raise SpecError(f"--quota: {unknown('key', key, Quota.model_fields)}")
        try:
            number = float(value) if key == "gpu_hours" else int(value)
        except ValueError:
            raise SpecError(f"--quota {key} must be a number, got {value!r}") from None
        if not 0 <= number < 2**31:
            raise SpecError(f"--quota {key} must be 0 or more, got {value}")
        found[key] = number
    return Quota(**found)


def _table(known: list[TokenView]) -> str:
    def day(when: Any) -> str:
        return f"{when:%Y-%m-%d %H:%M}" if when else "–"

    rows = [(t.id, t.user, t.role.value, day(t.created), day(t.expires), day(t.revoked), _limits(t)) for t in known]
    header = ("id", "user", "role", "created (UTC)", "expires", "revoked", "quota")
    return format_table(header, rows, indent=0) if rows else "no tokens yet"


def _limits(token: TokenView) -> str:
    given = token.quota.model_dump(exclude_none=True)
    return ", ".join(f"{name}={value:g}" for name, value in given.items()) or "any"

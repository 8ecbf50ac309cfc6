"""Commands of a service: `serve` and `token`."""

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
    Option("--host", "ADDR", "Address to listen on. The default serves this machine only; other addresses need --auth.",
           default="127.0.0.1", show_default=True),
    Option("--port", "N", "Port to listen on (default: 8000, or the next free one).", type=INTEGER, default=8000),
    *PLACE,
    Option("--address", "ADDR", "Ray cluster: HOST:PORT, or auto (default: a local Ray, which starts with the first "
           "sweep that needs it)."),
    Option("--max-running", "N", "Largest number of running sweeps.", type=COUNT, default=4, show_default=True),
    Option("--inline-memory", "BYTES", "Memory of a sweep with runner inline, such as 8GB; 0 sets no limit (default: "
           "80 % of the machine's memory divided by --max-running, at least 4GiB)."),
    Option("--data", "ROOT", "Folder with the data sets (default: data under --root)."),
    Option("--spaces", "DIR", "Folder of space files (.py) that users may name; the server runs the files' code "
           "(default: none).", type=_PATH),
    Option("--auth", "", "Require a token; `sweeper token` creates tokens.", default=False),
    Option("--certificate", "FILE", "Serve https with this certificate (PEM).", type=_PATH),
    Option("--key", "FILE", "Key of the certificate, if the certificate's file lacks it.", type=_PATH),
    Option("--rate", "X", "Requests per second and user; 0 sets no limit.", type=FLOAT, default=200.0,
           show_default=True),
    Option("--max-body", "BYTES", "Largest request.", type=COUNT, default=1 << 20, show_default=True),
    Option("--max-connections", "N", "Largest number of open connections. One address may hold a quarter, at most 256. "
           "The default is lower if the limit of open files is low.", type=COUNT, default=2048, show_default=True),
    Option("--trusted-proxy", "ADDR", "Address or network of a reverse proxy. It may hold any number of connections, "
           "and its X-Forwarded-For names the client; repeatable.", multiple=True),
    Option("--max-workers", "N", "Largest number of running trials per sweep (default: no limit).", type=COUNT),
    Option("--audit-days", "N", "Days to keep the audit log.", type=COUNT, default=400,
           show_default=True),
    Option("--rebuild", "", "Add the sweeps under --root that the database lacks.", default=False),
    Option("--webhook", "URL", "Prefix of URLs that the service may notify at the end of a sweep; repeatable.",
           multiple=True),
    Option("--webhook-secret", "FILE", "File with the secret that signs notifications (default: "
           "SWEEPER_WEBHOOK_SECRET).", type=_PATH),
)  # fmt: skip
ROLES = ("viewer", "submitter", "admin")
_CREATE = (
    Argument("name", "NAME", "Name of the user."),
    Option("--role", "ROLE", "viewer (reads), submitter (also runs and controls sweeps) or admin (everything).",
           type=Choice(ROLES), required=True, names=lambda: ROLES),
    Option("--expires", "TIME", "Lifetime in s, m, h, d or w, such as 30d (default: unlimited)."),
    Option("--quota", "KEY=N", "Limits of the user: running=2 sweeps, waiting=20 sweeps in the queue, trials=1000 and "
           "gpu_hours=50 in 30 days (default: unchanged; waiting=100 for a new user).", several=True),
)  # fmt: skip
_ID = Argument("id", "ID", "Id of the token, from `sweeper token list`.")


@command(_SERVE, COMMON)
def serve(args: Arguments) -> int:
    """`sweeper serve`, until an interrupt."""
    if not 0 <= args.port <= 65535:
        raise SpecError(f"--port must lie in 0 to 65535, got {args.port}")
    if not 0 <= args.rate <= 1e9:
        raise SpecError(f"--rate must lie in 0 to 1e9 requests per second, got {args.rate:g}")
    if args.spaces and not args.spaces.expanduser().is_dir():
        raise SpecError(f"--spaces must be a folder, got {args.spaces}")
    try:
        from sweeper.service.serve import Listening
        from sweeper.service.serve import serve as serve_until_stopped
    except ImportError as error:
        raise _missing_package(error) from None
    proxies = tuple(args.trusted_proxy or ())
    listening = Listening(args.host, args.port, args.certificate, args.key, _read_webhook_secret(args), proxies)
    serve_until_stopped(_make_config(args), listening, lambda line: print(line, flush=True))
    print("stopped", file=sys.stderr)
    return ExitCode.DONE


def _read_webhook_secret(args: Arguments) -> str:
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


def _make_config(args: Arguments) -> Config:
    from sweeper.service.config import Config

    place = {"root": args.root, "state": args.state, "database": args.database}
    if args.command == "token":
        return Config(**place)
    return Config(
        **place,
        address=None if args.address == "local" else args.address,
        max_running=args.max_running,
        inline_memory=_parse_memory(args.inline_memory),
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


def _parse_memory(text: str | None) -> int | None:
    from sweeper.config.fields import parse_bytes

    try:
        memory = None if text is None else int(parse_bytes(text))
    except (ValueError, OverflowError) as error:
        raise SpecError(f"--inline-memory {error}") from None
    if memory and not 1 << 30 <= memory < 1 << 60:
        raise SpecError(f"--inline-memory must be 0 for no limit, or at least 1GiB, which torch needs; got {text}")
    return memory


def _run_token_command(args: Arguments) -> int:
    """`sweeper token create|list|revoke`."""
    try:
        from sweeper.client.models import Role
        from sweeper.service.db.audit import Audit
        from sweeper.service.db.private import make_private_folder
        from sweeper.service.db.tables import open_database
        from sweeper.service.db.users import Users
        from sweeper.service.service import DATABASE
    except ImportError as error:
        raise _missing_package(error) from None
    config = _make_config(args)
    if config.database is None:
        make_private_folder(config.folder)
    engine = open_database(config.database or f"sqlite:///{config.folder / DATABASE}")
    users, audit = Users(engine), Audit(engine)
    try:
        if args.action == "list":
            tokens = users.tokens()
            emit(args.json, [t.model_dump(mode="json") for t in tokens], _format_tokens(tokens))
        elif args.action == "revoke":
            shown = users.revoke(args.id)
            audit.write("command line", "revoke_token", shown.id, shown.user, 0)
            emit(args.json, shown.model_dump(mode="json"), f"token {shown.id} of {shown.user} is revoked")
        else:
            expires = None if args.expires is None else time.time() + parse_duration(args.expires)
            shown, text = users.create(args.name, Role(args.role), expires, parse_quota(args.quota))
            audit.write("command line", "create_token", shown.id, f"{shown.user}, {shown.role}", 0)
            print("the token is shown only once: keep it like a password", file=sys.stderr)
            emit(args.json, {**shown.model_dump(mode="json"), "token": text}, text)
    finally:
        engine.dispose()
    return ExitCode.DONE


create = command(_CREATE, PLACE, JSON)(_run_token_command)
list_tokens = command(PLACE, JSON)(_run_token_command)
revoke = command(_ID, PLACE, JSON)(_run_token_command)
_AT = "sweeper.cli.commands.serve:"
_TOKEN_COMMANDS = {
    "create": (f"{_AT}create", "create a token and print it once"),
    "list": (f"{_AT}list_tokens", "list tokens, without their secrets"),
    "revoke": (f"{_AT}revoke", "revoke a token"),
}
token = Group("token", "", _TOKEN_COMMANDS, COMMON)


def _missing_package(error: ImportError) -> SpecError:
    return SpecError(f"the service needs {error.name}: run `pip install 'sweeper[service]'`")


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as 30d.

    Raises:
        SpecError: The text is no duration, or the duration exceeds 100 years.
    """
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= _MOST_SECONDS:
        raise SpecError(f"--expires must be a duration such as 12h or 30d (s, m, h, d, w), got {text!r}")
    return float(seconds)


def parse_quota(texts: list[str] | None) -> Quota | None:
    """Return the quota of `KEY=N` texts; None for None.

    Raises:
        SpecError: A key is unknown, or a value is no number.
    """
    from sweeper.client.models import Quota

    if texts is None:
        return None
    limits: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in Quota.model_fields:
            raise SpecError(f"--quota: {unknown('key', key, Quota.model_fields)}")
        try:
            number = float(value) if key == "gpu_hours" else int(value)
        except ValueError:
            raise SpecError(f"--quota {key} must be a number, got {value!r}") from None
        if not 0 <= number < 2**31:
            raise SpecError(f"--quota {key} must lie in 0 to 2147483647, got {value}")
        limits[key] = number
    return Quota(**limits)


def _format_tokens(tokens: list[TokenView]) -> str:
    def format_time(time: Any) -> str:
        return f"{time:%Y-%m-%d %H:%M}" if time else "–"

    rows = [
        (t.id, t.user, t.role.value, *(format_time(time) for time in (t.created, t.expires, t.revoked)),
         _format_quota(t))
        for t in tokens
    ]  # fmt: skip
    header = ("id", "user", "role", "created (UTC)", "expires", "revoked", "quota")
    return format_table(header, rows, indent=0) if rows else "no tokens yet"


def _format_quota(token: TokenView) -> str:
    limits = token.quota.model_dump(exclude_none=True)
    return ", ".join(f"{name}={value:g}" for name, value in limits.items()) or "unlimited"

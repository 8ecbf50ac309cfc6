"""Flags of the commands that serve many sweeps, and give tokens to their users."""

from __future__ import annotations

import argparse
from pathlib import Path

from sweeper.cluster_flags import count

ROLES = ("viewer", "submitter", "admin")


def add_serve(sub: argparse.ArgumentParser) -> None:
    """Add what `serve` takes."""
    sub.add_argument("--host", metavar="ADDR", default="127.0.0.1", help="address to listen on (default: %(default)s, "
                     "this machine only; another one needs --auth)")  # fmt: skip
    sub.add_argument("--port", metavar="N", type=int, default=8000, help="default: %(default)s, or the next free")
    _add_place(sub)
    sub.add_argument("--address", metavar="ADDR", help="Ray cluster: HOST:PORT, or auto (default: a Ray on this "
                     "machine, started when a sweep needs it)")  # fmt: skip
    sub.add_argument("--max-running", metavar="N", type=count, default=4, help="sweeps at a time "
                     "(default: %(default)s)")  # fmt: skip
    sub.add_argument("--inline-memory", metavar="BYTES", help="memory that a sweep of runner inline may take, such as "
                     "8GB; 0 for any (default: 80 %% of the machine's, shared among --max-running, at least "
                     "4GiB)")  # fmt: skip
    sub.add_argument("--data", metavar="ROOT", help="folder with the data sets (default: data under --root)")
    sub.add_argument("--spaces", metavar="DIR", type=Path, help="folder of space files (.py) that users may name; they "
                     "are code (default: none)")  # fmt: skip
    sub.add_argument("--auth", action="store_true", help="ask for tokens; `sweeper token` makes them")
    sub.add_argument("--certificate", metavar="FILE", type=Path, help="serve https with this certificate (PEM)")
    sub.add_argument("--key", metavar="FILE", type=Path, help="its key, where that is another file")
    sub.add_argument("--rate", metavar="X", type=float, default=200.0, help="requests a second of one user; 0 for any "
                     "(default: %(default)g)")  # fmt: skip
    sub.add_argument("--max-body", metavar="BYTES", type=count, default=1 << 20, help="largest request "
                     "(default: %(default)s)")  # fmt: skip
    sub.add_argument("--max-connections", metavar="N", type=count, default=2048, help="open connections at most, a "
                     "quarter of them, and 256, from one address (default: %(default)s, or fewer where open files are "
                     "limited)")  # fmt: skip
    sub.add_argument("--trusted-proxy", metavar="ADDR", action="append", help="address or network of a proxy in front, "
                     "which may hold any connections and says by X-Forwarded-For who asks; repeatable")  # fmt: skip
    sub.add_argument("--max-workers", metavar="N", type=count, help="trials at a time of one sweep, at most "
                     "(default: any)")  # fmt: skip
    sub.add_argument("--audit-days", metavar="N", type=count, default=400, help="for so long it is kept who did what "
                     "(default: %(default)s)")  # fmt: skip
    sub.add_argument("--rebuild", action="store_true", help="list sweeps again whose folders the database does not "
                     "know")  # fmt: skip
    sub.add_argument("--webhook", metavar="URL", action="append", help="addresses that begin so may be told of ends; "
                     "repeatable")  # fmt: skip
    sub.add_argument("--webhook-secret", metavar="FILE", type=Path, help="what signs these messages (default: "
                     "SWEEPER_WEBHOOK_SECRET)")  # fmt: skip


def add_token(sub: argparse.ArgumentParser) -> None:
    """Add what `token` takes."""
    actions = sub.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(sub))

    def action(name: str, text: str) -> argparse.ArgumentParser:
        found = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        found.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON on stdout")
        _add_place(found)
        return found

    create = action("create", "make a token, which is shown this once")
    create.add_argument("name", metavar="NAME", help="of its user")
    create.add_argument("--role", choices=ROLES, metavar="ROLE", required=True, help="viewer (reads), submitter (also "
                        "runs sweeps and steers its own) or admin (everything)")  # fmt: skip
    create.add_argument("--expires", metavar="TIME", help="after so many s, m, h, d or w, such as 30d (default: never)")
    create.add_argument("--quota", metavar="KEY=N", nargs="+", help="what the user may have: running=2 sweeps at a "
                        "time and waiting=20 beside them, trials=1000 and gpu_hours=50 in 30 days (default: as it was, "
                        "at first waiting=100)")  # fmt: skip
    action("list", "list tokens, without their secrets")
    action("revoke", "end a token").add_argument("id", metavar="ID", help="of the token, as `list` shows it")


def _add_place(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--root", metavar="DIR|URI", default="sweeps", help="folder or URI of the sweeps' run folders "
                     "(default: %(default)s)")  # fmt: skip
    sub.add_argument("--state", metavar="DIR", type=Path, help="folder of this machine for the server's own files "
                     "(default: .service under --root)")  # fmt: skip
    sub.add_argument("--database", metavar="URL", help="sqlite:///FILE or postgresql://USER@HOST/NAME (default: a "
                     "SQLite file among the server's own)")  # fmt: skip

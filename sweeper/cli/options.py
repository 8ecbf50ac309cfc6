"""Options that commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

SERVED = ("run", "resume", "extend", "list", "best", "recommend", "pair", "dashboard", "spaces", "noises", "merges")
"""Commands that a service carries out too, beside `status` and `stop`, which job servers know as well."""


def count(text: str) -> int:
    """Read a number of things, at least one."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number >= 0, got {text!r}")
    return int(text)


def add_server(sub: argparse.ArgumentParser) -> None:
    """Add what leads to a job server."""
    sub.add_argument("--address", metavar="URL", help="the cluster's job server: http://HEAD:8265 (default: "
                     "RAY_API_SERVER_ADDRESS)")  # fmt: skip
    add_trust(sub)


def add_trust(sub: argparse.ArgumentParser, default: str | None = argparse.SUPPRESS) -> None:
    """Add how far a server is trusted; given like this, a flag before the command holds too."""
    sub.add_argument("--ca", metavar="FILE", default=default, help="certificates to trust of an https server "
                     "(default: the system's)")  # fmt: skip
    sub.add_argument("--insecure", action="store_true", default=default, help="do not check its certificate; a "
                     "service gets the token even over http")  # fmt: skip


def add_service(sub: argparse.ArgumentParser, default: str | None = argparse.SUPPRESS) -> None:
    """Add what leads to a service."""
    sub.add_argument("--server", metavar="URL", default=default, help="let a service carry the command out, see "
                     "`sweeper serve` (default: SWEEPER_SERVER; run folders that are here stay here then; '' for "
                     "none)")  # fmt: skip


def add_sent(sub: argparse.ArgumentParser) -> None:
    """Add what `run` takes for a sweep that is sent to a service."""
    add_detach(sub)
    sub.add_argument("--dry-run", dest="estimate", action="store_true", help="with --server: say what the sweep will "
                     "cost, and run nothing")  # fmt: skip
    sub.add_argument("--name", dest="label", help="with --server: what the sweep is called in lists")
    sub.add_argument("--priority", metavar="N", help="with --server: -100 to 100, higher ones start first (default: 0)")
    sub.add_argument("--shared", action="store_true", default=None, help="with --server: all its users may see it")
    sub.add_argument("--webhook", metavar="URL", help="with --server: is told of the sweep's end")


def add_detach(sub: argparse.ArgumentParser) -> None:
    """Add the way out of following a sweep that a service runs."""
    sub.add_argument("--detach", action="store_true", help="with --server: return at once")


def add_submit(sub: argparse.ArgumentParser) -> None:
    """Add what `submit` takes beside the flags of `run`."""
    add_server(sub)
    sub.add_argument("--follow", action="store_true", help="print what the job prints until it ends; its exit code is "
                     "ours, and Ctrl-C detaches")  # fmt: skip
    sub.add_argument("--job-id", metavar="NAME", help="name of the job (default: the same for the same sweep)")
    sub.add_argument("--working-dir", metavar="DIR", help="folder whose files the job finds in its own folder")
    _add_env(sub)
    sub.add_argument("--pip", metavar="PACKAGE", action="append", help="package, or file of packages (.txt), that the "
                     "job installs first; repeatable")  # fmt: skip
    sub.add_argument("--python", metavar="PATH", default="python", help="Python of the head that runs the job "
                     "(default: %(default)s, as the head's PATH has it)")  # fmt: skip


def add_manifest(sub: argparse.ArgumentParser) -> None:
    """Add what `manifest` takes beside the flags of `run`."""
    kind = sub.add_mutually_exclusive_group(required=True)
    kind.add_argument("--kuberay", action="store_true", help="a RayJob, for kubectl apply")
    kind.add_argument("--ray-up", action="store_true", help="a cluster file, for ray up")
    sub.add_argument("--name", help="of the cluster and its job (default: the same for the same sweep)")
    sub.add_argument("--image", help="container image with this package (default: sweeper:VERSION)")
    sub.add_argument("--cluster-workers", metavar="N", type=count, help="nodes beside the head (default: 2)")
    sub.add_argument("--max-cluster-workers", metavar="N", type=count, help="add nodes up to so many (default: none)")
    sub.add_argument("--cpus-per-worker", metavar="N", type=count, help="default: 8; --provider local needs it")
    sub.add_argument("--gpus-per-worker", metavar="N", type=_whole, help="default: what a trial asks for, else 0")
    sub.add_argument("--memory-per-worker", metavar="BYTES", default="32Gi", help="default: %(default)s")
    sub.add_argument("--shm", metavar="BYTES", default="8Gi", help="of /dev/shm (default: %(default)s)")
    _add_env(sub)
    sub.add_argument(
        "--token-secret", metavar="NAME", help="secret with the key auth_token (default: KubeRay makes one)"
    )
    sub.add_argument("--secret", metavar="NAME", action="append", help="secret whose keys are variables of all "
                     "pods, such as a store's credentials; repeatable")  # fmt: skip
    sub.add_argument("--volume-claim", metavar="NAME", help="claim of a volume that all pods mount at /shared")
    sub.add_argument("--retries", metavar="N", type=_whole, default=3, help="new clusters that continue the sweep "
                     "(default: %(default)s)")  # fmt: skip
    sub.add_argument("--deadline", metavar="S", type=count, help="end the job after S seconds")
    sub.add_argument("--keep-seconds", metavar="S", type=_whole, default=300, help="keep the cluster so long after its "
                     "end (default: %(default)s)")  # fmt: skip
    sub.add_argument("--provider", choices=("aws", "gcp", "local"), default="aws", help="of --ray-up "
                     "(default: %(default)s)")  # fmt: skip
    sub.add_argument("--region", help="default: us-west-2 (aws), us-west1 (gcp)")
    sub.add_argument("--zone", help="of gcp (default: the region's first)")
    sub.add_argument("--project", help="of gcp")
    sub.add_argument("--instance", metavar="TYPE", help="machine type of the nodes")
    sub.add_argument("--node-role", metavar="NAME", help="instance profile (aws) or service account (gcp) of all "
                     "nodes, as which they reach the store (default: Ray gives one to the head only)")  # fmt: skip
    sub.add_argument("--head-ip", metavar="HOST", help="head, of --provider local")
    sub.add_argument("--worker-ips", metavar="HOST", nargs="+", help="nodes, of --provider local")
    sub.add_argument("--ssh-user", metavar="NAME", default="ubuntu", help="default: %(default)s")


def _add_env(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--env", metavar="NAME[=VALUE]", action="append", help="variable of the job's environment; "
                     "whoever may see the cluster's jobs sees it; repeatable")  # fmt: skip


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

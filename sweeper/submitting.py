"""`sweeper submit`, `stop` and `status` of a job: the same sweep as a Ray job on a cluster."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .addresses import check_job_server
from .flags import MACHINE_KEYS, RUN_KEYS, flags
from .places import is_uri
from .report import emit
from .spec import SpecError, SweepSpec, load_spec
from .specfile import assignments

PACKAGES = ("trainables", "search_spaces", "sweeper", "dashboards")
SHIPPED, LARGEST = "sweep.yaml", 50 * 2**20
RUNNING = ("PENDING", "RUNNING")
# a stopped driver ends its trials and says how to go on, which takes longer than Ray's 3 s
STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}


def submit(args: argparse.Namespace) -> int:
    """`sweeper submit SPACE|spec.yaml --address URL`."""
    given = flags(args, tuple(k for k in RUN_KEYS + MACHINE_KEYS if k != "address"))
    if args.set:
        given["fixed"] = assignments(args.set)
    spec = load_spec(args.target, given)
    check_out(spec.out)
    client = connect(args.address, _verify(args))
    job = _job_id(client, args.job_id, spec, args.address)
    with tempfile.TemporaryDirectory(prefix="sweeper-submit-") as folder:
        pack(spec, Path(folder))
        command = f"{args.python} -m sweeper run {SHIPPED} --address auto --yes --out {shlex.quote(str(spec.out))}"
        environment = {**_environment(args.env or ()), **STOPPING}
        _called(lambda: client.submit_job(
            entrypoint=command, submission_id=job, runtime_env={"working_dir": folder, "env_vars": environment}
        ), args.address)  # fmt: skip
    where = f"{job} --address {args.address}"
    emit(args.json, {"job": job, "out": spec.out}, f"job {job} runs {spec.space}; results go to {spec.out}\n"
         f"`sweeper status {where}` shows it, `sweeper stop {where}` stops it")  # fmt: skip
    return follow(client, job, args.address) if args.follow else 0


def stop(args: argparse.Namespace) -> int:
    """`sweeper stop JOB --address URL`."""
    client = connect(args.address, _verify(args))
    known = _known(client, args.job, args.address)
    if known.status not in RUNNING:
        raise SpecError(f"job {args.job} does not run: it is {known.status.lower()}")
    _called(lambda: client.stop_job(args.job), args.address)
    emit(args.json, {"job": args.job, "stopping": True}, f"job {args.job} stops; finished trials are kept, and "
         "the same `sweeper submit` again continues")  # fmt: skip
    return 0


def job_status(args: argparse.Namespace) -> int:
    """`sweeper status JOB --address URL`."""
    client = connect(args.address, _verify(args))
    known = _known(client, args.dir, args.address)
    lines = _called(lambda: client.get_job_logs(args.dir), args.address).strip().splitlines()
    record = {"job": args.dir, "status": known.status, "exit_code": known.driver_exit_code,
              "command": known.entrypoint, "message": known.message, "last": lines[-1] if lines else ""}  # fmt: skip
    code = "" if known.driver_exit_code is None else f", exit code {known.driver_exit_code}"
    emit(args.json, record, "\n".join([f"job {args.dir}: {known.status.lower()}{code}", *lines[-10:]]))
    return 0


def check_out(out: str | None) -> None:
    """Check that a sweep elsewhere writes to where its results outlive it.

    Raises:
        SpecError: It does not.
    """
    if out is None or not (is_uri(out) or Path(out).is_absolute()):
        raise SpecError(
            "--out must be a URI (s3://...) or an absolute path on storage that all nodes share: a job's own folder "
            f"goes with it, got {out}"
        )


def connect(address: str, verify: bool | str) -> Any:
    """Return a client of a cluster's job server.

    Raises:
        SpecError: It cannot be reached, or refuses the token.
    """
    check_job_server(address, verify)
    try:
        import aiohttp  # noqa: F401  (the client's own, it fails late without)
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise SpecError("jobs need Ray's job client: pip install 'sweeper[cluster]'") from None
    # which the client would take instead of the address
    kept = {k: os.environ.pop(k) for k in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if k in os.environ}
    try:
        return _called(lambda: JobSubmissionClient(address, verify=verify), address)
    finally:
        os.environ.update(kept)


def _called(call: Any, address: str) -> Any:
    from ray.exceptions import RayError

    try:
        return call()
    except (RuntimeError, RayError, ValueError, OSError) as error:
        text = str(error)
        if re.search(r"\b(401|403)\b|[Uu]nauthori|[Ff]orbidden|authentication token", text):
            raise SpecError(f"the cluster at {address} refuses the token: check RAY_AUTH_TOKEN or its file") from None
        raise SpecError(f"the job server at {address} says: {' '.join(text.split())[:300]}") from None


def _verify(args: argparse.Namespace) -> bool | str:
    return False if args.insecure else args.ca or True


def _known(client: Any, job: str, address: str) -> Any:
    known = {j.submission_id: j for j in _called(client.list_jobs, address) if j.submission_id}
    if job not in known:
        there = ", ".join(sorted(known)[-5:]) or "none"
        raise SpecError(f"there is no job {job!r} at {address}; there are {there}")
    return known[job]


def _job_id(client: Any, asked: str | None, spec: SweepSpec, address: str) -> str:
    """Return an id that is free: that of the sweep and its folder, counted on where earlier ones are over."""
    states = {j.submission_id: j.status for j in _called(client.list_jobs, address)}
    if asked:
        if asked in states:
            raise SpecError(f"there is a job {asked} already ({states[asked].lower()}); choose another --job-id")
        return asked
    key = hashlib.sha256(f"{spec.to_yaml()}\n{spec.out}".encode()).hexdigest()[:8]
    job = first = f"sweeper-{re.sub(r'[^A-Za-z0-9]+', '-', Path(spec.space).stem)}-{key}"
    count = 1
    while job in states:
        if states[job] in RUNNING:
            raise SpecError(
                f"this sweep runs there already as job {job} ({states[job].lower()}): `sweeper status {job} "
                f"--address {address}`"
            )
        count += 1
        job = f"{first}-{count}"
    return job


def _environment(texts: Sequence[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or (not equals and name not in os.environ):
            raise SpecError(f"--env needs NAME=VALUE, or a NAME that is set here, got {text!r}")
        found[name] = value if equals else os.environ[name]
    return found


def pack(spec: SweepSpec, folder: Path) -> None:
    """Write what a job needs into a folder: the spec, the user's own space file, this package.

    Raises:
        SpecError: It is too large to send.
    """
    shipped = spec
    if spec.space.endswith(".py"):
        shutil.copyfile(spec.space, folder / Path(spec.space).name)
        shipped = spec.model_copy(update={"space": Path(spec.space).name})
    (folder / SHIPPED).write_text(shipped.to_yaml())
    here = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        shutil.copytree(here / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    if size > LARGEST:
        raise SpecError(f"a job must be at most {LARGEST // 2**20} MiB to be sent, got {size / 2**20:.0f}")


def follow(client: Any, job: str, address: str) -> int:
    """Print a job's lines until it ends; returns its exit code. Ctrl-C leaves it running."""

    async def lines() -> None:
        async for text in client.tail_job_logs(job):
            sys.stdout.write(text)
            sys.stdout.flush()

    try:
        asyncio.run(lines())
        known = _known(client, job, address)
    except KeyboardInterrupt:
        where = f"{job} --address {address}"
        print(f"\nleft; the job goes on: `sweeper status {where}`, `sweeper stop {where}`", file=sys.stderr)
        return 0
    except (OSError, RuntimeError) as error:
        raise SpecError(f"the connection to {address} was lost: {error}; job {job} goes on") from None
    if known.driver_exit_code is None:
        print(f"job {job}: {known.status.lower()}: {known.message}", file=sys.stderr)
        return 0 if known.status == "SUCCEEDED" else 1
    return int(known.driver_exit_code)

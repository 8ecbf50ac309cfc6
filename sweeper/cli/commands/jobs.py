"""The commands that speak to a cluster's job server: `submit`, and `status` and `stop` of a job."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.cli.options import COMMON, ENV, JOB_SERVER, SET, TARGET, sweep_elsewhere
from sweeper.cli.output import emit
from sweeper.cli.parsing import Argument, Arguments, Option, command
from sweeper.cli.sweep_options import read_sweep
from sweeper.deploy.bundle import bundle_sweep, job_name, package_files, parse_environment, zip_files
from sweeper.deploy.command import STOP_SECONDS, STOP_VARIABLES, sweep_command
from sweeper.deploy.job_server import JobServer, UnreachableError, ended, wait_for_end
from sweeper.errors import ExitCode, SpecError
from trainables.registry import unknown

LOOK_SECONDS, MOST_LOOK_SECONDS, AWAY_SECONDS = 1.0, 10.0, 120.0
"""Between looks at a followed job: longer ones for longer logs; a server may be away so long."""
_OF_RAY = re.compile("RAY_AUTH_TOKEN", re.IGNORECASE)

_SUBMIT = (
    Option("--follow", "", "Print what the job prints until it ends, and return its exit code. Ctrl-C detaches.",
           default=False, group="job"),
    Option("--job-id", "NAME", "Name of the job (default: the same for the same sweep).", group="job"),
    Option("--working-dir", "DIR", "Folder whose files the job finds in its own folder.", group="job"),
    ENV,
    Option("--pip", "PACKAGE", "Package, or file of packages (.txt), that the job installs first; repeatable.",
           multiple=True, group="job"),
    Option("--python", "PATH", "Python on the head that runs the job.", default="python", show_default=True,
           group="job"),
)  # fmt: skip
_JOB = Argument("job", "JOB", "Id of the job; with --server of the sweep, whose running trials finish first.")
_CANCEL = Option("--cancel", "", "With --server: end the sweep's trials at once.", default=False)


@command(TARGET, sweep_elsewhere(), SET, JOB_SERVER, _SUBMIT, COMMON)
def submit(args: Arguments) -> int:
    """`sweeper submit SPACE|spec.yaml`."""
    spec = read_sweep(args, elsewhere=True).spec
    found, variables = bundle_sweep(spec, args.working_dir), parse_environment(args.env or (), _OF_RAY)
    needs = _requirements(args.pip or ())
    server = _server(args)
    name = _new_name(server, args.job_id, job_name(spec, found))
    runtime_env: dict[str, Any] = {
        "working_dir": server.upload(zip_files(found.files)),
        "py_modules": [server.upload(zip_files(package_files()))],
        "env_vars": {**variables, **STOP_VARIABLES},
        **({"pip": needs} if needs else {}),
    }
    try:
        # exec: the signal that stops the job is to reach the sweep itself
        server.submit(name, f"exec {sweep_command(found, args.python)}", runtime_env, {"sweeper_out": found.out})
    except SpecError:
        if server.job(name) is None:
            raise
        raise SpecError(_taken(server, name)) from None
    at = _at(args, server)
    print(f"job {name} is submitted to {server.address}; its results go to {found.out}", file=sys.stderr)
    if args.follow:
        return _followed(args, server, name, at)
    print(f"`sweeper status {name}{at} --follow` follows it, `sweeper stop {name}{at}` stops it", file=sys.stderr)
    emit(args.json, {"job": name, "address": server.address, "out": found.out}, name)
    return ExitCode.DONE


def job_status(args: Arguments) -> int:
    """`sweeper status JOB --address URL`."""
    server = _server(args)
    record = _record(_known(server, args.dir))
    if args.follow:
        return _followed(args, server, record["job"], _at(args, server))
    lines = server.logs(record["job"]).splitlines()
    shown = [f"{k.replace('_', ' '):<12}{'–' if v is None else v}" for k, v in record.items()]
    emit(args.json, {**record, "log": lines}, "\n".join((*shown, "last lines of its log:", *lines[-10:])))
    return ExitCode.DONE


@command(_JOB, _CANCEL, JOB_SERVER, COMMON)
def stop(args: Arguments) -> int:
    """`sweeper stop JOB --address URL`."""
    server = _server(args)
    record = _record(_known(server, args.job))
    name = record["job"]
    if ended(record):
        emit(args.json, record, f"job {name} has ended before: {record['status']}")
        return ExitCode.DONE
    server.stop(name)
    print(f"job {name} is asked to stop: trials that are finished are kept", file=sys.stderr)
    record = _record(wait_for_end(server, name, STOP_SECONDS + 30))
    if not ended(record):
        raise UnreachableError(
            f"job {name} is still {record['status']}; `sweeper status {name}{_at(args, server)}` shows it"
        )
    again = f"; submitted again it continues in {record['out']}" if record["out"] else ""
    emit(args.json, record, f"job {name} has ended: {record['status']}{again}")
    return ExitCode.DONE


def follow(server: JobServer, name: str, write: Callable[[str], None]) -> dict[str, Any]:
    """Hand on what a job prints, line by line, until it has ended; returns what the server knows of it then.

    Raises:
        UnreachableError: The server was away for two minutes; the job may go on.
    """
    shown, pause, since = 0, LOOK_SECONDS, time.monotonic()
    while True:
        try:
            job = _known(server, name)  # before the log: of a job that has ended it is complete
            text = server.logs(name)
        except UnreachableError:
            if time.monotonic() - since > AWAY_SECONDS:
                raise
            time.sleep(pause)
            continue
        since = time.monotonic()
        whole = len(text) if ended(job) else text.rfind("\n") + 1
        for line in text[shown:whole].splitlines():
            write(line)
        shown = max(shown, whole)
        if ended(job):
            return job
        # each look fetches the whole log
        pause = min(MOST_LOOK_SECONDS, max(LOOK_SECONDS, len(text) / 1e5))
        time.sleep(pause)


def exit_code(job: Mapping[str, Any]) -> int:
    """Return the exit code of the sweep that a job ran; of one that was stopped that of an interrupted sweep."""
    code = job.get("driver_exit_code")
    if isinstance(code, int):
        return code if code >= 0 else 128 - code
    return {"SUCCEEDED": ExitCode.DONE, "STOPPED": ExitCode.INTERRUPTED}.get(str(job.get("status")), ExitCode.ERROR)


def _followed(args: Arguments, server: JobServer, name: str, at: str) -> int:
    stream = sys.stderr if args.json else sys.stdout
    last: list[str] = []

    def write(line: str) -> None:
        last[:] = [*last[-20:], line]
        print(line, file=stream, flush=True)

    try:
        job = follow(server, name, write)
    except KeyboardInterrupt:
        print(
            f"detached, job {name} goes on: `sweeper status {name}{at} --follow` looks again, "
            f"`sweeper stop {name}{at}` stops it",
            file=sys.stderr,
        )
        return ExitCode.DONE
    except UnreachableError as error:
        print(f"error: lost sight of job {name}, which may go on: {error}", file=sys.stderr)
        return ExitCode.ERROR
    record, code = _record(job), exit_code(job)
    if hint := _hint(job, code, last):
        print(hint, file=sys.stderr)
    if args.json:
        emit(True, record, "")
    else:
        print(f"job {name} has ended: {record['status']}, exit code {code}", file=sys.stderr)
    return code


def _hint(job: Mapping[str, Any], code: int, last: Sequence[str]) -> str:
    text = "\n".join(last)
    if job.get("driver_exit_code") is None and job.get("status") == "FAILED":
        return f"the job could not run: {' '.join(str(job.get('message') or 'no reason given').split())[:500]}"
    if code in (126, 127):
        return (
            "the job's environment has no such Python: --python names the one of the head, such as /opt/venv/bin/python"
        )
    if found := re.search(r"No module named '?([\w.]+)", text):
        return (
            f"the Python of the job lacks {found[1]}: --python names another one of the head, --pip adds packages, the "
            "Dockerfile makes an image with all of them"
        )
    return ""


def _server(args: Arguments) -> JobServer:
    known = (os.environ.get(k, "") for k in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
    address = args.address or next((a for a in known if a.startswith(("http://", "https://"))), "")
    if not address:
        raise SpecError("--address must name the cluster's job server, such as http://HEAD:8265")
    if args.ca and not Path(args.ca).exists():
        raise SpecError(f"--ca must be a file or folder of certificates; there is no {args.ca}")
    return JobServer(address, False if args.insecure else args.ca or True)


def _at(args: Arguments, server: JobServer) -> str:
    trusted = f" --ca {shlex.quote(args.ca)}" if args.ca else ""
    trusted += " --insecure" if args.insecure else ""
    return f" --address {shlex.quote(server.address)}{trusted}"


def _new_name(server: JobServer, wanted: str | None, usual: str) -> str:
    if wanted is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", wanted):
            raise SpecError(f"--job-id must be of letters, digits, dots, hyphens and underscores, got {wanted!r}")
        if server.job(wanted) is not None:
            raise SpecError(_taken(server, wanted))
        return wanted
    name, number = usual, 1
    while (job := server.job(name)) is not None:
        if not ended(job):
            raise SpecError(_taken(server, name))
        number += 1
        name = f"{usual}-{number}"  # Ray uses each name once; this job continues what the last one left
    return name


def _taken(server: JobServer, name: str) -> str:
    job = server.job(name) or {}
    where = f"{name} --address {shlex.quote(server.address)}"
    if ended(job):
        return (
            f"there was a job {name} on this cluster ({job['status']}), and Ray uses each name once: take another "
            "--job-id, or none"
        )
    return (
        f"job {name} runs there already ({job.get('status', 'unknown')}): `sweeper status {where} --follow` follows "
        f"it, `sweeper stop {where}` stops it"
    )


def _known(server: JobServer, name: str) -> dict[str, Any]:
    job = server.job(name)
    if job is None:
        names = server.names()
        raise SpecError(
            str(unknown("job", name, names)) if names else f"unknown job {name!r}; the cluster has had none"
        )
    return job


def _record(job: Mapping[str, Any]) -> dict[str, Any]:
    def when(key: str) -> str | None:
        stamp = job.get(key)
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp / 1000)) if stamp else None

    return {
        "job": job.get("submission_id"),
        "status": job.get("status"),
        "started": when("start_time"),
        "ended": when("end_time"),
        "exit_code": exit_code(job) if ended(job) else None,
        "out": (job.get("metadata") or {}).get("sweeper_out"),
        "message": " ".join((str(job.get("message") or "").splitlines() or [""])[0].split())[:300] or None,
    }


def _requirements(given: Sequence[str]) -> list[str]:
    found: list[str] = []
    for text in given:
        if text.endswith(".txt"):
            try:
                lines = Path(text).read_text().splitlines()
            except OSError as error:
                raise SpecError(f"cannot read {text}: {error.strerror or error}") from None
            found += [line for raw in lines if (line := raw.split(" #")[0].strip()) and not line.startswith("#")]
        else:
            found.append(text)
    return found

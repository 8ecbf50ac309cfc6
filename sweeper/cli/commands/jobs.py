"""Commands for jobs on a Ray cluster: `submit`, `status` and `stop`."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.cli.options import COMMON, ENV, JOB_SERVER, SET, TARGET, job_sweep_options
from sweeper.cli.output import emit
from sweeper.cli.parsing import Argument, Arguments, Option, command
from sweeper.cli.sweep_options import read_sweep
from sweeper.deploy.bundle import bundle_sweep, job_name, package_files, parse_environment, zip_files
from sweeper.deploy.command import STOP_SECONDS, STOP_VARIABLES, sweep_command
from sweeper.deploy.job_server import JobServer, UnreachableError, has_ended, wait_for_end
from sweeper.errors import ExitCode, SpecError
from trainables.registry import unknown

LOOK_SECONDS, MOST_LOOK_SECONDS, AWAY_SECONDS = 1.0, 10.0, 120.0
"""Pause between two reads of a followed job's log, which grows with the log; longest absence of the server."""
_RAY_TOKEN = re.compile("RAY_AUTH_TOKEN", re.IGNORECASE)

_SUBMIT = (
    Option("--follow", "", "Print the job's output until it ends, and return its exit code. Ctrl-C detaches.",
           default=False, group="job"),
    Option("--job-id", "NAME", "Name of the job (default: the same for the same sweep).", group="job"),
    Option("--working-dir", "DIR", "Folder whose files are copied to the job's folder.", group="job"),
    ENV,
    Option("--pip", "PACKAGE", "Package, or file of packages (.txt), to install before the sweep; repeatable.",
           multiple=True, group="job"),
    Option("--python", "PATH", "Path of the head's Python.", default="python", show_default=True,
           group="job"),
)  # fmt: skip
_JOB = Argument("job", "JOB", "Id of the job; with --server id of a sweep, whose running trials finish first.")
_CANCEL = Option("--cancel", "", "With --server: end the sweep's trials at once.", default=False)


@command(TARGET, job_sweep_options(), SET, JOB_SERVER, _SUBMIT, COMMON)
def submit(args: Arguments) -> int:
    """`sweeper submit SPACE|spec.yaml`."""
    sweep = read_sweep(args, elsewhere=True)
    bundle, variables = bundle_sweep(sweep, args.working_dir), parse_environment(args.env or (), _RAY_TOKEN)
    requirements = _read_requirements(args.pip or ())
    server = _connect(args)
    name = _choose_name(server, args.job_id, job_name(sweep.spec, bundle))
    runtime_env: dict[str, Any] = {
        "working_dir": server.upload(zip_files(bundle.files)),
        "py_modules": [server.upload(zip_files(package_files()))],
        "env_vars": {**variables, **STOP_VARIABLES},
        **({"pip": requirements} if requirements else {}),
    }
    try:
        # by exec, the signal that stops the job reaches the sweep
        server.submit(name, f"exec {sweep_command(bundle, args.python)}", runtime_env, {"sweeper_out": bundle.out})
    except SpecError:
        if server.job(name) is None:
            raise
        raise _name_conflict(server, name) from None
    target = f"{name}{_server_flags(args, server)}"
    print(f"job {name} is submitted to {server.address}; its results go to {bundle.out}", file=sys.stderr)
    if args.follow:
        return _follow_job(args, server, name)
    print(f"`sweeper status {target} --follow` follows it, `sweeper stop {target}` stops it", file=sys.stderr)
    emit(args.json, {"job": name, "address": server.address, "out": bundle.out}, name)
    return ExitCode.DONE


def job_status(args: Arguments) -> int:
    """`sweeper status JOB --address URL`."""
    server = _connect(args)
    record = _describe(_find_job(server, args.dir))
    if args.follow:
        return _follow_job(args, server, record["job"])
    lines = server.logs(record["job"]).splitlines()
    shown = [f"{k.replace('_', ' '):<12}{'–' if v is None else v}" for k, v in record.items()]
    emit(args.json, {**record, "log": lines}, "\n".join((*shown, "last lines of the log:", *lines[-10:])))
    return ExitCode.DONE


@command(_JOB, _CANCEL, JOB_SERVER, COMMON)
def stop(args: Arguments) -> int:
    """`sweeper stop JOB --address URL`."""
    server = _connect(args)
    record = _describe(_find_job(server, args.job))
    name = record["job"]
    if has_ended(record):
        emit(args.json, record, f"job {name} had already ended: {record['status']}")
        return ExitCode.DONE
    server.stop(name)
    print(f"stopping job {name}; finished trials are kept", file=sys.stderr)
    record = _describe(wait_for_end(server, name, STOP_SECONDS + 30))
    if not has_ended(record):
        raise UnreachableError(
            f"job {name} is still {record['status']}; `sweeper status {name}{_server_flags(args, server)}` shows it"
        )
    again = f"; submit it again to continue in {record['out']}" if record["out"] else ""
    emit(args.json, record, f"job {name} has ended: {record['status']}{again}")
    return ExitCode.DONE


def follow(server: JobServer, name: str, write: Callable[[str], None]) -> dict[str, Any]:
    """Pass each line of a job's log to `write` until the job ends; return the server's record of the job.

    Raises:
        UnreachableError: The server does not answer for two minutes; the job may still run.
    """
    shown, pause, since = 0, LOOK_SECONDS, time.monotonic()
    while True:
        try:
            job = _find_job(server, name)  # read before the log, which is complete after the end
            text = server.logs(name)
        except UnreachableError:
            if time.monotonic() - since > AWAY_SECONDS:
                raise
            time.sleep(pause)
            continue
        since = time.monotonic()
        whole = len(text) if has_ended(job) else text.rfind("\n") + 1
        for line in text[shown:whole].splitlines():
            write(line)
        shown = max(shown, whole)
        if has_ended(job):
            return job
        # each request returns the whole log
        pause = min(MOST_LOOK_SECONDS, max(LOOK_SECONDS, len(text) / 1e5))
        time.sleep(pause)


def exit_code(job: Mapping[str, Any]) -> int:
    """Return the exit code of the sweep that a job ran; a stopped sweep counts as interrupted."""
    code = job.get("driver_exit_code")
    if isinstance(code, int):
        return code if code >= 0 else 128 - code
    return {"SUCCEEDED": ExitCode.DONE, "STOPPED": ExitCode.INTERRUPTED}.get(str(job.get("status")), ExitCode.ERROR)


def _follow_job(args: Arguments, server: JobServer, name: str) -> int:
    target = f"{name}{_server_flags(args, server)}"
    stream = sys.stderr if args.json else sys.stdout
    last: list[str] = []

    def write(line: str) -> None:
        last[:] = [*last[-20:], line]
        print(line, file=stream, flush=True)

    try:
        job = follow(server, name, write)
    except KeyboardInterrupt:
        print(
            f"detached, job {name} still runs: `sweeper status {target} --follow` follows it, "
            f"`sweeper stop {target}` stops it",
            file=sys.stderr,
        )
        return ExitCode.DONE
    except UnreachableError as error:
        print(f"error: lost the connection to job {name}, which may still run: {error}", file=sys.stderr)
        return ExitCode.ERROR
    record, code = _describe(job), exit_code(job)
    if hint := _explain_failure(job, code, last):
        print(hint, file=sys.stderr)
    if args.json:
        emit(True, record, "")
    else:
        print(f"job {name} has ended: {record['status']}, exit code {code}", file=sys.stderr)
    return code


def _explain_failure(job: Mapping[str, Any], code: int, last: Sequence[str]) -> str:
    text = "\n".join(last)
    if job.get("driver_exit_code") is None and job.get("status") == "FAILED":
        return f"the job could not start: {' '.join(str(job.get('message') or 'no reason given').split())[:500]}"
    if code in (126, 127):
        return (
            "the head has no such Python: set --python to the path of the head's Python, such as /opt/venv/bin/python"
        )
    if missing := re.search(r"No module named '?([\w.]+)", text):
        return (
            f"the job's Python lacks the package {missing[1]}: choose another Python by --python, add packages by "
            "--pip, or use the image of the Dockerfile, which has all of them"
        )
    return ""


def _connect(args: Arguments) -> JobServer:
    known = (os.environ.get(k, "") for k in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
    address = args.address or next((a for a in known if a.startswith(("http://", "https://"))), "")
    if not address:
        raise SpecError("--address must name the cluster's job server, such as http://HEAD:8265")
    if args.ca and not Path(args.ca).exists():
        raise SpecError(f"--ca must be a file or folder of certificates, but {args.ca} does not exist")
    return JobServer(address, False if args.insecure else args.ca or True)


def _server_flags(args: Arguments, server: JobServer) -> str:
    trusted = f" --ca {shlex.quote(args.ca)}" if args.ca else ""
    trusted += " --insecure" if args.insecure else ""
    return f" --address {shlex.quote(server.address)}{trusted}"


def _choose_name(server: JobServer, requested: str | None, default: str) -> str:
    if requested is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", requested):
            raise SpecError(
                f"--job-id must consist of letters, digits, dots, hyphens and underscores, got {requested!r}"
            )
        if server.job(requested) is not None:
            raise _name_conflict(server, requested)
        return requested
    name, number = default, 1
    while (job := server.job(name)) is not None:
        if not has_ended(job):
            raise _name_conflict(server, name)
        number += 1
        name = f"{default}-{number}"  # Ray uses each name once; the new job continues the sweep of the last one
    return name


def _name_conflict(server: JobServer, name: str) -> SpecError:
    job = server.job(name) or {}
    target = f"{name} --address {shlex.quote(server.address)}"
    if has_ended(job):
        return SpecError(
            f"this cluster already ran a job {name} ({job['status']}), and Ray uses each name once: choose another "
            "--job-id, or leave it out"
        )
    return SpecError(
        f"job {name} already runs ({job.get('status', 'unknown')}): `sweeper status {target} --follow` follows it, "
        f"`sweeper stop {target}` stops it"
    )


def _find_job(server: JobServer, name: str) -> dict[str, Any]:
    job = server.job(name)
    if job is None:
        names = server.names()
        raise SpecError(str(unknown("job", name, names)) if names else f"unknown job {name!r}; the cluster has no jobs")
    return job


def _describe(job: Mapping[str, Any]) -> dict[str, Any]:
    def when(key: str) -> str | None:
        stamp = job.get(key)
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp / 1000)) if stamp else None

    return {
        "job": job.get("submission_id"),
        "status": job.get("status"),
        "started": when("start_time"),
        "ended": when("end_time"),
        "exit_code": exit_code(job) if has_ended(job) else None,
        "out": (job.get("metadata") or {}).get("sweeper_out"),
        "message": " ".join((str(job.get("message") or "").splitlines() or [""])[0].split())[:300] or None,
    }


def _read_requirements(given: Sequence[str]) -> list[str]:
    packages: list[str] = []
    for text in given:
        if text.endswith(".txt"):
            try:
                lines = Path(text).read_text().splitlines()
            except OSError as error:
                raise SpecError(f"cannot read {text}: {error.strerror or error}") from None
            packages += [line for raw in lines if (line := raw.split(" #")[0].strip()) and not line.startswith("#")]
        else:
            packages.append(text)
    return packages

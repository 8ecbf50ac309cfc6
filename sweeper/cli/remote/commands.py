"""Commands that run on a service, given by `--server URL` or SWEEPER_SERVER."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from sweeper.cli.commands.inspect import check_rank, emit_pair, emit_trials, list_knobs
from sweeper.cli.commands.names import emit_merges, emit_noises, emit_spaces, select_spaces
from sweeper.cli.commands.recommend import FIXED, check_form, emit_recommendation, wants_noise
from sweeper.cli.output import emit
from sweeper.cli.parsing import Arguments
from sweeper.cli.remote.follow import exit_code, follow
from sweeper.cli.remote.output import by_objective, emit_results, emit_status, format_estimate, page_of, sweep_table
from sweeper.cli.remote.request import LOCAL, SweepRequest, read_changes, refuse
from sweeper.cli.remote.saving import save_winner
from sweeper.cli.sweep_options import check_pilot
from sweeper.client import Client, ClientError
from sweeper.client.models import Sweep
from sweeper.config.spec import SweepSpec, keys
from sweeper.errors import ExitCode, SpecError
from sweeper.formatting import pluralize, wrap

SHOWN = 50
"""Sweeps that `list` prints; JSON lists all."""
_NO_NOISE = {"noise": "the service always shows a sweep by the noise that it searched"}
_NO_MACHINE = {
    **dict.fromkeys((k for k in keys("resumable") if k not in (*LOCAL, "trials")), "an extension runs like its sweep"),
    **LOCAL,
}


def command(args: Arguments) -> Callable[[Arguments], int] | None:
    """Return the function that runs a command on the service; None if the command runs on this machine.

    With SWEEPER_SERVER, which many users set permanently, local run folders and local commands stay on this machine.

    Raises:
        SpecError: `--server` is given, but the command runs on this machine only.
    """
    remote = COMMANDS.get(args.command)
    if args.server is None:
        return None if remote is None or _is_local(args) else remote
    if remote is None:
        raise SpecError(f"`sweeper {args.command}` runs on this machine only: leave out --server")
    if args.command in ("status", "stop"):
        refuse(args, {"address": "it selects the jobs of a cluster"})
    return remote


def _is_local(args: Arguments) -> bool:
    if args.command in ("status", "stop") and args.address:
        return True
    folders = [getattr(args, "dir", None), *getattr(args, "dirs", ())]
    return any(folder and ("://" in folder or Path(folder).exists()) for folder in folders)


def run(args: Arguments) -> int:
    """`sweeper run SPACE|spec.yaml`."""
    check_pilot(args)
    request = SweepRequest(args)
    with _client(args) as client, _locate_errors(request):
        if args.estimate:
            estimate = client.estimate(request.text)
            emit(args.json, estimate.model_dump(mode="json"), format_estimate(estimate))
            return ExitCode.DONE
        submitted = client.submit(
            request.text, name=args.label, priority=_priority(args), shared=args.shared, webhook=args.webhook
        )
        text = format_estimate(submitted.estimate)
        print(f"sweep {submitted.id} is {submitted.state} at {client.url}: {text}", file=sys.stderr)
        if args.detach:
            print(_next_commands(args, submitted.id), file=sys.stderr)
            emit(args.json, submitted.model_dump(mode="json"), submitted.id)
            return ExitCode.DONE
        return _follow(args, client, submitted.id)


def resume(args: Arguments) -> int:
    """`sweeper resume ID`."""
    changes = read_changes(args, keys("resumable"))
    with _client(args) as client:
        return _report_queued(args, client, client.resume(args.dir, **changes))


def extend(args: Arguments) -> int:
    """`sweeper extend ID`."""
    refuse(args, _NO_MACHINE)
    options = {k: getattr(args, k) for k in ("dry_run", "noise", "objective", "repeats", "noises")}
    with _client(args) as client:
        plan = client.extend(args.dir, **options)
        if args.dry_run:
            text = f"{wrap(plan.message, 0)}\n{pluralize(plan.trials, 'further trial')}; nothing was run"
            emit(args.json, plan.model_dump(mode="json"), text)
            return ExitCode.DONE
        print(wrap(f"{pluralize(plan.trials, 'further trial')}: {plan.message}", 0), file=sys.stderr)
        return _report_queued(args, client, client.sweep(args.dir))


def status(args: Arguments) -> int:
    """`sweeper status ID`."""
    refuse(args, _NO_NOISE)
    with _client(args) as client:
        if args.follow:
            return _follow(args, client, args.dir)
        emit_status(args.json, client, client.sweep(args.dir))
    return ExitCode.DONE


def list_all(args: Arguments) -> int:
    """`sweeper list` and `sweeper list ID`."""
    refuse(args, _NO_NOISE)
    with _client(args) as client:
        if args.dir is not None:
            sweep = client.sweep(args.dir)
            noise = sweep.regime.noise if sweep.regime else sweep.spec.get("noise", "paper")
            emit_trials(args.json, client.trials(args.dir), sweep.objective, noise, _list_knobs(sweep.spec))
            return ExitCode.DONE
        sweeps = list(islice(client.sweeps(), None if args.json else SHOWN + 1))
        emit(
            args.json,
            [s.model_dump(mode="json") for s in sweeps],
            sweep_table(sweeps[:SHOWN]) if sweeps else "no sweeps yet",
        )
        if not args.json and len(sweeps) > SHOWN:
            print(f"the newest {SHOWN}; --json lists all", file=sys.stderr)
    return ExitCode.DONE


def _list_knobs(spec: Mapping[str, Any]) -> list[str]:
    try:
        return list_knobs(SweepSpec.checked(spec).model_copy(update={"out": None}))
    except SpecError:  # of another version of sweeper
        return []


def best(args: Arguments) -> int:
    """`sweeper best ID [--save FILE|DIR]`."""
    refuse(args, {**_NO_NOISE, "objective": "the service chooses a winner by the objective that it searched"})
    check_rank(args)
    with _client(args) as client:
        sweep = client.sweep(args.dir)
        saved = save_winner(client, sweep, Path(args.save).expanduser(), args.rank) if args.save else {}
        emit_results(args.json, client, sweep, saved)
    return ExitCode.DONE


def recommend(args: Arguments) -> int:
    """`sweeper recommend ID`."""
    refuse(args, _NO_NOISE)
    check_form(args)
    asked = {"batch_sizes": args.batch_size or (), **{k: getattr(args, k) for k in (*FIXED, "objective")}}
    record: dict[str, Any] = {"settings": [], "text": "", "formats": {}}
    matched: dict[str, Any] = {}
    missing: list[str] = []
    with _client(args) as client:
        try:
            record = client.recommend_settings(args.dir, **asked).model_dump(mode="json")
        except ClientError as error:
            _note_missing(error, missing)
        if wants_noise(args, record):
            try:
                matched = by_objective(client.recommend(args.dir, **asked))
            except ClientError as error:
                _note_missing(error, missing)
    emit_recommendation(args, record, matched, missing)
    return ExitCode.DONE


def _note_missing(error: ClientError, missing: list[str]) -> None:
    if error.status != 409:
        raise error
    missing.append(str(error))


def pair(args: Arguments) -> int:
    """`sweeper pair ID DIGEST`; the trial runs on this machine."""
    from sweeper.runner.results.winner import find_row, rerun
    from trainables.spec import PairSpec

    with _client(args) as client:
        sweep = client.sweep(args.dir)
        row = find_row(client.trials(args.dir), args.digest)
    if PairSpec.from_json(row["spec"]).source:
        raise SpecError(f"trial {row['digest']} needs Python code of the server: run `sweeper pair` on the server")
    with tempfile.TemporaryDirectory() as folder:
        return emit_pair(args.json, row, rerun(folder, SweepSpec.checked(sweep.spec), row, args.data))


def stop(args: Arguments) -> int:
    """`sweeper stop ID [--cancel]`."""
    with _client(args) as client:
        sweep = client.cancel(args.job) if args.cancel else client.stop(args.job)
    action = "cancelling" if args.cancel else "stopping after the running trials"
    print(f"sweep {sweep.id}: {action}; finished trials are kept", file=sys.stderr)
    emit(args.json, sweep.model_dump(mode="json"), f"sweep {sweep.id} is {sweep.state}")
    return ExitCode.DONE


def dashboard(args: Arguments) -> int:
    """`sweeper dashboard [ID]`; opens the page if the machine has a screen."""
    refuse(args, _NO_NOISE)
    if len(args.dirs) > 1:
        raise SpecError(f"dashboard takes one sweep, got {len(args.dirs)}; `sweeper dashboard` shows all sweeps")
    with _client(args) as client:
        page = page_of(client, client.sweep(args.dirs[0])) if args.dirs else f"{client.url}/"
    emit(args.json, {"page": page}, page)
    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if screen and not os.environ.get("CI"):
        webbrowser.open(page)
    return ExitCode.DONE


def spaces(args: Arguments) -> int:
    """`sweeper spaces`."""
    with _client(args) as client:
        emit_spaces(args.json, select_spaces(args, client.spaces()))
    return ExitCode.DONE


def noises(args: Arguments) -> int:
    """`sweeper noises`."""
    with _client(args) as client:
        emit_noises(args.json, client.noises())
    return ExitCode.DONE


def merges(args: Arguments) -> int:
    """`sweeper merges`."""
    with _client(args) as client:
        emit_merges(args.json, client.merges())
    return ExitCode.DONE


def _client(args: Arguments) -> Client:
    return Client(args.server, ca=args.ca, insecure=bool(args.insecure))


@contextmanager
def _locate_errors(request: SweepRequest) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise request.locate(error) from None


def _priority(args: Arguments) -> int | None:
    try:
        return None if args.priority is None else int(args.priority)
    except ValueError:
        raise SpecError(f"--priority must be a whole number from -100 to 100, got {args.priority!r}") from None


def _server_flags(args: Arguments) -> str:
    """Return the flags that select the same service."""
    given = {"--server": args.server, "--ca": args.ca}
    flags = "".join(f" {flag} {shlex.quote(value)}" for flag, value in given.items() if value)
    return flags + (" --insecure" if args.insecure else "")


def _next_commands(args: Arguments, sweep: str) -> str:
    name = f"{sweep}{_server_flags(args)}"
    return f"`sweeper status {name} --follow` follows it, `sweeper stop {name}` stops it"


def _report_queued(args: Arguments, client: Client, sweep: Sweep) -> int:
    print(f"sweep {sweep.id} is {sweep.state} at {client.url}", file=sys.stderr)
    if not args.detach:
        return _follow(args, client, sweep.id)
    print(_next_commands(args, sweep.id), file=sys.stderr)
    emit(args.json, sweep.model_dump(mode="json", include=set(Sweep.model_fields)), sweep.id)
    return ExitCode.DONE


def _follow(args: Arguments, client: Client, sweep: str) -> int:
    ended = follow(client, client.sweep(sweep), _server_flags(args))
    if ended is None:
        return ExitCode.DONE
    code = exit_code(ended)
    if code != ExitCode.DONE:
        hint = f"`sweeper resume {sweep}{_server_flags(args)}` continues"
        print(
            f"{ended.state}: {ended.reason}; {pluralize(ended.progress.trials, 'trial')} kept, {hint}", file=sys.stderr
        )
    emit_results(args.json, client, ended)
    return code


COMMANDS: Mapping[str, Callable[[Arguments], int]] = {
    "run": run,
    "resume": resume,
    "extend": extend,
    "status": status,
    "list": list_all,
    "best": best,
    "recommend": recommend,
    "pair": pair,
    "stop": stop,
    "dashboard": dashboard,
    "spaces": spaces,
    "noises": noises,
    "merges": merges,
}

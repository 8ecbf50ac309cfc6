"""The commands that a service carries out: `--server URL` or SWEEPER_SERVER leads there."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sweeper.cli.commands.inspect import emit_pair, emit_trials, rerun, row_of
from sweeper.cli.commands.names import emit_merges, emit_noises, emit_spaces
from sweeper.cli.output import emit
from sweeper.cli.parsing import Arguments
from sweeper.cli.remote.follow import exit_code, followed
from sweeper.cli.remote.output import by_objective, emit_found, emit_status, estimated, page_of, sweep_table
from sweeper.cli.remote.request import HERE, Request, changes, refuse
from sweeper.client import Client, ClientError
from sweeper.client.models import Sweep
from sweeper.config.spec import SweepSpec, keys
from sweeper.errors import ExitCode, SpecError
from sweeper.formatting import pluralize, wrap

SHOWN = 50
"""Sweeps that `list` prints; as JSON all of them."""
_OWN_NOISE = {"noise": "it shows the sweep by the noise that it searched"}
_OWN_MACHINE = {
    **dict.fromkeys((k for k in keys("resumable") if k not in (*HERE, "trials")), "an extension runs as its sweep did"),
    **HERE,
}


def command(args: Arguments) -> Callable[[Arguments], int] | None:
    """Return what carries a command out at the service that is named; None where it is for this machine.

    SWEEPER_SERVER is set for good in many a shell: run folders that lie here, and commands that no service has, stay
    here then.

    Raises:
        SpecError: `--server` is given for a command that no service has.
    """
    found = COMMANDS.get(args.command)
    if args.server is None:
        return None if found is None or _is_here(args) else found
    if found is None:
        raise SpecError(f"`sweeper {args.command}` works with what is on this machine: leave out --server")
    if args.command in ("status", "stop"):
        refuse(args, {"address": "it leads to a cluster's own jobs"})
    return found


def _is_here(args: Arguments) -> bool:
    if args.command in ("status", "stop") and args.address:
        return True
    named = [getattr(args, "dir", None), *getattr(args, "dirs", ())]
    return any(folder and ("://" in folder or Path(folder).exists()) for folder in named)


def run(args: Arguments) -> int:
    """`sweeper run SPACE|spec.yaml`."""
    request = Request(args)
    with _client(args) as client, _locate_errors(request):
        if args.estimate:
            found = client.estimate(request.text)
            emit(args.json, found.model_dump(mode="json"), estimated(found))
            return ExitCode.DONE
        sent = client.submit(
            request.text, name=args.label, priority=_priority(args), shared=args.shared, webhook=args.webhook
        )
        print(f"sweep {sent.id} is {sent.state} at {client.url}: {estimated(sent.estimate)}", file=sys.stderr)
        if args.detach:
            print(_ways(args, sent.id), file=sys.stderr)
            emit(args.json, sent.model_dump(mode="json"), sent.id)
            return ExitCode.DONE
        return _followed(args, client, sent.id)


def resume(args: Arguments) -> int:
    """`sweeper resume ID`."""
    wanted = changes(args, keys("resumable"))
    with _client(args) as client:
        return _queued(args, client, client.resume(args.dir, **wanted))


def extend(args: Arguments) -> int:
    """`sweeper extend ID`."""
    refuse(args, _OWN_MACHINE)
    options = {k: getattr(args, k) for k in ("dry_run", "noise", "objective", "repeats", "noises")}
    with _client(args) as client:
        found = client.extend(args.dir, **options)
        if args.dry_run:
            text = f"{wrap(found.message, 0)}\n{pluralize(found.trials, 'further trial')}; nothing was run"
            emit(args.json, found.model_dump(mode="json"), text)
            return ExitCode.DONE
        print(wrap(f"{pluralize(found.trials, 'further trial')}: {found.message}", 0), file=sys.stderr)
        return _queued(args, client, client.sweep(args.dir))


def status(args: Arguments) -> int:
    """`sweeper status ID`."""
    refuse(args, _OWN_NOISE)
    with _client(args) as client:
        if args.follow:
            return _followed(args, client, args.dir)
        emit_status(args.json, client, client.sweep(args.dir))
    return ExitCode.DONE


def list_all(args: Arguments) -> int:
    """`sweeper list` and `sweeper list ID`."""
    refuse(args, _OWN_NOISE)
    with _client(args) as client:
        if args.dir is not None:
            sweep = client.sweep(args.dir)
            noise = sweep.regime.noise if sweep.regime else sweep.spec.get("noise", "paper")
            emit_trials(args.json, client.trials(args.dir), sweep.objective, noise)
            return ExitCode.DONE
        found = list(_taken(client.sweeps(), None if args.json else SHOWN + 1))
        emit(
            args.json,
            [s.model_dump(mode="json") for s in found],
            sweep_table(found[:SHOWN]) if found else "no sweeps yet",
        )
        if not args.json and len(found) > SHOWN:
            print(f"the newest {SHOWN}; --json lists all", file=sys.stderr)
    return ExitCode.DONE


def best(args: Arguments) -> int:
    """`sweeper best ID [--save FILE]`."""
    refuse(args, _OWN_NOISE)
    with _client(args) as client:
        sweep = client.sweep(args.dir)
        saved = str(client.download_weights(args.dir, args.save)) if args.save else None
        emit_found(args.json, client, sweep, saved)
    return ExitCode.DONE


def recommend(args: Arguments) -> int:
    """`sweeper recommend ID`."""
    refuse(args, _OWN_NOISE)
    keys = ("learning_rate", "momentum", "weight_decay", "objective")
    with _client(args) as client:
        found = client.recommend(args.dir, batch_sizes=args.batch_size or (), **{k: getattr(args, k) for k in keys})
    emit(args.json, by_objective(found), "\n\n".join(f"{a.objective}: {a.message}\n{a.text}" for a in found))
    return ExitCode.DONE


def pair(args: Arguments) -> int:
    """`sweeper pair ID DIGEST`; the trial is run on this machine."""
    from trainables.spec import PairSpec

    with _client(args) as client:
        sweep = client.sweep(args.dir)
        row = row_of(client.trials(args.dir), args.digest)
    if PairSpec.from_json(row["spec"]).source:
        raise SpecError(f"trial {row['digest']} is made by Python code of the server: `sweeper pair` reruns it there")
    with tempfile.TemporaryDirectory() as folder:
        return emit_pair(args.json, row, rerun(folder, SweepSpec.checked(sweep.spec), row, args.data))


def stop(args: Arguments) -> int:
    """`sweeper stop ID [--cancel]`."""
    with _client(args) as client:
        found = client.cancel(args.job) if args.cancel else client.stop(args.job)
    what = "is asked to end at once" if args.cancel else "is asked to stop, what runs is finished"
    print(f"sweep {found.id} {what}: trials that are finished are kept", file=sys.stderr)
    emit(args.json, found.model_dump(mode="json"), f"sweep {found.id} is {found.state}")
    return ExitCode.DONE


def dashboard(args: Arguments) -> int:
    """`sweeper dashboard [ID]`; opens the page where there is a screen."""
    refuse(args, _OWN_NOISE)
    if len(args.dirs) > 1:
        raise SpecError(f"one sweep's page is opened, got {len(args.dirs)} sweeps; `sweeper dashboard` shows all")
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
        emit_spaces(args.json, client.spaces())
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
def _locate_errors(request: Request) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise request.locate(error) from None


def _priority(args: Arguments) -> int | None:
    try:
        return None if args.priority is None else int(args.priority)
    except ValueError:
        raise SpecError(f"--priority must be a whole number from -100 to 100, got {args.priority!r}") from None


def _sign(args: Arguments) -> str:
    """Return the flags that lead to the same service again."""
    given = {"--server": args.server, "--ca": args.ca}
    found = "".join(f" {flag} {shlex.quote(value)}" for flag, value in given.items() if value)
    return found + (" --insecure" if args.insecure else "")


def _ways(args: Arguments, sweep: str) -> str:
    name = f"{sweep}{_sign(args)}"
    return f"`sweeper status {name} --follow` follows it, `sweeper stop {name}` stops it"


def _queued(args: Arguments, client: Client, sweep: Sweep) -> int:
    print(f"sweep {sweep.id} is {sweep.state} at {client.url}", file=sys.stderr)
    if not args.detach:
        return _followed(args, client, sweep.id)
    print(_ways(args, sweep.id), file=sys.stderr)
    emit(args.json, sweep.model_dump(mode="json"), sweep.id)
    return ExitCode.DONE


def _followed(args: Arguments, client: Client, sweep: str) -> int:
    ended = followed(client, client.sweep(sweep), _sign(args))
    if ended is None:
        return ExitCode.DONE
    code = exit_code(ended)
    if code != ExitCode.DONE:
        again = f"`sweeper resume {sweep}{_sign(args)}` continues"
        print(
            f"{ended.state}: {ended.reason}; {pluralize(ended.progress.trials, 'trial')} kept, {again}", file=sys.stderr
        )
    emit_found(args.json, client, ended)
    return code


def _taken(sweeps: Iterator[Sweep], most: int | None) -> Iterator[Sweep]:
    for i, sweep in enumerate(sweeps):
        if i == most:
            return
        yield sweep


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

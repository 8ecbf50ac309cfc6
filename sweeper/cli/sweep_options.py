"""The sweep that the options of a command describe."""

from __future__ import annotations

from typing import Any

from sweeper.cli.parsing import Arguments
from sweeper.config.load import load_sweep
from sweeper.config.prepared import PreparedSweep
from sweeper.config.spec import keys
from sweeper.config.yaml_source import parse_assignments
from sweeper.errors import SpecError

_SENT = {"detach": "--detach", "label": "--name", "priority": "--priority",
         "shared": "--shared", "webhook": "--webhook", "cancel": "--cancel"}  # fmt: skip


def check_local(args: Arguments) -> None:
    """Check that a command that runs on this machine has no flag of a service, and has its run folder.

    Raises:
        SpecError: It has such a flag, or the run folder is missing.
    """
    given = [flag for name, flag in _SENT.items() if getattr(args, name, None)]
    if given and args.command in ("run", "resume", "extend", "stop"):
        raise SpecError(f"{given[0]} needs a service: give its address by --server")
    if args.command in ("list", "dashboard") and not (args.dir if args.command == "list" else args.dirs):
        raise SpecError(f"give a run folder, `sweeper {args.command} DIR`, or --server URL for the sweeps of a service")


def check_pilot(args: Arguments) -> None:
    """Check that `--pilot` goes with `--dry-run` on this machine.

    Raises:
        SpecError: It does not.
    """
    if args.pilot and not args.estimate:
        raise SpecError("--pilot goes with --dry-run: the sweep itself starts with pilots of its own")
    if args.pilot and getattr(args, "server", None):
        raise SpecError("--pilot runs on this machine; with --server, --dry-run estimates from earlier sweeps")


def flags(args: Arguments, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the keys of a sweep that the command line sets, and `fixed` if it has `--set`."""
    given = {k: v for k in keys if (v := getattr(args, k)) is not None}
    if "resources" in given:
        given["resources"] = parse_assignments(given["resources"], "--resources")
    if texts := getattr(args, "set", None):
        given["fixed"] = parse_assignments(texts)
    return given


def read_sweep(args: Arguments, elsewhere: bool = False) -> PreparedSweep:
    """Return the sweep of `SPACE|spec.yaml` and the flags.

    Args:
        args: The parsed arguments.
        elsewhere: Whether `--address` is the address of a job server, not a key of the sweep.

    Raises:
        SpecError: The sweep is wrong.
    """
    given = flags(args, tuple(k for k in keys("flag") if not (elsewhere and k == "address")))
    return load_sweep(args.target, given)

"""The spec that the options of a command ask for."""

from __future__ import annotations

from typing import Any

from sweeper.cli.parsing import Arguments
from sweeper.config.load import load_spec
from sweeper.config.spec import SweepSpec, keys
from sweeper.config.yaml_source import assignments
from sweeper.errors import SpecError

_SENT = {"detach": "--detach", "estimate": "--dry-run", "label": "--name", "priority": "--priority",
         "shared": "--shared", "webhook": "--webhook", "cancel": "--cancel"}  # fmt: skip


def check_here(args: Arguments) -> None:
    """Refuse what only a service knows, of a command that this machine carries out.

    Raises:
        SpecError: A flag, or a run folder that is left out.
    """
    given = [flag for name, flag in _SENT.items() if getattr(args, name, None)]
    if given and args.command in ("run", "resume", "extend", "stop"):
        raise SpecError(f"{given[0]} is for a sweep that a service runs: give its address by --server")
    if args.command in ("list", "dashboard") and not (args.dir if args.command == "list" else args.dirs):
        raise SpecError(f"which run folder? sweeper {args.command} DIR, or --server URL for the sweeps of a service")


def flags(args: Arguments, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return those of the keys of a sweep that the command line gives."""
    found = {k: v for k in keys if (v := getattr(args, k)) is not None}
    if "resources" in found:
        found["resources"] = assignments(found["resources"], "--resources")
    return found


def asked_sweep(args: Arguments, elsewhere: bool = False) -> SweepSpec:
    """Return the sweep that `SPACE|spec.yaml` and the flags of `run` ask for.

    Args:
        args: The parsed arguments.
        elsewhere: Whether the flag `--address` says where the sweep is sent, which is none of its keys.

    Raises:
        SpecError: Anything wrong with it.
    """
    given = flags(args, tuple(k for k in keys("flag") if not (elsewhere and k == "address")))
    if args.set:
        given["fixed"] = assignments(args.set)
    return load_spec(args.target, given)

"""The sweep that a command line asks a service for: what the user set and nothing else; the service judges it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.cli.parsing import Arguments
from sweeper.cli.sweep_options import flags
from sweeper.client import ClientError
from sweeper.config.points import read_points
from sweeper.config.spec import SweepSpec, keys
from sweeper.config.yaml_source import assignments, parse_yaml
from sweeper.config.yaml_text import write
from sweeper.errors import SpecError

HERE = {
    "out": "the service keeps the sweep in a folder of its own",
    "address": "the service has its own cluster",
    "cache": "the service has its own folders",
}
"""Keys of a sweep that are not the sender's -> why."""


def refuse(args: Arguments, reasons: Mapping[str, str]) -> None:
    """Refuse flags that a service cannot follow.

    Raises:
        SpecError: One of them is given.
    """
    for name, why in reasons.items():
        if getattr(args, name, None) not in (None, False, []):
            flag = name.replace("_", "-")
            raise SpecError(f"--{flag} is not for a server: {why}; leave it out, or --server '' keeps the command here")


def changes(args: Arguments, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the keys of a sweep that the flags set, as a service takes them.

    Raises:
        SpecError: One of them is about this machine.
    """
    refuse(args, HERE)
    return flags(args, tuple(key for key in keys if key not in HERE))


class Asked:
    """What `sweeper run SPACE|spec.yaml` sends.

    Attributes:
        values: Keys of the sweep that the user set, in the file or by flags; flags win.
    """

    def __init__(self, args: Arguments) -> None:
        given = changes(args, keys("flag"))
        file, self._file, self._lines = given.pop("enqueue", None), "", {}
        values: dict[str, Any] = {"space": args.target}
        if args.target.endswith((".yaml", ".yml")):
            values, self._lines = parse_yaml(Path(args.target))
            self._file = args.target
        if "resources" in given:
            given["resources"] = {**_mapping(values, "resources"), **given["resources"]}
        if fixed := assignments(args.set or ()):
            given["fixed"] = {**_mapping(values, "fixed"), **fixed}
            if knobs := {k: v for k, v in _mapping(values, "parameters").items() if k not in fixed}:
                given["parameters"] = knobs
            else:
                values.pop("parameters", None)
        if "objective" in given:
            values.pop("further_objectives", None)
        for key in given:
            self._lines.pop(key, None)
        self.values = {**values, **given}
        if file is not None:
            known = {k: self.values[k] for k in ("space", "smoke", "parameters", "fixed") if k in self.values}
            self.values["enqueue"] = read_points(Path(file), SweepSpec.checked(known).load_space())

    @property
    def text(self) -> str:
        """The sweep as YAML."""
        return write(self.values)

    def placed(self, error: ClientError) -> ClientError:
        """Return a refusal with the line of the file that it is about, where it names a key that stands there."""
        named = re.match(r"(?:unknown key '([\w.]+)')|([\w.]+)", str(error)) if error.status == 422 else None
        key = named[1] or named[2] if named else ""
        parts = key.strip(".").split(".")
        known = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        line = next((self._lines[k] for k in known if k in self._lines), None)
        if line is None:
            return error
        return ClientError(f"{self._file}, line {line}: {error}", error.status, error.problem)


def _mapping(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key) or {}
    if not isinstance(found, dict):
        raise SpecError(f"{key}: must be a mapping, got {found!r}")
    return found

"""Request for a sweep on a service: only the keys that the user set; the service checks them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.cli.parsing import Arguments
from sweeper.cli.sweep_options import flags
from sweeper.client import ClientError
from sweeper.config.load import SpecSource
from sweeper.config.points import read_points
from sweeper.config.spec import keys
from sweeper.config.yaml_source import parse_yaml
from sweeper.config.yaml_text import write
from sweeper.errors import SpecError

LOCAL = {
    "out": "the service chooses the sweep's folder",
    "address": "the service chooses the cluster",
    "cache": "the service chooses its cache folder",
}
"""Keys of a sweep that apply to this machine only -> reason."""


def refuse(args: Arguments, reasons: Mapping[str, str]) -> None:
    """Check that no flag is given that a service does not support.

    Raises:
        SpecError: The command line has one of them.
    """
    for name, why in reasons.items():
        if getattr(args, name, None) not in (None, False, []):
            flag = name.replace("_", "-")
            raise SpecError(
                f"--{flag} does not work with a server: {why}; leave it out, or run on this machine by --server ''"
            )


def read_changes(args: Arguments, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the keys of a sweep that flags set.

    Raises:
        SpecError: A flag applies to this machine only.
    """
    refuse(args, LOCAL)
    return flags(args, tuple(key for key in keys if key not in LOCAL))


class SweepRequest:
    """The sweep that `sweeper run SPACE|spec.yaml` sends.

    Attributes:
        source: Keys that the user set, in the file or by flags; flags win.
    """

    def __init__(self, args: Arguments) -> None:
        given = read_changes(args, keys("flag"))
        points = given.pop("enqueue", None)
        source = SpecSource({"space": args.target})
        if args.target.endswith((".yaml", ".yml")):
            source = SpecSource(*parse_yaml(Path(args.target)), args.target)
        self.source = source.override(given)
        if points is not None:
            values = self.source.values
            needed = SpecSource({k: values[k] for k in ("space", "smoke", "parameters", "fixed") if k in values})
            self.source = self.source.override({"enqueue": read_points(Path(points), needed.prepare().space)})

    @property
    def text(self) -> str:
        """The sweep as YAML."""
        return write(dict(self.source.values))

    def locate(self, error: ClientError) -> ClientError:
        """Return a refusal with the line of the file that holds the key it names, if there is one."""
        named = re.match(r"(?:unknown key '([\w.]+)')|([\w.]+)", str(error)) if error.status == 422 else None
        key = named[1] or named[2] if named else ""
        parts = key.strip(".").split(".")
        prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        line = next((self.source.lines[k] for k in prefixes if k in self.source.lines), None)
        if line is None:
            return error
        return ClientError(f"{self.source.file}, line {line}: {error}", error.status, error.problem)

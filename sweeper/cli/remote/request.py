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

HERE = {
    "out": "the service keeps the sweep in a folder of its own",
    "address": "the service has its own cluster",
    "cache": "the service has its own folders",
}
"""Keys of a sweep that only the service sets -> the reason."""


def refuse(args: Arguments, reasons: Mapping[str, str]) -> None:
    """Refuse flags that a service does not take.

    Raises:
        SpecError: The command line has one of them.
    """
    for name, why in reasons.items():
        if getattr(args, name, None) not in (None, False, []):
            flag = name.replace("_", "-")
            raise SpecError(f"--{flag} is not for a server: {why}; leave it out, or --server '' keeps the command here")


def changes(args: Arguments, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the keys of a sweep that the flags set, for a service.

    Raises:
        SpecError: A flag is about this machine.
    """
    refuse(args, HERE)
    return flags(args, tuple(key for key in keys if key not in HERE))


class Request:
    """The sweep that `sweeper run SPACE|spec.yaml` sends.

    Attributes:
        source: Keys that the user set, in the file or by flags; flags win.
    """

    def __init__(self, args: Arguments) -> None:
        given = changes(args, keys("flag"))
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

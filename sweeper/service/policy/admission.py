"""Admission: which specs a service runs. Specs are read as by the command line; paths outside the roots are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import search_spaces
from sweeper.config.load import SpecSource
from sweeper.config.plain_text import check_plain_values
from sweeper.config.prepared import PreparedSweep, set_defaults
from sweeper.config.spec import SweepSpec, keys
from sweeper.errors import SpecError
from sweeper.formatting import pluralize
from sweeper.runner.proposers.search import count_configurations
from sweeper.service.db.sweeps import Entry
from sweeper.service.db.users import User
from sweeper.service.policy.bodies import NAME
from sweeper.service.policy.errors import RefusedError, forbidden
from sweeper.service.policy.limits import Limits
from sweeper.service.policy.quotas import Demand, remaining_demand
from sweeper.service.policy.space_files import SpaceFiles
from sweeper.storage.location import is_uri
from trainables.training.noise_schedules import LARGEST

_DECIDED = ("out", "address", "cache")
_DEVICE = re.compile(r"(auto|cpu|cuda|mps|xpu)(:\d{1,3})?")
_PATH_KEY = re.compile(r"path|file|dir|folder|root|url|uri|checkpoint|cache|cfg|config|tokenizer", re.IGNORECASE)
_LOOKS_LIKE_PATH = re.compile(
    r"[/\\~]|^\.|\.\.|^[A-Za-z]:|\.(safetensors|pt|pth|bin|ckpt|pkl|npz|tar|py)$", re.IGNORECASE
)
_FOLDER = "hf:"
"""Begins the name of a model that lies in a folder."""
RESUMABLE = tuple(k for k in keys("resumable") if k not in (*_DECIDED, "data", "download", "track"))
"""Keys of a spec that `resume` may change."""


@dataclass(frozen=True)
class Rules:
    """What the server allows.

    Attributes:
        root: Folder or URI that holds the run folders.
        run_of: Sweep -> its run folder.
        data: Folder with the data sets, or None.
        spaces: Spaces as Python files that the admin trusts.
        limits: Upper bounds.
    """

    root: str
    run_of: Callable[[str], str]
    data: str | None = None
    spaces: SpaceFiles = field(default_factory=SpaceFiles)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Admission:
    """An admitted spec, as the catalog stores it."""

    spec: SweepSpec
    space: str
    values: dict[str, Any]
    budget: int
    trials: int


def admit(
    values: Mapping[str, Any],
    lines: Mapping[str, int],
    rules: Rules,
    user: User,
    entry_of: Callable[[str], Entry],
) -> Admission:
    """Check a spec and fill in the values that the server decides.

    Args:
        values: The spec's keys, from `bodies.parse_spec`.
        lines: Key -> line of the YAML.
        rules: The server's rules.
        user: The sender.
        entry_of: Sweep's id -> its row; raises `UnknownSweepError` if the user may not see it.

    Raises:
        RefusedError: The server does not allow a value (403).
        SpecError: A value is wrong; the message is the command line's.
    """
    where = NAME if lines else ""
    given = dict(values)
    _check_lengths(given)
    for key in _DECIDED:
        if given.get(key) is not None:
            raise forbidden(f"the service sets {key}, got {given[key]!r}: leave it out")
    if given.get("download") not in (None, False) and not user.admin:
        raise _refuse_download("download")
    if given.get("track") not in (None, [], "none", ["none"]) and not user.admin:
        raise forbidden(
            f"track needs an admin's token, since the server sends the trials with its own account, got "
            f"{given['track']!r}"[:200]
            + ": leave it out"
        )
    if isinstance(given.get("enqueue"), str):
        raise forbidden(f"enqueue must list configurations, not name a file, got {given['enqueue']!r}")
    name = given.get("space")
    if isinstance(name, str):
        given["space"] = _resolve_space(name, rules)
    boundary = _Boundary(rules, entry_of)
    given["data"] = boundary.data(given.get("data"))
    if isinstance(given.get("prior"), list):
        given["prior"] = [boundary.prior(p) if isinstance(p, str) else p for p in given["prior"]]
    for key, value in _iter_texts(given):
        boundary.check(key, value)
        if _downloads(key, value) and not user.admin:
            raise _refuse_download(f"{key}: {value[:80]}")
    check_plain_values(values, lines, where)
    source = SpecSource({k: v for k, v in given.items() if v is not None}, lines, where)
    # the service shows a sweep by the noise that it searches
    sweep = set_defaults(_prepare(source, rules))
    budget, trials = _count(sweep, rules)
    return Admission(sweep.spec, sweep.space.name, sweep.spec.dump_explicit(), budget, trials)


@dataclass(frozen=True)
class SpecChange:
    """What `resume` changes: keys of the spec, the new number of configurations, and the demand on the quota."""

    values: dict[str, Any]
    budget: int
    demand: Demand


def check_changes(entry: Entry, changes: Mapping[str, Any], rules: Rules) -> SpecChange:
    """Check the keys that `resume` changes.

    Raises:
        RefusedError: `resume` may not change a key (403).
        SpecError: A key is unknown, or a value breaks its rule.
    """
    for key in changes:
        if key not in RESUMABLE:
            known = ", ".join(RESUMABLE)
            if key in SweepSpec.model_fields:
                raise forbidden(f"resume cannot change {key}; it changes {known}")
            raise SpecError(f"unknown key {key!r}: resume changes {known}")
    check_plain_values(changes)
    source = SpecSource(entry.spec).override({k: v for k, v in changes.items() if v is not None})
    sweep = _prepare(source, rules)
    budget, _ = _count(sweep, rules)
    values = {k: source.values[k] for k, v in changes.items() if v is not None}
    return SpecChange(values, budget, remaining_demand(entry, sweep.spec, budget))


def _prepare(source: SpecSource, rules: Rules) -> PreparedSweep:
    sweep = source.prepare(rules.spaces.find, lambda spec: check_bounds(spec, rules.limits))
    check_trials(sweep, rules.limits)
    return sweep


def _count(sweep: PreparedSweep, rules: Rules) -> tuple[int, int]:
    budget = count_configurations(sweep.spec, sweep.space)
    trials = budget * sweep.spec.repeats
    if trials > rules.limits.trials:
        raise SpecError(
            f"a sweep must have at most {pluralize(rules.limits.trials, 'trial')} on this server, got {trials}"
        )
    return budget, trials


def check_bounds(spec: SweepSpec, limits: Limits) -> None:
    """Check that a spec stays within the limits of one sweep.

    Raises:
        SpecError: A value exceeds its limit.
    """
    loaders = min(n for n in (limits.workers, limits.loaders) if n is not None)
    bounds = {"workers": limits.workers, "loader_workers": loaders, "threads": limits.threads, "plane": limits.plane}
    for key, most in {**bounds, "measure": limits.measure}.items():
        value = getattr(spec, key)
        if most is not None and isinstance(value, int) and value > most:
            raise SpecError(f"{key} must be at most {most} on this server, got {value}")
    if not _DEVICE.fullmatch(spec.device):
        raise SpecError(f"device must be auto, cpu, cuda, cuda:N, mps or xpu, got {spec.device[:80]!r}")


def check_trials(sweep: PreparedSweep, limits: Limits) -> None:
    """Check that no trial at a bound or a choice of a knob is larger than the server allows.

    Raises:
        SpecError: A trial is too large.
    """
    for trial in sweep.corners:
        for name, most in limits.fields.items():
            field, _, entry = name.partition(".")
            value = getattr(trial, field)
            _check_most(name, getattr(value, entry) if entry else value, most)
        if trial.noise_schedule.get("by") == "batch_size":
            name = f"{LARGEST} x batch_size, the largest batch with noise_schedule.by batch_size,"
            _check_most(name, LARGEST * trial.batch_size, limits.fields["batch_size"])
        for field in _COUNTED:
            for name, key, value in _numbers(field, field, getattr(trial, field, None)):
                _check_most(name, value, {**limits.fields, **limits.options}.get(key, limits.option))


_COUNTED = (
    "model_options", "dataset_options", "dataset_b_options", "datasets", "adapter", "child_b", "window", "trunk",
)  # fmt: skip
"""Fields whose numbers make a trial large."""


def _check_most(name: str, value: float, most: int) -> None:
    if abs(value) > most:
        raise SpecError(f"{name} must be at most {most} on this server, got {value}")


def _numbers(path: str, key: str, value: Any) -> Iterator[tuple[str, str, float]]:
    """Yield dotted name, last part of the name, and value of each number in an options field."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(f"{path}.{name}", str(name), item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(path, key, item)
    elif isinstance(value, int | float):
        yield path, key, value


def _check_lengths(values: Mapping[str, Any]) -> None:
    # validation compares all values of a list with each other, and each becomes a trial
    parameters, total = values.get("parameters"), 0
    for name, parameter in parameters.items() if isinstance(parameters, dict) else ():
        for key, listed in parameter.items() if isinstance(parameter, dict) else ():
            if isinstance(listed, list) and len(listed) > _CHOICES:
                raise SpecError(f"parameters.{name}.{key}: must have at most {_CHOICES} values, got {len(listed)}")
            total += len(listed) if isinstance(listed, list) else 0
    if total > 2 * _CHOICES:
        raise SpecError(f"parameters: must have at most {2 * _CHOICES} values in all, got {total}")
    for key in ("prior", "objective", "further_objectives"):
        if isinstance(values.get(key), list) and len(values[key]) > _FEW:
            raise SpecError(f"{key}: must have at most {_FEW} entries, got {len(values[key])}")


_CHOICES, _FEW = 1000, 64


def _resolve_space(name: str, rules: Rules) -> str:
    if name in search_spaces.names():
        return name
    if name.endswith(".py") or "/" in name or "\\" in name:
        raise forbidden(f"space must be a name from `GET /v1/spaces`, not Python code, got {name[:200]!r}")
    file = rules.spaces.file(name)
    return name if file is None else str(file)  # an unknown name fails later, with the command line's message


def _split_key(key: str) -> tuple[str, str]:
    """Return the field of a dotted name and the entry in it; a data set of `datasets` counts like the first one."""
    field, _, entry = key.partition(".")
    if field != "datasets":
        return field, entry
    options = entry.partition(".")
    return ("dataset_options", options[2]) if options[0] == "options" else ("dataset", "")


class _Boundary:
    """What a spec may refer to: the data root, and sweeps that its sender may see."""

    def __init__(self, rules: Rules, entry_of: Callable[[str], Entry]) -> None:
        self.rules, self.entry_of = rules, entry_of
        self.root = None if is_uri(rules.root) else Path(rules.root).expanduser().resolve()
        self.data_root = Path(rules.data).expanduser().resolve() if rules.data else None

    def data(self, value: Any) -> Any:
        """Return the spec's data root: the server's, or a folder in it."""
        if value is None or not isinstance(value, str):
            return value if value is not None else self.rules.data
        path = self._resolve("data", value, self.data_root)
        if is_uri(value) or self.data_root is None or not path.is_relative_to(self.data_root):
            raise forbidden(f"data must lie in the server's data root, got {value[:200]!r}: leave it out")
        return str(path)

    def prior(self, value: str) -> str:
        """Return the run folder of a sweep that the spec names as a prior."""
        if not re.fullmatch(r"[\w-]{1,80}", value):
            raise forbidden(f"a prior must be a sweep's id or a record of best, low and high, got {value[:200]!r}")
        return self.rules.run_of(self.entry_of(value).id)

    def check(self, key: str, value: str) -> None:
        """Refuse a text of `fixed`, `parameters` or `enqueue` that is code or a path outside the roots."""
        field, entry = _split_key(key)
        if field == "source":
            raise forbidden("source must not be given, since it is Python code: name a space of `GET /v1/spaces`")
        if not value or (field == "weights" and value == "pretrained"):
            return
        folder = field == "model" and value.startswith(_FOLDER)  # a model of transformers
        value = value.removeprefix(_FOLDER) if folder else value
        is_path = folder or field == "weights" or ("_options" in field and _PATH_KEY.search(entry))
        if not folder and field in ("model", "dataset", "dataset_b") and re.search(r"[/\\~]|hub|local-dir", value):
            raise forbidden(f"{key} must be a name, got {value[:200]!r}")
        if not is_path and not ("_options" in field and _LOOKS_LIKE_PATH.search(value)):
            return
        if is_uri(value) or "://" in unquote(value):
            raise forbidden(f"{key} must not be a URI, got {value[:200]!r}")
        # a data set's relative path starts at the data root; any other has no fixed base
        base = self.data_root if field.startswith("dataset") else None
        if not self._allows(self._resolve(key, value, base)):
            raise forbidden(
                f"{key} must lie in the server's data root or in a sweep that you may see, got {value[:200]!r}"
            )

    def _resolve(self, key: str, value: str, base: Path | None) -> Path:
        try:
            path = Path(value).expanduser()
            if not path.is_absolute():
                if base is None:
                    raise forbidden(f"{key} must be an absolute path on the server, got {value[:200]!r}")
                path = base / path
            return path.resolve()
        except (OSError, RuntimeError, ValueError):
            raise forbidden(f"{key} must be a path on the server, got {value[:200]!r}") from None

    def _allows(self, path: Path) -> bool:
        if self.data_root is not None and path.is_relative_to(self.data_root):
            return True
        if self.root is None or not path.is_relative_to(self.root) or path == self.root:
            return False
        try:
            self.entry_of(path.relative_to(self.root).parts[0])
        except SpecError:
            return False
        return True


def _downloads(key: str, value: str) -> bool:
    # torchvision's builders take the name of the weights as an option
    return bool(value) and ((key == "weights" and value == "pretrained") or key == "model_options.weights")


def _refuse_download(what: str) -> RefusedError:
    return forbidden(
        f"{what} needs an admin's token, since the server downloads the files: ask an admin to send the sweep"
    )


def _iter_texts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield dotted name and value of every text that becomes a field of a trial."""
    fixed, parameters, points = values.get("fixed"), values.get("parameters"), values.get("enqueue")
    if isinstance(fixed, dict):
        yield from _iter_inner("", fixed)
    for name, parameter in parameters.items() if isinstance(parameters, dict) else ():
        if isinstance(parameter, dict):
            yield from _iter_inner(name, parameter.get("values"))
        if name.partition(".")[0] == "source":
            yield name, ""
    for point in points if isinstance(points, list) else ():
        yield from _iter_inner("", point)


def _iter_inner(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _iter_inner(f"{key}.{name}" if key else str(name), item)
    elif isinstance(value, list):
        for item in value:
            yield from _iter_inner(key, item)
    elif key.partition(".")[0] == "source":
        yield key, ""

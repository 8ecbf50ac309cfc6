"""Space: knobs with their ranges and the fixed fields of a trial, which together give a PairSpec."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from search_spaces._conditions import Conditions, active_params, acts, check, narrow_conditions
from trainables.registry import unknown
from trainables.spec import PairSpec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_NEEDED = {f.name for f in fields(PairSpec) if f.default is MISSING and f.default_factory is MISSING}


class SpaceError(ValueError):
    """A search space cannot be used; the message says why."""


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        doc: One sentence on its trials.
        fixed: Fields of `PairSpec` that every trial shares.
        knobs: Field of `PairSpec` -> its Optuna distribution.
        source: Origin of the setting.
        budget: One sentence on the time per pair and its hardware.
        smoke: Field -> value or distribution of the small variant, which runs a pair in seconds on a CPU; empty if the
            space is already small.
        name: Name of the file; `load` sets it.
        conditions: Knob -> {other knob: values with which the knob acts}; a knob that does not act has the default of
            `PairSpec`.

    Raises:
        SpaceError: `PairSpec` lacks a knob or fixed field, a field is both, or a condition cannot hold.
    """

    doc: str
    fixed: Mapping[str, Any]
    knobs: Mapping[str, BaseDistribution]
    source: str = ""
    budget: str = ""
    smoke: Mapping[str, Any] = field(default_factory=lambda: {})
    name: str = field(default="", compare=False)
    conditions: Conditions = field(default_factory=lambda: {})

    def __post_init__(self) -> None:
        object.__setattr__(self, "fixed", MappingProxyType(dict(self.fixed)))
        object.__setattr__(self, "knobs", MappingProxyType(dict(self.knobs)))
        object.__setattr__(self, "smoke", MappingProxyType(dict(self.smoke)))
        conditions = {k: {o: tuple(v) for o, v in c.items()} for k, c in self.conditions.items() if c}
        object.__setattr__(self, "conditions", MappingProxyType(conditions))
        known = {f.name for f in fields(PairSpec)}
        for name in (*self.fixed, *self.knobs, *(n.partition(".")[0] for n in self.smoke)):
            if name not in known:
                raise SpaceError(str(unknown("pair spec field", name, known)))
        if both := sorted(set(self.fixed) & set(self.knobs)):
            raise SpaceError(f"{both[0]} is both fixed and a knob; keep one")
        if needed := sorted(_NEEDED & set(self.conditions)):
            raise SpaceError(f"{needed[0]} has no default and must act in every trial; drop its condition")
        try:
            check(self.conditions, self.knobs)
        except ValueError as error:
            raise SpaceError(str(error)) from None

    def __getstate__(self) -> dict[str, Any]:
        return {
            f.name: dict(cast(Mapping[str, Any], v)) if isinstance(v := getattr(self, f.name), Mapping) else v
            for f in fields(self)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(
                self, name, MappingProxyType(cast(dict[str, Any], value)) if isinstance(value, dict) else value
            )

    def build(self, params: Mapping[str, Any], **more: Any) -> PairSpec:
        """Return the trial with these knobs.

        Args:
            params: Value of every knob that acts; the others keep the default of `PairSpec`.
            more: Further fields of `PairSpec`, such as `seed` and `repeat`; they override `fixed`.

        Raises:
            ValueError: A knob is missing or unknown, or a value breaks PairSpec's rules.
        """
        needed = {name for name in self.knobs if acts(name, params, self.conditions)}
        if missing := sorted(needed - set(params)):
            raise SpaceError(f"space {self.name!r} needs a value of {missing[0]}")
        if wrong := sorted(set(params) - set(self.knobs)):
            raise SpaceError(str(unknown(f"knob of space {self.name!r}:", wrong[0], self.knobs)))
        return PairSpec.from_mapping({**self.fixed, **self.active_params(params), **more})

    def active_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters without the knobs that do not act."""
        return active_params(params, self.conditions)

    def params_of(self, spec: PairSpec) -> dict[str, Any]:
        """Return the values of the knobs that act in a trial: the inverse of `build`."""
        return self.active_params({name: getattr(spec, name) for name in self.knobs})

    def override(
        self,
        parameters: Mapping[str, BaseDistribution],
        fixed: Mapping[str, Any],
        conditions: Conditions | None = None,
        **about: Any,
    ) -> Space:
        """Return this space with other ranges or fixed values; a field may change between the two.

        Args:
            parameters: Field -> distribution.
            fixed: Field -> value; a name with a dot, such as `dataset_options.path`, sets one entry of a field. Knobs
                that can no longer act are dropped.
            conditions: Knob -> its new condition.
            about: Other attributes, such as `doc`.

        Raises:
            SpaceError: A field that `PairSpec` does not have, or an entry of a field that is no mapping.
        """
        given: dict[str, Any] = {}
        for name, value in fixed.items():
            head, *path = name.split(".")
            given[head] = self._with_entry(given.get(head, self.fixed.get(head, {})), path, value, name)
        knobs = {k: v for k, v in self.knobs.items() if k not in given} | dict(parameters)
        rest = {k: v for k, v in self.fixed.items() if k not in parameters} | given
        new = {k: c for k, c in (conditions or {}).items() if k not in given}
        try:
            check(new, knobs, rest)
        except ValueError as error:
            raise SpaceError(str(error)) from None
        kept, dead = narrow_conditions({**self.conditions, **new}, knobs, rest)
        knobs = {k: v for k, v in knobs.items() if k not in dead}
        return replace(self, fixed=rest, knobs=knobs, conditions=kept, **about)

    def _with_entry(self, now: Any, path: list[str], value: Any, name: str) -> Any:
        if not path:
            return value
        if not isinstance(now, Mapping):
            raise SpaceError(f"{name} sets an entry, but the field must then be a mapping, got {now!r}")
        known = cast(Mapping[str, Any], now)
        return {**known, path[0]: self._with_entry(known.get(path[0], {}), path[1:], value, name)}

    def small(self) -> Space:
        """Return the small variant with the same name, for tests and first tries on a CPU.

        Raises:
            SpaceError: The space has no small variant, because it is already small.
        """
        if not self.smoke:
            raise SpaceError(f"space {self.name!r} has no smoke variant because it is already small; leave --smoke out")
        from optuna.distributions import BaseDistribution

        parameters = {k: v for k, v in self.smoke.items() if isinstance(v, BaseDistribution)}
        fixed = {k: v for k, v in self.smoke.items() if k not in parameters}
        return self.override(parameters, fixed, doc=f"{self.doc} (smoke variant)", smoke={})


def names() -> list[str]:
    """Return the names of the built-in spaces, sorted."""
    here = Path(__file__).parent
    return sorted(m.name for m in pkgutil.iter_modules([str(here)]) if not m.name.startswith("_"))


def load(name: str) -> Space:
    """Return a space by its name or by the path of a user's Python file.

    A file must define `SPACE`; it may register models and data sets. Every trial carries its text, so that it must
    import installed packages only. The file is executed: load only files that you trust.

    Raises:
        UnknownName: No such space; the message names similar ones.
        SpaceError: The file cannot be read, is not Python, or defines no `SPACE`.
    """
    if name.endswith(".py") or "/" in name:
        return _load_file(Path(name))
    if name not in names():
        raise unknown("space", name, names())
    space: Space = importlib.import_module(f"{__package__}.{name}").SPACE
    return replace(space, name=name)


def _load_file(path: Path) -> Space:
    from trainables.pair.plugin import PluginError, load_source

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"cannot read the space file {path}: {error}") from None
    try:
        module = load_source(text, str(path))
    except PluginError as error:
        raise SpaceError(str(error)) from None
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Space):
        raise SpaceError(f"{path} must define SPACE = Space(...), got {type(space).__name__}")
    return replace(space, name=path.stem, fixed={**space.fixed, "source": text})

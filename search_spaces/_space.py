"""Space: knobs with their ranges and the fixed fields of a trial, which together give a PairSpec."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from search_spaces._conditions import Conditions, active_params, acts, check, narrow_conditions
from search_spaces._entries import has_entry, is_part_of, read_entry, with_entry, without_entry
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
        knobs: Field of `PairSpec` -> its Optuna distribution. A name with a dot, such as `optimizer_options.eps`, is
            one entry of a field.
        source: Origin of the setting.
        budget: One sentence on the time per pair and its hardware.
        smoke: Field -> value or distribution of the small variant, which runs a pair in seconds on a CPU; empty if the
            space is already small.
        name: Name of the file; `load` sets it.
        needs: Field, or entry of a field -> word for its value, such as `hf:FOLDER`, where `fixed` holds a placeholder
            that every sweep has to replace.
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
    needs: Mapping[str, str] = field(default_factory=lambda: {})

    def __post_init__(self) -> None:
        object.__setattr__(self, "fixed", MappingProxyType(dict(self.fixed)))
        object.__setattr__(self, "knobs", MappingProxyType(dict(self.knobs)))
        object.__setattr__(self, "smoke", MappingProxyType(dict(self.smoke)))
        object.__setattr__(self, "needs", MappingProxyType(dict(self.needs)))
        conditions = {k: {o: tuple(v) for o, v in c.items()} for k, c in self.conditions.items() if c}
        object.__setattr__(self, "conditions", MappingProxyType(conditions))
        known = {f.name for f in fields(PairSpec)}
        for name in (*self.fixed, *(n.partition(".")[0] for n in (*self.knobs, *self.smoke))):
            if name not in known:
                raise SpaceError(str(unknown("pair spec field", name, known)))
        if both := sorted(name for name in self.knobs if has_entry(self.fixed, name)):
            raise SpaceError(f"{both[0]} is both fixed and a knob; keep one")
        if parts := [(a, b) for a in self.knobs for b in self.knobs if a != b and is_part_of(a, b)]:
            raise SpaceError(f"{parts[0][0]} is an entry of {parts[0][1]}, and both are knobs; keep one")
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
        fields = dict(self.fixed)
        for name, value in self.active_params(params).items():
            fields = with_entry(fields, name, value)
        return PairSpec.from_mapping({**fields, **more})

    def active_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters without the knobs that do not act."""
        return active_params(params, self.conditions)

    def params_of(self, spec: PairSpec) -> dict[str, Any]:
        """Return the values of the knobs that act in a trial: the inverse of `build`.

        Raises:
            SpaceError: The trial lacks the entry of a field that is a knob that acts.
        """
        known: dict[str, Any] = {}
        for name in self.knobs:
            with suppress(KeyError):
                known[name] = read_entry(spec, name)
        active = self.active_params(known)
        if missing := sorted(k for k in self.knobs if k not in known and acts(k, active, self.conditions)):
            raise SpaceError(f"the trial {spec.digest} has no {missing[0]}, which is a knob of space {self.name!r}")
        return active

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
        rest, given = dict(self.fixed), list(fixed)
        for name in parameters:
            rest = without_entry(rest, name)
        try:
            for name, value in fixed.items():
                rest = with_entry(rest, name, value)
        except ValueError as error:
            raise SpaceError(str(error)) from None
        knobs = {k: v for k, v in self.knobs.items() if not any(is_part_of(k, f) for f in given)} | dict(parameters)
        new = {k: c for k, c in (conditions or {}).items() if k not in fixed}
        try:
            check(new, knobs, rest)
        except ValueError as error:
            raise SpaceError(str(error)) from None
        kept, dead = narrow_conditions({**self.conditions, **new}, knobs, rest)
        knobs = {k: v for k, v in knobs.items() if k not in dead}
        return replace(self, fixed=rest, knobs=knobs, conditions=kept, **about)

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
        return self.override(parameters, fixed, doc=f"{self.doc} (smoke variant)", smoke={}, needs={})

    def check_needs(self, given: Collection[str]) -> None:
        """Check that a sweep replaces the placeholders of the space.

        Args:
            given: Fields, and entries of fields, that the sweep sets. A data set's name stands for its options, too.

        Raises:
            SpaceError: One is missing; the message has the options that set them.
        """
        set_by = [*given, *(f"{name}_options" for name in given)]
        if missing := [name for name in self.needs if not any(is_part_of(name, other) for other in set_by)]:
            flags = " ".join(f"--set {name}={self.needs[name]}" for name in missing)
            raise SpaceError(f"space {self.name!r} needs {flags}")


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

"""Prepared sweeps: a checked spec with its space, and what follows from both, built once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from search_spaces import Space, load
from sweeper.config.points import convert_points
from sweeper.config.space import corners, load_space, noise_constants
from sweeper.config.spec import SweepSpec
from sweeper.config.trials import check_proxy
from sweeper.errors import SpecError
from sweeper.search.noise_targets import MEASURED_USUAL, WITH_AUGMENTATION, default_noise, list_targets
from sweeper.search.stages import DEFAULT_CONFIRM, DEFAULT_MAP
from trainables.spec import PairSpec
from trainables.training.optimizers import family

AUGMENTED = ("augmentation", "augmentation_strength")
"""Knobs that change the gradient noise of a trial by its data alone."""


@dataclass(frozen=True)
class PreparedSweep:
    """A checked sweep with everything that follows from its spec.

    Attributes:
        spec: The sweep.
        space: Its search space, with the sweep's ranges and fixed values.
        corners: Trials that touch every bound and every choice of every knob; see `sweeper.config.space.corners`.
        constants: Values in noise formulas that are not knobs.
    """

    spec: SweepSpec
    space: Space
    corners: tuple[PairSpec, ...]
    constants: Mapping[str, float]

    @property
    def members(self) -> int:
        """Number of children of a trial; the largest one if trials differ."""
        return max(trial.members for trial in self.corners)

    def with_spec(self, **changes: Any) -> PreparedSweep:
        """Return this sweep with other values of keys that do not define its space."""
        return replace(self, spec=self.spec.model_copy(update=changes)) if changes else self

    def with_constants(self, **constants: float) -> PreparedSweep:
        """Return this sweep with further constants of the noise formulas."""
        return replace(self, constants={**self.constants, **constants})


def prepare(spec: SweepSpec, find: Callable[[str], Space] = load) -> PreparedSweep:
    """Load the space of a sweep and build the trials at its bounds, so that a broken rule shows before the first trial.

    Args:
        spec: The sweep.
        find: Returns the space of a name or path; see `sweeper.config.space.load_space`.

    Raises:
        SpecError: The space is unknown, a bound, a choice or an enqueued configuration breaks a rule, or the proxy
            cannot shorten the trials.
    """
    space = load_space(spec, find)
    try:
        trials = tuple(corners(space))
        convert_points(space, spec.enqueue)
    except ValueError as error:
        raise SpecError(str(error)) from None
    check_proxy(spec, space, trials)
    return PreparedSweep(spec, space, trials, noise_constants(space, trials[0]))


def set_defaults(sweep: PreparedSweep, stored: Mapping[str, Any] | None = None) -> PreparedSweep:
    """Return a sweep whose spec names its noise, its objective, its stages and its order: its own, or the defaults.

    Args:
        sweep: The sweep.
        stored: Keys of the spec in its run folder, which replace the defaults; None without one. A folder of an
            earlier version has no stages.

    Raises:
        SpecError: The sweep has a proxy and no map.
    """
    given, spec = sweep.spec.model_fields_set, sweep.spec
    adaptive, single = spec.sampler == "noise" and bool(sweep.space.knobs), not spec.further_objectives
    defaults: dict[str, Any] = {
        "map": DEFAULT_MAP if adaptive else 0.0,
        "confirm": DEFAULT_CONFIRM if adaptive and single else 0.0,
        "order": "free" if spec.prune else "fixed",
    }
    if adaptive:  # a share that was given limits the other one
        defaults["map"] = min(DEFAULT_MAP, 1.0 - (spec.confirm or 0.0))
        defaults["confirm"] = min(defaults["confirm"], 1.0 - (spec.map or 0.0))
    if stored is not None:
        defaults = {"map": 0.0, "confirm": 0.0, "order": "free"} | {k: stored[k] for k in defaults if k in stored}
    changes = {name: value for name, value in defaults.items() if getattr(spec, name) is None}
    if "noise" not in given:
        changes["noise"] = stored["noise"] if stored and "noise" in stored else find_default_noise(sweep)
    if "objective" not in given:
        objective = stored["objective"] if stored and "objective" in stored else find_objective(sweep)
        changes |= {"objective": objective} if objective != spec.objective else {}
    sweep = sweep.with_spec(**changes)
    if spec.proxy is not None and not sweep.spec.map:
        raise SpecError("proxy shortens the trials of the map, and this sweep has none: leave proxy out")
    return sweep


def find_objective(sweep: PreparedSweep) -> str:
    """Return the first objective of a sweep: its own, or the default of its trials."""
    spec, trial = sweep.spec, sweep.corners[0]
    if "objective" in spec.model_fields_set or trial.pair_kind != "tasks":
        return spec.objective
    return "gain_tasks" if trial.is_language_model else "chosen_normalised_accuracy"


def find_default_noise(sweep: PreparedSweep) -> str:
    """Return the default noise of a sweep: that of its optimizers, which counts the augmentation where it varies."""
    families = {family(trial.optimizer) for trial in sweep.corners}
    defaults = {default_noise(f) for f in families}
    if len(defaults) == 1:
        name = defaults.pop()
        augmented = any(knob in AUGMENTED for knob in sweep.space.knobs)
        probed = sweep.corners[0].trainable == "pair" and sweep.spec.measure != 0
        return WITH_AUGMENTATION.get(name, name) if augmented and probed else name
    # no default holds for all optimizers; the table can at least show a measured noise
    fallback = MEASURED_USUAL if sweep.spec.sampler != "noise" else min(defaults)
    return next(iter(list_targets(families)), fallback)

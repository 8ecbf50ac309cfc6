"""Prepared sweeps: a checked spec with its space, and what follows from both, built once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from search_spaces import Space, load
from sweeper.config.points import convert_points
from sweeper.config.space import corners, noise_constants
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.search.noise_targets import MEASURED_USUAL, default_noise, list_targets
from trainables.spec import PairSpec
from trainables.training.optimizers import family


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
        find: Returns the space of a name or path; see `SweepSpec.load_space`.

    Raises:
        SpecError: The space is unknown, or a bound, a choice or an enqueued configuration breaks a rule.
    """
    space = spec.load_space(find)
    try:
        trials = tuple(corners(space))
        convert_points(space, spec.enqueue)
    except ValueError as error:
        raise SpecError(str(error)) from None
    return PreparedSweep(spec, space, trials, noise_constants(space, trials[0]))


def set_default_noise(sweep: PreparedSweep) -> PreparedSweep:
    """Return a sweep whose spec names a noise: its own, or the default of its optimizers."""
    if "noise" in sweep.spec.model_fields_set:
        return sweep
    families = {family(trial.optimizer) for trial in sweep.corners}
    defaults = {default_noise(f) for f in families}
    if len(defaults) == 1:
        return sweep.with_spec(noise=defaults.pop())
    # no default holds for all optimizers; the table can at least show a measured noise
    fallback = MEASURED_USUAL if sweep.spec.sampler != "noise" else min(defaults)
    return sweep.with_spec(noise=next(iter(list_targets(families)), fallback))

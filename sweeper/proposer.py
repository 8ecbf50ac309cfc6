"""Proposers: which configuration comes next. Designs are functions of (seed, number); studies learn from results."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from search_spaces import Space
from trainables.spec import stream

from .objective import OBJECTIVES
from .samplers import SAMPLERS
from .spec import SweepSpec

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from .noise_axis import KAugOf


@dataclass(frozen=True)
class Proposal:
    """One configuration to try.

    Attributes:
        params: Value of every knob.
        target: Noise the sampler aimed at; None for samplers that do not aim.
        thoughts: What the sampler says about it (origin, optimum, optimum_low, optimum_high, exponents).
        seconds: Time the sampler took.
    """

    params: dict[str, Any]
    target: float | None = None
    thoughts: Mapping[str, Any] | None = None
    seconds: float = 0.0


class Proposer(Protocol):
    """Source of configurations."""

    def ask(self, number: int) -> Proposal:
        """Return the configuration with this number, which lies within `sweeper.samplers.budget`."""
        ...

    def tell(self, number: int, params: Mapping[str, Any], value: float | None) -> None:
        """Say how a configuration ended, asked for now or in an earlier run; None: it failed."""
        ...


class DesignProposer:
    """Point `number` of a design: resuming fills the missing numbers with the same points."""

    def __init__(self, spec: SweepSpec, space: Space) -> None:
        self.spec, self.space = spec, space

    def ask(self, number: int) -> Proposal:
        """See `Proposer.ask`."""
        design = SAMPLERS[self.spec.sampler].design
        assert design is not None
        start = time.perf_counter()
        params = design(self.space.knobs, self.spec.seed, number, self.spec.trials)
        return Proposal(params, seconds=time.perf_counter() - start)

    def tell(self, number: int, params: Mapping[str, Any], value: float | None) -> None:
        """Nothing to learn."""


class StudyProposer:
    """An Optuna study in memory: a cache, rebuilt from the run folder on resume."""

    def __init__(
        self, spec: SweepSpec, space: Space, constants: Mapping[str, float], k_aug: KAugOf | None = None
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.spec, self.knobs, self.constants, self.k_aug = spec, dict(space.knobs), constants, k_aug
        direction = "maximize" if OBJECTIVES[spec.objective].maximize else "minimize"
        self.study = optuna.create_study(sampler=self._sampler(spec.seed), direction=direction)
        self.open: dict[int, optuna.Trial] = {}
        self.fresh = True

    def _sampler(self, seed: int) -> BaseSampler:
        import optuna

        make = SAMPLERS[self.spec.sampler].make
        assert make is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return make(seed=seed, knobs=self.knobs, noise=self.spec.noise, constants=self.constants, k_aug=self.k_aug)

    def ask(self, number: int) -> Proposal:
        """See `Proposer.ask`."""
        start = time.perf_counter()
        if self.fresh and self.study.trials and not SAMPLERS[self.spec.sampler].stateless:
            # a sampler with the sweep's seed would draw its first random points again
            seed = stream(str(self.spec.seed), f"resume/{len(self.study.trials)}") % 2**32
            self.study.sampler = self._sampler(seed)
        self.fresh = False
        trial = self.study.ask(fixed_distributions=self.knobs)
        params = dict(trial.params)
        seconds = time.perf_counter() - start
        self.open[number] = trial
        target, thoughts = self._thoughts(trial)
        return Proposal(params, target, thoughts, seconds)

    def _thoughts(self, trial: Any) -> tuple[float | None, Mapping[str, Any]]:
        from .exchange import NOISE_TARGET_KEY, SEARCH_KEY

        attrs = self.study.get_trials(deepcopy=False)[trial.number].system_attrs
        return attrs.get(NOISE_TARGET_KEY), json.loads(attrs.get(SEARCH_KEY, "{}"))

    def tell(self, number: int, params: Mapping[str, Any], value: float | None) -> None:
        """See `Proposer.tell`."""
        from optuna.trial import TrialState, create_trial

        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        if number in self.open:
            self.study.tell(self.open.pop(number), value, state=state)
        else:
            known = {k: params[k] for k in self.knobs}
            self.study.add_trial(create_trial(state=state, params=known, distributions=self.knobs, value=value))


def make_proposer(
    spec: SweepSpec, space: Space, constants: Mapping[str, float], k_aug: KAugOf | None = None
) -> Proposer:
    """Return the proposer of a sweep.

    Args:
        spec: The sweep.
        space: Its search space.
        constants: What the noise formulas need beside the knobs: fixed hyperparameters and `examples`.
        k_aug: Parameters -> k_aug, for a noise that has it.
    """
    if SAMPLERS[spec.sampler].design is not None:
        return DesignProposer(spec, space)
    return StudyProposer(spec, space, constants, k_aug)

"""Proposers choose the next configuration: a design is a function of (seed, number), a study learns from results."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from search_spaces import Space
from search_spaces._conditions import acts, sort_by_conditions
from sweeper.analysis.observations import make_trial, trial_state, trial_values
from sweeper.config.points import convert_points
from sweeper.config.prepared import PreparedSweep
from sweeper.config.prior import pool_priors
from sweeper.config.spec import SweepSpec
from sweeper.search.designs import count_configs
from sweeper.search.objectives import OBJECTIVES, Observation
from sweeper.search.samplers import SAMPLERS
from trainables.noise import NOISE
from trainables.spec import stream

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from sweeper.search.noise_sampler.level_sets import KAugOf

ENQUEUED = "enqueued"


@dataclass(frozen=True)
class Proposal:
    """One configuration to try.

    Attributes:
        params: Value of every knob that acts.
        target: Noise that the sampler targets; None for other samplers.
        thoughts: Columns of the sampler for the search table (origin, optimum, optimum_low, optimum_high, exponents).
        seconds: Time of the proposal.
        stage: Stage of the sweep; None in a sweep without stages.
    """

    params: dict[str, Any]
    target: float | None = None
    thoughts: Mapping[str, Any] | None = None
    seconds: float = 0.0
    stage: str | None = None


class Proposer(Protocol):
    """Source of configurations. Callers ask in ascending order of number."""

    def set_lag(self, lag: int | None) -> None:
        """Let a proposal use the results of numbers up to its own minus `lag`, at least 1; None uses all so far."""
        ...

    def is_ready(self, number: int) -> bool:
        """Return whether `ask` needs no result of a running configuration."""
        ...

    def ask(self, number: int) -> Proposal:
        """Return the configuration with this number, which is below `count_configurations`."""
        ...

    def tell(self, number: int, params: Mapping[str, Any], observation: Observation) -> None:
        """Learn the observation of a configuration of this run or an earlier one."""
        ...

    def add_failure(self, number: int, params: Mapping[str, Any]) -> None:
        """Learn that a configuration of an earlier run failed; its number is asked again."""
        ...

    def keep(self, number: int, params: Mapping[str, Any] | None = None, proxy: bool = False) -> None:
        """Reserve the number of a configuration that an earlier run left unfinished.

        Call it in order of number, between the calls of `tell`, with `params` if some repeats ended, and with `proxy`
        if they have a share of the training budget.
        """
        ...


class DesignProposer:
    """Proposes point `number` of a design; a resume fills missing numbers with the same points."""

    def __init__(self, sweep: PreparedSweep) -> None:
        self.spec, self.space = sweep.spec, sweep.space
        self.points = convert_points(sweep.space, sweep.spec.enqueue)

    def set_lag(self, lag: int | None) -> None:
        """Do nothing: a design does not learn."""

    def is_ready(self, number: int) -> bool:
        """Return True: a design does not learn."""
        return True

    def ask(self, number: int) -> Proposal:
        """See `Proposer.ask`."""
        design = SAMPLERS[self.spec.sampler].design
        assert design is not None
        start = time.perf_counter()
        first = len(self.spec.enqueue)
        enqueued = self.points[number] if number < first else {}
        # an enqueued point takes its missing knobs from the design's point with its number
        index = number - first if number >= first else number % _count_points(self.spec, self.space)
        params = design(
            self.space.knobs, self.spec.seed, index, max(self.spec.trials - first, 1), self.space.conditions
        )
        thoughts = {"origin": ENQUEUED} if number < first else None
        return Proposal(
            self.space.active_params({**params, **enqueued}), thoughts=thoughts, seconds=time.perf_counter() - start
        )

    def tell(self, number: int, params: Mapping[str, Any], observation: Observation) -> None:
        """Do nothing: a design does not learn."""

    def add_failure(self, number: int, params: Mapping[str, Any]) -> None:
        """Do nothing: every point has its number."""

    def keep(self, number: int, params: Mapping[str, Any] | None = None, proxy: bool = False) -> None:
        """Do nothing: every point has its number."""


class StudyProposer:
    """Proposes by an Optuna study in memory, which a resume rebuilds from the run folder.

    A stateless sampler draws by the number of Optuna's trial, which is the number of the configuration as long as none
    failed.

    With a `lag`, the study is a function of the number that is asked: it holds the configurations with smaller numbers,
    and the results of those that are older by at least `lag`. Workers that finish in another order then change nothing.
    """

    def __init__(self, sweep: PreparedSweep, k_aug: KAugOf | None = None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        spec, space = self.spec, self.space = sweep.spec, sweep.space
        self.constants, self.k_aug, self.noise = sweep.constants, k_aug, spec.noise
        self.sampler = SAMPLERS[spec.sampler]
        self.points = convert_points(space, spec.enqueue)
        self.order = sort_by_conditions(space.knobs, space.conditions)
        maximize, minimize = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
        directions = [maximize if OBJECTIVES[o].maximize else minimize for o in spec.objectives]
        self.study = optuna.create_study(sampler=self._make_sampler(spec.seed), directions=directions)
        self.open: dict[int, int] = {}  # number of a running configuration -> Optuna's number
        self.kept: dict[int, Proposal] = {}  # proposals that are reserved for their numbers
        self.fresh = True
        self.lag: int | None = None
        # with a lag: what the study does not hold yet
        self.absent: dict[int, tuple[Mapping[str, Any], bool]] = {}  # number -> parameters, and whether of a proxy
        self.results: dict[int, Observation] = {}
        self.failures: dict[int, Mapping[str, Any]] = {}
        self.ended: set[int] = set()
        self.front = 0  # the smallest number without a result

    def _make_sampler(self, seed: int) -> BaseSampler:
        import optuna

        assert self.sampler.make is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return self.sampler.make(
                seed=seed,
                knobs=dict(self.space.knobs),
                noise=self.noise,
                constants=self.constants,
                k_aug=self.k_aug if "k_aug" in NOISE[self.noise].needs else None,
                conditions=self.space.conditions,
                prior=pool_priors(self.spec.prior),
            )

    def set_lag(self, lag: int | None) -> None:
        """See `Proposer.set_lag`."""
        self.lag = lag

    def move_along(self, noise: str) -> None:
        """Let the sampler search along another noise than the sweep's."""
        self.noise = noise
        self.study.sampler = self._make_sampler(self.spec.seed)

    def is_ready(self, number: int) -> bool:
        """See `Proposer.is_ready`."""
        while self.front in self.ended:
            self.ended.discard(self.front)
            self.front += 1
        return self.lag is None or self.front > number - self.lag

    def _advance(self, number: int) -> None:
        """Bring the study to the state in which it proposes the configuration with this number."""
        assert self.lag is not None
        for other in sorted(n for n in self.absent if n < number):
            self._add_running(other, *self.absent.pop(other))
        for other in sorted(n for n in self.results if n <= number - self.lag):
            self._finish(other, self.results.pop(other))
        if number in self.failures:
            self.study.add_trial(make_trial(self.space, self.failures.pop(number), Observation()))

    def _add_running(self, number: int, params: Mapping[str, Any], proxy: bool) -> None:
        self.open[number] = len(self.study.trials)
        self.study.add_trial(make_trial(self.space, params, None, proxy))

    def ask(self, number: int) -> Proposal:
        """See `Proposer.ask`."""
        if number in self.kept:
            return self.kept.pop(number)
        start = time.perf_counter()
        if self.lag is not None:
            self._advance(number)
        if self.fresh and self.study.trials and not self.sampler.stateless:
            # with the sweep's seed, the sampler would repeat its first random points
            seed = stream(str(self.spec.seed), f"resume/{len(self.study.trials)}") % 2**32
            self.study.sampler = self._make_sampler(seed)
        self.fresh = False
        enqueued = self.points[number] if number < len(self.points) else None
        if enqueued is not None:
            self.study.enqueue_trial(enqueued)
        trial = self.study.ask()
        params: dict[str, Any] = {}
        for name in self.order:
            if acts(name, params, self.space.conditions):
                params[name] = _suggest(trial, name, self.space.knobs[name])
        params = {name: params[name] for name in self.space.knobs if name in params}
        seconds = time.perf_counter() - start
        self.open[number] = trial.number
        target, thoughts = self._read_thoughts(trial)
        if enqueued is not None:
            thoughts = {**thoughts, "origin": ENQUEUED}
        return Proposal(params, target, thoughts, seconds)

    def _read_thoughts(self, trial: Any) -> tuple[float | None, Mapping[str, Any]]:
        from sweeper.search.noise_sampler.study_attrs import NOISE_TARGET_KEY, SEARCH_KEY

        attrs = self.study.get_trials(deepcopy=False)[trial.number].system_attrs
        return attrs.get(NOISE_TARGET_KEY), json.loads(attrs.get(SEARCH_KEY, "{}"))

    def tell(self, number: int, params: Mapping[str, Any], observation: Observation) -> None:
        """See `Proposer.tell`."""
        self.ended.add(number)
        if self.lag is None:
            if number in self.open:
                self._finish(number, observation)
            else:
                self.study.add_trial(make_trial(self.space, params, observation))
            return
        if number not in self.open:
            # a failed trial does not say that it was a proxy's, but `keep` did
            _, proxy = self.absent.get(number, (params, False))
            self.absent[number] = params, proxy or observation.proxy
        self.results[number] = observation

    def _finish(self, number: int, observation: Observation) -> None:
        from optuna.trial import Trial

        trial = Trial(self.study, self.study.get_trials(deepcopy=False)[self.open.pop(number)]._trial_id)
        for name, value in observation.constraints.items():
            trial.set_constraint(name, value)
        self.study.tell(trial, trial_values(observation), state=trial_state(observation))

    def add_failure(self, number: int, params: Mapping[str, Any]) -> None:
        """See `Proposer.add_failure`."""
        if self.lag is None:
            self.study.add_trial(make_trial(self.space, params, Observation()))
        else:
            self.failures[number] = params

    def keep(self, number: int, params: Mapping[str, Any] | None = None, proxy: bool = False) -> None:
        """See `Proposer.keep`."""
        if params is not None:
            if self.lag is None:
                self._add_running(number, params, proxy)
            else:
                self.absent[number] = params, proxy
        elif self.sampler.stateless and self.lag is None:
            self.kept[number] = self.ask(number)


def _suggest(trial: Any, name: str, distribution: Any) -> Any:
    if hasattr(distribution, "choices"):
        return trial.suggest_categorical(name, distribution.choices)
    suggest = trial.suggest_int if isinstance(distribution.low, int) else trial.suggest_float
    return suggest(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def count_configurations(spec: SweepSpec, space: Space) -> int:
    """Return the number of configurations of a sweep: `trials`, or fewer for a design with fewer points."""
    return min(spec.trials, len(spec.enqueue) + _count_points(spec, space))


def _count_points(spec: SweepSpec, space: Space) -> int:
    return count_configs(spec.sampler, space.knobs, max(spec.trials - len(spec.enqueue), 1), space.conditions)


def make_search_proposer(sweep: PreparedSweep, k_aug: KAugOf | None = None) -> Proposer:
    """Return the proposer of a sweep's search.

    Args:
        sweep: The sweep, with the constants of its noise formula.
        k_aug: Parameters -> k_aug; None if the noise does not depend on it.

    Raises:
        ValueError: The sampler cannot search this space or these objectives.
    """
    if SAMPLERS[sweep.spec.sampler].design is not None:
        return DesignProposer(sweep)
    return StudyProposer(sweep, k_aug)

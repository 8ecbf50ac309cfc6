"""Staged proposer: pilots, the map, the search of another proposer, and fresh pairs that confirm the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute

from sweeper.analysis.stages.candidates import Candidate, choose_candidates
from sweeper.analysis.stages.search_noise import describe_preference, find_preference
from sweeper.config.prepared import PreparedSweep
from sweeper.runner.proposers.search import Proposal, Proposer, StudyProposer, make_search_proposer
from sweeper.search.map_design import MapDesign, Pilot
from sweeper.search.noise_targets import list_targets, target_or_default
from sweeper.search.objectives import OBJECTIVES, Observation
from sweeper.search.stages import CHOOSE, MAP, MAPPING, PILOT, SEARCH, Segment, StagePlan, plan_stages
from trainables.noise import NOISE
from trainables.training.optimizers import family

if TYPE_CHECKING:
    from sweeper.search.noise_sampler.level_sets import KAugOf

MOST_CANDIDATES = 4
WINNER = "winner"


@dataclass(frozen=True)
class _Ended:
    """A configuration that ended: its value for the study, None without one, whether it cannot win, and collapsed."""

    params: Mapping[str, Any]
    value: float | None
    broken: bool
    collapsed: bool


@dataclass
class _Choice:
    """The candidates of one segment `choose`."""

    segment: Segment
    candidates: Sequence[Candidate]
    order: list[int] = field(default_factory=lambda: [])
    """Positions of the candidates, the best first; empty until their pairs ended."""


class StagedProposer:
    """Proposes by stage; see `sweeper.search.stages`.

    The map waits for its pilots, the choice for the search, and the report for the choice. Under a `lag`, every
    proposal is a function of the results of numbers that are smaller by at least `lag`.

    Args:
        sweep: The sweep, with the constants of its noise formula.
        plan: The stages of its configurations.
        inner: Proposer of the search.
        k_aug: Parameters -> k_aug; None if the noise does not depend on it.
        read_trials: Returns the trials table of the run folder.
        say: Called with a line about a decision between two stages.

    Raises:
        ValueError: The formula of the noise cannot use a knob.
    """

    def __init__(
        self,
        sweep: PreparedSweep,
        plan: StagePlan,
        inner: Proposer,
        k_aug: KAugOf | None = None,
        read_trials: Callable[[], pa.Table] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.say = say
        self.sweep, self.plan, self.inner = sweep, plan, inner
        self.k_aug, self.read_trials = k_aug, read_trials
        self.sign = -1.0 if OBJECTIVES[sweep.spec.objective].maximize else 1.0
        self.lag: int | None = None
        self.ended: dict[int, _Ended] = {}
        self._choices: dict[int, _Choice] = {}
        self._mapped = False
        self._aimed = False
        self._span: tuple[float, float] | None = None
        self._design: MapDesign | None = None
        if any(segment.stage in (PILOT, MAP) for segment in plan.segments):
            self._design = self._make_design()

    def set_lag(self, lag: int | None) -> None:
        """See `Proposer.set_lag`."""
        self.lag = lag
        self.inner.set_lag(lag)

    def _make_design(self) -> MapDesign:
        spec, space = self.sweep.spec, self.sweep.space
        noise = target_or_default(spec.noise, family(self.sweep.corners[0].optimizer))
        # a sweep that shows a measured noise has no probe
        k_aug = self.k_aug if "k_aug" in NOISE[noise].needs else None
        return MapDesign(
            space.knobs, noise, self.sweep.constants, spec.seed, spec.repeats == 1, k_aug, space.conditions
        )

    # -- readiness --------------------------------------------------------------------------------------------------

    def is_ready(self, number: int) -> bool:
        """See `Proposer.is_ready`."""
        segment = self.plan.segment_of(number)
        if segment.stage == PILOT:
            return True
        if segment.stage == MAP:
            return self._have_ended(s for s in self.plan.segments if s.stage == PILOT)
        if segment.stage == SEARCH:
            return self._is_mapped(number) and self.inner.is_ready(number)
        before = [s for s in self.plan.segments if s.end <= segment.start]
        if not self._have_ended(before):
            return False
        return segment.stage == CHOOSE or self.lag is None or self._have_ended([self._waited_for(segment, number)])

    def _is_mapped(self, number: int) -> bool:
        if not self._mapped:
            self._mapped = self._have_ended(
                s for s in self.plan.segments if s.stage in (PILOT, MAP) and s.end <= number
            )
        return self._mapped

    def _have_ended(self, segments: Any) -> bool:
        return all(number in self.ended for s in segments for number in range(s.start, s.end))

    def _waited_for(self, segment: Segment, number: int) -> Segment:
        return replace(segment, end=max(segment.start, number - (self.lag or 1) + 1))

    # -- proposals --------------------------------------------------------------------------------------------------

    def ask(self, number: int) -> Proposal:
        """See `Proposer.ask`."""
        segment = self.plan.segment_of(number)
        if segment.stage == SEARCH:
            self._aim(number)
            return replace(self.inner.ask(number), stage=SEARCH)
        start = time.perf_counter()
        params, origin = self._propose(segment, number)
        params = dict(self.sweep.space.active_params(params))
        self.inner.keep(number, params, self.sweep.spec.proxy is not None and segment.stage in MAPPING)
        seconds = time.perf_counter() - start
        return Proposal(params, None, {"origin": origin}, seconds, segment.stage)

    def _aim(self, number: int) -> None:
        """Let the search move along the noise that the map prefers."""
        mapped = any(s.stage == MAP and s.end <= number for s in self.plan.segments)
        if self._aimed or not mapped or not isinstance(self.inner, StudyProposer) or self.read_trials is None:
            return
        self._aimed = True
        spec = self.sweep.spec
        if spec.sampler != "noise":
            return
        targets = list_targets(family(trial.optimizer) for trial in self.sweep.corners)
        known = [name for name in targets if self.k_aug is not None or "k_aug" not in NOISE[name].needs]
        trials = self.read_trials()
        mapping = pa.compute.equal(trials["stage"], MAP)  # type: ignore[attr-defined]
        preferred = find_preference(trials.filter(mapping), spec.objective, spec.noise, known)
        if preferred:
            self.inner.move_along(preferred.noise)
            self.say(describe_preference(preferred, spec.noise))

    def _propose(self, segment: Segment, number: int) -> tuple[Mapping[str, Any], str]:
        index = number - segment.start
        if segment.stage in (PILOT, MAP):
            assert self._design is not None
            if segment.stage == PILOT:
                return self._design.pilot(index, len(segment)), PILOT
            return self._design.point(index, self._find_span()), MAP
        if segment.stage == CHOOSE:
            candidates = self._choose(segment).candidates
            candidate = candidates[index % len(candidates)]
            return candidate.params, candidate.origin
        return self._find_winner(segment, number).params, WINNER

    def _find_span(self) -> tuple[float, float]:
        assert self._design is not None
        if self._span is None:
            pilots = (n for s in self.plan.segments if s.stage == PILOT for n in range(s.start, s.end))
            ended = [self.ended[n] for n in pilots if n in self.ended]
            self._span = self._design.find_mergeable_range([self._make_pilot(e) for e in ended])
        return self._span

    def _make_pilot(self, ended: _Ended) -> Pilot:
        assert self._design is not None
        loss = None if ended.broken or ended.value is None else self.sign * ended.value
        return Pilot(self._design.log_noise(ended.params), loss, ended.collapsed)

    def _choose(self, segment: Segment) -> _Choice:
        if segment.start not in self._choices:
            assert self.read_trials is not None
            trials = self.read_trials()
            before = pa.compute.less(trials["number"], segment.start)  # type: ignore[attr-defined]
            count = max(1, min(MOST_CANDIDATES, len(segment) // 2))
            candidates = choose_candidates(self.sweep.spec, self.sweep.space, trials.filter(before), count)
            self._choices[segment.start] = _Choice(segment, candidates)
        return self._choices[segment.start]

    def _find_winner(self, segment: Segment, number: int) -> Candidate:
        """Return the best candidate of the choice before a report that has not failed in the report so far."""
        choice = self._choose(next(s for s in reversed(self.plan.segments) if s.stage == CHOOSE and s.end <= number))
        if not choice.order:
            choice.order = self._rank(choice)
        seen = self._waited_for(segment, number) if self.lag is not None else replace(segment, end=number)
        broken = [self.ended[n].params for n in range(seen.start, seen.end) if n in self.ended and self.ended[n].broken]
        best = next((i for i in choice.order if choice.candidates[i].params not in broken), choice.order[0])
        return choice.candidates[best]

    def _rank(self, choice: _Choice) -> list[int]:
        """Return the positions of the candidates by the mean of their fresh pairs, those with a broken pair last."""
        groups: list[list[_Ended]] = [[] for _ in choice.candidates]
        for number in range(choice.segment.start, choice.segment.end):
            groups[(number - choice.segment.start) % len(groups)].append(self.ended[number])

        def key(i: int) -> tuple[bool, float, int]:
            values = [e.value for e in groups[i] if e.value is not None]
            broken = any(e.broken for e in groups[i]) or not values
            return broken, self.sign * sum(values) / len(values) if values else 0.0, i

        return sorted(range(len(groups)), key=key)

    # -- results ----------------------------------------------------------------------------------------------------

    def tell(self, number: int, params: Mapping[str, Any], observation: Observation) -> None:
        """See `Proposer.tell`."""
        value = observation.values[0] if observation.values else None
        self.ended[number] = _Ended(dict(params), value, observation.broken or value is None, observation.collapsed)
        self.inner.tell(number, params, observation)

    def add_failure(self, number: int, params: Mapping[str, Any]) -> None:
        """See `Proposer.add_failure`."""
        self.inner.add_failure(number, params)

    def keep(self, number: int, params: Mapping[str, Any] | None = None, proxy: bool = False) -> None:
        """See `Proposer.keep`."""
        if params is not None or self.plan.stage_of(number) == SEARCH:
            self.inner.keep(number, params, proxy)


def make_proposer(
    sweep: PreparedSweep,
    k_aug: KAugOf | None = None,
    plan: StagePlan | None = None,
    read_trials: Callable[[], pa.Table] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Proposer:
    """Return the proposer of a sweep.

    Args:
        sweep: The sweep, with the constants of its noise formula.
        k_aug: Parameters -> k_aug; None if the noise does not depend on it.
        plan: The stages; None plans those of a new sweep.
        read_trials: Returns the trials table of the run folder; None if nothing runs.
        say: Called with a line about a decision between two stages.

    Raises:
        ValueError: The sampler cannot search this space or these objectives.
    """
    spec = sweep.spec
    plan = plan or plan_stages(spec.trials, spec.map or 0.0, spec.confirm or 0.0, len(spec.enqueue))
    search = make_search_proposer(sweep, k_aug)
    return StagedProposer(sweep, plan, search, k_aug, read_trials, say) if plan.staged else search

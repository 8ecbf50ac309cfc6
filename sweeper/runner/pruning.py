"""When to stop a trial on its way: a forecast of its end from the trials that ended.

High noise looks bad before the anneal and is paid back by it, so what is seen at a rung is never compared across
noises. Instead the end is forecast at each rung from the finished trials,

    y = b0 + b1 v + b2 z + b3 z^2 + b4 v z + residual,

v the merge at the rung (as the study would be told, smaller is better), z the log noise, y the normal score of the end:
its rank among the finished trials as a quantile of the normal distribution, so that neither the objective's unit nor
pairs that broke (gains and losses have heavy tails) decide the fit. A trial is stopped when its chance to beat the best
is small under the forecast's Student distribution: so small that over the whole sweep the winner is stopped by mistake
less often than `RISK`.

Stopped trials have no end and are left out of the fit. They are chosen by v and z, which are regressors, so least
squares of y on them stays unbiased at that rung; at earlier rungs, trials are missing whose later looks were bad, which
makes the forecast there too hopeful and stops too little. Trials that broke are left out too: the question is how good
a trial would be if it does not.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from sweeper.search.objectives import DEFAULT_CLASSES, Objective
from trainables.result import Outcome
from trainables.spec import PairSpec

Row = Mapping[str, Any]

LEAST = 8
"""Finished trials that a forecast takes."""
RISK = 0.05
"""Expected number of stopped trials of a sweep that would have beaten the best so far."""
CHANCE = 0.01
"""Chance to beat the best below which a trial may be stopped, however short the sweep."""
OUTSIDE = 8.0
"""Factor by which that chance may be larger where the noise is implausible, too: a second, independent sign."""
SHARP, MARGIN = 10.0, 3.0
"""An interval of the optimal noise says something once it spans less than a decade (the spaces span four); a factor 3
beyond its ends, about half of a merging optimum's width on the log axis, is far outside."""
RIDGE = 0.1
"""Penalty of the standardised slopes, as of a tenth of one trial: it keeps the fit solvable, no more."""


@dataclass(frozen=True)
class Look:
    """One trial (or stack of repeats) at a rung.

    Attributes:
        rung: Which, from 1.
        loss, accuracy: Of the merge on validation; None where not finite.
        classes: Number of classes.
        noise: Predicted noise; None where it is not defined.
        before: Final values of the configuration's earlier repeats, as told to the study, smaller is better.
    """

    rung: int
    loss: float | None
    accuracy: float | None
    classes: int | None
    noise: float | None
    before: Sequence[float] = ()


@dataclass(frozen=True)
class Forecast:
    """Where a trial will end, as a normal score among finished trials: a Student distribution.

    Attributes:
        ends: Final values of the finished trials, ascending.
    """

    mean: float
    sd: float
    freedom: int
    ends: tuple[float, ...]

    def chance(self, best: float, before: Sequence[float] = ()) -> float:
        """Return the probability to end below `best`, on average with the final values `before` of earlier repeats."""
        from scipy.stats import t

        many, known = len(before) + 1, math.fsum(self.score(v) for v in before)
        return float(t.cdf((self.score(best) * many - known - self.mean) / self.sd, self.freedom))

    def score(self, final: float) -> float:
        """Return the normal score of a final value; that of the best finished trial for any that is better."""
        below = min(bisect_left(self.ends, final), len(self.ends) - 1)
        return NormalDist().inv_cdf((below + 0.5) / len(self.ends))


def forecast(ended: Sequence[tuple[float, float, float]], value: float, log_noise: float) -> Forecast | None:
    """Forecast the end of a trial by ridge regression on finished ones.

    Args:
        ended: (value at the rung, log noise, value at the end) of finished trials.
        value: What is seen of the trial at the rung.
        log_noise: Its log noise.

    Returns:
        The forecast with the uncertainty of fit and residual; None with fewer than `LEAST` trials.
    """
    if len(ended) < LEAST:
        return None
    v, z, finals = np.array(ended, dtype=float).T
    forecast = Forecast(0.0, 1.0, len(v) - 5, tuple(np.sort(finals).tolist()))
    y = np.array([forecast.score(f) for f in finals.tolist()])
    centre, scale = (v.mean(), z.mean()), (v.std() or 1.0, z.std() or 1.0)

    def design(v: Any, z: Any) -> Any:
        v, z = (v - centre[0]) / scale[0], (z - centre[1]) / scale[1]
        return np.stack([np.ones_like(v), v, z, z**2, v * z], -1)

    x, here = design(v, z), design(np.float64(value), np.float64(log_noise))
    inverse = np.linalg.inv(x.T @ x + np.diag([0.0] + 4 * [RIDGE]))
    weights = inverse @ x.T @ y
    residual = y - x @ weights
    variance = max(float(residual @ residual) / forecast.freedom, 1e-6)
    sd = math.sqrt(variance * (1 + float(here @ inverse @ here)))
    return replace(forecast, mean=float(here @ weights), sd=sd)


@dataclass
class Judge:
    """Decides at each rung whether a trial goes on.

    Merged loss and accuracy are what is seen at a rung, so they are what is forecast; for other objectives only what
    diverges is stopped (a forecast of gains from merged losses stopped up to one winner in six).

    Args:
        objective: What ranks the trials.
        trials: How many the sweep has: each may take its part of `RISK`.
        only_diverging: Stop nothing but what diverges, for several objectives: what is hopeless in one may be best in
            another.

    Attributes:
        ended: Rung -> (value there, log noise, value at the end) of the finished trials.
    """

    objective: Objective
    trials: int
    only_diverging: bool = False
    ended: dict[int, list[tuple[float, float, float]]] = field(default_factory=lambda: {})

    def told(self, value: float, classes: int | None) -> float:
        """Return a value of the objective as told to the study, turned so that smaller is better."""
        row = {"outcome": "ok", self.objective.column: value, "classes": classes}
        return self.objective.tell(row) * (-1 if self.objective.maximize else 1)

    def _value(self, look: Look) -> float | None:
        seen = {"merged_loss_val": look.loss, "merged_accuracy_val": look.accuracy}.get(self.objective.column)
        return None if seen is None else self.told(seen, look.classes)

    def learn(self, looks: Sequence[Look], final: float) -> None:
        """Take in a trial that ended well: its looks, and its final value as `told` gives it."""
        for look in looks:
            if look.noise is not None and (value := self._value(look)) is not None:
                self.ended.setdefault(look.rung, []).append((value, math.log(look.noise), final))

    def decide(self, look: Look, best: float | None, belief: tuple[float, float] | None = None) -> str | None:
        """Return why a trial is to be stopped in one sentence, None where it goes on.

        Args:
            look: The trial.
            best: Mean value of the best configuration so far, as `told` gives it.
            belief: 90 % interval of the optimal noise, where the sampler has one.
        """
        cap = 2.0 * math.log(look.classes or DEFAULT_CLASSES)
        if look.loss is None or look.loss >= cap:
            seen = "is not finite" if look.loss is None else f"{look.loss:.3g} nat has reached the cap {cap:.3g}"
            return f"diverging: the merged loss {seen} at rung {look.rung}"
        value = self._value(look)
        if self.only_diverging or best is None or look.noise is None or value is None:
            return None
        ahead = forecast(self.ended.get(look.rung, ()), value, math.log(look.noise))
        if ahead is None:
            return None
        chance = ahead.chance(best, look.before)
        basis = f"chance to beat the best {chance:.1g} by {len(ahead.ends)} finished trials at rung {look.rung}"
        limit = min(CHANCE, RISK / self.trials)
        if chance < limit:
            return f"hopeless: {basis}"
        if chance < OUTSIDE * limit and belief is not None and _outside(look.noise, *belief):
            low, high = belief
            return f"noise {look.noise:.3g} is far from the optimum's interval {low:.3g} to {high:.3g}, {basis}"
        return None


def _outside(noise: float, low: float, high: float) -> bool:
    return high <= SHARP * low and not low / MARGIN <= noise <= high * MARGIN


def saved(trials: Sequence[Row]) -> tuple[float, float]:
    """Return what stopping saved: training seconds of the steps that were not run, and their share of all.

    A stopped trial's steps are counted with its own time per step; the merging and scoring at its end, and repeats
    that were not begun, are not counted.

    Args:
        trials: Rows of the trials table.
    """
    spent = math.fsum(r["device_seconds"] or 0.0 for r in trials)
    left = [
        r["seconds_train"] * (r["steps"] - r["pruned_step"]) / r["pruned_step"]
        for r in trials
        if r.get("pruned_step") and r.get("steps")
    ]
    total = math.fsum(left)
    return total, total / (total + spent) if total else 0.0


class Pruner:
    """The judge of one sweep: takes in what its trials report at rungs and how they end.

    Args:
        judge: Decides.
        noise: Trial -> its predicted noise.
    """

    def __init__(self, judge: Judge, noise: Callable[[PairSpec], float | None]) -> None:
        self.judge, self.noise = judge, noise
        self.looks: dict[str, dict[int, Look]] = {}  # of trials that are not finished, by digest and rung

    def restore(self, rows: Iterable[Row], rungs: Iterable[Row]) -> None:
        """Learn from the trials and rungs of a run folder."""
        trials = {row["digest"]: row for row in rows}
        noises = {digest: self.noise(PairSpec.from_json(row["spec"])) for digest, row in trials.items()}
        for rung in rungs:
            if row := trials.get(rung["digest"]):
                self._note(rung, row["classes"], noises[rung["digest"]])
        self.learn(trials.values())

    def look(
        self, spec: PairSpec, record: Mapping[str, Any], best: float | None, belief: tuple[float, float] | None
    ) -> str | None:
        """Take in what a trial or stack reports at a rung; returns why it is to be stopped, None where it goes on.

        Args:
            spec: One of its trials.
            record: The report, with `outputs` and `before`; see `trainables.pair.run.run_pair` and
                `sweeper.runner.jobs.execute`.
            best: Mean of the objective over the best configuration's repeats.
            belief: 90 % interval of the optimal noise, where the sampler has one.
        """
        noise, classes = self.noise(spec), record["outputs"][0].result.classes
        for output in record["outputs"]:
            self._note(vars(output.rungs[-1]), classes, noise)
        finals = [r[self.judge.objective.column] for r in record["before"] if r["outcome"] == Outcome.OK]
        before = [self.judge.told(v, classes) for v in finals if v is not None]
        seen = _look(record, classes, noise, before)
        return self.judge.decide(seen, None if best is None else self.judge.told(best, classes), belief)

    def learn(self, rows: Iterable[Row]) -> None:
        """Take in finished trials."""
        for row in rows:
            looks, final = self.looks.pop(row["digest"], {}), row[self.judge.objective.column]
            if row["outcome"] == Outcome.OK and final is not None:
                self.judge.learn(list(looks.values()), self.judge.told(final, row["classes"]))

    def _note(self, rung: Mapping[str, Any], classes: int | None, noise: float | None) -> None:
        # a trial that goes on from a checkpoint before a rung takes it again
        self.looks.setdefault(rung["digest"], {})[rung["rung"]] = _look(rung, classes, noise)


def _look(rung: Mapping[str, Any], classes: int | None, noise: float | None, before: Sequence[float] = ()) -> Look:
    return Look(rung["rung"], rung["merged_loss_val"], rung["merged_accuracy_val"], classes, noise, before)

"""Pruning: a forecast of a running trial's end, from the trials that ended.

High noise looks bad before the anneal, which makes up for it, so values at a rung are not comparable across noises.
Instead the pruner forecasts the end at each rung from the finished trials,

    y = b0 + b1 v + b2 z + b3 z^2 + b4 v z + residual,

v is the value of the merge at the rung (as the study gets it, smaller is better), z the log noise. y is the normal
score of the end: its rank among the finished trials, as a quantile of the normal distribution. So neither the
objective's unit nor the heavy tails of broken pairs decide the fit. The pruner stops a trial whose chance to beat the
best is small under the forecast's Student distribution. The limit of that chance keeps the expected number of winners
that it stops over the whole sweep below `RISK`.

The fit leaves out stopped trials, which have no end. The regressors v and z selected them, so least squares stays
unbiased at that rung. Earlier rungs lack trials that looked bad later; this makes the forecast too optimistic, and
stops too few. The fit also leaves out broken trials: the question is how good a trial is if it does not break.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from sweeper.analysis.trial_counts import sum_pruned
from sweeper.search.objectives import DEFAULT_CLASSES, Objective
from trainables.result import Outcome
from trainables.spec import PairSpec

Row = Mapping[str, Any]

LEAST = 8
"""Smallest number of finished trials for a forecast."""
RISK = 0.05
"""Largest expected number of stopped trials of a sweep that would have beaten the best so far."""
CHANCE = 0.01
"""Largest chance to beat the best at which a trial may stop, even in a short sweep."""
OUTSIDE = 8.0
"""Factor on that chance if the noise is implausible too, which is a second, independent sign."""
SHARP, MARGIN = 10.0, 3.0
"""An interval of the optimal noise counts once it spans less than a decade, of the four of a space. Far outside of it
is a factor 3 beyond its ends, about half of the width of a merging optimum on the log axis."""
RIDGE = 0.1
"""Penalty of the standardised slopes, with the weight of a tenth of a trial; it only keeps the fit solvable."""


@dataclass(frozen=True)
class Look:
    """A trial, or a stack of repeats, at a rung.

    Attributes:
        rung: Number of the rung, from 1.
        loss, accuracy: Of the merge on validation; None if not finite.
        classes: Number of classes.
        noise: Predicted noise; None if it is undefined.
        before: Final values of the configuration's earlier repeats, from `Judge.to_loss`.
    """

    rung: int
    loss: float | None
    accuracy: float | None
    classes: int | None
    noise: float | None
    before: Sequence[float] = ()


@dataclass(frozen=True)
class Forecast:
    """Student distribution of the end of a trial, as a normal score among finished trials.

    Attributes:
        mean, sd, freedom: Mean, scale and degrees of freedom.
        ends: Final values of the finished trials, ascending.
    """

    mean: float
    sd: float
    freedom: int
    ends: tuple[float, ...]

    def chance(self, best: float, before: Sequence[float] = ()) -> float:
        """Return the probability that the mean of this end and the final values `before` is below `best`."""
        from scipy.stats import t

        count, total = len(before) + 1, math.fsum(self.score(v) for v in before)
        return float(t.cdf((self.score(best) * count - total - self.mean) / self.sd, self.freedom))

    def score(self, final: float) -> float:
        """Return the normal score of a final value, at least the one of the best finished trial."""
        below = min(bisect_left(self.ends, final), len(self.ends) - 1)
        return NormalDist().inv_cdf((below + 0.5) / len(self.ends))


def forecast(ended: Sequence[tuple[float, float, float]], value: float, log_noise: float) -> Forecast | None:
    """Return the forecast of a trial's end by ridge regression on finished trials; None with fewer than `LEAST`.

    Args:
        ended: (value at the rung, log noise, value at the end) of finished trials.
        value: Value of the trial at the rung.
        log_noise: Log noise of the trial.
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

    x, point = design(v, z), design(np.float64(value), np.float64(log_noise))
    inverse = np.linalg.inv(x.T @ x + np.diag([0.0] + 4 * [RIDGE]))
    weights = inverse @ x.T @ y
    residual = y - x @ weights
    variance = max(float(residual @ residual) / forecast.freedom, 1e-6)
    sd = math.sqrt(variance * (1 + float(point @ inverse @ point)))  # of the fit and the residual
    return replace(forecast, mean=float(point @ weights), sd=sd)


@dataclass
class Judge:
    """Decides at each rung whether a trial continues.

    A rung measures merged loss and accuracy, so the judge forecasts only these. With other objectives it stops only
    diverging trials: a forecast of gains from merged losses stopped up to one winner in six.

    Args:
        objective: The objective that ranks the trials.
        trials: Number of trials in the sweep, which share `RISK`.
        only_diverging: Whether to stop only diverging trials. With several objectives, a trial that is hopeless in one
            may be best in another.

    Attributes:
        ended: Rung -> (value at the rung, log noise, value at the end) of the finished trials.
    """

    objective: Objective
    trials: int
    only_diverging: bool = False
    ended: dict[int, list[tuple[float, float, float]]] = field(default_factory=lambda: {})

    def to_loss(self, value: float, classes: int | None) -> float:
        """Return a value of the objective as the study gets it, with the sign that makes smaller better."""
        row = {"outcome": "ok", self.objective.column: value, "classes": classes}
        return self.objective.tell(row) * (-1 if self.objective.maximize else 1)

    def _value(self, look: Look) -> float | None:
        value = {"merged_loss_val": look.loss, "merged_accuracy_val": look.accuracy}.get(self.objective.column)
        return None if value is None else self.to_loss(value, look.classes)

    def learn(self, looks: Sequence[Look], final: float) -> None:
        """Learn from the looks of a trial that ended well, and from its final value of `to_loss`."""
        for look in looks:
            if look.noise is not None and (value := self._value(look)) is not None:
                self.ended.setdefault(look.rung, []).append((value, math.log(look.noise), final))

    def decide(self, look: Look, best: float | None, interval: tuple[float, float] | None = None) -> str | None:
        """Return the reason to stop a trial, in one sentence; None if it continues.

        Args:
            look: The trial at the rung.
            best: Mean value of the best configuration so far, from `to_loss`.
            interval: 90 % interval of the optimal noise; None if the sampler has none.
        """
        cap = 2.0 * math.log(look.classes or DEFAULT_CLASSES)
        if look.loss is None or look.loss >= cap:
            state = "is not finite" if look.loss is None else f"{look.loss:.3g} nat has reached the cap {cap:.3g}"
            return f"diverging: the merged loss {state} at rung {look.rung}"
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
        if chance < OUTSIDE * limit and interval is not None and _is_far(look.noise, *interval):
            low, high = interval
            return f"noise {look.noise:.3g} is far from the optimum's interval {low:.3g} to {high:.3g}, {basis}"
        return None


def _is_far(noise: float, low: float, high: float) -> bool:
    return high <= SHARP * low and not low / MARGIN <= noise <= high * MARGIN


def estimate_savings(trials: Sequence[Row]) -> tuple[float, float]:
    """Return the training seconds that pruning saved, and their share of all training.

    Args:
        trials: Rows of the trials table.
    """
    spent = math.fsum(r["device_seconds"] or 0.0 for r in trials)
    total = sum_pruned(trials)
    return total, total / (total + spent) if total else 0.0


class Pruner:
    """Judge of one sweep, with the looks of its running trials.

    Args:
        judge: The judge.
        noise: Trial -> its predicted noise.
    """

    def __init__(self, judge: Judge, noise: Callable[[PairSpec], float | None]) -> None:
        self.judge, self.noise = judge, noise
        self.looks: dict[str, dict[int, Look]] = {}  # digest of a running trial -> rung -> look

    def restore(self, rows: Iterable[Row], rungs: Iterable[Row]) -> None:
        """Learn from the trials and rungs of a run folder."""
        trials = {row["digest"]: row for row in rows if not row.get("proxy")}
        noises = {digest: self.noise(PairSpec.from_json(row["spec"])) for digest, row in trials.items()}
        for rung in rungs:
            if row := trials.get(rung["digest"]):
                self._note(rung, row["classes"], noises[rung["digest"]])
        self.learn(trials.values())

    def look(
        self, spec: PairSpec, record: Mapping[str, Any], best: float | None, interval: tuple[float, float] | None
    ) -> str | None:
        """Take in the report of a trial or stack at a rung; returns the reason to stop it, or None.

        Args:
            spec: One of the trials.
            record: The report, with `outputs` and `before`; see `trainables.pair.run.run_pair` and
                `sweeper.runner.jobs.execute`.
            best: Mean of the objective over the best configuration's repeats.
            interval: 90 % interval of the optimal noise; None if the sampler has none.
        """
        noise, classes = self.noise(spec), record["outputs"][0].result.classes
        for output in record["outputs"]:
            self._note(vars(output.rungs[-1]), classes, noise)
        finals = [r[self.judge.objective.column] for r in record["before"] if r["outcome"] == Outcome.OK]
        before = [self.judge.to_loss(v, classes) for v in finals if v is not None]
        look = _make_look(record, classes, noise, before)
        return self.judge.decide(look, None if best is None else self.judge.to_loss(best, classes), interval)

    def learn(self, rows: Iterable[Row]) -> None:
        """Learn from finished trials."""
        for row in rows:
            looks, final = self.looks.pop(row["digest"], {}), row[self.judge.objective.column]
            if row["outcome"] == Outcome.OK and final is not None:
                self.judge.learn(list(looks.values()), self.judge.to_loss(final, row["classes"]))

    def _note(self, rung: Mapping[str, Any], classes: int | None, noise: float | None) -> None:
        # a trial that continues from a checkpoint before a rung reports the rung again
        self.looks.setdefault(rung["digest"], {})[rung["rung"]] = _make_look(rung, classes, noise)


def _make_look(rung: Mapping[str, Any], classes: int | None, noise: float | None, before: Sequence[float] = ()) -> Look:
    return Look(rung["rung"], rung["merged_loss_val"], rung["merged_accuracy_val"], classes, noise, before)

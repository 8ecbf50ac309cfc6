"""Recommendation of settings: which values to use at a batch size, momentum or learning rate that the user fixes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from search_spaces import Space
from sweeper.analysis.posterior import FEWEST, read_k_aug, target_noise
from sweeper.analysis.recommend import stability_limit
from sweeper.analysis.regime import fit_regime
from sweeper.analysis.settings.confirmed import Confirmed, find_confirmed
from sweeper.analysis.settings.fixed_knobs import add_fixed, check_fixed
from sweeper.analysis.settings.optimise import (
    Region,
    learning_rate_interval,
    optimise_settings,
)
from sweeper.analysis.settings.settings import SCORES, NoSettingsError, Settings
from sweeper.analysis.settings.surrogate import Array, SweepModel, fit_scores
from sweeper.analysis.text import describe_bounds
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.formatting import name_knob, number, pluralize
from sweeper.search.bounds import find_bounds
from sweeper.search.k_aug import KAug
from sweeper.search.objectives import Objective, resolve_objective
from trainables.noise import NOISE
from trainables.registry import UnknownName
from trainables.result import Outcome
from trainables.spec import PairSpec

Row = Mapping[str, Any]
_DIGITS = 4
_NEAR_LIMIT = 0.9
_SURE = 2.0  # sds of the difference between unmeasured and measured settings
_END = 0.05  # of a knob's range
_FAR = 1.5  # factor beyond an end of the interval
_GAINS = ("gain_mean", "gain_best")


def recommend_settings(
    spec: SweepSpec,
    space: Space,
    trials: pa.Table,
    *,
    batch_size: int | None = None,
    momentum: float | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    objective: str | None = None,
    noise: str | None = None,
    seed: int = 0,
    k_aug: KAug | None = None,
) -> Settings:
    """Return values of every searched knob with the best expected objective, at the values that the user fixes.

    The surrogate of the search, fitted to every pair, is optimised over the free knobs: posterior mean with half a
    posterior sd as a margin, averaged over draws of its hyperparameters. The free knobs stay within the range of
    the viable pairs, below the limit of stability and within the sweep's limits. Settings whose fresh pairs reported a
    score are preferred unless the optimum's posterior mean is better by two sds of the difference.

    Args:
        spec: The sweep.
        space: Its search space.
        trials: Its trials table, as `sweeper.storage.tables.read_trials` yields it.
        batch_size: Batch size to use, in examples.
        momentum: Momentum to use.
        learning_rate: Learning rate of the stable phase to use.
        weight_decay: Weight decay to use.
        objective: Objective to optimise; by default the sweep's first.
        noise: Predicted noise along which the surrogate models the scores; by default the one that the sweep targets.
        seed: Seed of candidates and draws; the result is a function of the arguments.
        k_aug: Factor of augmentation on the noise, for `paper_aug`; by default that of the trials.

    Raises:
        NoSettingsError: There are too few viable trials.
        SpecError: A value breaks its rule or is absurd, no tried values of the other knobs go with it, or a name is
            unknown.
    """
    given = {"batch_size": batch_size, "momentum": momentum, "learning_rate": learning_rate,
             "weight_decay": weight_decay}  # fmt: skip
    fixed = {name: value for name, value in given.items() if value is not None}
    try:
        model = fit_model(spec, space, trials, [fixed], objective=objective, noise=noise, seed=seed, k_aug=k_aug)
        return model.recommend(fixed, seed)
    except SpecError:
        raise
    except (ValueError, UnknownName) as error:
        raise SpecError(str(error)) from None


@dataclass(frozen=True)
class SettingsModel:
    """Fitted surrogates of a sweep, which recommend settings at several fixed values without another fit.

    Attributes:
        spec, space: The sweep and its search space, with a range for every fixed knob.
        rows: The trials that count.
        scores: The surrogates.
        objective: Objective to optimise.
        split: Split of the scores.
        noise: Name of the noise.
        k_aug: Factor of augmentation on the noise; None without a probe.
        limit: Step size η/(1−μ) from which most trials failed; None without such failures.
        confirmed: Settings with fresh pairs that report.
        best_noise: 90 % interval of the best noise; None where it is not inside the tried range.
    """

    spec: SweepSpec
    space: Space
    rows: Sequence[Row]
    scores: SweepModel
    objective: str
    split: str
    noise: str
    k_aug: KAug | None
    limit: float | None
    confirmed: Sequence[Confirmed]
    best_noise: tuple[float, float] | None = None

    def recommend(self, fixed: Mapping[str, float], seed: int = 0) -> Settings:
        """Return the settings at these fixed values; see `recommend_settings`.

        Raises:
            SpecError: A value is absurd, or no tried values of the other knobs go with the fixed ones.
        """
        check_fixed(fixed, self.rows, self.limit)
        region = self._region(fixed)
        best = optimise_settings(region, seed)
        params = {k: v if k in fixed else self._round(k, v) for k, v in region.params_of(best).items()}
        chosen = self._prefer_confirmed(region, best)
        if chosen is not None:
            params = chosen.params
        best = self.scores.space.points(self.scores.space.units_of([params])[0]).unit[0]
        settings = self._describe(region, fixed, params, best, seed)
        return settings if chosen is None else replace(settings, confirmed=chosen.confirmation)

    def _region(self, fixed: Mapping[str, float]) -> Region:
        whole = {k: int(v) if k == "batch_size" else float(v) for k, v in fixed.items()}
        examples = min((r["examples"] for r in self.rows if r["examples"]), default=math.inf)
        return Region(self.scores, whole, math.inf if self.limit is None else math.log(self.limit), examples)

    def _round(self, name: str, value: Any) -> Any:
        # few digits are easier to copy, and the surrogate sees no difference
        distribution: Any = self.space.knobs[name]
        short = float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
        continuous = not hasattr(distribution, "choices") and distribution.step is None
        return short if continuous and distribution.low <= short <= distribution.high else value

    def _prefer_confirmed(self, region: Region, best: Array) -> Confirmed | None:
        # measured settings win unless the model is sure of better ones: it has been wrong by more than its error
        space = self.scores.space
        matching = [c for c in self.confirmed if all(c.params.get(k) == v for k, v in region.fixed.items()
                                                     if k in self.space.knobs)]  # fmt: skip
        unit, usable = space.units_of([c.params for c in matching])
        matching = [c for c, fits in zip(matching, usable, strict=True) if fits]
        if not matching:
            return None
        mean, sd = self.scores.first.predict(np.concatenate([best[None, :], unit]))
        margin = _SURE * np.hypot(sd[0], sd[1:])
        good = np.flatnonzero((mean[1:] <= mean[0] + margin) & region.holds(unit))
        return matching[good[int(mean[1:][good].argmin())]] if len(good) else None

    def _describe(
        self, region: Region, fixed: Mapping[str, float], params: dict[str, Any], best: Array, seed: int
    ) -> Settings:
        trial = self.space.build(params, seed=self.spec.seed)
        interval = learning_rate_interval(region, best, seed)
        low, high = interval or (None, None)
        if high is not None and self.limit is not None:
            high = min(high, self.limit * (1.0 - trial.momentum))
        scores = {name: model.estimate(best) for name, model in self.scores.scores.items()}
        settings = Settings(
            params=params,
            fixed=tuple(fixed),
            objective=self.objective,
            split=self.split,
            predicted=scores[self.objective],
            scores={name: scores[name] for name in SCORES if name in scores},
            noise=self._noise_of(trial, params),
            noise_name=self.noise,
            learning_rate_low=low,
            learning_rate_high=high,
            step=trial.learning_rate / (1.0 - trial.momentum),
            stability_limit=self.limit,
            spec=trial,
            sweep=self.spec,
            outside_tried=self._outside(region, fixed),
            at_bound=tuple(name for name in find_bounds(self.space.knobs, params) if name not in fixed),
        )
        return replace(settings, notes=self._notes(settings))

    def _noise_of(self, trial: PairSpec, params: Mapping[str, Any]) -> float | None:
        examples = next((r["examples"] for r in self.rows if r["examples"]), None)
        values: dict[str, Any] = {n: getattr(trial, n) for n in _KNOBS} | {"beta1": trial.betas[0]}
        values |= {"examples": examples} if examples else {}
        try:
            values |= {"k_aug": self.k_aug(params)} if self.k_aug else {}
            return NOISE[self.noise].predict(values)
        except ValueError:
            return None

    def _outside(self, region: Region, fixed: Mapping[str, float]) -> tuple[str, ...]:
        # a design seldom meets the ends of a range exactly
        (low, high), knobs = region.tried, {knob.name: i for i, knob in enumerate(self.scores.space.knobs)}
        out: list[str] = []
        for name in fixed:
            if name not in knobs:
                continue
            i = knobs[name]
            ends, margin = (low[i], region.columns[i], high[i]), _END
            if name == "momentum":  # 1 − μ counts: .99 is five times nearer to 1 than .95
                least, most = self._tried(name)
                ends = -math.log1p(-least), -math.log1p(-fixed[name]), -math.log1p(-most)
                margin = _END * max(ends[2] - ends[0], 1.0)
            if not ends[0] - margin <= ends[1] <= ends[2] + margin:
                out.append(name)
        return tuple(out)

    def _tried(self, name: str) -> tuple[float, float]:
        values = [r[name] for r in self.rows if r["outcome"] == Outcome.OK and r[name] is not None]
        return min(values), max(values)

    def _notes(self, settings: Settings) -> tuple[str, ...]:
        notes: list[str] = []
        for name in settings.outside_tried:
            low, high = self._tried(name)
            tried = number(low) if low == high else f"{number(low)} to {number(high)}"
            notes.append(
                f"the {name_knob(name).name} lies outside the tried range ({tried}), so the prediction extrapolates; "
                "check it with a few trials"
            )
        ends = find_bounds(self.space.knobs, settings.params)
        notes += [describe_bounds({name: ends[name]}) for name in settings.at_bound]
        predicted = settings.predicted
        if self.objective in _GAINS and predicted.mean < 0:
            notes.append("the merge is predicted to be worse than its parents: change or leave out what you fixed")
        low, high = self.best_noise or (0.0, math.inf)
        if settings.noise and not low / _FAR <= settings.noise <= high * _FAR:
            notes.append(
                f"the noise {number(settings.noise)} lies far outside the 90 % interval of the best noise "
                f"({number(low)} to {number(high)})"
            )
        limit, high_end = settings.stability_limit, settings.learning_rate_high
        if limit is not None and high_end is not None:
            most = limit * (1.0 - settings.spec.momentum)
            if high_end >= _NEAR_LIMIT * most:
                notes.append(
                    f"keep the learning rate below {number(most)}: most trials at η/(1−μ) = {number(limit)} or above "
                    "failed"
                )
        return tuple(notes)


_KNOBS = ("learning_rate", "batch_size", "momentum", "weight_decay")


def fit_model(
    spec: SweepSpec,
    space: Space,
    trials: pa.Table,
    fixed: Sequence[Mapping[str, float]],
    *,
    objective: str | None = None,
    noise: str | None = None,
    seed: int = 0,
    k_aug: KAug | None = None,
) -> SettingsModel:
    """Return the surrogates from which settings are recommended; the arguments are those of `recommend_settings`.

    Args:
        spec: The sweep.
        space: Its search space.
        trials: Its trials table.
        fixed: Values that are to be fixed, one mapping per later call of `recommend`; checked before the fit.
        objective: Objective to optimise.
        noise: Predicted noise.
        seed: Seed of the draws.
        k_aug: Factor of augmentation on the noise.

    Raises:
        NoSettingsError: There are too few viable trials.
        SpecError: A value breaks its rule or is absurd.
    """
    rows = [r for r in trials.to_pylist() if r["spec"] and r["outcome"] != Outcome.FAILED]
    first = objective or spec.objective
    goals = _list_goals(first, trials)
    _check_enough(rows, goals[first])
    for values in fixed:
        check_fixed(values, rows, None)
    name = noise if noise is not None and NOISE[noise].kind == "predicted" else target_noise(spec, space)
    regime = fit_regime(trials, first, name, by_knob=False)
    limit = stability_limit(trials, regime)
    for values in fixed:
        check_fixed(values, rows, limit)
    wide = add_fixed(space, fixed)
    if name == "paper_aug" and k_aug is None:
        k_aug = read_k_aug(space, rows)
    scores = fit_scores(spec, wide, rows, goals, name, k_aug if name == "paper_aug" else None, seed)
    split = goals[first].split_in(trials)
    return SettingsModel(
        spec, wide, rows, scores, first, split, name, k_aug, limit, find_confirmed(wide, rows, trials.column_names),
        (regime.low, regime.high) if regime.interior and regime.low and regime.high else None,
    )  # fmt: skip


def _list_goals(first: str, trials: pa.Table) -> dict[str, Objective]:
    goals = {name: resolve_objective(name, trials) for name in dict.fromkeys((first, *SCORES))}
    empty = {name for name, goal in goals.items() if trials.column(goal.column).null_count == trials.num_rows}
    return {name: goal for name, goal in goals.items() if name == first or name not in empty}


def _check_enough(rows: Sequence[Row], goal: Objective) -> None:
    good = [r for r in rows if r["outcome"] == Outcome.OK and _is_number(r[goal.column])]
    configs = len({r["config"] for r in good})
    if rows and not good:
        counts = Counter(r["outcome"] for r in rows)
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        raise NoSettingsError(
            f"no pair is viable, so there is nothing to recommend ({said}); search lower learning rates"
        )
    if configs < FEWEST:
        raise NoSettingsError(
            f"settings need {FEWEST} viable configurations, got {configs}; "
            f"run at least {pluralize(FEWEST - configs, 'further trial')} (`sweeper resume`)"
        )


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)

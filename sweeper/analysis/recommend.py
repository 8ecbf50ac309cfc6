"""Recommendations: hyperparameters that reach the best noise, and a sweep's summary."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from sweeper.analysis.best import choose_winner, rank_trials
from sweeper.analysis.observations import has_collapsed
from sweeper.analysis.posterior import Posterior
from sweeper.analysis.regime import Regime, fit_regime
from sweeper.analysis.stages.designed import is_proxy_only
from sweeper.analysis.trial_counts import COUNTED, count_trials
from sweeper.search.objectives import resolve_objective
from trainables.noise import KNOBS, NOISE, NoiseScale
from trainables.result import MODELS_SCORED, TASKS, UNSTABLE
from trainables.spec import PairSpec

Row = Mapping[str, Any]

BOTH = ("gain_mean", "merged_loss")  # the paper's measure, and the loss of the model that a user keeps
MOST_BATCH_SIZES = 8
# noise, not step size, explains a failure above this multiple of the interval's upper end
COMPARABLE = 3.0


@dataclass(frozen=True)
class Recommendation:
    """Hyperparameters that reach the best noise.

    Attributes:
        batch_size, momentum, weight_decay: The caller's values, or the best trial's.
        learning_rate: Learning rate of the stable phase that yields `noise`.
        learning_rate_low, learning_rate_high: Learning rates at the ends of the noise's 90 % interval.
        noise: Noise scale of these hyperparameters, in the definition's unit.
        outside_tried: Knobs whose value lies outside the range of the viable trials.
        beyond_stability: Whether the step size η/(1−μ) reaches the limit of `stability_limit`.
        low_beyond_stability, high_beyond_stability: The same for the learning rates at the ends of the interval.
        note: Caveats in plain words.
    """

    batch_size: int
    momentum: float
    weight_decay: float
    learning_rate: float
    learning_rate_low: float
    learning_rate_high: float
    noise: float
    outside_tried: tuple[str, ...]
    beyond_stability: bool
    low_beyond_stability: bool
    high_beyond_stability: bool
    note: str


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def stability_limit(trials: pa.Table, regime: Regime) -> float | None:
    """Return the step size η/(1−μ) at which training or merging starts to fail because of the step, not the noise.

    A trial failed if it diverged, was not viable, or its merge overflowed or collapsed. A merge collapsed if its loss
    exceeds the mean parent's by more than 0.05 ln C. A trial that ran out of memory says nothing about its step.
    Noise explains failures above three times the upper end of the optimum's interval, so these do not count.
    The limit is the split of the step axis that separates failed from good trials with the fewest errors. Most trials
    at or above it failed. It is the step of a failed trial; of equal splits the lowest counts.

    Returns:
        The limit; None without such failures.
    """
    ceiling = math.inf if regime.high is None else COMPARABLE * regime.high
    gain = resolve_objective("gain_mean", trials).column
    columns = ["outcome", "learning_rate", "momentum", "classes", gain, f"noise_{regime.noise}"]
    steps: list[tuple[float, bool]] = []
    for row in trials.select(columns).to_pylist():
        failed = row["outcome"] in UNSTABLE or has_collapsed(row, gain)
        noise = row[f"noise_{regime.noise}"]
        if row["outcome"] in ("failed", "out_of_memory") or (failed and not (_finite(noise) and noise <= ceiling)):
            continue
        steps.append((row["learning_rate"] / (1.0 - row["momentum"]), failed))
    steps.sort()
    # the split below the first trial misplaces all good trials; each trial that moves below corrects or adds an error
    errors, fewest, limit = sum(not failed for _, failed in steps), sum(failed for _, failed in steps), None
    previous = -math.inf
    for step, failed in steps:
        if step > previous and errors < fewest:
            fewest, limit = errors, step
        errors += 1 if failed else -1
        previous = step
    return limit


def recommend(
    trials: pa.Table,
    regime: Regime,
    *,
    batch_sizes: Sequence[int] | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    learning_rate: float | None = None,
    best: Row | None = None,
) -> list[Recommendation]:
    """Return hyperparameters that reach the regime's best noise.

    Args:
        trials: Trials table that the regime was fitted to.
        regime: Result of `fit_regime`.
        batch_sizes: Batch sizes to solve for; by default powers of two over the tried range, and twice its end.
        momentum: Momentum to use; the best trial's by default.
        weight_decay: Weight decay to use; the best trial's by default.
        learning_rate: Learning rate to keep; the function then solves the batch size, rounded to an integer.
        best: Row of the trial whose settings to keep; by default the best by observed mean.

    Returns:
        One recommendation per batch size, in ascending order.

    Raises:
        ValueError: The regime has no optimum, its noise is measured, a value breaks its rule, or the noise's
            formula has no solution.
    """
    _check_solvable(NOISE[regime.noise])
    if regime.optimum is None or regime.low is None or regime.high is None:
        raise ValueError(f"no best noise to reach: {regime.message}")
    if batch_sizes is not None and learning_rate is not None:
        raise ValueError(f"give batch_sizes or learning_rate, not both: got {list(batch_sizes)} and {learning_rate!r}")
    ok = [r for r in trials.select(["outcome", "examples", *KNOBS]).to_pylist() if r["outcome"] == "ok"]
    kept = rank_trials(trials, regime.objective) if best is None else [best]
    settings = _settings(kept, regime, ok, momentum, weight_decay)
    tried = {knob: (min(r[knob] for r in ok), max(r[knob] for r in ok)) for knob in KNOBS}
    if learning_rate is not None:
        batch_sizes = [_solve_batch_size(regime, regime.optimum, settings, learning_rate)]
        if batch_sizes[0] > settings.get("examples", math.inf):
            raise ValueError(
                f"learning rate {learning_rate:.6g} reaches the best noise at batch size {batch_sizes[0]}, above the "
                f"{settings['examples']} training examples; give a smaller learning rate"
            )
    elif batch_sizes is None:
        batch_sizes = _powers_of_two(*tried["batch_size"])
    for size in batch_sizes:
        _check("batch_size", size, "be a whole number >= 1", size >= 1 and size == int(size))
    limit = stability_limit(trials, regime)
    aims = (regime.optimum, regime.low, regime.high)
    each = [{**settings, "batch_size": int(size)} for size in sorted(batch_sizes)]
    return [_recommend_at(NOISE[regime.noise], aims, one, learning_rate, tried, limit) for one in each]


def _check_solvable(scale: NoiseScale) -> None:
    if scale.kind != "predicted":
        raise ValueError(
            f"noise {scale.name!r} is {scale.kind}, so no formula gives its hyperparameters before training; "
            "use a predicted noise, such as --noise paper"
        )


def _check(name: str, value: float, rule: str, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{name} must {rule}, got {value!r}")


def _settings(
    best: Sequence[Row], regime: Regime, ok: Sequence[Row], momentum: float | None, weight_decay: float | None
) -> dict[str, float]:
    # settings that stay fixed while the learning rate or the batch size is solved for
    if not best and (momentum is None or weight_decay is None):
        raise ValueError("no configuration is viable in all its repeats; give momentum and weight_decay")
    settings: dict[str, float] = {
        "momentum": best[0]["momentum"] if momentum is None else momentum,
        "weight_decay": best[0]["weight_decay"] if weight_decay is None else weight_decay,
    }
    _check("momentum", settings["momentum"], "lie in [0, 1)", 0 <= settings["momentum"] < 1)
    needs_decay = "weight_decay" in NOISE[regime.noise].knobs
    rule = f"be > 0 for noise {regime.noise!r} ({NOISE[regime.noise].formula})" if needs_decay else "be >= 0"
    decay = settings["weight_decay"]
    _check("weight_decay", decay, rule, decay > 0 if needs_decay else decay >= 0)
    if examples := [r["examples"] for r in (*best, *ok) if r["examples"]]:
        settings["examples"] = examples[0]
    return settings | _constants(NOISE[regime.noise], best)


def _constants(scale: NoiseScale, best: Sequence[Row]) -> dict[str, float]:
    # constants that come from the best trial alone
    constants: dict[str, float] = {}
    if "beta1" in scale.needs:
        constants["beta1"] = (
            PairSpec.from_json(best[0]["spec"]).betas[0] if best and best[0]["spec"] else PairSpec.beta1
        )
    if "k_aug" in scale.needs:
        k_aug: float | None = best[0]["k_aug"] if best else None
        if k_aug is None or not math.isfinite(k_aug):
            raise ValueError(f"noise {scale.name!r} needs k_aug, and the best trial's row has none: {scale.formula}")
        constants["k_aug"] = k_aug
    return constants


def _powers_of_two(low: int, high: int) -> list[int]:
    first, last = math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1
    stride = math.ceil((last - first + 1) / MOST_BATCH_SIZES)
    return [2**k for k in range(last, first - 1, -stride)]


def _solve_batch_size(regime: Regime, optimum: float, settings: Mapping[str, float], learning_rate: float) -> int:
    _check("learning_rate", learning_rate, "be > 0", learning_rate > 0)
    exact = NOISE[regime.noise].solve("batch_size", optimum, {**settings, "learning_rate": learning_rate})
    if exact < 0.5:
        raise ValueError(
            f"learning_rate {learning_rate:g} needs a batch size of {exact:.3g}; give a larger learning_rate"
        )
    return max(1, round(exact))


def _recommend_at(
    scale: NoiseScale,
    aims: tuple[float, float, float],
    settings: Mapping[str, float],
    learning_rate: float | None,
    tried: Mapping[str, tuple[float, float]],
    limit: float | None,
) -> Recommendation:
    solved = [scale.solve("learning_rate", aim, settings) for aim in aims]
    rate = solved[0] if learning_rate is None else learning_rate
    chosen: dict[str, Any] = {k: settings[k] for k in KNOBS[1:]} | {"learning_rate": rate}
    margin = 1e-9
    outside = tuple(k for k in KNOBS if not tried[k][0] * (1 - margin) <= chosen[k] <= tried[k][1] * (1 + margin))
    steps = [v / (1.0 - settings["momentum"]) for v in (rate, min(solved[1:]), max(solved[1:]))]
    beyond = [limit is not None and step >= limit for step in steps]
    return Recommendation(
        **chosen,
        learning_rate_low=min(solved[1:]),
        learning_rate_high=max(solved[1:]),
        noise=scale.predict({**settings, "learning_rate": rate}),
        outside_tried=outside,
        beyond_stability=beyond[0],
        low_beyond_stability=beyond[1],
        high_beyond_stability=beyond[2],
        note=_note(outside, tried, steps, limit),
    )


def _note(
    outside: Sequence[str], tried: Mapping[str, tuple[float, float]], steps: Sequence[float], limit: float | None
) -> str:
    parts = [f"{k.replace('_', ' ')} outside the tried range ({tried[k][0]:.3g} to {tried[k][1]:.3g})" for k in outside]
    if limit is not None and steps[0] >= limit:
        parts.append(f"η/(1−μ) = {steps[0]:.3g}: most trials at {limit:.3g} or above failed; use a smaller batch size")
    elif limit is not None and steps[2] >= limit:
        end = f"the interval's upper end has η/(1−μ) = {steps[2]:.3g}"
        parts.append(f"{end}: most trials at {limit:.3g} or above failed; stay below it")
    return "; ".join(parts) or "within the tried range"


def summarize(
    trials: pa.Table,
    objective: str = "gain_mean",
    noise: str = "paper",
    posterior: Posterior | None = None,
    lost: Collection[str] = frozenset(),
) -> dict[str, Any]:
    """Return the summary of a sweep as a record for JSON.

    Args:
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        objective: Name in `OBJECTIVES` that chooses the best trial.
        noise: Name in `NOISE`.
        posterior: Posterior of the sweep; without it the best observed mean chooses the winner.
        lost: Configurations that may not win, see `find_over_limits`.

    Returns:
        A record with these keys:

        - `objective`, `noise`, `formula`, `unit`, `trials`, `configs`, and `counts` by outcome.
        - `device_seconds`: the total; None if no trial records it.
        - `synthetic`: whether any row is a closed form; `imported`: whether any was trained elsewhere.
        - `regimes`: `gain_mean`, `merged_loss` and the objective -> fields of `Regime` without the curve.
        - `best` (None without a winner): `digest`, `config`, knobs, `column`, `chosen_merge`, `chosen_coefficient` and
          `chosen_window`; of its row: `config_mean`, `config_repeats`, `posterior_mean`, `posterior_sd`, `undecided`,
          `luckiest`.
        - `best["test"]`: loss [nat] and accuracy of parents `a` and `b`, `parents` (their mean), `merged`, `chosen`
          and `ensemble`.

    Raises:
        UnknownName: No such objective or noise.
    """
    scale = NOISE[noise]
    counts = count_trials(trials.select(COUNTED).to_pylist())
    return {
        "objective": objective,
        "noise": noise,
        "formula": scale.formula,
        "unit": scale.unit,
        "trials": counts.trials,
        "configs": counts.configs,
        "counts": dict(counts.outcomes),
        "device_seconds": counts.device_seconds,
        "synthetic": "synthetic" in trials["trainable"].to_pylist(),
        "regimes": {
            name: _regime_record(fit_regime(trials, name, noise)) for name in dict.fromkeys((*BOTH, objective))
        },
        "proxy_only": is_proxy_only(trials),
        "imported": "imported" in trials["trainable"].to_pylist(),
        "best": find_best(trials, objective, noise, posterior or Posterior(), lost),
    }


def find_best(
    trials: pa.Table, objective: str, noise: str, posterior: Posterior, lost: Collection[str] = frozenset()
) -> dict[str, Any] | None:
    """Return the record that `summarize` holds under `best`; None without a winner. It takes the same arguments."""
    best = choose_winner(trials, objective, posterior, lost)
    return _best_record(best, resolve_objective(objective, trials).column, noise) if best else None


def _regime_record(regime: Regime) -> dict[str, Any]:
    record = {k: v for k, v in asdict(regime).items() if k not in ("grid", "mean", "lower", "upper")}
    return {**record, "moved": [{**m, "at": list(m["at"])} for m in record["moved"]]}


def _task_records(row: Row) -> list[dict[str, Any]]:
    """Return the test scores of each task's child, and the share of its accuracy that the chosen merge keeps."""
    tasks = [t for t in TASKS if row.get(f"chosen_normalised_accuracy_{t}_test") is not None]
    return [
        {
            "task": task.upper(),
            **{m: v if _finite(v := row[f"{task}_{m}_test"]) else None for m in ("loss", "accuracy")},
            "kept": row[f"chosen_normalised_accuracy_{task}_test"],
        }
        for task in tasks
    ]


def _best_record(row: Row, column: str, noise: str) -> dict[str, Any]:
    names = ("digest", "config", "repeat", *KNOBS, "augmentation", "augmentation_strength")
    names += ("config_mean", "config_repeats", "posterior_mean", "posterior_sd", "undecided", "luckiest", "confirmed")
    record = {name: row[name] for name in (*names, "chosen_merge", "chosen_coefficient")}
    record["chosen_window"] = row.get("chosen_window")
    record["bytes_per_token"] = row.get("bytes_per_token")
    scores = {
        who: {m: v if _finite(v := row[f"{who}_{m}_test"]) else None for m in ("loss", "accuracy")}
        for who in MODELS_SCORED
    }
    record["tasks"] = _task_records(row)
    children = record["tasks"] or [scores["a"], scores["b"]]
    for m in ("loss", "accuracy"):
        values = [child[m] for child in children]
        mean = None if None in values else sum(values) / len(values)
        scores.setdefault("parents", {})[m] = mean
    return {**record, "column": column, "noise": row[f"noise_{noise}"], "test": scores}

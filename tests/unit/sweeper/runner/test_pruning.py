"""When a trial is stopped on its way: the rule by value, and what it does to whole sweeps of real and closed pairs."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import norm, t

import search_spaces
import sweeper
from sweeper import SweepSpec
from sweeper.runner.pruning import (
    CHANCE,
    LEAST,
    OUTSIDE,
    RISK,
    Forecast,
    Judge,
    Look,
    Pruner,
    estimate_savings,
    forecast,
)
from sweeper.runner.session import Session
from sweeper.search.designs import from_unit
from sweeper.search.objectives import OBJECTIVES
from sweeper.storage.tables import read
from trainables.pair.synthetic import EXAMPLES
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.trial import run_trials

LOSS = OBJECTIVES["merged_loss"]
CAP = 2 * math.log(10)
SPEC = PairSpec(dataset="digits", model="small_cnn", learning_rate=0.1, batch_size=32)
TABLE = Path(__file__).parents[3] / "data" / "digits_rungs.parquet"


def look(loss: float | None, noise: float = 1e-2, rung: int = 1, **more: Any) -> Look:
    return Look(rung, loss, None if loss is None else math.exp(-loss), 10, noise, **more)


def ended(count: int, seed: int = 0, scatter: float = 0.02) -> list[tuple[Look, float]]:
    """Trials whose end is 0.05 nat below their first rung, the more so the higher the noise."""
    rng = np.random.default_rng(seed)
    found: list[tuple[Look, float]] = []
    for _ in range(count):
        noise, end = math.exp(rng.uniform(-8, -2)), rng.uniform(0.1, 0.9)
        found.append((look(end + 0.05 + noise + scatter * rng.normal(), noise), math.log(end)))
    return found


def judge(count: int = 40, **more: Any) -> Judge:
    made = Judge(LOSS, **{"trials": 40, **more})
    for seen, end in ended(count):
        made.learn([seen], end)
    return made


# -- the forecast -----------------------------------------------------------------------------------------------------


def test_the_forecast_is_ridge_regression_of_normal_scores() -> None:
    rng = np.random.default_rng(1)
    v, z = rng.normal(size=30), rng.normal(size=30)
    y = v + 0.3 * z**2 + 0.1 * rng.normal(size=30)
    made = forecast(list(zip(v, z, y, strict=True)), 0.4, -0.7)
    assert made is not None
    scores = norm.ppf((np.argsort(np.argsort(y)) + 0.5) / 30)

    def columns(v: Any, z: Any) -> Any:
        a, b = (v - v_.mean()) / v_.std(), (z - z_.mean()) / z_.std()
        return np.stack([np.ones_like(a), a, b, b * b, a * b], -1)

    v_, z_ = v, z
    x, here = columns(v, z), columns(np.array(0.4), np.array(-0.7))
    # ridge as ordinary least squares on four more rows
    penalty = math.sqrt(0.1) * np.eye(5)[1:]
    weights = np.linalg.lstsq(np.vstack([x, penalty]), np.append(scores, np.zeros(4)), rcond=None)[0]
    residual = scores - x @ weights
    spread = here @ np.linalg.inv(x.T @ x + penalty.T @ penalty) @ here
    assert made.mean == pytest.approx(here @ weights)
    assert made.sd == pytest.approx(math.sqrt(residual @ residual / 25 * (1 + spread)))
    assert (made.freedom, made.ends) == (25, tuple(sorted(y)))
    best = float(y.min())
    assert made.chance(best) == pytest.approx(t.cdf((scores.min() - made.mean) / made.sd, 25))


def test_neither_unit_nor_heavy_tails_matter() -> None:
    trials = [(s.loss or 0.0, math.log(s.noise or 1.0), end) for s, end in ended(20)]
    plain = forecast(trials, 0.5, -4.0)
    worst = max(range(20), key=lambda i: trials[i][2])
    broken = [(v, z, 1e6 if i == worst else math.exp(3 * y)) for i, (v, z, y) in enumerate(trials)]
    other = forecast(broken, 0.5, -4.0)
    assert plain is not None
    assert other is not None
    assert (other.mean, other.sd) == (plain.mean, plain.sd)


def test_too_few_trials_forecast_nothing() -> None:
    trials = [(s.loss or 0.0, 0.0, end) for s, end in ended(LEAST)]
    assert forecast(trials[:-1], 0.1, 0.0) is None
    assert forecast(trials, 0.1, 0.0) is not None  # one noise only, too


def test_earlier_repeats_count_in_the_mean() -> None:
    made = Forecast(0.0, 1.0, 20, tuple(range(100)))
    alone, with_good = made.chance(10), made.chance(10, [0.0])
    assert alone == pytest.approx(t.cdf(norm.ppf(0.105), 20))
    assert with_good == pytest.approx(t.cdf(2 * norm.ppf(0.105) - norm.ppf(0.005), 20))
    assert made.chance(10, [99.0]) < alone < with_good


# -- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [None, CAP, 150.0])
def test_what_diverges_is_stopped_from_the_first_trial_on(loss: float | None) -> None:
    for only in (False, True):
        reason = Judge(LOSS, 40, only).decide(look(loss), None)
        assert reason is not None
        assert reason.startswith("diverging: the merged loss ")
    assert Judge(LOSS, 40).decide(look(CAP - 1e-6), None) is None


def test_a_hopeless_trial_stops_and_a_rival_continues() -> None:
    made = judge()
    best = min(end for _, end in ended(40))
    reason = made.decide(look(0.9), best)
    assert reason is not None
    assert reason.startswith("hopeless: chance to beat the best ")
    assert reason.endswith("by 40 finished trials at rung 1")
    assert made.decide(look(math.exp(best) + 0.06), best) is None
    assert made.decide(look(0.9, rung=2), best) is None  # nothing is known of that rung
    assert made.decide(look(0.9), None) is None
    assert judge(LEAST - 1).decide(look(0.9), best) is None
    assert judge(only_diverging=True).decide(look(0.9), best) is None


def test_the_risk_is_shared_by_the_trials_of_the_sweep() -> None:
    best = min(end for _, end in ended(40))
    chances: dict[float, float] = {}
    for loss in np.linspace(0.2, 0.9, 400):
        made = forecast(judge().ended[1], math.log(loss), math.log(1e-2))
        assert made is not None
        chances[float(loss)] = made.chance(best)
    for trials in (2, 40, 4000):
        limit = min(CHANCE, RISK / trials)
        wanted = [loss for loss, chance in chances.items() if chance < limit]
        assert [x for x in chances if judge(trials=trials).decide(look(x), best)] == wanted
        assert wanted or trials == 4000


def test_high_noise_is_not_compared_with_low_noise() -> None:
    # at noise .5 every trial looks bad at the rung, and ends well
    made, rng = Judge(LOSS, 40), np.random.default_rng(0)
    for _ in range(20):
        for noise, above in ((1e-3, 0.0), (0.5, 1.0)):
            end = rng.uniform(0.1, 0.3)
            made.learn([look(end + above + 0.01 * rng.normal(), noise)], math.log(end))
    best = math.log(0.1)
    assert made.decide(look(1.12, 0.5), best) is None
    assert made.decide(look(1.12, 1e-3), best) is not None


def test_a_noise_far_from_a_sharp_belief_needs_less() -> None:
    made = judge()
    best = min(end for _, end in ended(40))
    limit = RISK / 40

    def chance(loss: float) -> float:
        found = forecast(made.ended[1], math.log(loss), math.log(1e-2))
        assert found is not None
        return found.chance(best)

    unsure = next(x for x in np.linspace(0.2, 0.9, 2000) if limit < chance(x) < 0.9 * OUTSIDE * limit)
    seen = look(float(unsure))
    assert made.decide(seen, best) is None
    reason = made.decide(seen, best, (0.05, 0.4))
    assert reason is not None
    assert reason.startswith("noise 0.01 is far from the optimum's interval 0.05 to 0.4, chance ")
    assert made.decide(seen, best, (0.025, 0.1)) is None  # within the margin
    assert made.decide(seen, best, (0.05, 0.6)) is None  # not sharp
    assert made.decide(look(0.2), best, (0.05, 0.4)) is None  # a rival all the same


@pytest.mark.parametrize("objective", ["gain_mean", "barrier", "cost"])
def test_objectives_that_no_rung_shows_stop_nothing_but_what_diverges(objective: str) -> None:
    made = Judge(OBJECTIVES[objective], 40)
    for seen, end in ended(40):
        made.learn([seen], end)
    assert made.decide(look(0.9), -10.0) is None
    assert made.decide(look(None), -10.0) is not None


def test_saved_seconds_are_the_steps_not_run() -> None:
    row = {"device_seconds": 4.0, "seconds_train": 3.0, "steps": 100, "pruned_step": None}
    assert estimate_savings([row]) == (0.0, 0.0)
    stopped = {**row, "pruned_step": 25}
    assert estimate_savings([row, stopped]) == (9.0, 9.0 / 17.0)


# -- whole sweeps -----------------------------------------------------------------------------------------------------


def synthetic_trials(count: int) -> list[dict[str, Any]]:
    space = search_spaces.load("synthetic").override({}, {"epochs": 8})
    found: list[dict[str, Any]] = []
    for i in range(count):
        u = np.random.default_rng([5, i]).random(len(space.knobs))
        knobs = {n: from_unit(d, float(x)) for (n, d), x in zip(space.knobs.items(), u, strict=True)}
        (output,) = run_trials([space.build(knobs)], Runtime(rungs=3))
        row = output.result.to_row()
        for rung in output.rungs:
            row |= {f"rung_{rung.rung}_{k}": getattr(rung, k) for k in ("step", *ROWS)}
        found.append(row)
    return found


ROWS = ("merged_loss_val", "merged_accuracy_val")


def sweep_of(rows: Sequence[dict[str, Any]], objective: str) -> tuple[bool, float]:
    """Go through trials in order with the rule; returns (whether the winner was stopped, share of steps saved)."""
    goal = OBJECTIVES[objective]
    made = Judge(goal, len(rows))
    ends = [made.to_loss(r[goal.column], 10) if r["outcome"] == "ok" else math.inf for r in rows]
    best, spent, lost = None, 0, False
    for row, end in zip(rows, ends, strict=True):
        seen: list[Look] = []
        stop = None
        for k in (1, 2, 3):
            if row.get(f"rung_{k}_step") is None:
                break
            seen.append(Look(k, *(row[f"rung_{k}_{name}"] for name in ROWS), 10, row["noise_paper"]))
            if stop := made.decide(seen[-1], best):
                spent += row[f"rung_{k}_step"]
                lost = lost or end == min(ends)
                break
        if not stop:
            spent += row["steps"]
            if end < math.inf:
                made.learn(seen, end)
                best = end if best is None else min(best, end)
    return lost, 1 - spent / sum(r["steps"] for r in rows)


@pytest.mark.parametrize("space", ["digits_label_noise", "digits_cnn", "synthetic"])
@pytest.mark.parametrize(("objective", "least"), [("merged_loss", 0.2), ("merged_accuracy", 0.1)])
def test_the_winner_is_stopped_less_often_than_one_sweep_in_twenty(space: str, objective: str, least: float) -> None:
    rows = synthetic_trials(400) if space == "synthetic" else pq.read_table(TABLE).to_pylist()
    rows = [r for r in rows if r.get("space") in (space, None)]
    assert len(rows) >= 120
    for trials in (40, 80):
        results = [sweep_of(random.Random(i).sample(rows, trials), objective) for i in range(60)]
        assert np.mean([lost for lost, _ in results]) <= 1 / 20
        assert np.mean([share for _, share in results]) > least


def test_a_sweep_in_this_process_prunes_and_a_resume_knows_what_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Session] = []
    real = Session.__init__

    def remembered(self: Session, *args: Any, **more: Any) -> None:
        real(self, *args, **more)
        sessions.append(self)

    monkeypatch.setattr(Session, "__init__", remembered)

    def sweep(trials: int) -> list[dict[str, Any]]:
        spec = {"space": "synthetic", "runner": "inline", "sampler": "random", "prune": True, "fixed": {"epochs": 8}}
        return sweeper.run(SweepSpec(out=str(tmp_path), trials=trials, **spec)).trials.to_pylist()

    rows = sweep(30)
    first = sessions[-1]
    pruned = [r for r in rows if r["outcome"] == "pruned"]
    assert len(pruned) == first.status.pruned > 0
    assert first.status.best == min(r["merged_loss_val"] for r in rows if r["outcome"] == "ok")
    rungs = read(tmp_path, "rungs").to_pylist()
    assert all(r["step"] <= EXAMPLES * 8 for r in rungs)
    assert sweep(30) == rows  # pruned is done
    again = sessions[-1]
    assert again.pruner is not None
    assert first.pruner is not None
    assert {k: sorted(v) for k, v in again.pruner.judge.ended.items()} == {
        k: sorted(v) for k, v in first.pruner.judge.ended.items()
    }
    assert (again.status.pruned, again.status.done) == (first.status.pruned, 30)
    more = sweep(34)
    assert more[:30] == rows
    whole = [r["outcome"] for r in rows]
    assert whole.count("ok") == len(first.pruner.judge.ended[3])


def test_a_rung_that_a_resumed_trial_takes_again_counts_once() -> None:
    pruner = Pruner(judge(0), lambda spec: 1e-2)
    rung = SimpleNamespace(digest="abc", rung=1, merged_loss_val=0.5, merged_accuracy_val=0.8)
    output = SimpleNamespace(rungs=[rung], result=SimpleNamespace(classes=10))
    record = {**vars(rung), "outputs": [output], "before": []}
    for _ in range(2):
        assert pruner.look(SPEC, record, None, None) is None
    row = {"digest": "abc", "outcome": "ok", "classes": 10, pruner.judge.objective.column: 0.4}
    pruner.learn([row])
    assert len(pruner.judge.ended[1]) == 1

"""The race of samplers: its problems' values, its regret, the reparametrised space, what runs say."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pyarrow as pa
import pytest
from optuna.distributions import FloatDistribution

from tests.bench.race.contestants import CONTESTANTS, Reparametrised, posterior_means
from tests.bench.race.course import SCHEMA, Run, race, run_all
from tests.bench.race.problems import Problem, cells, draw, log_noise, pairs, problem, smoothed
from tests.bench.race.verdict import Course, ablation, comparison, courses, figure, holm, paired, table


def test_the_pairs_problem_meets_the_smoothed_cells() -> None:
    task, found = pairs("loss"), cells("loss")
    batch, decay, rate = found.axes
    for m, b, w, e in ((0, 0, 0, 3), (1, 2, 1, 5), (1, 4, 2, 12)):
        at = {
            "momentum": found.momenta[m],
            "batch_size": round(math.exp(batch[b])),
            "weight_decay": math.exp(decay[w]),
            "learning_rate": math.exp(rate[e]),
        }
        assert task.true(at) == pytest.approx(smoothed(found.mean)[m, b, w, e])
    between = {**at, "weight_decay": math.exp((decay[1] + decay[2]) / 2)}
    ends = smoothed(found.mean)[1, 4, 1:, 12]
    assert task.true(between) == pytest.approx(ends.mean())


def test_smoothing_takes_a_quarter_of_each_neighbour_and_keeps_the_mean_of_a_line() -> None:
    assert smoothed(np.array([[0.0, 4.0, 0.0]])).tolist() == [[1.0, 2.0, 1.0]]


def test_regret_is_in_units_of_randoms_best_of_ten() -> None:
    task = Problem({"x": FloatDistribution(0.0, 1.0), **pairs("loss").space}, lambda p: p["x"])
    assert task.best == pytest.approx(0.0, abs=1e-4)
    assert task.scale == pytest.approx(1 - 0.5**0.1, rel=0.1)  # the median of the least of ten uniform draws
    assert task.regret({**draw(task.space, np.random.default_rng(0)), "x": task.scale}) == pytest.approx(1.0, abs=1e-3)


def test_observations_scatter_as_the_seeds_near_the_optimum_do() -> None:
    task = pairs("gain")
    at = draw(task.space, np.random.default_rng(0))
    drawn = [task.observe(at, np.random.default_rng(i)) for i in range(400)]
    assert np.mean(drawn) == pytest.approx(task.true(at), abs=4 * cells("gain").noise_sd / 20)
    assert np.std(drawn) == pytest.approx(cells("gain").noise_sd, rel=0.15)


@pytest.mark.parametrize("family", ["all", "most_8", "nothing"])
def test_the_best_noise_of_a_family_is_where_its_hump_is(family: str) -> None:
    one, other = problem(f"{family}@0", 1), problem(f"{family}@0.2", 1)
    assert one.best == other.best
    assert one.noise_sd == 0
    assert other.noise_sd is not None
    assert other.noise_sd > 0
    assert problem(f"{family}@0", 2).best != one.best
    if family == "all":
        assert math.log(3e-3) - 0.3 < one.best_noise < math.log(4e-2) + 0.3


def test_the_reparametrised_space_returns_the_learning_rate_of_its_noise() -> None:
    task = problem("most@0", 0)
    rival = CONTESTANTS["tpe_noise"](task, 0)
    assert isinstance(rival, Reparametrised)
    asked = {"log_noise": math.log(1e-2), "batch_size": 32, "momentum": 0.9, "weight_decay": 1e-3}
    assert log_noise(rival.params(asked)) == pytest.approx(math.log(1e-2))
    assert rival.params({**asked, "log_noise": 5.0})["learning_rate"] == 3.0
    for _ in range(20):
        params = rival.params(draw(rival.space, np.random.default_rng(0)))
        assert set(params) == set(task.space)


def test_a_lucky_draw_is_not_recommended() -> None:
    space = {"x": FloatDistribution(0.0, 1.0)}
    at = np.linspace(0, 1, 21)
    values = (at - 0.3) ** 2
    values[15] -= 0.25  # at x = .75 the truth is .2
    trials = [
        optuna.create_trial(params={"x": x}, distributions=space, value=v) for x, v in zip(at, values, strict=True)
    ]
    assert at[int(posterior_means(space, trials).argmin())] == pytest.approx(0.3, abs=0.11)


@pytest.mark.parametrize("parallel", [1, 8])
@pytest.mark.parametrize("name", ["noise", "tpe_noise"])
def test_a_run_is_reproducible_and_judged_after_every_trial(name: str, parallel: int) -> None:
    run = Run("most@0.05", name, 3, 9, parallel)
    first, second = race(run), race(run)
    assert [m.done for m in first] == list(range(1, 10))
    assert [m.regret for m in first] == [m.regret for m in second]
    assert all(m.regret > -1e-9 for m in first)


def test_a_stopped_race_continues(tmp_path: object) -> None:
    folder = tmp_path  # type: ignore[assignment]
    runs = [Run("most@0", "random", seed, 4) for seed in range(3)]
    part = run_all(runs[:1], folder, 1)  # type: ignore[arg-type]
    kept = next(folder.glob("*.parquet")).stat().st_mtime_ns  # type: ignore[attr-defined]
    whole = run_all(runs, folder, 1)  # type: ignore[arg-type]
    assert (part.num_rows, whole.num_rows) == (4, 12)
    assert (folder / f"{runs[0].name}.parquet").stat().st_mtime_ns == kept  # type: ignore[operator]


def _course(regret: list[float], trials: int | None = None) -> Course:
    n = len(regret)
    none: list[bool | None] = [None] * n
    return Course(trials or n, np.arange(1, n + 1), np.array(regret), np.zeros(n), none, 0.0)


def test_trials_to_a_regret_are_censored() -> None:
    course = _course([1.0, 0.4, 0.6, 0.2])
    assert [course.reached(level) for level in (0.5, 0.25, 0.1)] == [2, 4, 5]
    assert course.mean_log_regret == pytest.approx(np.log([1.0, 0.4, 0.6, 0.2]).mean())


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == [1.0, 1.0]


def test_paired_tests_see_a_difference_and_no_difference() -> None:
    rng = np.random.default_rng(0)
    slow = {s: _course([1.0] * (10 + s % 3) + [0.1] * 10) for s in range(20)}
    fast = {s: _course([1.0] * (4 + s % 2) + [0.1] * 16) for s in range(20)}
    assert max(paired(fast, slow)) < 1e-3
    one = {s: _course(list(rng.uniform(0.3, 1, 8))) for s in range(20)}
    assert paired(one, one) == (1.0, 1.0)


def test_an_ablation_is_a_paired_difference() -> None:
    ours = {s: _course([1.0, 0.5, 0.1 + 0.01 * s]) for s in range(8)}
    worse = {s: _course([1.0, 0.5 * math.e**0.3, 0.1 + 0.01 * s]) for s in range(2, 12)}
    found = {("p", 1, "noise"): ours, ("p", 1, "noise-residual"): worse, ("p", 1, "tpe"): worse}
    (line,) = ablation(found).splitlines()[1:]
    assert line.split()[2:6] == ["noise-residual", "6", "+0.100", "0.000"]
    assert float(line.split()[6]) < 0.05


def test_tables_and_figure_name_every_contestant() -> None:
    rows = [
        {"problem": "p", "contestant": c, "seed": s, "trials": 20, "parallel": 1, "done": n,
         "regret": 1.0 if n < at else 0.05, "noise_error": 0.1, "covered": c == "noise" or None, "ask_seconds": 0.1}
        for c, at in (("noise", 5), ("tpe", 12)) for s in range(8) for n in range(1, 21)
    ]  # fmt: skip
    found = courses(pa.Table.from_pylist(rows, schema=SCHEMA))
    text = table(found)
    assert "5 [5, 5]" in text
    assert "12 [12, 12]" in text
    assert "100%" in text
    verdict = comparison(found).splitlines()
    assert verdict[2].split()[:6] == ["p", "1", "0.25", "tpe", "5", "12"]
    assert float(verdict[2].split()[6]) == pytest.approx(0.42)
    assert {trace.name for trace in figure(found).data} == {"noise", "tpe"}

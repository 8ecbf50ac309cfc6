"""Every noise scale against its formula written out, its exponents, and `solve` as the inverse of `predict`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.noise import FAMILIES, KNOBS, MEASURED, NOISE, NoiseScale, defined_for, predict_all, with_exponents
from trainables.registry import UnknownName
from trainables.result import trial_columns

Settings = Mapping[str, float]
A = {"learning_rate": 1.1, "batch_size": 0.8, "momentum": 1.5, "weight_decay": 0.25, "k_aug": -0.5}
SCALES: dict[str, NoiseScale] = {**NOISE, "fitted": with_exponents(A)}


def _paper(h: Settings) -> float:
    return h["learning_rate"] / (h["batch_size"] * (1 - h["momentum"]))


FORMULAS: dict[str, Callable[[Settings], float]] = {
    "paper": _paper,
    "paper_v1": lambda h: h["learning_rate"] / (h["batch_size"] * (1 - h["momentum"]) ** 2),
    "paper_full": lambda h: _paper(h) * h["trace_sigma"],
    "paper_aug": lambda h: h["k_aug"] * _paper(h),
    "linear": lambda h: h["learning_rate"] / h["batch_size"],
    "smith_le": lambda h: h["learning_rate"] * h["examples"] / (h["batch_size"] * (1 - h["momentum"])),
    "wd_intrinsic": lambda h: h["learning_rate"] * h["weight_decay"] / (1 - h["momentum"]),
    "wd_angular": lambda h: math.sqrt(2 * h["learning_rate"] * h["weight_decay"] / (1 + h["momentum"])),
    "wd_equilibrium": lambda h: math.sqrt(
        h["learning_rate"] * h["weight_decay"] / (h["batch_size"] * (1 - h["momentum"]))
    ),
    "effective_lr": lambda h: h["learning_rate"] / ((1 - h["momentum"]) * h["weight_norm"] ** 2 * h["batch_size"]),
    "adam_sde": lambda h: h["learning_rate"] / math.sqrt(h["batch_size"]),
    "adamw_angular": lambda h: math.sqrt(
        2 * h["learning_rate"] * h["weight_decay"] * (1 - h["beta1"]) / (1 + h["beta1"])
    ),
    "adamw_tau": lambda h: h["batch_size"] / (h["learning_rate"] * h["weight_decay"] * h["examples"]),
    "dose": lambda h: h["dose"],
    "critical_ratio": lambda h: h["b_simple"] / h["batch_size"],
    "fitted": lambda h: math.exp(
        1.1 * math.log(h["learning_rate"])
        - 0.8 * math.log(h["batch_size"])
        - 1.5 * math.log(1 - h["momentum"])
        + 0.25 * math.log(h["weight_decay"])
        - 0.5 * math.log(h["k_aug"])
    ),
}
# what the logarithm of each setting's part is, and the exponent with which it stands in each formula
PARTS: dict[str, Callable[[float], float]] = {
    "momentum": lambda mu: 1 - mu,
    "beta1": lambda beta: (1 - beta) / (1 + beta),
}
_PAPER = {"learning_rate": 1.0, "batch_size": -1.0, "momentum": -1.0}
EXPONENTS: dict[str, Settings] = {
    "paper": _PAPER,
    "paper_v1": {**_PAPER, "momentum": -2},
    "paper_full": {**_PAPER, "trace_sigma": 1},
    "paper_aug": {**_PAPER, "k_aug": 1},
    "linear": {"learning_rate": 1, "batch_size": -1},
    "smith_le": {**_PAPER, "examples": 1},
    "wd_intrinsic": {"learning_rate": 1, "weight_decay": 1, "momentum": -1},
    # of 1 - mu: -1/2 of 1 + mu, times d ln(1 + mu) / d ln(1 - mu) = -(1 - mu) / (1 + mu) at mu = .9
    "wd_angular": {"learning_rate": 0.5, "weight_decay": 0.5, "momentum": 0.5 * 0.1 / 1.9},
    "wd_equilibrium": {"learning_rate": 0.5, "weight_decay": 0.5, "batch_size": -0.5, "momentum": -0.5},
    "effective_lr": {**_PAPER, "weight_norm": -2},
    "adam_sde": {"learning_rate": 1, "batch_size": -0.5},
    "adamw_angular": {"learning_rate": 0.5, "weight_decay": 0.5, "beta1": 0.5},
    "adamw_tau": {"batch_size": 1, "learning_rate": -1, "weight_decay": -1, "examples": -1},
    "dose": {"dose": 1},
    "critical_ratio": {"b_simple": 1, "batch_size": -1},
    "fitted": {"learning_rate": 1.1, "batch_size": -0.8, "momentum": -1.5, "weight_decay": 0.25, "k_aug": -0.5},
}
RATE = st.just(0.0) | st.floats(0, 0.999)
POSITIVE = st.floats(1e-4, 1e4)
LEGAL = st.fixed_dictionaries(
    {
        "learning_rate": st.floats(1e-6, 1e2),
        "batch_size": st.integers(1, 65536).map(float),
        "momentum": RATE,
        "weight_decay": st.floats(1e-8, 1.0),
        "beta1": RATE,
        "examples": st.integers(1, 10**7).map(float),
        "k_aug": POSITIVE,
        **dict.fromkeys(MEASURED, POSITIVE),
    }
)
POINT = {
    "learning_rate": 0.1, "batch_size": 32.0, "momentum": 0.9, "weight_decay": 1e-3, "beta1": 0.9, "examples": 720.0,
    "k_aug": 1.5, "trace_sigma": 12.0, "weight_norm": 5.0, "b_simple": 64.0, "dose": 0.25,
}  # fmt: skip
SOLVABLE = [(name, knob) for name in sorted(SCALES) for knob in SCALES[name].knobs]
every_scale = pytest.mark.parametrize("name", sorted(SCALES))


def test_every_scale_is_covered_here() -> None:
    assert set(FORMULAS) == set(EXPONENTS) == set(NOISE)


@every_scale
@given(h=LEGAL)
@settings(max_examples=30, deadline=None)
def test_value_equals_the_formula(name: str, h: Settings) -> None:
    assert SCALES[name].predict(h) == pytest.approx(FORMULAS[name](h), rel=1e-12)


@every_scale
@pytest.mark.parametrize("setting", sorted(POINT))
def test_exponents_are_those_of_a_finite_difference(name: str, setting: str) -> None:
    part = PARTS.get(setting, lambda value: value)
    ends = [POINT[setting] * (1 - 1e-6), POINT[setting] * (1 + 1e-6)]
    low, high = (math.log(SCALES[name].predict({**POINT, setting: end})) for end in ends)
    slope = (high - low) / (math.log(part(ends[1])) - math.log(part(ends[0])))
    assert slope == pytest.approx(EXPONENTS[name].get(setting, 0.0), abs=1e-6)


def test_written_out_numbers() -> None:
    # eta .1, B 32, mu .9, lambda 1e-3, N 720, k_aug 1.5, tr Sigma 12, |w| 5, B_simple 64, by hand
    assert predict_all(POINT) == pytest.approx(
        {
            "paper": 0.03125,
            "paper_v1": 0.3125,
            "paper_full": 0.375,
            "paper_aug": 0.046875,
            "linear": 0.003125,
            "smith_le": 22.5,
            "wd_intrinsic": 1e-3,
            "wd_angular": 0.010259783520851541,
            "wd_equilibrium": 0.005590169943749474,
            "effective_lr": 0.00125,
            "dose": 0.25,
            "critical_ratio": 2.0,
        }
    )
    # eta 1e-3, B 64, lambda .1, beta_1 .9, N 6400: 1e-3/8, sqrt(2e-4 .1/1.9), 64/.64
    adam = {"learning_rate": 1e-3, "batch_size": 64, "momentum": 0, "weight_decay": 0.1, "beta1": 0.9, "examples": 6400}
    wanted = {"adam_sde": 1.25e-4, "adamw_angular": 0.0032444284226152509, "adamw_tau": 100.0}
    assert predict_all(adam, "adamw") == pytest.approx(wanted)
    assert predict_all(adam, "adam") == pytest.approx({"adam_sde": 1.25e-4})
    assert predict_all({**adam, "b_simple": 640}, "other") == pytest.approx({"critical_ratio": 10.0})


@every_scale
def test_a_scale_says_what_it_is(name: str) -> None:
    scale = NOISE[name]
    assert scale.name == name
    assert all((scale.formula, scale.unit, scale.source))
    assert scale.kind in ("predicted", "measured", "fitted")
    assert (scale.kind == "measured") == bool(set(scale.needs) & set(MEASURED))
    assert scale.families
    assert set(scale.families) <= set(FAMILIES)
    assert [name in defined_for(family) for family in FAMILIES] == [f in scale.families for f in FAMILIES]
    columns = {c.name: c for c in trial_columns()}
    assert (f"noise_{name}" in columns) == (scale.kind != "fitted")
    if scale.kind != "fitted":
        assert columns[f"noise_{name}"].unit == scale.unit
        assert scale.formula in columns[f"noise_{name}"].doc


@pytest.mark.parametrize(("name", "knob"), SOLVABLE)
@given(h=LEGAL)
@settings(max_examples=30, deadline=None)
def test_solve_inverts_predict(name: str, knob: str, h: Settings) -> None:
    scale = SCALES[name]
    noise = scale.predict(h)
    rest = {k: v for k, v in h.items() if k != knob}
    value = scale.solve(knob, noise, rest)
    assert value == pytest.approx(h[knob], rel=1e-9, abs=1e-9)
    assert scale.predict({**rest, knob: value}) == pytest.approx(noise, rel=1e-9)


@pytest.mark.parametrize(("name", "knob"), [(n, k) for n, k in SOLVABLE if k not in PARTS])
@given(h=LEGAL, noise=st.floats(1e-9, 1e3))
@settings(max_examples=20, deadline=None)
def test_predict_inverts_solve_at_any_target(name: str, knob: str, h: Settings, noise: float) -> None:
    value = SCALES[name].solve(knob, noise, h)
    assert SCALES[name].predict({**h, knob: value}) == pytest.approx(noise, rel=1e-9)


@every_scale
def test_solve_refuses_knobs_outside_the_formula(name: str) -> None:
    scale = SCALES[name]
    has = ", ".join(scale.knobs) or "no knob, because training measures it"
    for knob in {*KNOBS, "beta1", "k_aug", "augmentation_strength", "examples", *MEASURED} - set(scale.knobs):
        with pytest.raises(ValueError, match=f"'{name}' cannot be solved for '{knob}': .* has {has}"):
            scale.solve(knob, 0.01, POINT)


@every_scale
def test_missing_settings_are_named(name: str) -> None:
    scale = SCALES[name]
    assert scale.predict({k: POINT[k] for k in scale.needs}) == scale.predict(POINT)
    for missing in scale.needs:
        origin = ", which training measures" if missing in MEASURED else ""
        with pytest.raises(ValueError, match=f"'{name}' needs {missing}{origin}.*: {re.escape(scale.formula)}"):
            scale.predict({k: v for k, v in POINT.items() if k != missing})


@pytest.mark.parametrize(("name", "knob"), SOLVABLE)
@pytest.mark.parametrize("noise", [0.0, -1e-3, math.nan])
def test_a_target_must_be_positive(name: str, knob: str, noise: float) -> None:
    with pytest.raises(ValueError, match="noise must be > 0, got"):
        SCALES[name].solve(knob, noise, POINT)


@pytest.mark.parametrize(("name", "knob"), SOLVABLE)
def test_targets_that_no_number_reaches_are_refused(name: str, knob: str) -> None:
    with pytest.raises(ValueError, match=f"no {knob} reaches noise inf"):
        SCALES[name].solve(knob, math.inf, POINT)


def test_overflow_on_the_way_is_refused() -> None:
    # the learning rate would be 1e300 squared
    with pytest.raises(ValueError, match=r"no learning_rate reaches noise 1e\+300"):
        NOISE["wd_equilibrium"].solve("learning_rate", 1e300, POINT)


@pytest.mark.parametrize(("name", "knob"), [(n, k) for n, k in SOLVABLE if k in PARTS])
@pytest.mark.parametrize("rate", [1.0, 1.5, math.nan])
def test_rates_from_1_are_undefined(name: str, knob: str, rate: float) -> None:
    with pytest.raises(ValueError, match=f"is undefined at {knob} = {rate!r}"):
        SCALES[name].predict({**POINT, knob: rate})


@every_scale
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_what_is_no_positive_number_is_undefined(name: str, value: float) -> None:
    for setting in set(SCALES[name].needs) - set(PARTS):
        with pytest.raises(ValueError, match=f"is undefined at {setting} = {value!r}"):
            SCALES[name].predict({**POINT, setting: value})


@every_scale
def test_a_setting_of_0_is_undefined_where_the_formula_divides_by_it(name: str) -> None:
    for setting in set(SCALES[name].needs) - set(PARTS):
        at_zero = {**POINT, setting: 0.0}
        if EXPONENTS[name][setting] > 0:
            assert SCALES[name].predict(at_zero) == 0.0
        else:
            with pytest.raises(ValueError, match=f"is undefined at {setting} = 0"):
                SCALES[name].predict(at_zero)


WITH_DECAY = sorted(n for n in NOISE if EXPONENTS[n].get("weight_decay", 0) > 0 and NOISE[n].kind == "predicted")


@pytest.mark.parametrize("name", WITH_DECAY)
def test_without_weight_decay_the_noise_is_missing(name: str) -> None:
    still = {**POINT, "weight_decay": 0.0}
    with pytest.raises(ValueError, match="no learning_rate reaches noise"):
        NOISE[name].solve("learning_rate", 0.01, still)
    assert NOISE[name].solve("weight_decay", NOISE[name].predict(POINT), still) == pytest.approx(1e-3)


def test_a_rate_below_0_is_no_solution() -> None:
    # eta/B alone is more than wanted: no mu in [0, 1) brings it down
    with pytest.raises(ValueError, match=r"no momentum reaches noise 0\.001"):
        NOISE["paper"].solve("momentum", 1e-3, {"learning_rate": 0.1, "batch_size": 32.0})
    with pytest.raises(ValueError, match="no beta1 reaches noise 10"):
        NOISE["adamw_angular"].solve("beta1", 10.0, POINT)


def test_exponents_1_and_2_differ_tenfold_at_momentum_09() -> None:
    assert NOISE["paper_v1"].predict(POINT) / NOISE["paper"].predict(POINT) == pytest.approx(10.0)


def test_augmentation_trades_against_the_learning_rate() -> None:
    # k_aug 1.5 at eta .1 is as noisy as k_aug 1 at eta .15
    noise = NOISE["paper_aug"].predict(POINT)
    assert NOISE["paper_aug"].solve("k_aug", noise, {**POINT, "learning_rate": 0.15}) == pytest.approx(1.0)


def test_predict_all_leaves_out_what_it_cannot_know() -> None:
    known = predict_all({"learning_rate": 0.1, "batch_size": 32})
    assert known == {"linear": pytest.approx(0.1 / 32)}


@pytest.mark.parametrize("family", FAMILIES)
def test_predict_all_fills_what_is_defined_for_the_family(family: str) -> None:
    assert set(predict_all(POINT, family)) == set(defined_for(family)) - {"fitted"}


def test_predict_all_leaves_out_what_an_estimate_or_no_decay_leaves_undefined() -> None:
    full = set(predict_all(POINT))
    assert full - set(predict_all({**POINT, "b_simple": -3.0})) == {"critical_ratio"}
    assert full - set(predict_all({**POINT, "weight_norm": 0.0})) == {"effective_lr"}
    assert full - set(predict_all({**POINT, "k_aug": math.nan})) == {"paper_aug"}
    assert predict_all({**POINT, "weight_decay": 0.0})["wd_intrinsic"] == 0.0
    assert set(predict_all({**POINT, "weight_decay": 0.0}, "adamw")) == set(defined_for("adamw")) - {
        "fitted",
        "adamw_tau",
    }


@pytest.mark.parametrize(("setting", "value"), [("momentum", 1.0), ("batch_size", 0), ("weight_decay", -1.0)])
def test_predict_all_refuses_illegal_settings(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"is undefined at {setting} = {value!r}"):
        predict_all({**POINT, setting: value})


# -- fitted exponents -------------------------------------------------------------------------------------------------


def test_without_exponents_fitted_says_how_to_get_them() -> None:
    for call in (lambda: NOISE["fitted"].predict(POINT), lambda: NOISE["fitted"].solve("momentum", 0.1, POINT)):
        with pytest.raises(ValueError, match=r"'fitted' has no exponents: estimate them .* with_exponents"):
            call()


def test_the_papers_exponents_are_the_paper() -> None:
    scale = with_exponents({"learning_rate": 1, "batch_size": 1, "momentum": 1, "weight_decay": 0})
    assert scale.predict(POINT) == pytest.approx(NOISE["paper"].predict(POINT))
    assert scale.knobs == NOISE["paper"].knobs
    assert scale.formula == "η^1·B^-1·(1−μ)^-1"
    assert (scale.name, scale.kind) == ("fitted", "fitted")


def test_wrong_exponents_are_refused() -> None:
    with pytest.raises(UnknownName, match=r"unknown exponent 'learning_rat'; did you mean learning_rate\?"):
        with_exponents({"learning_rat": 1.0})
    for bad in ({}, {"momentum": 0.0}, {"momentum": math.nan}, {"batch_size": math.inf}):
        with pytest.raises(ValueError, match="exponents must be finite and at least one must not be 0"):
            with_exponents(bad)


def test_a_scale_that_could_not_be_solved_is_refused() -> None:
    with pytest.raises(ValueError, match="exponents of 1 - momentum and 1 \\+ momentum must be opposite, got -1 and 2"):
        NoiseScale("odd", "odd", "1", "none", {"one_minus_momentum": -1.0, "one_plus_momentum": 2.0})


@pytest.mark.parametrize("name", [n for n, s in NOISE.items() if s.kind == "predicted"])
def test_a_comparison_is_the_ratio_of_two_predictions(name: str) -> None:
    settings = {"learning_rate": 0.1, "batch_size": 32, "momentum": 0.9, "weight_decay": 1e-3, "beta1": 0.9}
    settings |= {"examples": 720, "k_aug": 1.5}
    changes = {"learning_rate": 0.03, "batch_size": 8, "momentum": 0.5}
    expected = NOISE[name].predict({**settings, **changes}) / NOISE[name].predict(settings)
    assert NOISE[name].compare(settings, changes) == pytest.approx(expected, rel=1e-12)
    row = {k: settings[k] for k in changes}  # what does not change cancels
    assert NOISE[name].compare(row, changes) == pytest.approx(expected, rel=1e-12)
    assert NOISE[name].compare({}, {}) == 1

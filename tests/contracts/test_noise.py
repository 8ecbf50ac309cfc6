"""Every noise scale against its formula written out, and `solve` as the inverse of `predict`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.noise import KNOBS, NOISE, predict_all

Settings = Mapping[str, float]
# eta, B, mu, lambda, N -> the scale
FORMULAS: dict[str, Callable[[float, float, float, float, float], float]] = {
    "paper": lambda eta, B, mu, wd, N: eta / (B * (1 - mu)),
    "paper_v1": lambda eta, B, mu, wd, N: eta / (B * (1 - mu) ** 2),
    "linear": lambda eta, B, mu, wd, N: eta / B,
    "smith_le": lambda eta, B, mu, wd, N: eta * N / (B * (1 - mu)),
    "wd_intrinsic": lambda eta, B, mu, wd, N: eta * wd / (1 - mu),
    "wd_angular": lambda eta, B, mu, wd, N: math.sqrt(2 * eta * wd / (1 + mu)),
    "wd_equilibrium": lambda eta, B, mu, wd, N: math.sqrt(eta * wd / (B * (1 - mu))),
}
LEGAL = st.fixed_dictionaries(
    {
        "learning_rate": st.floats(1e-6, 1e2),
        "batch_size": st.integers(1, 65536).map(float),
        "momentum": st.just(0.0) | st.floats(0, 0.999),
        "weight_decay": st.floats(1e-8, 1.0),
        "examples": st.integers(1, 10**7).map(float),
    }
)
POINT = {"learning_rate": 0.1, "batch_size": 32.0, "momentum": 0.9, "weight_decay": 1e-3, "examples": 720.0}
SOLVABLE = [(name, knob) for name in sorted(NOISE) for knob in NOISE[name].knobs]
every_scale = pytest.mark.parametrize("name", sorted(NOISE))


def test_every_scale_is_covered_here() -> None:
    assert set(FORMULAS) == set(NOISE)


@every_scale
@given(h=LEGAL)
@settings(max_examples=30, deadline=None)
def test_value_equals_the_formula(name: str, h: Settings) -> None:
    wanted = FORMULAS[name](h["learning_rate"], h["batch_size"], h["momentum"], h["weight_decay"], h["examples"])
    assert NOISE[name].predict(h) == pytest.approx(wanted, rel=1e-12)


def test_written_out_numbers() -> None:
    # eta .1, B 32, mu .9, lambda 1e-3, N 720, by hand
    assert predict_all(POINT) == pytest.approx(
        {
            "paper": 0.03125,
            "paper_v1": 0.3125,
            "linear": 0.003125,
            "smith_le": 22.5,
            "wd_intrinsic": 1e-3,
            "wd_angular": 0.010259783520851541,
            "wd_equilibrium": 0.005590169943749474,
        }
    )


@pytest.mark.parametrize(("name", "knob"), SOLVABLE)
@given(h=LEGAL)
@settings(max_examples=30, deadline=None)
def test_solve_inverts_predict(name: str, knob: str, h: Settings) -> None:
    scale = NOISE[name]
    noise = scale.predict(h)
    rest = {k: v for k, v in h.items() if k != knob}
    value = scale.solve(knob, noise, rest)
    assert value == pytest.approx(h[knob], rel=1e-9, abs=1e-9)
    assert scale.predict({**rest, knob: value}) == pytest.approx(noise, rel=1e-9)


@pytest.mark.parametrize(("name", "knob"), [(n, k) for n, k in SOLVABLE if k != "momentum"])
@given(h=LEGAL, noise=st.floats(1e-9, 1e3))
@settings(max_examples=20, deadline=None)
def test_predict_inverts_solve_at_any_target(name: str, knob: str, h: Settings, noise: float) -> None:
    value = NOISE[name].solve(knob, noise, h)
    assert NOISE[name].predict({**h, knob: value}) == pytest.approx(noise, rel=1e-9)


@every_scale
def test_solve_refuses_knobs_outside_the_formula(name: str) -> None:
    scale = NOISE[name]
    for knob in {*KNOBS, "augmentation_strength", "examples"} - set(scale.knobs):
        with pytest.raises(ValueError, match=f"cannot be solved for '{knob}'.* has {', '.join(scale.knobs)}"):
            scale.solve(knob, 0.01, POINT)


@every_scale
def test_missing_settings_are_named(name: str) -> None:
    scale = NOISE[name]
    assert scale.predict({k: POINT[k] for k in scale.needs}) == scale.predict(POINT)
    for missing in scale.needs:
        with pytest.raises(ValueError, match=f"'{name}' needs {missing}: "):
            scale.predict({k: v for k, v in POINT.items() if k != missing})


@every_scale
@pytest.mark.parametrize("noise", [0.0, -1e-3, math.nan])
def test_a_target_must_be_positive(name: str, noise: float) -> None:
    with pytest.raises(ValueError, match="noise must be > 0, got"):
        NOISE[name].solve("learning_rate", noise, POINT)


@pytest.mark.parametrize(("name", "knob"), SOLVABLE)
def test_targets_that_no_number_reaches_are_refused(name: str, knob: str) -> None:
    with pytest.raises(ValueError, match=f"no {knob} reaches noise inf"):
        NOISE[name].solve(knob, math.inf, POINT)


def test_overflow_on_the_way_is_refused() -> None:
    # the learning rate would be 1e300 squared
    with pytest.raises(ValueError, match=r"no learning_rate reaches noise 1e\+300"):
        NOISE["wd_equilibrium"].solve("learning_rate", 1e300, POINT)


@pytest.mark.parametrize("name", sorted(n for n in NOISE if "momentum" in NOISE[n].knobs))
@pytest.mark.parametrize("momentum", [1.0, 1.5])
def test_momentum_from_1_is_undefined(name: str, momentum: float) -> None:
    with pytest.raises(ValueError, match="is undefined at momentum = 1"):
        NOISE[name].predict({**POINT, "momentum": momentum})


@pytest.mark.parametrize("name", sorted(n for n in NOISE if "batch_size" in NOISE[n].knobs))
def test_batch_size_0_is_undefined(name: str) -> None:
    with pytest.raises(ValueError, match="is undefined at batch_size = 0"):
        NOISE[name].predict({**POINT, "batch_size": 0})


@pytest.mark.parametrize("name", sorted(n for n in NOISE if "weight_decay" in NOISE[n].knobs))
def test_without_weight_decay_there_is_no_such_noise(name: str) -> None:
    still = {**POINT, "weight_decay": 0.0}
    assert NOISE[name].predict(still) == 0.0
    with pytest.raises(ValueError, match="no learning_rate reaches noise"):
        NOISE[name].solve("learning_rate", 0.01, still)
    assert NOISE[name].solve("weight_decay", NOISE[name].predict(POINT), still) == pytest.approx(1e-3)


def test_a_momentum_below_0_is_no_solution() -> None:
    # eta/B alone is more than wanted: no mu in [0, 1) brings it down
    with pytest.raises(ValueError, match=r"no momentum reaches noise 0\.001"):
        NOISE["paper"].solve("momentum", 1e-3, {"learning_rate": 0.1, "batch_size": 32.0})


def test_exponents_1_and_2_differ_tenfold_at_momentum_09() -> None:
    assert NOISE["paper_v1"].predict(POINT) / NOISE["paper"].predict(POINT) == pytest.approx(10.0)


def test_predict_all_leaves_out_what_it_cannot_know() -> None:
    known = predict_all({"learning_rate": 0.1, "batch_size": 32})
    assert known == {"linear": pytest.approx(0.1 / 32)}

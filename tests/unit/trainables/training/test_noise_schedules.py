from __future__ import annotations

import pytest

from trainables.spec import PairSpec
from trainables.training.legs import child_leg
from trainables.training.noise_schedules import NOISE_SCHEDULES, make_noise_schedule

SPEC = PairSpec("any", "any", learning_rate=0.1, batch_size=10, steps=100, warmup=0.1, decay=0.2)


@pytest.mark.parametrize("kind", [*NOISE_SCHEDULES])
@pytest.mark.parametrize(("start", "end"), [(0.25, 4.0), (3.0, 1.0), (1.0, 1.0)])
def test_the_mean_over_the_stable_phase_is_the_noise_of_the_trial(kind: str, start: float, end: float) -> None:
    spec = PairSpec.from_mapping(
        {**_fields(SPEC), "noise_schedule": {"kind": kind, "start": start, "end": end, "turn": 0.3}}
    )
    leg = child_leg(spec, 1000)
    rates = [leg.rate(t) for t in leg.stable]
    assert (leg.stable.start, leg.stable.stop) == (9, 81)  # the last of warmup and the first of decay are at it
    assert sum(rates) / len(rates) == pytest.approx(0.1, rel=1e-12)
    if kind != "flat":
        assert (rates[-1] > rates[0]) == (end > start)
        assert rates[-1] / rates[0] == pytest.approx(end / start, rel=0.12)


def test_warmup_and_decay_join_the_ends() -> None:
    spec = PairSpec.from_mapping({**_fields(SPEC), "noise_schedule": {"kind": "linear", "start": 1, "end": 3}})
    leg, plain = child_leg(spec, 1000), child_leg(SPEC, 1000)
    first, last = leg.rate(leg.stable[0]) / 0.1, leg.rate(leg.stable[-1]) / 0.1
    assert leg.rate(3) == pytest.approx(first * plain.rate(3))
    assert leg.rate(90) == pytest.approx(last * plain.rate(90))


def test_a_step_turns_where_it_is_told_to() -> None:
    schedule = make_noise_schedule({"kind": "step", "start": 1, "end": 4, "turn": 0.25}, range(10, 18))
    assert [schedule.at(t) for t in range(10, 18)] == pytest.approx([1 / 3.25] * 2 + [4 / 3.25] * 6)
    assert (schedule.at(0), schedule.at(99)) == (schedule.at(10), schedule.at(17))


def test_without_a_schedule_nothing_changes() -> None:
    leg = child_leg(SPEC, 1000)
    assert all(leg.rate(t) == 0.1 for t in leg.stable)
    assert SPEC.digest == PairSpec.from_mapping({**_fields(SPEC), "noise_schedule": {}, "child_b": {}}).digest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"noise_schedule": {"start": 2}}, r"noise_schedule must have a kind \(flat, linear, cosine, step\)"),
        ({"noise_schedule": {"kind": "linera"}}, r"linera.*linear"),
        ({"noise_schedule": {"kind": "linear", "stop": 2}}, r"unknown entry of noise_schedule 'stop'"),
        ({"noise_schedule": {"kind": "linear", "end": 0}}, r"noise_schedule\.end must be > 0, got 0"),
        ({"noise_schedule": {"kind": "step", "turn": 2}}, r"noise_schedule\.turn must lie in \[0, 1\], got 2"),
        ({"noise_schedule": {"kind": "flat"}, "schedule": "cosine"}, r"schedule must be wsd or constant with a noise"),
        ({"child_b": {"momentum": 0.5}}, r"unknown field of child_b 'momentum'"),
        ({"child_b": {"learning_rate": -1}}, r"child_b\.learning_rate must be > 0, got -1"),
        ({"child_b": {"batch_size": 2.5}}, r"child_b\.batch_size must be > 0 and whole, got 2\.5"),
        ({"child_b": {"batch_size": 2}, "members": 3}, r"members must be 2 with child_b, got 3"),
        ({"pairing": "mirrored"}, r"pairing must be one of independent, antithetic, got 'mirrored'"),
        ({"pairing": "antithetic", "pair_kind": "split_data"}, r"pair_kind must be same_task with pairing antithetic"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairSpec.from_mapping({**_fields(SPEC), **fields})


def _fields(spec: PairSpec) -> dict[str, object]:
    names = ("dataset", "model", "learning_rate", "batch_size", "steps", "warmup", "decay")
    return {name: getattr(spec, name) for name in names}

from __future__ import annotations

import pytest

from trainables.spec import PairSpec
from trainables.training.legs import child_leg
from trainables.training.noise_schedules import NOISE_SCHEDULES, make_noise_schedule, plan_batches

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


# -- by the batch size ------------------------------------------------------------------------------------------------


def _by_batch(**changes: object) -> PairSpec:
    schedule = {"kind": "linear", "start": 1, "end": 4, "by": "batch_size"}
    return PairSpec.from_mapping({**_fields(SPEC), "noise_schedule": schedule, **changes})


@pytest.mark.parametrize("kind", [*NOISE_SCHEDULES])
@pytest.mark.parametrize(("start", "end"), [(0.25, 4.0), (3.0, 1.0)])
@pytest.mark.parametrize("batch_size", [1, 10, 64])
def test_the_batch_follows_the_noise_at_equal_examples(kind: str, start: float, end: float, batch_size: int) -> None:
    schedule = {"kind": kind, "start": start, "end": end, "turn": 0.3, "by": "batch_size"}
    spec = _by_batch(noise_schedule=schedule, batch_size=batch_size)
    leg = child_leg(spec, 1000)
    assert leg.plan is not None
    sizes = leg.plan.sizes
    assert leg.steps == len(sizes) == len(leg.plan.rates)
    assert sum(sizes) == leg.passed(leg.steps, batch_size) == 100 * batch_size
    assert min(sizes) >= min(2, batch_size)
    # epochs keep their examples, and the last one may be incomplete
    whole = 1000 // batch_size * batch_size
    parts = [sum(leg.plan.sizes[a:b]) for a, b in zip((0, *leg.plan.ends), leg.plan.ends, strict=False)]
    assert set(parts[:-1]) <= {whole}
    # eta/B is the course of the noise, weighted by the examples seen
    noise = [leg.rate(t) / sizes[t] * batch_size / 0.1 for t in leg.stable]
    weights = [sizes[t] for t in leg.stable]
    assert sum(n * w for n, w in zip(noise, weights, strict=True)) / sum(weights) == pytest.approx(1, rel=1e-9)
    if kind != "flat" and batch_size == 10:
        assert noise[-1] / noise[0] == pytest.approx(end / start, rel=0.3)
        rates = [leg.rate(t) for t in leg.stable]
        assert max(rates) / min(rates) < 2 < max(weights) / min(weights)


def test_batches_by_hand() -> None:
    schedule = {"kind": "step", "start": 1, "end": 4, "turn": 0.5, "by": "batch_size"}
    spec = _by_batch(noise_schedule=schedule, batch_size=20, steps=10, warmup=0.0, decay=0.0)
    leg = child_leg(spec, 200)
    # 100 examples at .4 of the noise, 100 at 1.6 of it: B = 50 and 12.5
    assert leg.plan is not None
    assert leg.plan.sizes[:2] == (50, 50)
    assert sum(leg.plan.sizes[2:]) == 100
    assert set(leg.plan.sizes[2:]) <= {12, 13}
    assert leg.rate(0) == pytest.approx(0.1)
    assert leg.rate(5) == pytest.approx(0.1 * 1.6 * leg.plan.sizes[5] / 20)
    assert [leg.epoch_of(t, 10) for t in (1, leg.steps)] == [1, 1]


def test_batches_stay_below_eight_times_that_of_the_trial() -> None:
    schedule = {"kind": "step", "start": 0.01, "end": 1, "turn": 0.5, "by": "batch_size"}
    leg = child_leg(_by_batch(noise_schedule=schedule, warmup=0.0, decay=0.0), 1000)
    assert leg.plan is not None
    sizes = leg.plan.sizes
    assert max(sizes) == sizes[0] == 80
    assert sum(sizes) == 1000
    # the learning rate takes what the batch leaves
    assert leg.rate(0) / sizes[0] == pytest.approx(0.01 * leg.rate(leg.steps - 1) / sizes[-1], rel=1e-9)


@pytest.mark.parametrize(("size", "steps", "turn", "end"), [(3, 9, 0.26, 0.02), (5, 10, 0.37, 0.05)])
def test_a_rest_of_one_example_enlarges_no_batch_beyond_the_limit(
    size: int, steps: int, turn: float, end: float
) -> None:
    options = {"kind": "step", "start": 1, "end": end, "turn": turn}
    plan = plan_batches(options, lambda _: 1.0, range(steps), steps, steps, size, 0.1)
    # 8 B + 1 examples are left before the last two
    assert plan.sizes[-2:] == (8 * size - 1, 2)
    assert max(plan.sizes) <= 8 * size
    assert sum(plan.sizes) == steps * size
    assert plan.ends == (len(plan.sizes),)


def test_a_flat_batch_schedule_is_the_plain_trial() -> None:
    leg, plain = child_leg(_by_batch(noise_schedule={"kind": "flat", "by": "batch_size"}), 1000), child_leg(SPEC, 1000)
    assert leg.steps == plain.steps
    assert leg.stable == plain.stable
    assert {leg.size(t, 10) for t in range(100)} == {10}
    assert [leg.rate(t) for t in range(100)] == pytest.approx([plain.rate(t) for t in range(100)], abs=1e-15)


def test_a_batch_schedule_needs_an_optimizer_whose_noise_follows_the_batch() -> None:
    with pytest.raises(
        ValueError, match=r"by must be learning_rate unless the optimizer is of the family of SGD.* adamw"
    ):
        child_leg(_by_batch(optimizer="adamw"), 1000)
    with pytest.raises(
        ValueError, match=r"servo must be empty unless the optimizer is of the family of SGD, .* got adamw"
    ):
        child_leg(_by_batch(noise_schedule={}, servo={"every": 8}, optimizer="adamw"), 1000)


def test_warmup_and_decay_follow_the_examples() -> None:
    leg, plain = child_leg(_by_batch(), 1000), child_leg(SPEC, 1000)
    assert leg.plan is not None
    assert leg.rate(0) < leg.rate(leg.stable[0])
    last, at = leg.steps - 1, leg.passed(leg.steps - 1, 10)
    ends = [leg.rate(t) / leg.size(t, 10) for t in (leg.stable[-1], last)]
    # the same share of the decay as that of a plain child after as many examples
    assert at / 10 == pytest.approx(99, abs=1)
    assert ends[1] / ends[0] == pytest.approx(plain.rate(99) / 0.1, rel=0.3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"noise_schedule": {"start": 2}}, r"noise_schedule must have a kind \(flat, linear, cosine, step\)"),
        ({"noise_schedule": {"kind": "linera"}}, r"linera.*linear"),
        ({"noise_schedule": {"kind": "linear", "stop": 2}}, r"unknown entry of noise_schedule 'stop'"),
        ({"noise_schedule": {"kind": "linear", "end": 0}}, r"noise_schedule\.end must be > 0, got 0"),
        ({"noise_schedule": {"kind": "step", "turn": 2}}, r"noise_schedule\.turn must lie in \[0, 1\], got 2"),
        ({"noise_schedule": {"kind": "flat"}, "schedule": "cosine"}, r"schedule must be wsd or constant with a noise"),
        (
            {"noise_schedule": {"kind": "flat", "by": "beta"}},
            "noise_schedule.by must be one of learning_rate, b",
        ),
        (
            {"noise_schedule": {"kind": "flat", "by": "batch_size"}, "pairing": "antithetic"},
            "pairing must be independent with noise_schedule.by batch_size, got 'antithetic'",
        ),
        ({"servo": {"limit": 2}}, "servo must have every, the steps between two measurements"),
        ({"servo": {"every": 4}}, r"servo\.every must be whole and >= 8, got 4"),
        ({"servo": {"every": 8, "limit": 1}}, r"servo\.limit must be > 1, got 1"),
        ({"servo": {"every": 8, "smoothing": 0}}, r"servo\.smoothing must lie in \(0, 1\], got 0"),
        ({"servo": {"evry": 8}}, "unknown entry of servo 'evry'"),
        ({"servo": {"every": 8}, "stack": 2}, "stack must be 1 with a servo, got 2"),
        ({"servo": {"every": 8}, "clip_norm": 1.0}, "clip_norm must be 0 with a servo"),
        ({"servo": {"every": 8}, "schedule": "cosine"}, "schedule must be wsd or constant with a servo"),
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

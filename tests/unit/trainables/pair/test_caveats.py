from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from trainables.noise import NOISE
from trainables.pair.caveats import KEYS, SEPARATOR, caveats, key_of, wd_relaxation
from trainables.pair.record import make_failed_output, now, record
from trainables.result import Outcome
from trainables.runtime import Runtime
from trainables.spec import PairSpec

SPEC = PairSpec("digits", "small_cnn", learning_rate=0.1, batch_size=32, momentum=0.9)
N, T = 1000, 200


def found(more: dict[str, Any] | None = None, **changes: Any) -> dict[str, str]:
    texts = caveats(replace(SPEC, **changes), N, T, **(more or {}))
    assert all(text.count(": ") >= 1 and SEPARATOR not in text for text in texts)
    return {key_of(text): text for text in texts}


def test_a_plain_trial_has_none() -> None:
    assert found() == {}
    assert found({"clipped_fraction": 0.0, "has_batchnorm": True, "ranks": 1}) == {}


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        # eta lambda T / (1 - mu) = .1 1e-3 200 / .1
        ({"weight_decay": 1e-3}, 0.2),
        ({"weight_decay": 1e-3, "momentum": 0.0}, 0.02),
        ({"weight_decay": 1e-3, "optimizer": "sgdw"}, 0.02),
        ({"weight_decay": 1e-2, "momentum": 0.0, "optimizer": "adamw"}, 0.2),
        # the trunk decays too
        ({"weight_decay": 1e-3, "protocol": "branch", "branch_step": 300}, 0.5),
        ({"weight_decay": 5e-3}, 1.0),
        ({"weight_decay": 1e-3, "momentum": 0.0, "optimizer": "adam"}, None),
        ({"weight_decay": 1e-3, "momentum": 0.0, "optimizer": "lamb"}, None),
    ],
)
def test_decay_that_had_no_time_to_act_is_named(changes: dict[str, Any], value: float | None) -> None:
    spec = replace(SPEC, **changes)
    assert wd_relaxation(spec, T) == (None if value is None else pytest.approx(value))
    row = record(spec, Runtime(), Outcome.OK, "fine", now(), examples=N, steps=T).to_row()
    assert row["wd_relaxation"] == wd_relaxation(spec, T)
    text = found(**changes).get("inert_weight_decay")
    if value is None or value >= 1 - 1e-12:
        assert text is None
    else:
        assert "weight decay is inert, since ηλT" in str(text)
        assert f" = {value:.3g} is below 1" in str(text)
        assert ("/(1−μ)" in str(text)) == (spec.optimizer == "sgd")


@pytest.mark.parametrize(
    ("changes", "more", "key", "number"),
    [
        ({"clip_norm": 1.0}, {"clipped_fraction": 0.125}, "clipping", "0.125 of the steps were clipped"),
        ({"augmentation": "crop_flip+mixup", "augmentation_strength": 0.5}, {}, "unseen_augmentation",
         "mixup at strength 0.5"),
        ({"augmentation": "cutmix+label_smoothing", "augmentation_strength": 1.0}, {}, "unseen_augmentation",
         "cutmix and label_smoothing at strength 1 "),
        ({}, {"has_batchnorm": True, "ranks": 4}, "device_batchnorm", "BatchNorm sees 8 examples on each of 4 ranks"),
        ({"batch_size": 250}, {}, "without_replacement", "B/N = 0.25, so batches drawn without replacement have 0.75"),
        ({"schedule": "cosine"}, {}, "no_stable_phase", "schedule cosine has no stable phase"),
        ({"warmup": 0.3, "decay": 0.7}, {}, "no_stable_phase", "warmup and decay take 1 of the steps"),
        ({"child_b": {"learning_rate": 0.3}}, {}, "unequal_children", "child B has 3 times the η/B of child A"),
        ({"optimizer": "lion", "momentum": 0.0}, {}, "paper_undefined", "use one of critical_ratio, fitted"),
    ],
)  # fmt: skip
def test_each_caveat_has_its_key_and_number(changes: Any, more: Any, key: str, number: str) -> None:
    (text,) = found(more, **changes).items()
    assert text[0] == key
    assert number in text[1]


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"augmentation": "crop_flip", "augmentation_strength": 1.0}, {}),
        ({"augmentation": "mixup", "augmentation_strength": 0.0}, {}),
        ({"batch_size": 100}, {}),
        ({"schedule": "constant", "warmup": 0.5, "decay": 0.5}, {}),
        # in a branch the warmup is the trunk's
        ({"protocol": "branch", "branch_step": 10, "warmup": 0.5, "decay": 0.5}, {}),
        ({}, {"has_batchnorm": False, "ranks": 4}),
        ({"optimizer": "sgdw"}, {}),
        ({"child_b": {"learning_rate": 0.1}}, {}),
    ],
)
def test_what_is_no_reason_to_doubt_is_silent(changes: Any, more: Any) -> None:
    assert found(more, **changes) == {}


def test_every_key_can_be_reached() -> None:
    worst = {"weight_decay": 1e-4, "augmentation": "mixup", "augmentation_strength": 1.0, "batch_size": 500}
    more = {"clipped_fraction": 1.0, "has_batchnorm": True, "ranks": 2}
    texts = found(more, **worst, schedule="cosine", optimizer="adamw", momentum=0.0)
    unequal = {"child_b": {"batch_size": 8}, "optimizer": "lion", "momentum": 0.0}
    others = found(more, **worst, **unequal, schedule="cosine")
    assert {*texts, *others} == set(KEYS)
    assert "paper_undefined" not in texts  # AdamW has noises of its own
    with pytest.raises(ValueError, match=r"a caveat must start with one of inert_weight_decay, .*, got 'oh'"):
        key_of("oh")


# -- the row ----------------------------------------------------------------------------------------------------------


def row(spec: PairSpec, **more: Any) -> dict[str, Any]:
    return record(spec, Runtime(), Outcome.OK, "fine", now(), examples=N, steps=T, **more).to_row()


def test_warnings_are_joined_in_the_row() -> None:
    spec = replace(SPEC, weight_decay=1e-4, schedule="cosine")
    texts = caveats(spec, N, T)
    joined = row(spec, warnings=texts)["warnings"]
    assert [key_of(t) for t in joined.split(SEPARATOR)] == ["inert_weight_decay", "no_stable_phase"]
    assert row(spec)["warnings"] == ""


def test_measured_settings_fill_their_noises() -> None:
    spec = replace(SPEC, augmentation="shift", augmentation_strength=0.5)
    measured = {"trace_sigma": 12.0, "b_simple": 64.0, "k_aug": 1.5, "measured_noise": {"dose": 0.25, "weight_norm": 5}}
    filled = row(spec, **measured)
    paper = 0.1 / (32 * 0.1)
    wanted = {"paper_full": 12 * paper, "critical_ratio": 2.0, "paper_aug": 1.5 * paper, "dose": 0.25}
    wanted |= {"effective_lr": paper / 25, "paper": paper, "smith_le": paper * N}
    assert {k: filled[f"noise_{k}"] for k in wanted} == pytest.approx(wanted)
    assert (filled["trace_sigma"], filled["k_aug"]) == (12.0, 1.5)
    bare = row(spec)
    assert [k for k in wanted if bare[f"noise_{k}"] is not None] == ["paper", "smith_le"]
    # what could not be estimated stays empty
    assert row(spec, b_simple=-2.0, trace_sigma=float("nan"))["noise_critical_ratio"] is None


def test_without_augmentation_its_factor_is_1() -> None:
    assert row(SPEC)["noise_paper_aug"] == row(SPEC)["noise_paper"] > 0
    off = replace(SPEC, augmentation="shift", augmentation_strength=0.0)
    assert row(off)["noise_paper_aug"] == row(off)["noise_paper"]


def test_an_adam_trial_has_the_noises_of_adam() -> None:
    spec = replace(SPEC, optimizer="adamw", momentum=0.0, beta1=0.8, weight_decay=0.1)
    got = row(spec)
    names = {n for n in NOISE if got.get(f"noise_{n}") is not None}
    assert names == {"adam_sde", "adamw_angular", "adamw_tau"}
    assert got["noise_adamw_angular"] == pytest.approx((2 * 0.1 * 0.1 * 0.2 / 1.8) ** 0.5)
    # without decay there is no time scale to give
    assert row(replace(spec, weight_decay=0.0))["noise_adamw_tau"] is None


def test_out_of_memory_is_an_outcome_with_batch_and_memory() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\n GPU 0 has 1.00 GiB free.")
    result = make_failed_output(SPEC, Runtime(), error, now()).result
    assert result.outcome == Outcome.OUT_OF_MEMORY
    assert result.outcome_detail.startswith("out of memory at batch_size 32 on ")
    assert result.outcome_detail.endswith("Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.")
    assert make_failed_output(SPEC, Runtime(), MemoryError(), now()).result.outcome == Outcome.OUT_OF_MEMORY
    assert make_failed_output(SPEC, Runtime(), RuntimeError("out of memory?"), now()).result.outcome == Outcome.FAILED

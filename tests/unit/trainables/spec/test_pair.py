from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.small_trials import python
from trainables.spec import BaseSpec, PairSpec, digest_of, stream

SPEC = PairSpec("digits", "small_cnn", learning_rate=0.05, batch_size=16, momentum=0.9)
GOLDEN = "1dc3385833f615b8"  # released: results on disk are named by it
GOLDEN_BASE = "7daf2b8d70878364"


def test_digests_are_those_of_released_results() -> None:
    assert SPEC.digest == GOLDEN
    assert SPEC.base_digest == GOLDEN_BASE
    assert SPEC.stream("a/order") == 8720459704329287974


def test_digest_is_sha256_of_canonical_json() -> None:
    # printf '{"a":[1,2],"b":0.5}' | sha256sum
    assert digest_of({"b": 0.5, "a": (1, 2)}) == "4b8a4d176b97e138" == digest_of({"a": [1, 2], "b": 0.5})


def test_digests_are_the_same_in_every_process() -> None:
    code = (
        "from trainables.spec import PairSpec;"
        "s = PairSpec('digits', 'small_cnn', learning_rate=0.05, batch_size=16, momentum=0.9);"
        "print(s.digest, s.base_digest, s.stream('a/order'))"
    )
    for seed in ("1", "4242"):
        done = python("-c", code, PYTHONHASHSEED=seed)
        assert done.stdout.split() == [GOLDEN, GOLDEN_BASE, "8720459704329287974"], done.stderr


def test_defaults_do_not_enter_the_digest() -> None:
    spelled = PairSpec.from_mapping(
        {f.name: getattr(SPEC, f.name) for f in fields(PairSpec)} | {"base": {"steps": 60, "seed": 0}}
    )
    assert spelled == SPEC
    assert spelled.digest == GOLDEN


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.1}, {"batch_size": 32}, {"momentum": 0.0}, {"weight_decay": 1e-4}, {"epochs": 9},
        {"augmentation": "shift"}, {"augmentation_strength": 0.1}, {"schedule": "cosine"}, {"warmup": 0.1},
        {"decay": 0.1}, {"seed": 1}, {"repeat": 1}, {"stack": 2}, {"dtype": "float64"}, {"source": "x = 1"},
        {"merges": ("linear",)}, {"base": BaseSpec(steps=30)}, {"dataset_options": {"label_noise": 0.2}},
        {"accuracy_floor": 0.5}, {"loss_ceiling": 2.0}, {"betas_batch_size": 16},
        {"trainable": "synthetic"}, {"model_options": {"norm": "batch"}},
    ],
    ids=lambda c: next(iter(c)),
)  # fmt: skip
def test_every_field_changes_the_digest(change: dict[str, Any]) -> None:
    assert replace(SPEC, **change).digest != GOLDEN


def test_config_ignores_the_repeat_only() -> None:
    assert replace(SPEC, repeat=3).config == SPEC.config == GOLDEN
    assert replace(SPEC, repeat=3).digest != GOLDEN
    assert replace(SPEC, seed=3).config != SPEC.config


def test_trials_share_a_base_unless_what_makes_it_differs() -> None:
    alike = [
        {"learning_rate": 1.0}, {"batch_size": 8}, {"momentum": 0.0}, {"weight_decay": 0.1}, {"epochs": 2},
        {"augmentation": "shift", "augmentation_strength": 1.0}, {"seed": 5}, {"repeat": 2}, {"stack": 4},
    ]  # fmt: skip
    for change in alike:
        assert replace(SPEC, **change).base_digest == GOLDEN_BASE, change
    different = [
        {"base": {"steps": 30}}, {"base": {"seed": 1}},
        {"base": {"optimizer": "adamw"}}, {"base": {"learning_rate": 0.01}}, {"model": "other"},
        {"model_options": {"norm": "batch"}}, {"dataset": "other"}, {"dataset_options": {"label_noise": 0.2}},
        {"source": "x = 1"}, {"dtype": "float64"},
    ]  # fmt: skip
    digests = {replace(SPEC, **change).base_digest for change in different}
    assert len(digests | {GOLDEN_BASE}) == len(different) + 1


def test_streams_of_roles_and_trials_differ() -> None:
    roles = ["a/order", "b/order", "a/augment", "b/augment", "recalibrate/order"]
    seeds = {replace(SPEC, repeat=r).stream(role) for r in range(20) for role in roles}
    assert len(seeds) == 20 * len(roles)
    assert all(0 <= s < 2**63 for s in seeds)
    assert SPEC.stream("init") == stream(GOLDEN, "init")


RULES = [
    ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
    ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
    ({"learning_rate": float("nan")}, "learning_rate must be finite, got nan"),
    ({"learning_rate": None}, "learning_rate must be a number, got nothing (null)"),
    ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
    ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
    ({"batch_size": True}, "batch_size must be a whole number, got True"),
    ({"momentum": 1.2}, "momentum must lie in [0, 1), got 1.2"),
    ({"momentum": 1.0}, "momentum must lie in [0, 1), got 1.0"),
    ({"weight_decay": -1e-3}, "weight_decay must be >= 0, got -0.001"),
    ({"augmentation_strength": 1.5}, "augmentation_strength must lie in [0, 1], got 1.5"),
    ({"epochs": 0}, "epochs must be >= 1, got 0"),
    ({"warmup": -0.1}, "warmup must lie in [0, 1], got -0.1"),
    ({"warmup": 0.5, "decay": 0.6}, "decay must lie in [0, 1 - warmup], got 0.6"),
    ({"decay": -0.1}, "decay must lie in [0, 1 - warmup], got -0.1"),
    ({"accuracy_floor": 2}, "accuracy_floor must lie in [0, 1], got 2.0"),
    ({"stack": 0}, "stack must be >= 1, got 0"),
    ({"repeat": -1}, "repeat must be >= 0, got -1"),
    ({"merges": ["tie"]}, "merges must contain 'linear', which defines the gains, got ['tie']"),
    ({"merges": "linear"}, "merges must be a list of names, got 'linear'"),
    ({"protocol": "branches"}, "protocol must be one of finetune, branch, scratch, got 'branches'"),
    ({"pair_kind": "two"}, "pair_kind must be one of same_task, split_data, two_task, tasks, got 'two'"),
    ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
    ({"model": 3}, "model must be text, got 3"),
    ({"dataset_options": [1]}, "dataset_options must be a mapping, got [1]"),
    ({"model_options": {"f": min}}, "model_options must hold JSON values only, got {'f': <built-in function min>}"),
    ({"base": 3}, "a base must be a mapping of fields, got 3"),
    ({"base": {"stps": 3}}, "unknown base field 'stps'; did you mean steps?"),
    ({"base": {"steps": -1}}, "base steps must be >= 0, got -1"),
    ({"base": {"steps": 10**10}}, "base steps must be at most 1000000000, got 10000000000"),
    ({"members": 10**8}, "members must be at most 1000, got 100000000"),
    ({"epochs": 10**10}, "epochs must be at most 1000000000, got 10000000000"),
    ({"steps": 10**10}, "steps must be at most 1000000000, got 10000000000"),
    ({"trunk": {"momentum": 0.5}}, "unknown field of trunk 'momentum'; known: batch_size, learning_rate"),
    ({"trunk": {"learning_rate": 0}}, "trunk.learning_rate must be > 0, got 0"),
    ({"trunk": {"batch_size": 8}}, "trunk must be empty unless protocol is branch, got {'batch_size': 8}"),
    ({"window": {"spacing": 4}}, "window must have a size, the number of checkpoints, got {'spacing': 4}"),
    ({"window": {"sizes": 4}}, "unknown entry of window 'sizes'; did you mean size?"),
    ({"window": {"size": 0}}, "window.size must be whole and >= 1, got 0"),
    ({"window": {"size": [2, 2.5]}}, "window.size must be whole and >= 1, got 2.5"),
    ({"window": {"size": []}}, "window.size must be one number or at most 8, got 0"),
    ({"window": {"size": 4, "spacing": "x"}}, "window.spacing must be a number, got 'x'"),
    ({"merges": ["linear"] * 65}, "merges must name at most 64 merges, got 65"),
    ({"base": {"momentum": 1.2}}, "momentum must lie in [0, 1), got 1.2"),
    ({"learning_rat": 1}, "unknown pair spec field 'learning_rat'; did you mean learning_rate"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), RULES, ids=lambda v: v if isinstance(v, str) else "")
def test_every_rule_names_itself_and_the_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        PairSpec.from_mapping({**json.loads(SPEC.to_json()), **change})
    assert str(error.value).startswith(message)


def test_missing_fields_are_named() -> None:
    with pytest.raises(ValueError, match="must have model, learning_rate, batch_size; got only dataset"):
        PairSpec.from_mapping({"dataset": "digits"})
    with pytest.raises(ValueError, match="must be a mapping of fields, got"):
        PairSpec.from_json("[1, 2]")
    with pytest.raises(ValueError, match="a pair spec must be JSON: "):
        PairSpec.from_json("{")


def test_phases_may_fill_the_whole_run_despite_rounding() -> None:
    # 1 - 0.8 < 0.2 in floating point
    assert replace(SPEC, warmup=0.8, decay=0.2).decay == 0.2


def test_numbers_given_as_text_or_of_another_type_are_the_same_trial() -> None:
    text = PairSpec.from_mapping(
        {**json.loads(SPEC.to_json()), "learning_rate": "5e-2", "batch_size": 16.0, "warmup": 0.05}
    )
    assert text == SPEC
    assert isinstance(text.batch_size, int)
    assert text.digest == GOLDEN


@given(
    learning_rate=st.floats(1e-9, 1e3), batch_size=st.integers(1, 10**6), momentum=st.floats(0, 0.999),
    seed=st.integers(0, 2**40), merges=st.sampled_from([("linear",), ("task_arithmetic", "linear")]),
    base=st.builds(BaseSpec, steps=st.integers(0, 10**4), learning_rate=st.floats(1e-9, 1e3)),
    dataset_options=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=2),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_json_round_trip(**values: Any) -> None:
    spec = replace(SPEC, **values)
    again = PairSpec.from_json(spec.to_json())
    assert again == spec
    assert again.digest == spec.digest


def test_stack_mates_are_the_block_of_repeats_that_holds_the_spec() -> None:
    spec = replace(SPEC, stack=4, repeat=6)
    assert [s.repeat for s in spec.stack_mates()] == [4, 5, 6, 7]
    assert spec.stack_mates() == replace(spec, repeat=4).stack_mates()
    assert {s.config for s in spec.stack_mates()} == {spec.config}
    assert SPEC.stack_mates() == [SPEC]


def test_every_field_has_a_description() -> None:
    for f in (*fields(PairSpec), *fields(BaseSpec)):
        assert f.metadata["description"].endswith("."), f.name


@pytest.mark.parametrize("name", ["channels", "classes", "pretrained", "weights"])
def test_model_options_that_other_fields_set_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"model_options must not have channels, classes, .* got '{name}': the data"):
        replace(SPEC, model_options={name: True})


def test_betas_follow_the_batch_size_from_their_own() -> None:
    fixed = replace(SPEC, optimizer="adamw", momentum=0.0, beta1=0.9, beta2=0.98)
    assert fixed.betas == (0.9, 0.98)
    follows = replace(fixed, betas_batch_size=8)  # the batch is twice as large
    assert follows.betas == pytest.approx((0.8, 0.96))
    assert replace(follows, batch_size=8).betas == (0.9, 0.98)
    with pytest.raises(ValueError, match=r"beta1 must lie in \[0, 1\), got -0.6 at batch_size 128, which follows from"):
        replace(follows, batch_size=128)

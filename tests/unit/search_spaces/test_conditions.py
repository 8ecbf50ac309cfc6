"""Conditional knobs: which act, what a trial that they do not act in is, and what is refused."""

import pickle
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from search_spaces import Space
from search_spaces._space import SpaceError

FIXED = {"dataset": "none", "model": "none", "learning_rate": 0.1, "batch_size": 16, "trainable": "synthetic"}
KNOBS = {
    "beta2": FloatDistribution(0.9, 0.999),  # stands before what it depends on
    "optimizer": CategoricalDistribution(("sgd", "sgdw", "adamw")),
    "schedule": CategoricalDistribution(("wsd", "cosine")),
    "momentum": FloatDistribution(0.5, 0.9),
    "decay": FloatDistribution(0.1, 0.5),
}
CONDITIONS: dict[str, Any] = {
    "momentum": {"optimizer": ["sgd", "sgdw"]},
    "beta2": {"optimizer": ["adamw"]},
    "decay": {"schedule": ["wsd"], "optimizer": ["sgd"]},
}
SPACE = Space("conditional", FIXED, KNOBS, conditions=CONDITIONS)
POINT = {"beta2": 0.95, "optimizer": "sgd", "schedule": "wsd", "momentum": 0.8, "decay": 0.3}


def test_a_knob_that_does_not_act_leaves_no_trace() -> None:
    assert SPACE.active_params(POINT) == {"optimizer": "sgd", "schedule": "wsd", "momentum": 0.8, "decay": 0.3}
    adam = SPACE.build({**POINT, "optimizer": "adamw"})
    assert (adam.momentum, adam.decay, adam.beta2) == (0.0, 0.2, 0.95)
    assert adam.digest == SPACE.build({**POINT, "optimizer": "adamw", "momentum": 0.6, "decay": 0.1}).digest
    assert adam == SPACE.build({"optimizer": "adamw", "schedule": "wsd", "beta2": 0.95})
    assert SPACE.params_of(adam) == {"optimizer": "adamw", "schedule": "wsd", "beta2": 0.95}
    assert SPACE.params_of(SPACE.build(POINT)) == SPACE.active_params(POINT)
    with pytest.raises(SpaceError, match="needs a value of momentum"):
        SPACE.build({"optimizer": "sgdw", "schedule": "wsd"})
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE


def test_a_chain_of_conditions_acts_as_a_whole() -> None:
    chain = SPACE.override(
        {"warmup": CategoricalDistribution((0.0, 0.1))},
        {},
        {"warmup": {"schedule": ("wsd",)}, "decay": {"warmup": (0.1,)}},
    )
    assert "decay" in chain.active_params({**POINT, "warmup": 0.1})
    assert "decay" not in chain.active_params({**POINT, "warmup": 0.0})
    assert "decay" not in chain.active_params({**POINT, "warmup": 0.1, "schedule": "cosine"})


@pytest.mark.parametrize(
    ("fixed", "knobs", "conditions"),
    [
        ({"optimizer": "sgd"}, {"schedule", "momentum", "decay"}, {"decay": {"schedule": ("wsd",)}}),
        ({"optimizer": "adamw"}, {"schedule", "beta2"}, {}),
        ({"momentum": 0.9}, set(KNOBS) - {"momentum"}, {k: v for k, v in CONDITIONS.items() if k != "momentum"}),
    ],
    ids=["it holds", "it does not", "the knob itself"],
)
def test_fixing_settles_conditions(fixed: dict[str, Any], knobs: set[str], conditions: Any) -> None:
    space = SPACE.override({}, fixed)
    assert set(space.knobs) == knobs
    assert space.conditions == {k: {o: tuple(v) for o, v in c.items()} for k, c in conditions.items()}


def test_fewer_choices_narrow_conditions() -> None:
    space = SPACE.override({"optimizer": CategoricalDistribution(("sgdw", "adamw"))}, {})
    assert space.conditions == {"momentum": {"optimizer": ("sgdw",)}, "beta2": {"optimizer": ("adamw",)}}
    assert set(space.knobs) == set(KNOBS) - {"decay"}


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"momentun": {"optimizer": ["sgd"]}}, "condition of momentun: unknown knob 'momentun'; did you mean momentum"),
        (
            {"momentum": {"optimiser": ["sgd"]}},
            "condition of momentum: unknown knob 'optimiser'; did you mean optimizer",
        ),
        ({"momentum": {"optimizer": ["sdg"]}}, "optimizer must be one of sgd, sgdw, adamw, got 'sdg'"),
        ({"momentum": {"optimizer": []}}, "optimizer must be one of sgd, sgdw, adamw, got 'nothing'"),
        (
            {"momentum": {"decay": [0.1]}},
            "condition of momentum: decay must be a knob with values, got FloatDistribution",
        ),
        (
            {"optimizer": {"schedule": ["wsd"]}, "schedule": {"optimizer": ["sgd"]}},
            "must not depend on each other in a circle, got optimizer -> schedule -> optimizer; drop one",
        ),
        (
            {"schedule": {"optimizer": ["sgd"]}, "momentum": {"schedule": ["wsd"], "optimizer": ["adamw"]}},
            "momentum can never act: its conditions leave optimizer no value; drop one of them",
        ),
    ],
)
def test_conditions_that_cannot_hold_are_refused(conditions: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Space("d", FIXED, KNOBS, conditions=conditions)
    with pytest.raises(SpaceError, match=message):
        Space("d", FIXED, KNOBS).override({}, {}, conditions)


def test_what_has_no_default_always_acts() -> None:
    rest = {k: v for k, v in FIXED.items() if k != "learning_rate"}
    knobs = {**KNOBS, "learning_rate": FloatDistribution(0.1, 1.0)}
    with pytest.raises(SpaceError, match="learning_rate has no default and must act in every trial"):
        Space("d", rest, knobs, conditions={"learning_rate": {"optimizer": ["sgd"]}})

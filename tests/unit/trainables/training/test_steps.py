from dataclasses import replace

import pytest
import torch

from tests.support.courses import make_courses
from trainables.pair.setup import check_names, inspect, prepare
from trainables.runtime import Runtime
from trainables.spec import BaseSpec, PairSpec
from trainables.training import loop
from trainables.training.loop import Course, Seeds
from trainables.training.ranks import Ranks
from trainables.training.steps import WARMUP, check_graphs, find_obstacle

SPEC = PairSpec(
    dataset="digits", model="small_cnn", learning_rate=0.0625, batch_size=64, steps=12, schedule="constant",
    dtype="float64", base=BaseSpec(steps=2),
)  # fmt: skip
GPU = torch.device("cuda")


@pytest.fixture
def records(monkeypatch):
    """Steps of this CPU are recorded: the record calls the function again. Holds one entry per record: its replays."""
    made = []

    def record(launch):
        made.append(0)
        at = len(made) - 1

        def replay():
            made[at] += 1
            launch()

        return replay

    monkeypatch.setattr(loop, "check_graphs", lambda spec, *_: spec.graphs != "off")
    monkeypatch.setattr(loop, "record_cuda_graph", record)
    return made


def courses(spec: PairSpec, children: int = 1) -> list[Course]:
    lab = prepare(spec, Runtime())
    task = lab.tasks[0]
    seeds = [Seeds(3 + i, 5 + i) for i in range(children)]
    return make_courses(spec, task.model, task.base, task.data, seeds)


def train(spec: PairSpec, pauses: tuple[int, ...] = (), children: int = 1) -> list[dict[str, torch.Tensor]]:
    out = []
    for course in courses(spec, children):
        for pause in pauses:
            course.advance(pause)
        course.advance()
        out += [c.weights for c in course.children]
    return out


def assert_close(a, b, tolerance=1e-12):
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("changes", "children"),
    [
        ({}, 1),
        ({"clip_norm": 0.5}, 1),
        ({"optimizer": "adamw", "learning_rate": 2**-9, "momentum": 0.0}, 1),
        ({"stack": 2}, 2),
        ({"model_options": {"norm": "batch"}}, 1),
    ],
    ids=["sgd", "clipped", "adamw", "stack", "batchnorm"],
)
def test_recorded_steps_are_the_same_computation(records, changes, children):
    spec = replace(SPEC, **changes)
    plain = train(spec, children=children)
    assert records == []
    assert_close(train(replace(spec, graphs="on"), children=children), plain)
    assert records == [SPEC.steps - WARMUP]


def test_a_rate_that_changes_reaches_the_record(records):
    # a rate is float32 in the record
    spec = replace(SPEC, schedule="wsd", warmup=0.25, decay=0.5)
    assert_close(train(replace(spec, graphs="auto")), train(spec), tolerance=1e-6)


def test_a_pause_makes_a_new_record_and_the_same_numbers(records):
    spec = replace(SPEC, graphs="auto", optimizer="adamw", learning_rate=2**-9, momentum=0.0)
    whole = train(spec)
    assert_close(train(spec, pauses=(6,)), whole, tolerance=0)
    assert records == [9, 3, 3]


def test_a_snapshot_of_recorded_steps_holds_plain_rates(records):
    course = courses(replace(SPEC, graphs="on"))[0]
    course.advance(6)
    (group,) = course.snapshot()["optimizer"]["param_groups"]
    assert group["lr"] == SPEC.learning_rate
    assert isinstance(group["lr"], float)
    other = courses(replace(SPEC, graphs="on"))[0]
    other.restore(course.snapshot())
    course.advance()
    other.advance()
    assert_close([other.children[0].weights], [course.children[0].weights], tolerance=0)


def test_what_a_graph_cannot_hold_is_launched_call_by_call(monkeypatch):
    def refuse(launch):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(loop, "check_graphs", lambda spec, *_: spec.graphs != "off")
    monkeypatch.setattr(loop, "record_cuda_graph", refuse)
    with pytest.warns(UserWarning, match="graphs auto records no step, .*operation not permitted"):
        fallen = train(replace(SPEC, graphs="auto"))
    assert_close(fallen, train(SPEC))
    with pytest.raises(ValueError, match=r"graphs on needs steps that a CUDA graph can hold: operation .* use auto"):
        train(replace(SPEC, graphs="on"))


@pytest.mark.parametrize(
    ("changes", "ranks", "said"),
    [
        ({}, Ranks(), ""),
        ({"optimizer": "adamw", "momentum": 0.0}, Ranks(), ""),
        ({"compile": True}, Ranks(), "compile false, got true"),
        ({"optimizer": "lion", "momentum": 0.0}, Ranks(), "optimizer sgd or adamw, got lion"),
        ({"optimizer_options": {"foreach": True}}, Ranks(), "optimizer_options without foreach, got {'foreach': True}"),
        ({"noise_schedule": {"kind": "linear", "end": 2, "by": "batch_size"}}, Ranks(), "batches of one size, got .*"),
        ({}, Ranks(0, 2), "one process a child, got 2"),
    ],
)
def test_conditions_of_a_record(changes, ranks, said):
    spec = replace(SPEC, **changes)
    assert not check_graphs(spec, GPU, ranks)
    assert check_graphs(replace(spec, graphs="auto"), GPU, ranks) == (said == "")
    if said:
        with pytest.raises(ValueError, match=f"graphs on needs {said}; use auto or off"):
            check_graphs(replace(spec, graphs="on"), GPU, ranks)
    else:
        assert check_graphs(replace(spec, graphs="on"), GPU, ranks)


def test_a_cpu_records_nothing():
    assert find_obstacle(SPEC, torch.device("cpu")) == "a GPU, got cpu"
    assert not check_graphs(replace(SPEC, graphs="auto"), torch.device("cpu"))
    with pytest.raises(ValueError, match="graphs on needs a GPU, got cpu; use auto or off"):
        inspect([replace(SPEC, graphs="on")], Runtime(device="cpu"))
    inspect([replace(SPEC, graphs="on")], Runtime(device="auto"))  # a cluster may have GPUs
    with pytest.raises(ValueError, match="graphs on needs compile false"):
        check_names(replace(SPEC, graphs="on", compile=True))


def test_graphs_leave_other_digests_alone():
    assert replace(SPEC, graphs="off").digest == SPEC.digest
    assert replace(SPEC, graphs="auto").digest != SPEC.digest

"""Tied parameters are one parameter: in every merge, in what is saved, in training and when a file is read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sweeper.storage.tables import write_weights
from tests.support.courses import make_courses
from trainables.measurement.derivatives import objective
from trainables.merging import coefficient_grid
from trainables.merging.methods import BY_SCORE, MERGES
from trainables.models.freezing import freeze
from trainables.models.registry import MODELS, build
from trainables.models.weights import load_start
from trainables.pair import run
from trainables.pair.checkpoints import merge_checkpoints
from trainables.pair.setup import prepare
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.evaluation import logits_of, score
from trainables.tasks.tasks import trained_names
from trainables.training.loop import Seeds

RUNTIME = Runtime(measure=0)
NAMES = ("enc.weight", "dec.weight")


class Tied(nn.Module):
    """Two layers with one weight, a normalisation that is used twice, a buffer of two names, a head."""

    def __init__(self, classes: int, inputs: int, norm: bool) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(inputs, inputs), nn.Linear(inputs, inputs)
        self.dec.weight = self.enc.weight
        self.register_buffer("shift", torch.full((inputs,), 0.1))
        self.register_buffer("shift_again", self.shift)
        self.norm: nn.Module = nn.BatchNorm1d(inputs) if norm else nn.Identity()
        self.norm_again = self.norm
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.relu(self.enc(x.flatten(1)))) + self.shift
        return self.head(self.norm_again(torch.relu(self.dec(x))) + self.shift_again)


@pytest.fixture(autouse=True)
def own_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODELS, "_items", dict(MODELS._items))
    MODELS.add("tied", lambda classes, channels, norm=True: Tied(classes, 64 * channels, norm))


def _spec(**changes: Any) -> PairSpec:
    settings: dict[str, Any] = {
        "dataset": "digits", "model": "tied", "learning_rate": 0.05, "batch_size": 32, "momentum": 0.9, "steps": 20,
        "epochs": 1, "base": {"steps": 10}, "members": 3,
    }  # fmt: skip
    return PairSpec(**{**settings, **changes})


def _made(**options: Any) -> Tied:
    model = build("tied", 10, 1, 8, options)
    assert isinstance(model, Tied)
    return model


def _scored(model: nn.Module, split: str) -> Any:
    x, y = prepare(_spec(), RUNTIME, with_base=False).tasks[0].data.scored(split)
    return score(logits_of(model, model.state_dict(), x), y)


@pytest.mark.parametrize("method", [*(n for n, m in MERGES.items() if not m.moves_units), *BY_SCORE])
def test_ties_survive_every_merge_and_the_saved_file_scores_what_the_row_says(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the last merge is chosen, so that it is saved
    monkeypatch.setattr(coefficient_grid, "_beats", lambda one, other: True)
    of_adam = method in MERGES and "moments" in MERGES[method].needs
    settings = {"optimizer": "adamw", "momentum": 0.0, "learning_rate": 3e-3} if of_adam else {}
    output = run.run_pair(_spec(merges=("linear", method), **settings), RUNTIME)
    row = output.merges[-1]
    assert (row.method, output.result.chosen_merge) == (method, method)
    assert output.weights is not None
    write_weights(tmp_path / "best.safetensors", output.weights, output.result)
    saved = load_file(tmp_path / "best.safetensors")
    assert torch.equal(saved["enc.weight"], saved["dec.weight"])
    assert torch.equal(saved["norm.running_var"], saved["norm_again.running_var"])
    model = _made()
    model.load_state_dict(saved)  # whichever of the names comes last
    assert model.enc.weight is model.dec.weight
    for split in ("val", "test"):
        found = _scored(model, split)
        assert found.loss == pytest.approx(getattr(row, f"loss_{split}"), abs=1e-6)
        assert found.accuracy == getattr(row, f"accuracy_{split}")


@pytest.mark.parametrize("name", sorted(MERGES))
def test_a_merge_of_state_dicts_takes_a_tied_tensor_for_one_entry(name: str) -> None:
    models = [_made() for _ in range(3)]
    base, *children = [dict(m.state_dict()) for m in models]
    fishers = [{k: torch.rand_like(v) for k, v in c.items() if v.is_floating_point()} for c in children]
    for fisher in fishers:
        fisher["dec.weight"] = fisher["enc.weight"]
    extras = {"fishers": fishers, "grams": [{}, {}], "moments": fishers, "alignments": [{}, {}],
              "repair": lambda merged, ends, alpha: merged}  # fmt: skip
    merged = MERGES[name](base, children, 0.5, seed=3, **extras)
    # the same without the second names: neither masks nor the 20 % of TIES may know of them
    first = [k for k in base if k != "dec.weight" and "_again" not in k]
    one = MERGES[name]({k: base[k] for k in first}, [{k: c[k] for k in first} for c in children], 0.5, seed=3, **extras)
    assert list(merged) == list(base)
    assert all(torch.equal(merged[k], one[k]) for k in first)
    assert merged["dec.weight"] is merged["enc.weight"]
    assert merged["norm_again.weight"] is merged["norm.weight"]


def test_a_stack_keeps_ties(tmp_path: Path) -> None:
    spec = _spec(members=2, model_options={"norm": False}, merges=("linear", "dare", "ties"), stack=2)
    output = run.run_pair(spec, RUNTIME)
    assert output.weights is not None
    write_weights(tmp_path / "best.safetensors", output.weights, output.result)
    model = _made(norm=False)
    model.load_state_dict(load_file(tmp_path / "best.safetensors"))
    assert _scored(model, "test").loss == pytest.approx(output.result.scores["chosen_loss_test"], abs=1e-6)
    # enc, its bias, that of dec, and the head: the shared weight counts once
    assert output.result.parameters == 64 * 64 + 2 * 64 + 64 * 10 + 10


@pytest.mark.parametrize("stack", [1, 2])
def test_a_course_that_is_taken_up_again_keeps_ties(stack: int) -> None:
    spec, model = _spec(stack=stack, model_options={"norm": False}), _made(norm=False)
    (task,) = prepare(spec, RUNTIME, with_base=False).tasks
    start = {k: v.clone() for k, v in model.state_dict().items()}
    seeds = [Seeds(1, 2), Seeds(3, 4)][:stack]
    (whole,), (begun,), (again,) = (make_courses(spec, model, start, task.data, seeds) for _ in range(3))
    whole.advance()
    begun.advance(7)
    again.restore(copy.deepcopy(begun.snapshot()))
    again.advance()
    for one, other in zip(whole.children, again.children, strict=True):
        assert list(one.weights) == list(start)
        assert all(torch.equal(v, other.weights[k]) for k, v in one.weights.items())
        assert torch.equal(other.weights["enc.weight"], other.weights["dec.weight"])


def test_gradients_and_curvature_see_one_parameter() -> None:
    torch.manual_seed(5)  # a step across a kink of ReLU spoils the difference quotient
    model = _made(norm=False).double()
    names = trained_names(model)
    draws = torch.Generator().manual_seed(5)
    x, y = torch.randn(30, 64, generator=draws, dtype=torch.float64), torch.randint(10, (30,), generator=draws)
    loss, w = objective(model, {k: v.clone() for k, v in model.state_dict().items()}, names, x, y)
    assert len(w) == 64 * 64 + 2 * 64 + 64 * 10 + 10
    value, gradient = loss.gradient(w)
    wanted = cross_entropy(model(x), y)
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), rel=1e-12)
    parameters = dict(model.named_parameters())
    torch.testing.assert_close(gradient, torch.cat([parameters[n].grad.flatten() for n in names]), rtol=0, atol=1e-14)
    # H v is the derivative of the gradient along v, through both uses of the weight
    v = torch.randn(w.shape, generator=draws, dtype=torch.float64)
    slope = (loss.gradient(w + 1e-5 * v)[1] - loss.gradient(w - 1e-5 * v)[1]) / 2e-5
    torch.testing.assert_close(loss.hessian(w)(v), slope, rtol=1e-5, atol=1e-8)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_with_one_name_of_each_tensor_is_read_and_merged(tmp_path: Path) -> None:
    torch.manual_seed(1)
    models = [_made() for _ in range(3)]
    paths = [tmp_path / f"{n}.safetensors" for n in ("base", "a", "b")]
    for model, path in zip(models, paths, strict=True):
        save_model(model, str(path))
        assert len(load_file(path)) < len(model.state_dict())
        start, _ = load_start(_made(), path, "")
        assert list(start) == list(model.state_dict())
        assert all(torch.equal(v, start[k]) for k, v in model.state_dict().items())
    merges = ("linear", "dare", "ties")
    found = merge_checkpoints(_spec(merges=merges, members=2), RUNTIME, paths[1:], paths[0])
    whole = [p.with_suffix(".pt") for p in paths]
    for model, path in zip(models, whole, strict=True):
        torch.save(model.state_dict(), path)
    other = merge_checkpoints(_spec(merges=merges, members=2), RUNTIME, whole[1:], whole[0])
    assert found.merges == other.merges


def test_tied_names_that_differ_are_refused_with_both(tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in _made().state_dict().items()}
    state["dec.weight"][3, 4] += 1
    save_file(state, tmp_path / "w.safetensors")
    wanted = r"w\.safetensors holds different values for enc\.weight and dec\.weight, which are one parameter of the "
    with pytest.raises(ValueError, match=wanted):
        load_start(_made(), tmp_path / "w.safetensors", "head")


class TiedHead(nn.Module):
    """The head has the weight of another layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(64, classes), nn.Linear(classes, classes)
        self.head = nn.Linear(classes, classes)
        self.head.weight = self.middle.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.middle(torch.relu(self.first(x.flatten(1))))))


def test_a_fresh_head_keeps_what_it_shares_with_other_layers(tmp_path: Path) -> None:
    theirs, model = TiedHead(10), TiedHead(10)
    state = {k: v for k, v in theirs.state_dict().items() if k != "head.bias"}
    torch.save(state, tmp_path / "w.pt")
    start, _ = load_start(model, tmp_path / "w.pt", "head")
    assert torch.equal(start["head.weight"], theirs.middle.weight)
    assert torch.equal(start["head.bias"], model.head.bias)


def test_two_tasks_refuse_a_head_that_is_tied_to_their_backbone() -> None:
    MODELS.add("tied_head", lambda classes, channels: TiedHead(classes))
    spec = _spec(model="tied_head", pair_kind="two_task", dataset_b="digits", members=2)
    with pytest.raises(
        ValueError, match=r"tasks need separate heads, but head\.weight and middle\.weight are one parameter"
    ):
        prepare(spec, RUNTIME, with_base=False)


# -- one tensor under several names, in other ways -----------------------------------------------------------------


def _square(classes: int, channels: int, kind: str) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, classes))
    weight = model[1].weight.data
    if kind == "memory":
        model[2].weight = nn.Parameter(weight)
    if kind == "transposed":
        model[2].weight = nn.Parameter(weight.t())
    if kind == "buffer":
        model.register_buffer("copy", weight[:3])
    if kind == "expanded":
        model[2].bias = nn.Parameter(torch.zeros(1).expand(64))
    if kind == "complex":
        model.factor = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    if kind == "halves":  # of one storage, but apart
        both = torch.randn(128, 64)
        model[1].weight, model[2].weight = nn.Parameter(both[:64]), nn.Parameter(both[64:])
    return model


@pytest.fixture
def square() -> None:
    MODELS.add("square", _square)


def test_two_parameters_in_one_memory_are_one(square: None) -> None:
    model = build("square", 10, 1, 8, {"kind": "memory"})
    assert model.get_parameter("2.weight") is model.get_parameter("1.weight")
    model = build("square", 10, 1, 8, {"kind": "halves"})
    assert model.get_parameter("2.weight") is not model.get_parameter("1.weight")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("transposed", r"1\.weight and 2\.weight are one parameter in two layouts: register the parameter once, and"),
        ("buffer", r"(1\.weight and copy|copy and 1\.weight) share memory, one is a buffer: register the parameter"),
        ("expanded", r"parameter 2\.bias repeats its numbers in memory"),
        ("complex", r"parameters must be dense floating-point tensors, got factor \(complex64\)"),
    ],
)
def test_ties_that_cannot_be_kept_are_refused(square: None, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"model 'square' cannot be merged: {message}"):
        build("square", 10, 1, 8, {"kind": kind})


def test_a_parameter_that_is_frozen_under_one_name_is_frozen_under_all() -> None:
    model = _made()
    assert freeze(model, ["dec.weight"]) == list(NAMES)
    assert not model.enc.weight.requires_grad


def test_a_shared_normalisation_that_is_frozen_stays_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.other = nn.BatchNorm2d(3)
            self.head = nn.Linear(3, 10)

    model = Twice()
    freeze(model, ["other.*"])
    assert model.one is model.other
    assert not isinstance(model.one, nn.BatchNorm2d)

"""Merges and models with numbers that are not finite: an outcome, a sentence, and never the merge that is chosen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.small_trials import digits_spec
from trainables.merging.formulas import dare_mask
from trainables.merging.methods import MERGES
from trainables.models.registry import MODELS
from trainables.pair.checkpoints import merge_checkpoints
from trainables.pair.run import run_pair
from trainables.result import Outcome, PairOutput
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.evaluation import score

pytestmark = pytest.mark.usefixtures("own_registries", "no_bases")
METHODS = ("linear", "dare", "uniform_soup")


class Bounded(nn.Module):
    """Logits that stay finite whatever `scale` is, and a mask of infinities."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head, self.scale = nn.Linear(64, classes), nn.Parameter(torch.zeros(3))
        self.register_buffer("mask", torch.full((2, 2), -math.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.softmax(self.mask, 1)[0, 0]
        return self.head(x.flatten(1)) * seen + torch.sigmoid(self.scale).sum()


@pytest.fixture(autouse=True)
def bounded(own_registries: None) -> None:
    MODELS.add("bounded", lambda classes, channels: Bounded(classes))


def _merged(folder: Path, scales: dict[str, float], head: float = 1.0, merges: tuple[str, ...] = METHODS) -> PairOutput:
    torch.manual_seed(0)
    paths: dict[str, Path] = {}
    for name in ("base", "a", "b"):
        model = Bounded(10)
        with torch.no_grad():
            model.scale.fill_(scales[name])
            model.head.weight.mul_(head).clamp_(-3e38, 3e38)
        paths[name] = folder / f"{name}.pt"
        torch.save(model.state_dict(), paths[name])
    spec = digits_spec(model="bounded", merges=merges, augmentation="none")
    return merge_checkpoints(spec, Runtime(), [paths["a"], paths["b"]], paths["base"])


def _losses(output: PairOutput, method: str) -> dict[float, Any]:
    return {row.coefficient: row.loss_test for row in output.merges if row.method == method}


def test_a_merge_with_infinite_weights_is_named_and_never_chosen(tmp_path: Path) -> None:
    size = 1.2e38
    output = _merged(tmp_path, {"base": 0.0, "a": size, "b": size})
    spec = PairSpec.from_json(output.result.spec)
    masks = [dare_mask(spec.stream("merge/dare"), "scale", i, torch.zeros(3)).double() for i in (0, 1)]
    # 0 + s (m_A tau_A + m_B tau_B) / (1 - 0.5)
    most = 2 * size * float(sum(masks).max())
    beyond = [f"{s:g}" for s in MERGES["dare"].grid if s * most > torch.finfo(torch.float32).max]
    assert 0 < len(beyond) < 7
    assert output.result.outcome == Outcome.OK
    assert output.result.outcome_detail.endswith(f"dare at {', '.join(beyond)} is not finite")
    # though the sigmoid of infinity is finite, and so would be the loss
    assert [f"{s:g}" for s, loss in _losses(output, "dare").items() if loss is None] == beyond
    assert output.weights is not None
    assert all(bool(v.isfinite().all()) for k, v in output.weights.items() if k != "mask")


@pytest.mark.parametrize("merges", [METHODS, ("linear",)])
def test_a_linear_merge_that_is_not_finite_is_not_viable(merges: tuple[str, ...], tmp_path: Path) -> None:
    # B - A is no float32
    output = _merged(tmp_path, {"base": 0.0, "a": 3e38, "b": -3e38}, merges=merges)
    assert output.result.outcome == Outcome.NOT_VIABLE
    assert output.result.outcome_detail.startswith("the linear merge at alpha = 0.1 is not finite; merged ")
    assert output.weights is None


def test_parents_whose_losses_are_not_finite_are_not_viable(tmp_path: Path) -> None:
    output = _merged(tmp_path, {"base": 0.0, "a": 0.0, "b": 0.0}, head=1e40)
    assert output.result.outcome == Outcome.NOT_VIABLE
    assert output.result.outcome_detail.startswith("a parent's training loss is not finite; merged ")
    assert set(_losses(output, "linear").values()) == {None}
    assert output.weights is None


def test_a_mask_of_infinities_neither_diverges_nor_spoils_a_merge() -> None:
    spec = digits_spec(model="bounded", merges=("linear", "task_arithmetic", "ties", "dare", "slerp", "fisher"))
    output = run_pair(spec, Runtime(measure=0, plane=2))
    assert (output.result.outcome, output.result.outcome_detail) == ("ok", "both children trained and merged")
    assert all(row.loss_test is not None for row in output.merges)
    assert all(point.loss_val is not None for point in output.plane)
    assert output.weights is not None
    assert torch.equal(output.weights["mask"], Bounded(10).mask)


def test_a_prediction_that_is_not_a_number_is_wrong() -> None:
    logits = torch.tensor([[math.nan, 0.0], [1.0, 0.0], [0.0, math.inf]])
    found = score(logits, torch.tensor([0, 0, 1]))
    assert found.loss == math.inf
    assert found.accuracy == pytest.approx(2 / 3)

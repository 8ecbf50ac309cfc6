"""Process-wide settings of torch: small batches get torch's own convolutions, and nothing stays changed."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.support.courses import finetune
from trainables.pair.setup import prepare
from trainables.runtime import Runtime
from trainables.spec import BaseSpec, PairSpec
from trainables.training.loop import Seeds
from trainables.training.torch_settings import small_convolutions

SPEC = PairSpec(
    dataset="digits", model="small_cnn", learning_rate=0.05, batch_size=8, momentum=0.9, base=BaseSpec(steps=0), steps=3
)


@pytest.mark.parametrize(
    ("shape", "small"),
    [((8, 1, 8, 8), True), ((8, 3, 16, 16), True), ((15, 1, 8, 8), True), ((16, 1, 8, 8), False),
     ((8, 1, 28, 28), False), ((8, 64), False), ((8, 3, 4, 4, 4), False)],
)  # fmt: skip
def test_only_small_batches_of_small_images_leave_onednn(shape: tuple[int, ...], small: bool):
    with small_convolutions(torch.zeros(shape)):
        assert torch.backends.mkldnn.enabled is not small
    assert torch.backends.mkldnn.enabled


def test_an_error_in_the_block_changes_nothing():
    with pytest.raises(ZeroDivisionError), small_convolutions(torch.zeros(2, 1, 4, 4)):
        raise ZeroDivisionError
    assert torch.backends.mkldnn.enabled


def test_a_process_without_onednn_stays_without():
    torch.backends.mkldnn.enabled = False
    try:
        for shape in ((8, 1, 8, 8), (64, 1, 8, 8)):
            with small_convolutions(torch.zeros(shape)):
                assert not torch.backends.mkldnn.enabled
            assert not torch.backends.mkldnn.enabled
    finally:
        torch.backends.mkldnn.enabled = True


def test_both_ways_compute_the_same_gradients_up_to_rounding():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, stride=2), nn.Flatten())
    x = torch.randn(8, 1, 8, 8)

    def gradients() -> Iterator[torch.Tensor]:
        model.zero_grad()
        model(x).square().mean().backward()
        yield from (p.grad.clone() for p in model.parameters() if p.grad is not None)

    usual = list(gradients())
    with small_convolutions(x):
        own = list(gradients())
    assert len(own) == 4
    for a, b in zip(usual, own, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("batch_size", "seen"), [(8, False), (32, True)])
def test_the_loop_chooses_by_the_batch(batch_size: int, seen: bool):
    spec = replace(SPEC, batch_size=batch_size)
    flags: list[bool] = []

    class Watched(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                flags.append(bool(torch.backends.mkldnn.enabled))
            return self.model(x)

    task = prepare(spec, Runtime(device="cpu")).tasks[0]
    watched = Watched(task.model)
    start = {f"model.{k}": v for k, v in task.base.items()}
    finetune(spec, watched, start, task.data, [Seeds(0, 1)])
    assert flags == [seen] * 3
    assert torch.backends.mkldnn.enabled

"""Registries, and what every augmentation and every schedule keeps."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from trainables.augmentation import AUGMENTATIONS
from trainables.datasets import DATASETS
from trainables.merging import MERGES
from trainables.models import MODELS
from trainables.noise import NOISE
from trainables.registry import Registry, UnknownName
from trainables.schedule import SCHEDULES
from trainables.training import OPTIMIZERS
from trainables.trial import TRAINABLES

ALL = (AUGMENTATIONS, DATASETS, MERGES, MODELS, NOISE, SCHEDULES, OPTIMIZERS, TRAINABLES)
every_augmentation = pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
every_schedule = pytest.mark.parametrize("name", sorted(SCHEDULES))


@pytest.mark.parametrize("registry", ALL, ids=lambda r: r.kind)
def test_every_registry_is_filled_and_refuses_duplicates_and_unknowns(registry: Registry[object]) -> None:
    assert len(registry) == len(list(registry)) >= 1
    size = len(registry)
    for name in registry:
        assert name in registry
        with pytest.raises(ValueError, match=f"{registry.kind} '{name}' is registered already"):
            registry.add(name, object())
        with pytest.raises(UnknownName, match=f"unknown {registry.kind} '{name}x'; did you mean .*{name}"):
            registry[name + "x"]
    assert len(registry) == size


def test_a_registry_is_a_read_only_mapping_filled_by_a_decorator() -> None:
    colours: Registry[int] = Registry("colour")

    @colours.register("blue")
    class Blue(int): ...

    assert colours["blue"] is Blue
    assert colours.get("red") is None
    assert dict(colours) == {"blue": Blue}
    with pytest.raises(KeyError, match=r"^unknown colour 'zzzz'; known: blue$"):
        colours["zzzz"]
    with pytest.raises(TypeError):
        colours["red"] = 1  # type: ignore[index]


# -- augmentations ----------------------------------------------------------------------------------------------------


def _images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@every_augmentation
@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (3, 3, 32, 32), (2, 2, 8, 12)])
def test_shape_and_dtype_are_kept_and_the_input_untouched(name: str, shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        x = _images(*shape, dtype=dtype)
        before = x.clone()
        out = AUGMENTATIONS[name](x, 1.0, Generator().manual_seed(1))
        assert (out.shape, out.dtype) == (x.shape, dtype)
        assert torch.equal(x, before)


@every_augmentation
def test_strength_0_is_the_identity_bit_for_bit(name: str) -> None:
    x = _images(64, 1, 8, 8)
    assert torch.equal(AUGMENTATIONS[name](x, 0.0, Generator().manual_seed(1)), x)


@every_augmentation
def test_draws_come_from_the_generator_alone(name: str) -> None:
    x, state = _images(64, 1, 8, 8), torch.random.get_rng_state()
    first = AUGMENTATIONS[name](x, 0.7, Generator().manual_seed(3))
    assert torch.equal(first, AUGMENTATIONS[name](x, 0.7, Generator().manual_seed(3)))
    assert torch.equal(torch.random.get_rng_state(), state)


def _displacements(size: int, n: int, strength: float) -> np.ndarray:
    # pixel (i, j) holds i * size + j: the centre tells where it came from
    x = torch.arange(size * size, dtype=torch.float64).reshape(1, 1, size, size).expand(n, 1, size, size)
    centre = AUGMENTATIONS["shift"](x, strength, Generator().manual_seed(5))[:, 0, size // 2, size // 2].long().numpy()
    return np.stack([centre // size - size // 2, centre % size - size // 2], 1)


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_shift_moves_8x8_images_by_a_pixel_as_often_as_it_says(strength: float) -> None:
    n = 20_000
    moves = _displacements(8, n, strength)
    assert set(np.unique(moves)) == {-1, 0, 1}
    # a displacement uniform in +-s/2 rounds up to 1 with probability s/8, down to -1 likewise
    share = 1 - (1 - strength / 4) ** 2
    assert np.mean(np.any(moves != 0, axis=1)) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n))
    assert np.all(np.abs(moves.mean(0)) < 4 * math.sqrt(strength / 4 / n))
    assert share == pytest.approx(0.4375) or strength < 1


def test_shift_of_32x32_images_is_unbiased_and_at_most_2_pixels() -> None:
    n = 20_000
    moves = _displacements(32, n, 1.0)
    # uniform in +-2, rounded at random: the two outermost pixels get half the share of the inner three
    counts = Counter(moves.flatten().tolist())
    shares = {-2: 0.125, -1: 0.25, 0: 0.25, 1: 0.25, 2: 0.125}
    assert set(counts) == set(shares)
    for move, share in shares.items():
        assert counts[move] / (2 * n) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / (2 * n)))
    assert abs(np.corrcoef(moves.T)[0, 1]) < 4 / math.sqrt(n)


def test_shift_repeats_the_border() -> None:
    x = _images(200, 2, 8, 8)
    out = AUGMENTATIONS["shift"](x, 1.0, Generator().manual_seed(2)).numpy()
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    seen = set()
    for image, wide in zip(out, padded, strict=True):
        fits = {(i, j) for i in range(3) for j in range(3) if np.array_equal(image, wide[:, i : i + 8, j : j + 8])}
        assert len(fits) == 1
        seen |= fits
    assert len(seen) == 9


# -- schedules --------------------------------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 360])
@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 0.0), (0.05, 0.2), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_factors_lie_in_0_to_1_and_the_first_step_moves(name: str, steps: int, warmup: float, decay: float) -> None:
    factors = [SCHEDULES[name](step, steps, warmup, decay) for step in range(steps)]
    assert all(0 <= f <= 1 for f in factors)
    assert factors[0] > 0
    assert max(factors) == 1.0


@every_schedule
def test_warmup_is_linear_and_reaches_1(name: str) -> None:
    factors = [SCHEDULES[name](step, 100, 0.1, 0.2) for step in range(10)]
    assert factors == pytest.approx([(i + 1) / 10 for i in range(10)])


def test_wsd_at_written_out_points() -> None:
    # 100 steps: 5 of warmup, decay from step 80 over 20
    points = {
        0: 0.2, 1: 0.4, 4: 1.0, 5: 1.0, 79: 1.0, 80: 1.0, 81: 1 - math.sqrt(0.05), 85: 0.5,
        96: 1 - math.sqrt(0.8), 99: 1 - math.sqrt(0.95),
    }  # fmt: skip
    assert {t: SCHEDULES["wsd"](t, 100, 0.05, 0.2) for t in points} == pytest.approx(points)
    assert SCHEDULES["wsd"](100, 100, 0.05, 0.2) == 0.0


def test_wsd_without_its_phases_is_constant() -> None:
    assert [SCHEDULES["wsd"](t, 10, 0.0, 0.0) for t in range(10)] == [1.0] * 10


def test_cosine_is_half_way_in_the_middle_and_0_at_the_end() -> None:
    points = {20: 1.0, 40: 0.5 * (1 + math.sqrt(0.5)), 60: 0.5, 100: 0.0}
    assert {t: SCHEDULES["cosine"](t, 100, 0.2, 0.0) for t in points} == pytest.approx(points)


def test_constant_stays_at_1_to_the_end() -> None:
    assert [SCHEDULES["constant"](t, 100, 0.05, 0.2) for t in range(4, 100)] == [1.0] * 96

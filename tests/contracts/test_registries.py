"""Registries, and what every augmentation and every schedule keeps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.datasets.augmentation import AUGMENTATIONS, augment
from trainables.datasets.load import DATASETS
from trainables.merging.methods import MERGES
from trainables.models.registry import MODELS
from trainables.noise import NOISE
from trainables.registry import Registry, UnknownName
from trainables.training.optimizers import OPTIMIZERS
from trainables.training.schedules import SCHEDULES
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
        assert registry is TRAINABLES or registry.describe(name).endswith("."), name
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


def _augment(name: str, strength: float, x: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    return augment(name, strength, x, torch.arange(len(x)) % 5, 5, Generator().manual_seed(seed))


@every_augmentation
@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (3, 3, 32, 32), (2, 2, 8, 12), (1, 3, 5, 4), (4, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_kept_and_the_input_untouched(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = _images(*shape, dtype=dtype)
    before = x.clone()
    for strength in (0.01, 1.0):
        out, target = _augment(name, strength, x)
        assert (out.shape, out.dtype) == (x.shape, dtype)
        assert torch.isfinite(out).all()
        assert torch.equal(x, before)
        assert (target.dtype, target.shape) == (
            (dtype, (len(x), 5)) if AUGMENTATIONS[name].mixes else (torch.int64, (len(x),))
        )


@every_augmentation
def test_strength_0_is_the_identity_bit_for_bit(name: str) -> None:
    x = _images(64, 1, 8, 8)
    out, target = _augment(name, 0.0, x)
    assert torch.equal(out, x)
    assert target.dtype == torch.int64
    assert torch.equal(target, torch.arange(64) % 5)


@every_augmentation
def test_draws_come_from_the_generator_alone(name: str) -> None:
    x, state = _images(64, 3, 8, 8), torch.random.get_rng_state()
    first, again, other = (_augment(name, 0.7, x, seed) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(torch.random.get_rng_state(), state)
    random = name not in ("none", "label_smoothing")
    assert torch.equal(first[0], other[0]) != random


@every_augmentation
def test_labels_stay_or_become_probabilities(name: str) -> None:
    x = _images(64, 3, 8, 8)
    _, target = _augment(name, 0.8, x)
    if AUGMENTATIONS[name].mixes:
        assert torch.all(target >= 0)
        torch.testing.assert_close(target.sum(1), torch.ones(64), rtol=0, atol=1e-6)
    else:
        assert torch.equal(target, torch.arange(64) % 5)


class _NoReading(TorchDispatchMode):
    """Refuses what waits for the device: a value read on the host, or a shape that depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert str(func).split(".")[1] not in {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique2"}
        return func(*args, **(kwargs or {}))


@every_augmentation
def test_nothing_waits_for_the_device(name: str) -> None:
    x, target, generator = _images(20, 3, 8, 8), torch.full((20, 5), 0.2), Generator().manual_seed(1)
    entry = AUGMENTATIONS[name]
    with _NoReading():
        out = entry.images(x, 0.5, generator) if entry.images else entry.mixing(x, target, 0.5, generator)[0]
    assert out.shape == x.shape


@every_augmentation
def test_every_augmentation_joins_the_others_from_left_to_right(name: str) -> None:
    x = _images(32, 3, 8, 8)
    once, target = _augment(f"{name}+shift", 0.6, x)
    generator = Generator().manual_seed(1)
    step, wanted = augment(name, 0.6, x, torch.arange(32) % 5, 5, generator)
    assert torch.equal(once, AUGMENTATIONS["shift"].images(step, 0.6, generator))
    assert torch.equal(target, wanted)


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

"""Augmentation policies by value; what all of them keep is in tests/contracts/test_registries.py."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from trainables.datasets.augmentation import AUGMENTATIONS, Augmentation, augment, beta, check_policy
from trainables.datasets.randaugment import OPERATIONS, randaugment, saturate
from trainables.registry import UnknownName


def _images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(0), dtype=torch.float64)


def _apply(name: str, strength: float, x: Tensor, y: Tensor | None = None, classes: int = 10) -> tuple[Tensor, Tensor]:
    y = torch.arange(len(x)) % classes if y is None else y
    return augment(name, strength, x, y, classes, Generator().manual_seed(5))


# -- policies ---------------------------------------------------------------------------------------------------------


def test_policies_are_checked_by_name() -> None:
    assert [e.mixes for e in check_policy("crop_flip+mixup")] == [False, True]
    with pytest.raises(UnknownName, match=r"unknown augmentation 'mixupp'; did you mean mixup"):
        check_policy("crop_flip+mixupp")
    with pytest.raises(UnknownName, match=r"unknown augmentation 'cropflip'; did you mean crop_flip"):
        augment("cropflip", 0.0, _images(2, 1, 4, 4), torch.zeros(2).long(), 2, Generator())
    with pytest.raises(ValueError, match="must have exactly one of images and mixing"):
        Augmentation("neither")


# -- shift, crop, flip ------------------------------------------------------------------------------------------------


def _displacements(name: str, height: int, width: int, n: int, strength: float) -> np.ndarray:
    # pixel (i, j) holds i * width + j: the centre tells where it came from
    x = torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width).expand(n, 1, height, width)
    centre = _apply(name, strength, x)[0][:, 0, height // 2, width // 2].long().numpy()
    return np.stack([centre // width - height // 2, centre % width - width // 2], 1)


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_shift_moves_8x8_images_by_a_pixel_as_often_as_it_says(strength: float) -> None:
    n = 20_000
    moves = _displacements("shift", 8, 8, n, strength)
    assert set(np.unique(moves)) == {-1, 0, 1}
    # a displacement uniform in +-s/2 rounds up to 1 with probability s/8, down to -1 likewise
    share = 1 - (1 - strength / 4) ** 2
    assert np.mean(np.any(moves != 0, axis=1)) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n))
    assert np.all(np.abs(moves.mean(0)) < 4 * math.sqrt(strength / 4 / n))
    assert share == pytest.approx(0.4375) or strength < 1


def test_shift_of_32x32_images_is_unbiased_and_at_most_2_pixels() -> None:
    n = 20_000
    moves = _displacements("shift", 32, 32, n, 1.0)
    # uniform in +-2, rounded at random: the two outermost pixels get half the share of the inner three
    counts = Counter(moves.flatten().tolist())
    shares = {-2: 0.125, -1: 0.25, 0: 0.25, 1: 0.25, 2: 0.125}
    assert set(counts) == set(shares)
    for move, share in shares.items():
        assert counts[move] / (2 * n) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / (2 * n)))
    assert abs(np.corrcoef(moves.T)[0, 1]) < 4 / math.sqrt(n)


def test_each_direction_goes_by_its_own_side() -> None:
    moves = _displacements("shift", 8, 32, 4000, 1.0)
    assert set(moves[:, 0]) == {-1, 0, 1}
    assert set(moves[:, 1]) == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize(
    ("name", "mode", "reach", "strength"), [("shift", "edge", 1, 1.0), ("crop_flip", "reflect", 2, 1.0)]
)
def test_shift_repeats_the_border_and_crop_reflects_it(name: str, mode: str, reach: int, strength: float) -> None:
    x = _images(600, 2, 8, 16)[:, :, :, :8]
    out = _apply(name, strength, x)[0].numpy()
    side = ((0, 0), (0, 0), (reach, reach), (reach, reach))
    # 8 / 8 and 8 / 16 of the side are 1; a pad of 2 shows that nothing reaches further
    padded = np.pad(x.numpy(), side, mode=mode)
    seen: Counter[tuple[int, int, bool]] = Counter()
    places = range(2 * reach + 1)
    for image, wide in zip(out, padded, strict=True):
        crops = {(i, j): wide[:, i : i + 8, j : j + 8] for i in places for j in places}
        fits = {
            (*k, f) for k, v in crops.items() for f in (False, True) if np.array_equal(image, v[..., ::-1] if f else v)
        }
        assert len(fits) == 1
        seen[fits.pop()] += 1
    middle = range(reach - 1, reach + 2)
    assert {k[:2] for k in seen} == {(i, j) for i in middle for j in middle}
    mirrored = sum(v for k, v in seen.items() if k[2])
    assert mirrored == (0 if name == "shift" else pytest.approx(300, abs=4 * math.sqrt(150)))


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_flip_mirrors_half_the_strength(strength: float) -> None:
    x = _images(4000, 1, 2, 4)
    out, _ = _apply("flip", strength, x)
    mirrored = (out == x.flip(3)).all((1, 2, 3))
    assert torch.equal(out[~mirrored], x[~mirrored])
    p = strength / 2
    assert float(mirrored.double().mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 4000))


# -- colour -----------------------------------------------------------------------------------------------------------


def test_colour_is_an_affine_map_of_grey_images_within_its_ranges() -> None:
    x = _images(2000, 1, 4, 4)
    out, _ = _apply("colour", 0.5, x)
    spread = (out.std((1, 2, 3)) / x.std((1, 2, 3))).numpy()
    moved = (out.mean((1, 2, 3)) - x.mean((1, 2, 3))).numpy()
    for values, centre, reach in ((spread, 1, 0.2), (moved, 0, 0.4)):
        assert stats.kstest(values, "uniform", (centre - reach, 2 * reach)).pvalue > 1e-3
    centred = (out - out.mean((1, 2, 3), keepdim=True)) / torch.as_tensor(spread)[:, None, None, None]
    torch.testing.assert_close(centred, x - x.mean((1, 2, 3), keepdim=True))


def test_saturation_0_is_grey_and_1_the_image() -> None:
    x = _images(3, 3, 4, 4)
    grey = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    torch.testing.assert_close(saturate(x, torch.zeros(3, 1, 1, 1)), grey[:, None].expand(-1, 3, -1, -1).double())
    torch.testing.assert_close(saturate(x, torch.ones(3, 1, 1, 1)), x)


# -- RandAugment ------------------------------------------------------------------------------------------------------


def _operation(name: str, x: Tensor, signed: float) -> Tensor:
    return OPERATIONS[name](x, torch.full((len(x),), signed, dtype=x.dtype))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_the_shape_and_are_continuous_at_strength_0(name: str) -> None:
    x = _images(6, 3, 9, 12)
    for signed in (-1.0, 1.0):
        assert _operation(name, x, signed).shape == x.shape
        small = _operation(name, x, signed * 1e-6)
        # one level of 256 is what posterising to 8 bits may cost; solarising turns the greatest values alone
        tolerance = float(x.amax() - x.amin()) / 200 if name == "posterise" else 1e-4
        changed = (small - x).abs() > tolerance
        assert int(changed.sum()) <= (6 if name == "solarise" else 0)


def test_translations_and_rotations_move_what_they_say() -> None:
    x = torch.zeros(1, 1, 331, 331, dtype=torch.float64)
    x[0, 0, 165, 165] = 1
    x[0, 0, 165, 265] = 2
    right = _operation("translate_x", x, -0.1)
    assert (right[0, 0] > 1e-6).nonzero().tolist() == [[165, 180], [165, 280]]
    down = _operation("translate_y", x, -0.1)
    assert (down[0, 0] > 1e-6).nonzero().tolist() == [[180, 165], [180, 265]]
    turned = _operation("rotate", x, 1.0)[0, 0]
    assert float(turned[165, 165]) == pytest.approx(1)
    row, column = divmod(int(torch.where(turned > 0.2, turned, 0).flatten().argmax()), 331)
    rows, columns = (turned > 0.01).nonzero().T
    far = [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if abs(int(c) - 165) > 20]
    assert math.hypot(row - 165, column - 165) <= 101
    assert all(math.degrees(math.atan2(abs(r - 165), c - 165)) == pytest.approx(30, abs=1.5) for r, c in far)
    assert far


def test_a_shear_moves_a_row_by_its_distance_from_the_middle() -> None:
    x = torch.zeros(1, 1, 21, 41, dtype=torch.float64)
    x[:, :, :, 20] = 1
    sheared = _operation("shear_x", x, 1.0)[0, 0]
    centre = (sheared * torch.arange(41)).sum(1)
    torch.testing.assert_close(centre, 20 - 0.3 * (torch.arange(21, dtype=torch.float64) - 10))


def test_operations_on_values_by_hand() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64).view(1, 1, 2, 2)

    def values(name: str, signed: float) -> list[float]:
        return _operation(name, x, signed).flatten().tolist()

    assert values("solarise", 0.5) == [0, 1, 2, 0]  # only values above half the range are turned
    assert values("solarise", 1.0) == [0, 3, 2, 0]
    assert values("posterise", 1.0) == pytest.approx([0, 16 / 15, 32 / 15, 4])  # 16 levels
    assert values("autocontrast", 1.0) == [0, 1, 2, 4]
    assert values("equalise", 1.0) == pytest.approx([0.5, 1.5, 2.5, 3.5])  # ranks 1/8, 3/8, 5/8, 7/8 of the range
    assert values("contrast", 1.0) == pytest.approx([1.75 + 1.9 * (v - 1.75) for v in (0, 1, 2, 4)])
    assert values("brightness", -0.5) == pytest.approx([-0.9, 0.1, 1.1, 3.1])
    assert values("identity", 1.0) == [0, 1, 2, 4]


def test_autocontrast_stretches_each_channel_to_the_range_of_the_image() -> None:
    x = torch.rand(4, 3, 5, 5, generator=Generator().manual_seed(1), dtype=torch.float64)
    x *= torch.tensor([1.0, 0.5, 0.0])[:, None, None]
    out = _operation("autocontrast", x, 1.0)
    for channel in (0, 1):
        torch.testing.assert_close(out[:, channel].amin((1, 2)), x.amin((1, 2, 3)))
        torch.testing.assert_close(out[:, channel].amax((1, 2)), x.amax((1, 2, 3)))
    assert torch.equal(out[:, 2], x[:, 2])  # a channel without contrast stays


@pytest.mark.parametrize("n", [1, 5, 14, 33])
def test_every_image_takes_each_operation_equally_often(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # operation k adds (k + 1) x 100^round: the sum tells both
    names = list(OPERATIONS)
    for k, name in enumerate(names):
        monkeypatch.setitem(OPERATIONS, name, lambda x, signed, k=k: 100 * x + k + 1)
    generator, runs = Generator().manual_seed(0), 800
    counts = torch.zeros(n, 15)
    for _ in range(runs):
        out = randaugment(torch.zeros(n, 1, 1, 1, dtype=torch.float64), 0.5, generator).flatten().long()
        counts[torch.arange(n), out % 100] += 1
        counts[torch.arange(n), out // 100] += 1
    assert int(counts[:, 0].sum()) == 0
    shares = counts[:, 1:] / (2 * runs)
    assert torch.all((shares - 1 / 14).abs() < 5 * math.sqrt(13 / 14 / 14 / (2 * runs)))


# -- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.01, 0.2, 1.0])
def test_beta_has_its_distribution_at_every_strength(strength: float) -> None:
    draws = beta(strength, (4000,), Generator().manual_seed(3)).numpy()
    assert np.all((draws >= 0) & (draws <= 1))
    wanted = stats.beta(strength, strength)
    for low, high in ((0, 1e-3), (1e-3, 0.5), (0.5, 0.999), (0.999, 1)):
        p = wanted.cdf(high) - wanted.cdf(low)
        share = np.mean((draws > low) & (draws <= high)) + (np.mean(draws == 0) if low == 0 else 0)
        assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 4000))


def test_mixup_mixes_pixels_and_targets_by_the_same_share() -> None:
    # image i holds the constant i, and i is its class
    x = torch.arange(50, dtype=torch.float64).view(50, 1, 1, 1).expand(50, 1, 3, 3)
    out, target = _apply("mixup", 1.0, x, torch.arange(50), 50)
    assert torch.equal(out, out[:, :, :1, :1].expand_as(out))
    torch.testing.assert_close(out[:, 0, 0, 0], target @ torch.arange(50, dtype=torch.float64))
    own = target[torch.arange(50), torch.arange(50)]
    assert int((target > 0).sum(1).max()) == 2
    assert stats.kstest(own[own < 1].numpy(), "uniform").pvalue > 1e-3


def test_cutmix_targets_are_the_shares_of_the_area() -> None:
    n, height, width = 200, 6, 10
    x = torch.arange(n, dtype=torch.float64).view(n, 1, 1, 1).expand(n, 2, height, width)
    out, target = _apply("cutmix", 1.0, x, torch.arange(n), n)
    for i in range(n):
        counts = torch.bincount(out[i, 0].flatten().long(), minlength=n)
        torch.testing.assert_close(target[i], counts.double() / (height * width), rtol=0, atol=1e-15)
        assert torch.equal(out[i, 0], out[i, 1])
        rows, columns = (out[i, 0] != i).nonzero().T
        if len(rows):  # what is pasted is one box
            box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert len(rows) == int(box)
    assert 0.4 < float(target.diagonal().mean()) < 0.9


def test_cutmix_pastes_the_partner_from_its_own_place() -> None:
    x = _images(64, 1, 8, 8)
    out, _ = _apply("cutmix", 1.0, x)
    source = (out[:, None, 0] == x[None, :, 0]).any(1)
    assert source.all()


def test_label_smoothing_spreads_a_fifth_of_the_target() -> None:
    x = _images(3, 1, 4, 4)
    out, target = _apply("label_smoothing", 0.5, x, torch.tensor([2, 0, 1]), 4)
    assert torch.equal(out, x)
    assert target[0].tolist() == pytest.approx([0.025, 0.025, 0.925, 0.025])
    _, joined = _apply("mixup+label_smoothing", 0.5, x, torch.tensor([2, 0, 1]), 4)
    _, mixed = _apply("mixup", 0.5, x, torch.tensor([2, 0, 1]), 4)
    torch.testing.assert_close(joined, 0.9 * mixed + 0.025)


def test_names_docs_and_sources() -> None:
    for name, entry in AUGMENTATIONS.items():
        assert AUGMENTATIONS.describe(name) == entry.description != ""
        assert "arXiv" in entry.source or name in ("none", "shift", "flip")

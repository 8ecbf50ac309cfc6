from __future__ import annotations

import pytest
import torch
from torch import nn

from trainables.models import MODELS, has_batchnorm


def test_small_cnn_has_14174_parameters() -> None:
    model = MODELS["small_cnn"](10, 1)
    # three convolutions with bias, a scale and a shift per normalised channel, the head on 2x2 positions
    wanted = (9 * 16 + 16) + (9 * 16 * 32 + 32) + (9 * 32 * 28 + 28) + 2 * (16 + 32 + 28) + (28 * 4 * 10 + 10)
    assert sum(p.numel() for p in model.parameters()) == wanted == 14_174


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize(("classes", "channels", "size"), [(10, 1, 8), (7, 3, 28)])
def test_models_map_images_to_logits(name: str, classes: int, channels: int, size: int) -> None:
    logits = MODELS[name](classes, channels)(torch.zeros(5, channels, size, size))
    assert logits.shape == (5, classes)


def test_stem_stride_quarters_the_work() -> None:
    narrow, wide = MODELS["small_cnn"](10, 1, stem_stride=2), MODELS["small_cnn"](10, 1)
    x = torch.zeros(1, 1, 28, 28)
    assert narrow(x).shape == (1, 10)
    assert narrow.features[0](x).shape[2:] == (14, 14)
    assert wide.features[0](x).shape[2:] == (28, 28)


def test_batchnorm_is_seen_wherever_it_is() -> None:
    assert not has_batchnorm(MODELS["small_cnn"](10, 1))
    assert has_batchnorm(MODELS["small_cnn"](10, 1, norm="batch"))
    assert has_batchnorm(nn.Sequential(nn.Sequential(nn.BatchNorm1d(3))))
    assert not has_batchnorm(nn.Sequential(nn.LayerNorm(3), nn.Dropout()))


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm must be 'group' or 'batch', got 'layer'"):
        MODELS["small_cnn"](10, 1, norm="layer")

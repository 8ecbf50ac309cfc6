from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from tests.support.gradient_networks import images, names_of, network, per_example
from tests.support.small_trials import digits_spec, linear_model, random_data
from tests.support.waiting import PATIENCE
from trainables.datasets.load import Data
from trainables.measurement import augmentation_probe as module
from trainables.measurement.augmentation_probe import Probe, augmentation_share, cached_probe, probe, probe_digest
from trainables.models.registry import SmallCNN
from trainables.registry import UnknownName

KNOWN = Probe("shift", (0.0, 0.5, 1.0), (2.0, 4.0, 3.0), (0.0, 0.5, 0.25), (1.0, 2.0, 1.5), (0.0, 0.1, 0.2), 64, 4)


def _noisy(x: Tensor, draws: int, seed: int) -> Tensor:
    g = Generator().manual_seed(seed)
    return x + 0.5 * torch.randn(draws, *x.shape, generator=g, dtype=x.dtype)


def test_the_parts_are_those_of_the_exact_gradients() -> None:
    model, (x, y) = network(), images(40)
    draws = _noisy(x, 3, 0)
    rows = torch.stack([per_example(model, d, y) for d in draws])  # [K, m, P]
    within = rows.var(0).sum(1).mean()
    between = rows.mean(0).var(0).sum() - within / 3
    found = augmentation_share(model, model.state_dict(), names_of(model), [(d, y) for d in draws])
    assert found.within == pytest.approx(float(within), rel=1e-10)
    assert found.between == pytest.approx(float(between), rel=1e-10)
    assert found.share == pytest.approx(float(within / (within + between)), rel=1e-10)
    assert float(found.contributions.mean()) == pytest.approx(found.trace, rel=1e-12)


def test_the_parts_are_unbiased_and_add_up_to_the_variance_of_fresh_draws() -> None:
    model, (x, y) = network(), images(60)
    weights, names = model.state_dict(), names_of(model)
    many = torch.stack([per_example(model, d, y) for d in _noisy(x, 400, 1)])
    within = float(many.var(0).sum(1).mean())
    between = float(many.mean(0).var(0).sum()) - within / 400
    runs = [
        augmentation_share(model, weights, names, [(d, y) for d in _noisy(x, 2, seed)]) for seed in range(10, 50)
    ]  # fmt: skip
    for key, truth in (("within", within), ("between", between)):
        values = torch.tensor([getattr(r, key) for r in runs])
        assert abs(float(values.mean()) - truth) < 3 * float(values.std()) / math.sqrt(len(runs))


def test_draws_that_do_not_differ_leave_no_share() -> None:
    model, (x, y) = network(), images(40)
    same = augmentation_share(model, model.state_dict(), names_of(model), [(x, y)] * 4)
    once = augmentation_share(model, model.state_dict(), names_of(model), [(x, y)])
    assert same.within == once.within == once.share == 0
    assert same.trace == pytest.approx(once.trace, rel=1e-12)
    assert once.trace == pytest.approx(float(per_example(model, x, y).var(0).sum()), rel=1e-10)
    with pytest.raises(ValueError, match="a covariance needs >= 2 examples, got 1"):
        augmentation_share(model, model.state_dict(), names_of(model), [(x[:1], y[:1])])


@pytest.fixture(scope="module")
def data() -> Data:
    return random_data(train=384)


def test_the_probe_of_each_strength_is_the_share_of_its_draws(data: Data) -> None:
    model = linear_model()
    found = probe(model, model.state_dict(), names_of(model), data, "shift", 3, examples=500, draws=3)
    assert (found.examples, found.draws, found.strengths) == (96, 3, module.STRENGTHS)
    assert (found.k_aug[0], found.share[0], found.k_aug_se[0]) == (1.0, 0.0, 0.0)
    assert found.share[-1] > found.share[1] > 0
    assert all(se > 0 for se in found.k_aug_se[1:])
    assert found.k_aug[2] == pytest.approx(found.trace_sigma[2] / found.trace_sigma[0])
    # on white images a shift draws another image of the same distribution: more noise than a fixed image has
    assert all(abs(k - 1) < 0.5 for k in found.k_aug)
    again = probe(model, model.state_dict(), names_of(model), data, "shift", 3, examples=500, draws=3)
    assert again == found


def test_strengths_share_examples_and_random_numbers(data: Data) -> None:
    model = linear_model()
    arguments = (model, model.state_dict(), names_of(model), data, "shift", 3)
    few = probe(*arguments, strengths=(0, 1), examples=32, draws=2)
    more = probe(*arguments, strengths=(0, 0.5, 1), examples=32, draws=2)
    assert few.k_aug[1] == more.k_aug[2]


def test_a_policy_that_does_nothing_has_k_aug_1_everywhere(data: Data) -> None:
    model = linear_model()
    found = probe(model, model.state_dict(), names_of(model), data, "none", 0, examples=16)
    assert set(found.k_aug) == {1.0}
    assert set(found.share) == {0.0}


def test_soft_targets_change_the_noise(data: Data) -> None:
    model = linear_model()
    found = probe(model, model.state_dict(), names_of(model), data, "label_smoothing", 0, examples=64, draws=2)
    # smoothing by s multiplies the gradient's residual (p - y) of a uniform p by 1 - s, here s = 0.2 at strength 1
    assert found.k_aug[-1] == pytest.approx(0.8**2, rel=1e-9)
    assert found.share == (0.0,) * len(module.STRENGTHS)


def test_batchnorm_is_probed_with_the_statistics_of_the_weights(data: Data) -> None:
    model = SmallCNN(10, norm="batch").double()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    found = probe(model, before, names_of(model), data, "shift", 0, examples=24, draws=2)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    index = torch.randperm(384, generator=Generator().manual_seed(0))[:24]
    exact = per_example(model, data.x["train"][index], data.y["train"][index])
    assert found.trace_sigma[0] == pytest.approx(float(exact.var(0).sum()), rel=1e-9)


def test_wrong_requests_say_so(data: Data) -> None:
    model = linear_model()
    arguments = (model, model.state_dict(), names_of(model), data)
    with pytest.raises(ValueError, match=r"strengths must ascend from 0 to 1, got \[0, 0.5\]"):
        probe(*arguments, "shift", 0, strengths=(0, 0.5))
    with pytest.raises(ValueError, match=r"draws must be >= 2 .* got 1"):
        probe(*arguments, "shift", 0, draws=1)
    with pytest.raises(UnknownName, match="shift"):
        probe(*arguments, "shfit", 0, examples=8)


def test_readings_between_strengths_are_linear_in_ln_k() -> None:
    assert [KNOWN.at(s) for s in KNOWN.strengths] == pytest.approx(KNOWN.k_aug)
    assert KNOWN.at(0.25) == pytest.approx(math.sqrt(2))
    assert KNOWN.at(0.75) == pytest.approx(math.sqrt(3))
    assert KNOWN.trace_at(0.25) == pytest.approx(2 * math.sqrt(2))
    assert KNOWN.share_at(0.75) == pytest.approx(0.375)
    with pytest.raises(ValueError, match=r"augmentation_strength must lie in \[0, 1\], got 1.5"):
        KNOWN.at(1.5)
    assert Probe.from_json(KNOWN.to_json()) == KNOWN


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEMORY", {})


@pytest.mark.usefixtures("forgotten")
def test_a_probe_is_made_once_for_a_base_and_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make() -> Probe:
        made.append(1)
        time.sleep(0.05)
        return KNOWN

    spec = digits_spec()
    same = digits_spec(learning_rate=0.3, batch_size=8, augmentation_strength=0.9, seed=5)
    assert cached_probe(spec, None, make) is cached_probe(same, None, make)
    assert len(made) == 1
    others = (digits_spec(augmentation="none"), digits_spec(base={"steps": 11}))
    assert len({probe_digest(s.base_digest, s.augmentation) for s in (spec, *others)}) == 3
    workers = [threading.Thread(target=cached_probe, args=(spec, tmp_path, make)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=PATIENCE)
    assert len(made) == 2
    monkeypatch.setattr(module, "_MEMORY", {})
    assert cached_probe(spec, tmp_path, make) == KNOWN
    assert len(made) == 2  # from the file
    name = probe_digest(spec.base_digest, "shift")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{name}.json", f"{name}.json.lock"]


@pytest.mark.usefixtures("forgotten")
def test_a_probe_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> Probe:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached_probe(digits_spec(), tmp_path, fail)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]
    assert cached_probe(digits_spec(), tmp_path, lambda: replace(KNOWN, draws=9)).draws == 9

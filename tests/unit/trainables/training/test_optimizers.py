from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from tests.support.small_trials import python
from trainables.noise import FAMILIES, NOISE, defined_for
from trainables.registry import UnknownName
from trainables.spec import PairSpec
from trainables.training.optimizers import _FAMILIES, OPTIMIZERS, build, check, check_defined, elementwise, family

SPEC = PairSpec("random", "any", learning_rate=0.1, batch_size=16, weight_decay=0.01)
ETA, LAMBDA, STEPS = 0.1, 0.01, 6
Step = Callable[[np.ndarray, Sequence[np.ndarray], dict[str, np.ndarray]], np.ndarray]


def spec_of(name: str, **changes: Any) -> PairSpec:
    return replace(SPEC, optimizer=name, **changes)


def gradients(steps: int = STEPS, shape: tuple[int, ...] = (3, 4)) -> list[Tensor]:
    g = Generator().manual_seed(1)
    return [torch.randn(*shape, generator=g, dtype=torch.float64) for _ in range(steps)]


def walk(spec: PairSpec, grads: Sequence[Tensor], start: Tensor | None = None) -> np.ndarray:
    """Weights after one step with each of the gradients."""
    w = torch.linspace(-1, 1, grads[0].numel(), dtype=torch.float64).reshape(grads[0].shape)
    w = (w if start is None else start.clone()).requires_grad_()
    optimizer = build([w], spec)
    for g in grads:
        w.grad = g.clone()
        optimizer.step()
    return w.detach().numpy()


def sgd_by_hand(mu: float, nesterov: bool, decoupled: bool = False) -> np.ndarray:
    w, v = np.linspace(-1, 1, 12).reshape(3, 4), np.zeros((3, 4))
    for g in (t.numpy() for t in gradients()):
        if decoupled:
            w = w * (1 - ETA * LAMBDA)
        else:
            g = g + LAMBDA * w
        v = mu * v + g
        w = w - ETA * (g + mu * v if nesterov else v)
    return w


def adam_by_hand(beta1: float, beta2: float, eps: float, decoupled: bool) -> np.ndarray:
    w, m, v = np.linspace(-1, 1, 12).reshape(3, 4), np.zeros((3, 4)), np.zeros((3, 4))
    for t, g in enumerate((t.numpy() for t in gradients()), start=1):
        if decoupled:
            w = w * (1 - ETA * LAMBDA)
        else:
            g = g + LAMBDA * w
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        w = w - ETA * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return w


@pytest.mark.parametrize("mu", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_its_formula(mu: float, nesterov: bool) -> None:
    got = walk(spec_of("sgd", momentum=mu, optimizer_options={"nesterov": nesterov}), gradients())
    np.testing.assert_allclose(got, sgd_by_hand(mu, nesterov), rtol=1e-13)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95), (0.0, 0.5)])
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_adamw_is_its_formula(betas: tuple[float, float], eps: float) -> None:
    options = {} if eps == 1e-8 else {"eps": eps}
    got = walk(spec_of("adamw", beta1=betas[0], beta2=betas[1], optimizer_options=options), gradients())
    np.testing.assert_allclose(got, adam_by_hand(*betas, eps, decoupled=True), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(_FAMILIES))
def test_every_name_of_a_family_is_the_familys_formula(name: str) -> None:
    mu = 0.9 if "sgd" in family(name) else 0.0
    got = walk(spec_of(name, momentum=mu), gradients())
    # timm's sgdw names have Nesterov momentum unless told otherwise
    nesterov = name not in ("sgd", "momentum")
    wanted = {
        "sgd": lambda: sgd_by_hand(mu, nesterov),
        "sgdw": lambda: sgd_by_hand(mu, nesterov, decoupled=True),
        "adam": lambda: adam_by_hand(0.9, 0.999, 1e-8, decoupled=False),
        "adamw": lambda: adam_by_hand(0.9, 0.999, 1e-8, decoupled=True),
    }[family(name)]()
    np.testing.assert_allclose(got, wanted, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(n for n in _FAMILIES if elementwise(n)))
def test_elementwise_optimizers_train_a_stack_as_one_by_one(name: str) -> None:
    spec, grads = spec_of(name, momentum=0.9 if "sgd" in family(name) else 0.0), gradients(shape=(5, 3, 4))
    starts = torch.randn(5, 3, 4, generator=Generator().manual_seed(2), dtype=torch.float64)
    stack = walk(spec, grads, starts)
    alone = [walk(spec, [g[i] for g in grads], starts[i]) for i in range(5)]
    np.testing.assert_allclose(stack, np.stack(alone), rtol=1e-12, atol=1e-14)


def test_layerwise_optimizers_are_not_elementwise() -> None:
    assert not any(map(elementwise, ("lamb", "lars", "muon", "adafactor", "lion", "nothing")))


@pytest.mark.parametrize("name", ["lamb", "lion", "adafactor", "muon", "rmsprop"])
def test_any_timm_optimizer_trains(name: str) -> None:
    g = Generator().manual_seed(0)
    x = torch.randn(64, 10, generator=g)
    y = (x @ torch.randn(10, 3, generator=g)).argmax(1)
    w, b = torch.zeros(3, 10, requires_grad=True), torch.zeros(3, requires_grad=True)
    optimizer = build([w, b], spec_of(name, learning_rate=0.02, weight_decay=0.0))
    losses: list[float] = []
    for _ in range(60):
        loss = cross_entropy(x @ w.T + b, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(3))
    assert losses[-1] < 0.6 * losses[0]


def test_nesterov_without_momentum_is_the_plain_step() -> None:
    plain = walk(spec_of("sgd"), gradients())
    np.testing.assert_array_equal(plain, walk(spec_of("nesterov"), gradients()))
    assert np.isfinite(walk(spec_of("sgdw"), gradients())).all()


def test_unset_betas_are_the_optimizers_own() -> None:
    one = [torch.zeros(2, 2, requires_grad=True)]
    assert build(one, spec_of("lion")).param_groups[0]["betas"] == (0.9, 0.99)
    assert build(one, spec_of("lion", beta1=0.8)).param_groups[0]["betas"] == (0.8, 0.99)
    assert build(one, spec_of("lion", beta2=0.9)).param_groups[0]["betas"] == (0.9, 0.9)
    own = build(one, spec_of("adan")).param_groups[0]["betas"]
    assert build(one, spec_of("adan", beta2=0.5)).param_groups[0]["betas"] == (own[0], 0.5, own[2])


def test_fused_falls_back_where_the_device_has_no_such_kernel() -> None:
    for name in ("sgd", "adamw"):
        cpu, meta = (torch.zeros(2, 2, device=d, requires_grad=True) for d in ("cpu", "meta"))
        assert build([cpu], spec_of(name)).param_groups[0]["fused"] is True
        optimizer = build([meta], spec_of(name))
        assert not optimizer.param_groups[0]["fused"]
        meta.grad = torch.zeros_like(meta)
        optimizer.step()
        assert not build([cpu], spec_of(name, optimizer_options={"foreach": True})).param_groups[0]["fused"]
        assert build([cpu], spec_of(name, optimizer_options={"fused": False})).param_groups[0]["fused"] is False


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamw", "momentum": 0.9}, "momentum must be 0 with optimizer 'adamw', which has none, got 0.9"),
        ({"beta1": 0.8}, "beta1 must stay 0.9 with optimizer 'sgd', which has no betas, got 0.8"),
        ({"beta2": 0.5}, "beta2 must stay 0.999 with optimizer 'sgd', which has no betas, got 0.5"),
        ({"optimizer_options": {"nestrov": True}}, r"unknown option of optimizer 'sgd' 'nestrov'; did you mean nester"),
        ({"optimizer_options": {"lr": 1.0}}, "must not hold 'lr': set learning_rate of the spec"),
        ({"optimizer_options": {"betas": [0, 0]}}, "must not hold 'betas': set beta1 and beta2 of the spec"),
        ({"optimizer_options": {"dampening": 0.9}}, "must not hold 'dampening': the noise scales of"),
        (
            {"optimizer": "adam", "optimizer_options": {"decoupled_weight_decay": True}},
            "'decoupled_weight_decay': the noise scales",
        ),
        (
            {"optimizer": "adamw", "optimizer_options": {"eps": -1}},
            r"'adamw' refuses optimizer_options {'eps': -1}: In",
        ),
        ({"optimizer": "adamw", "optimizer_options": {"eps": "x"}}, r"'adamw' refuses optimizer_options {'eps': 'x'}"),
        (
            {"optimizer": "adamw", "optimizer_options": {"differentiable": True}},
            r"'adamw' refuses optimizer_options {'differentiable': True}: ",
        ),
        ({"optimizer": "adahessian"}, "optimizer must need first-order gradients only, got 'adahessian'"),
        ({"optimizer": "bnbadam8bit"}, "optimizer 'bnbadam8bit' cannot be used here: .*; choose another"),
    ],
)
def test_what_cannot_be_built_is_refused_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(replace(SPEC, **changes))


@pytest.mark.parametrize(("wrong", "near"), [("adamww", "adamw"), ("lambb", "lamb"), ("SGD", "did you mean sgd or ")])
def test_unknown_names_list_the_nearest_of_both(wrong: str, near: str) -> None:
    assert wrong not in OPTIMIZERS
    with pytest.raises(UnknownName, match=f"unknown optimizer '{wrong}'; .*{near}"):
        check(spec_of(wrong))


def test_timm_names_are_known_and_ours_are_listed() -> None:
    assert all(name in OPTIMIZERS for name in (*_FAMILIES, "lamb", "lion"))
    assert list(OPTIMIZERS) == ["sgd", "adamw"]


# -- families and noises ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("name", [*sorted(_FAMILIES), "lion"])
def test_a_noise_is_refused_for_optimizers_it_is_not_defined_for(noise: str, name: str) -> None:
    assert family(name) in FAMILIES
    if family(name) in NOISE[noise].families:
        check_defined(noise, name)
        return
    defined = ", ".join(defined_for(family(name)))
    with pytest.raises(ValueError, match=f"noise must be defined for optimizer '{name}', got '{noise}' .*{defined}$"):
        check_defined(noise, name)


def test_the_papers_noise_is_for_sgd() -> None:
    check_defined("paper", "sgd")
    with pytest.raises(ValueError, match=r"'adamw', got 'paper' .* defined are adam_sde, adamw_angular, adamw_tau, "):
        check_defined("paper", "adamw")
    with pytest.raises(ValueError, match="got 'wd_intrinsic'"):
        check_defined("wd_intrinsic", "sgdw")
    with pytest.raises(UnknownName, match="unknown noise 'papr'; did you mean paper"):
        check_defined("papr", "sgd")


def test_families_are_known_without_torch_and_timm() -> None:
    code = "import sys; from trainables.training.optimizers import family; print(family('adamw'), family('x'))"
    done = python("-c", f"{code}\nprint({{'torch', 'timm', 'numpy'}} & set(sys.modules))")
    assert done.stdout.split() == ["adamw", "other", "set()"], done.stderr


def test_betas_and_eps_follow_the_batch_size() -> None:
    options = {"optimizer_options": {"eps": 0.1}, "beta1": 0.9, "beta2": 0.98}
    follows = walk(spec_of("adamw", **options, betas_batch_size=4), gradients())  # SPEC's batch is four times as large
    np.testing.assert_allclose(follows, adam_by_hand(0.6, 0.92, 0.05, decoupled=True), rtol=1e-9)
    fixed = walk(spec_of("adamw", **options, betas_batch_size=16), gradients())
    np.testing.assert_allclose(fixed, adam_by_hand(0.9, 0.98, 0.1, decoupled=True), rtol=1e-9)

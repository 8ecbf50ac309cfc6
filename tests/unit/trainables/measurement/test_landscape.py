from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from tests.support.gradient_networks import CLASSES, SIZE, images, names_of, network
from trainables.measurement import derivatives
from trainables.measurement.derivatives import Objective, objective
from trainables.measurement.landscape import (
    hessian_trace,
    lambda_max,
    landscape,
    line,
    rademacher,
    sharpness_average,
    sharpness_worst,
)
from trainables.measurement.loss_plane import combine, plane
from trainables.models.registry import SmallCNN
from trainables.models.seeding import seed_generators
from trainables.result import LANDSCAPE
from trainables.tasks.evaluation import logits_of, recalibrate, score


def exact_hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """H [P, P] row by row, by torch's own reverse over reverse differentiation."""
    shapes = {n: p.shape for n, p in model.named_parameters()}
    w = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(w: Tensor) -> Tensor:
        parts = torch.split(w, [s.numel() for s in shapes.values()])
        return cross_entropy(
            functional_call(model, {n: v.view(s) for (n, s), v in zip(shapes.items(), parts, strict=True)}, (x,)), y
        )

    return hessian(loss, w)


class Fitted:
    """A small net after a few hundred steps: its objective and its exact Hessian."""

    def __init__(self) -> None:
        self.model, (self.x, self.y) = network(), images(60)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.3, momentum=0.9)
        for _ in range(60):
            optimizer.zero_grad()
            cross_entropy(self.model(self.x), self.y).backward()
            optimizer.step()
        weights = {n: t.clone() for n, t in self.model.state_dict().items()}
        self.loss, self.w = objective(self.model, weights, names_of(self.model), self.x, self.y)
        self.exact = exact_hessian(self.model, self.x, self.y)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return Fitted()


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_products_values_and_gradients_are_exact(fitted: Fitted) -> None:
    v = torch.randn(len(fitted.w), generator=_generator(), dtype=torch.float64)
    assert torch.allclose(fitted.loss.hessian(fitted.w)(v), fitted.exact @ v, rtol=1e-10, atol=1e-12)
    value, gradient = fitted.loss.gradient(fitted.w)
    assert float(value) == float(fitted.loss.value(fitted.w))
    fitted.model.zero_grad()
    plain = cross_entropy(fitted.model(fitted.x), fitted.y)
    plain.backward()
    assert float(value) == pytest.approx(plain.item(), rel=1e-12)
    assert torch.allclose(gradient, torch.cat([p.grad.flatten() for p in fitted.model.parameters()]))
    fitted.model.zero_grad()


def test_examples_in_parts_are_the_same_objective(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derivatives, "_PART_NUMBERS", 16 * SIZE * SIZE)
    loss, w = objective(fitted.model, fitted.model.state_dict(), names_of(fitted.model), fitted.x, fitted.y)
    assert [len(p.args[1]) for p in loss.parts] == [16, 16, 16, 12]
    v = torch.randn(len(w), generator=_generator(), dtype=torch.float64)
    assert torch.allclose(loss.hessian(w)(v), fitted.exact @ v, rtol=1e-10, atol=1e-12)
    assert float(loss.value(w)) == pytest.approx(float(fitted.loss.value(w)), rel=1e-12)
    assert torch.allclose(loss.gradient(w)[1], fitted.loss.gradient(w)[1], rtol=1e-10, atol=1e-13)


def test_the_trace_is_exact_on_a_basis_and_within_its_error_on_signs(fitted: Fitted) -> None:
    product, exact = fitted.loss.hessian(fitted.w), float(fitted.exact.trace())
    basis = torch.eye(len(fitted.w), dtype=torch.float64) * math.sqrt(len(fitted.w))
    assert hessian_trace(product, basis)[0] == pytest.approx(exact, rel=1e-12)
    vectors = list(rademacher(fitted.w, 300, _generator(1)))
    assert all(torch.equal(v.abs(), torch.ones_like(v)) for v in vectors)
    mean, se = hessian_trace(product, vectors)
    assert abs(mean - exact) < 3 * se
    # Var v'Hv = 2 sum of squares off the diagonal
    off = fitted.exact - torch.diag(fitted.exact.diagonal())
    assert se == pytest.approx(math.sqrt(2 * float(off.square().sum()) / 300), rel=0.15)


def test_lambda_max_is_the_largest_algebraic_eigenvalue(fitted: Fitted) -> None:
    eigenvalues = torch.linalg.eigvalsh(fitted.exact)
    found = lambda_max(fitted.loss.hessian(fitted.w), fitted.w, _generator())
    assert found == pytest.approx(float(eigenvalues[-1]), rel=1e-6)
    # of -H it is minus the smallest one, though that is smaller in size
    product = fitted.loss.hessian(fitted.w)
    found = lambda_max(lambda v: -product(v), fitted.w, _generator(), tolerance=1e-8)
    assert found == pytest.approx(-float(eigenvalues[0]), rel=1e-6)
    assert math.isnan(lambda_max(lambda v: v * math.inf, fitted.w, _generator()))


def test_worst_case_sharpness_grows_with_the_radius_and_meets_its_limit(fitted: Fitted) -> None:
    radii = (0.0, 1e-6, 1e-4, 0.002, 0.01, 0.05, 0.2)
    found = [sharpness_worst(fitted.loss, fitted.w, rho) for rho in radii]
    assert found[0] == 0
    assert found == sorted(found)
    # a small box: the linear loss is highest at the corner
    _, gradient = fitted.loss.gradient(fitted.w)
    corner = 1e-6 * float((gradient * fitted.w).abs().sum())
    assert found[1] == pytest.approx(corner, rel=1e-2)
    # never below random corners
    signs = rademacher(fitted.w, 200, _generator(2))
    random = max(float(fitted.loss.value(fitted.w * (1 + 0.05 * s))) for s in signs)
    assert found[5] > random - float(fitted.loss.value(fitted.w))


def test_worst_case_sharpness_of_a_parabola_is_its_value_at_the_wall() -> None:
    w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    h = torch.tensor([3.0, 0.5], dtype=torch.float64)
    loss = Objective([lambda v: (h * (v - w + 0.01).square()).sum() / 2])
    # per coordinate the far wall: (|w| rho + 0.01)^2 - 0.01^2
    expected = float((h * ((0.1 * w.abs() + 0.01).square() - 1e-4)).sum()) / 2
    assert sharpness_worst(loss, w, 0.1) == pytest.approx(expected, rel=1e-9)


def test_average_sharpness_of_small_noise_is_its_second_order_expectation(fitted: Fitted) -> None:
    sigma = 1e-3
    mean, se = sharpness_average(fitted.loss, fitted.w, _generator(3), sigma, pairs=300)
    expected = sigma**2 / 2 * float((fitted.exact.diagonal() * fitted.w.square()).sum())
    assert abs(mean - expected) < 3 * se
    assert se < 0.2 * expected


def _quadratic(size: int = 12, seed: int = 0) -> tuple[Objective, Tensor]:
    g = _generator(seed)
    h, c = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((size, size), (size,)))
    h = h + h.T  # indefinite
    return Objective([lambda w: w @ h @ w / 2 + c @ w + 0.7]), h


@pytest.mark.parametrize("seed", range(5))
def test_the_excess_barrier_is_0_on_every_quadratic(seed: int) -> None:
    loss, h = _quadratic(seed=seed)
    a, b = torch.randn(2, 12, generator=_generator(seed + 10), dtype=torch.float64)
    found = line(loss, a, loss, b, float(loss.value((a + b) / 2)))
    exact = float((b - a) @ h @ (b - a))
    assert found["curvature_a"] == pytest.approx(exact, rel=1e-12)
    assert found["curvature_b"] == pytest.approx(exact, rel=1e-12)
    assert found["barrier_quadratic"] == pytest.approx(-exact / 8, rel=1e-10)
    assert abs(found["barrier_excess"]) < 1e-10


def test_the_excess_barrier_of_a_quartic_is_its_fourth_order() -> None:
    # L = w^4 from -1 to 1: the barrier is -1, both ends predict (-8 - 8)/4 + (48 + 48)/16 = 2
    loss = Objective([lambda w: w.pow(4).sum()])
    a, b = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    found = line(loss, a, loss, b, 0.0)
    assert (found["barrier_quadratic"], found["barrier_excess"]) == (pytest.approx(-4 + 6), pytest.approx(-3))


def _weights(model: nn.Module, seed: int) -> dict[str, Tensor]:
    g = _generator(seed)
    return {
        n: t + 0.1 * torch.randn(t.shape, generator=g, dtype=t.dtype) if t.is_floating_point() else t.clone()
        for n, t in model.state_dict().items()
    }


def _merged(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: (t + b[n]) / 2 if t.is_floating_point() else t for n, t in a.items()}


def test_the_columns_are_those_of_the_row_and_agree_with_exact_hessians(fitted: Fitted) -> None:
    model, names = fitted.model, names_of(fitted.model)
    a, b = _weights(model, 1), _weights(model, 2)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    found = landscape(model, a, b, _merged(a, b), names, fitted.x, fitted.y, seed=0)
    assert list(found) == sorted(found, key=[c.name for c in LANDSCAPE].index)
    assert set(found) == {c.name for c in LANDSCAPE}
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    flat = {k: torch.cat([w[n].flatten() for n in names]) for k, w in {"a": a, "b": b}.items()}
    d = flat["b"] - flat["a"]
    for end, weights in {"a": a, "b": b}.items():
        model.load_state_dict(weights)
        exact = exact_hessian(model, fitted.x, fitted.y)
        assert found[f"curvature_{end}"] == pytest.approx(float(d @ exact @ d), rel=1e-10)
        assert found[f"lambda_max_{end}"] == pytest.approx(float(torch.linalg.eigvalsh(exact)[-1]), rel=1e-5)
        error = found[f"hessian_trace_{end}"] - float(exact.trace())
        assert abs(error) < 3 * found[f"hessian_trace_se_{end}"]
        scaled = found[f"hessian_trace_{end}"] * float(flat[end].square().sum())
        assert found[f"hessian_trace_scaled_{end}"] == pytest.approx(scaled)
    model.load_state_dict(before)
    assert found == landscape(model, a, b, _merged(a, b), names, fitted.x, fitted.y, seed=0)


def _assert_products(loss: Objective, w: Tensor) -> None:
    # a step so small that no ReLU switches
    d, h = torch.randn(len(w), generator=_generator(), dtype=w.dtype), 1e-8
    quotient = (loss.gradient(w + h * d)[1] - loss.gradient(w - h * d)[1]) / (2 * h)
    assert torch.allclose(loss.hessian(w)(d), quotient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_in_place_operators_and_batchnorm_run_in_evaluation_mode(norm: str) -> None:
    with seed_generators(0):
        model = SmallCNN(CLASSES, norm=norm).double()
    model.train()
    x, y = images(24)
    weights = recalibrate(model, model.state_dict(), [x])
    model.train()
    loss, w = objective(model, weights, names_of(model), x, y)
    expected = score(logits_of(model, weights, x), y).loss
    model.train()
    assert float(loss.value(w)) == pytest.approx(expected, rel=1e-12)
    _assert_products(loss, w)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())


def test_attention_differentiates_twice() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.head = nn.Linear(SIZE, 3 * SIZE), nn.Linear(SIZE, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))

    with seed_generators(0):
        model = Attending().double()
    x, y = images(20)
    _assert_products(*objective(model, model.state_dict(), names_of(model), x, y))


def test_the_plane_passes_through_the_three_models(fitted: Fitted) -> None:
    model = fitted.model
    base, a, b = (_weights(model, s) for s in (1, 2, 3))
    train, val = (fitted.x, fitted.y), images(20, seed=9)
    rows = list(plane(model, base, a, b, train, val, 7))
    assert len(rows) == 49
    assert [r[:2] for r in rows] == [(-0.25 + i / 4, -0.25 + j / 4) for i in range(7) for j in range(7)]
    found = {r[:2]: r[2:] for r in rows}
    for at, weights in {(0, 0): base, (1, 0): a, (0, 1): b, (0.5, 0.5): _merged(a, b)}.items():
        for value, (x, y) in zip(found[at], (train, val), strict=True):
            assert value == pytest.approx(score(logits_of(model, weights, x), y).loss, rel=1e-10)
    with pytest.raises(ValueError, match="plane must be 0 or >= 2 points per side, got 1"):
        list(plane(model, base, a, b, train, val, 1))


def test_the_plane_of_batchnorm_has_its_statistics_prepared() -> None:
    model = SmallCNN(CLASSES, norm="batch").double()
    base, a, b = model.state_dict(), _weights(model, 1), _weights(model, 2)
    x, y = images(24)
    with pytest.raises(ValueError, match="needs re-estimated statistics"):
        list(plane(model, base, a, b, (x, y), (x, y), 2))
    other = SmallCNN(CLASSES, norm="batch").double()
    rows = list(plane(model, base, a, b, (x, y), (x, y), 2, lambda w: recalibrate(other, w, [x])))
    corner = recalibrate(other, combine(base, a, b, 1.25, 1.25), [x])
    assert rows[-1][2] == pytest.approx(score(logits_of(model, corner, x), y).loss, rel=1e-12)
    assert all(math.isfinite(v) for r in rows for v in r)
    assert int(combine(base, a, b, 0, 1)["features.1.num_batches_tracked"]) == 0

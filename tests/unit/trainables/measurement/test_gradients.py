from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from tests.support.gradient_networks import CLASSES, SIZE, N, images, names_of, network, per_example
from trainables.measurement import derivatives
from trainables.measurement.gradients import (
    LEAST,
    MOST,
    MOST_TIMES,
    Plan,
    Statistics,
    at_steps,
    between_examples,
    correct_for_finite_set,
    from_ranks,
    jackknife_se,
    measure,
    plan,
    pool,
    two_batch,
)
from trainables.models.registry import SmallCNN


def test_micro_batches_of_a_network_tell_its_exact_covariance_within_their_errors() -> None:
    model, (x, y) = network(), images()
    exact, g, runs = per_example(model, x, y), Generator().manual_seed(2), []
    for _ in range(20):  # 16 micro-batches of 4, drawn without replacement
        pick = torch.randperm(N, generator=g)[:64]
        found = measure(model, model.state_dict(), names_of(model), x[pick], y[pick], 4)
        rows = exact[pick].reshape(16, 4, -1).mean(1)
        assert found.trace_sigma == pytest.approx(4 * float(rows.var(0).sum()), rel=1e-10)
        runs.append(found)
    trace, both = float(exact.var(0).sum()), pool(runs)
    assert abs(both.trace_sigma - trace) < 3 * both.trace_sigma_se
    assert sum(abs(s.trace_sigma - trace) < 3 * s.trace_sigma_se for s in runs) >= 19


def test_the_estimate_is_unbiased_and_its_errors_are_the_stated_ones() -> None:
    exact, runs, g = per_example(network(), *images()), 4000, Generator().manual_seed(3)
    trace, norm2 = float(exact.var(0).sum()), float(exact.mean(0).square().sum())  # divisor N - 1
    pick = torch.rand(runs, N, generator=g).argsort(1)[:, :64]
    rows = exact[pick].reshape(runs, 16, 4, -1).mean(2)
    mean = rows.mean(1)
    small, big = rows.square().sum(2).tolist(), mean.square().sum(1).tolist()
    pairs = torch.tensor([two_batch(s, b, 4) for s, b in zip(small, big, strict=True)], dtype=torch.float64)
    stated = torch.tensor([jackknife_se(d, 4) for d in (rows - mean[:, None]).square().sum(2).tolist()])
    for found, truth in ((pairs[:, 1], trace), (pairs[:, 0], norm2 - trace / N)):
        assert abs(float(found.mean()) - truth) < 3 * float(found.std()) / math.sqrt(runs)
    assert float(pairs[:, 1].mean()) == pytest.approx(trace, rel=5e-3)  # bias
    # a quarter of the examples are drawn, without replacement: the true spread lies below the stated one
    assert 0.85 < float(pairs[:, 1].std() / stated.mean()) < 1
    assert float(((pairs[:, 1] - trace).abs() < 3 * stated).float().mean()) > 0.98


def test_all_examples_one_by_one_are_the_exact_covariance() -> None:
    model, (x, y) = network(), images()
    exact = per_example(model, x, y)
    v = {n: torch.rand_like(p, dtype=torch.float64) + 0.1 for n, p in model.named_parameters()}
    found = measure(model, model.state_dict(), names_of(model), x, y, 1, v)
    assert found.trace_sigma == pytest.approx(float(exact.var(0).sum()), rel=1e-10)
    scale = torch.cat([t.flatten() for t in v.values()])
    assert found.preconditioned == pytest.approx(float((exact.var(0) / scale).sum()), rel=1e-10)
    assert found.norm2 == pytest.approx(float(exact.mean(0).square().sum() - exact.var(0).sum() / N), rel=1e-8)
    assert found.examples == N
    assert found.b_simple == pytest.approx(found.trace_sigma / found.norm2)


def test_the_gradient_of_a_finite_set_has_its_exact_norm() -> None:
    model, (x, y) = network(), images()
    exact, found = per_example(model, x, y), measure(
        network(), model.state_dict(), names_of(model), x, y, 1, population=N
    )  # fmt: skip
    assert found.norm2 == pytest.approx(float(exact.mean(0).square().sum()), rel=1e-8)
    assert found.between == found.trace_sigma  # nothing is random


def test_the_gradient_norm_of_augmented_examples_is_unbiased_with_the_examples_part_alone() -> None:
    # 8 versions of each of 60 images: all gradients are known, those of a version as far apart as those of the images
    model, (x, y), size, versions = network(), images(60), 60, 8
    g = Generator().manual_seed(5)
    shown = x[:, None] + torch.randn(size, versions, 1, SIZE, SIZE, generator=g, dtype=torch.float64)
    every = per_example(model, shown.flatten(0, 1), y.repeat_interleave(versions)).reshape(size, versions, -1)
    norm2 = float(every.mean((0, 1)).square().sum())
    between, within = float(every.mean(1).var(0).sum()), float(every.var(1, correction=0).sum(1).mean())
    assert 0.2 < between / (between + within) < 0.8
    found: list[tuple[float, float, float]] = []
    for _ in range(3000):
        pick = torch.rand(size, generator=g).argsort()[:48]
        first, second = (every[pick, torch.randint(versions, (48,), generator=g)] for _ in range(2))
        rows, again = (t.reshape(12, 4, -1).mean(1) for t in (first, second))
        raw, trace = two_batch(rows.square().sum(1).tolist(), float(rows.mean(0).square().sum()), 4)
        own = between_examples(rows[:LEAST], again[:LEAST], 4)
        found.append((correct_for_finite_set(raw, own, size), own, raw + trace / size))
    right, part, whole = (torch.tensor(column, dtype=torch.float64) for column in zip(*found, strict=True))

    def errors(values: Tensor, truth: float) -> float:
        return float((values.mean() - truth) / values.std() * math.sqrt(len(values)))

    assert abs(errors(part, between)) < 3
    assert abs(errors(right, norm2)) < 3
    assert errors(whole, norm2) > 5  # all of tr Sigma in place of the examples' part overshoots


def test_dropout_and_redrawn_inputs_leave_the_part_between_examples() -> None:
    x, y = images(64)
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(SIZE * SIZE, CLASSES)).double()
    found = measure(dropping, dropping.state_dict(), names_of(dropping), x, y, 4, population=64)
    assert found.between < 0.9 * found.trace_sigma
    plain, noise = network(), torch.randn(x.shape, generator=Generator().manual_seed(4), dtype=torch.float64)
    same = measure(plain, plain.state_dict(), names_of(plain), x, y, 4, again=(x, y), population=64)
    other = measure(plain, plain.state_dict(), names_of(plain), x, y, 4, again=(x + 3 * noise, y), population=64)
    assert same.trace_sigma == other.trace_sigma == same.between
    assert other.between < 0.9 * other.trace_sigma
    assert other.norm2 - other.between / 64 == pytest.approx(same.norm2 - same.between / 64)


def test_ranks_tell_the_gradient_norm_of_a_finite_set_only_where_nothing_is_random() -> None:
    raw, trace = two_batch([10.0, 12.0], 8.0, 4)
    assert from_ranks([10.0, 12.0], 8.0, 4).norm2 == raw
    assert from_ranks([10.0, 12.0], 8.0, 4, examples=50).norm2 == pytest.approx(raw + trace / 50)
    unknown = from_ranks([10.0, 12.0], 8.0, 4, examples=50, random=True)
    assert math.isnan(unknown.norm2)
    assert math.isnan(unknown.b_simple)
    assert unknown.trace_sigma == trace


def test_only_the_trained_parameters_count_and_nothing_changes() -> None:
    model, (x, y) = network(), images()
    model.eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    some = ["3.weight"]
    found = measure(model, model.state_dict(), some, x, y, 1)
    exact = per_example(model, x, y)[:, -CLASSES * 9 : -CLASSES]
    assert found.trace_sigma == pytest.approx(float(exact.var(0).sum()), rel=1e-10)
    assert not any(m.training for m in model.modules())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_large_models_are_measured_one_micro_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = network(), images(64)
    mapped = measure(model, model.state_dict(), names_of(model), x, y, 4)
    monkeypatch.setattr(derivatives, "_MAPPED_NUMBERS", 0)
    one_by_one = measure(model, model.state_dict(), names_of(model), x, y, 4)
    assert one_by_one.trace_sigma == pytest.approx(mapped.trace_sigma, rel=1e-12)


def test_one_hot_targets_are_labels() -> None:
    model, (x, y) = network(), images(64)
    hard = measure(model, model.state_dict(), names_of(model), x, y, 4)
    soft = measure(model, model.state_dict(), names_of(model), x, one_hot(y, CLASSES).double(), 4)
    assert soft.trace_sigma == pytest.approx(hard.trace_sigma, rel=1e-12)


def test_batchnorm_is_normalised_by_each_micro_batch_and_keeps_its_statistics() -> None:
    model = SmallCNN(CLASSES, norm="batch").double()
    x, y = images(48)
    weights = {n: t.clone() for n, t in model.state_dict().items()}
    found = measure(model, weights, names_of(model), x, y, 8)
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())
    rows = []
    for part, labels in zip(x.split(8), y.split(8), strict=True):
        model.load_state_dict(weights)
        model.train()
        model.zero_grad()
        cross_entropy(model(part), labels).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    exact = 8 * torch.stack(rows).var(0).sum()
    assert found.trace_sigma == pytest.approx(float(exact), rel=1e-9)


def test_dropout_is_noise_that_the_seed_decides() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(SIZE * SIZE, CLASSES)).double()
    x, y = images(1)
    x, y = x.expand(64, *x.shape[1:]), y.expand(64)  # one example over and over
    before = torch.random.get_rng_state()
    one, same, other = (measure(model, model.state_dict(), names_of(model), x, y, 4, seed=s) for s in (0, 0, 1))
    assert one == same != other
    assert one.trace_sigma > 0
    assert torch.equal(torch.random.get_rng_state(), before)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, CLASSES)).double()
    assert measure(plain, plain.state_dict(), names_of(plain), x, y, 4).trace_sigma < 1e-12


def test_two_batch_solves_its_two_equations() -> None:
    # E|g_small|^2 = |G|^2 + tr/b and E|g_big|^2 = |G|^2 + tr/(n b)
    norm2, trace = two_batch([7 + 12 / 4] * 3, 7 + 12 / 12, 4)
    assert (norm2, trace) == (pytest.approx(7), pytest.approx(12))
    with pytest.raises(ValueError, match="needs >= 2 micro-batches, got 1"):
        two_batch([1.0], 1.0, 4)
    model, (x, y) = network(), images(8)
    with pytest.raises(ValueError, match="needs >= 2 micro-batches, got 1"):
        measure(model, model.state_dict(), names_of(model), x, y, 8)


def test_the_jackknife_is_leaving_one_out() -> None:
    rows = torch.randn(7, 5, generator=Generator().manual_seed(0), dtype=torch.float64)
    deviations = (rows - rows.mean(0)).square().sum(1).tolist()
    left = torch.stack([3 * rows[[j for j in range(7) if j != i]].var(0).sum() for i in range(7)])
    direct = math.sqrt(6 / 7 * float((left - left.mean()).square().sum()))
    assert jackknife_se(deviations, 3) == pytest.approx(direct, rel=1e-12)
    assert math.isnan(jackknife_se([1.0, 1.0], 3))


def test_pool_is_the_mean_and_its_error() -> None:
    a, b = Statistics(4.0, 0.3, 1.0, 2.0, 32), Statistics(6.0, 0.4, 3.0, 4.0, 64)
    both = pool([a, b])
    assert (both.trace_sigma, both.norm2, both.preconditioned, both.examples) == (5.0, 2.0, 3.0, 96)
    assert both.trace_sigma_se == pytest.approx(0.25)
    assert both.b_simple == 2.5
    without = Statistics(6.0, math.nan, -3.0, None, 64)
    assert pool([a, without]).preconditioned is None
    assert pool([a, without]).trace_sigma_se == pytest.approx(1.0)  # sd sqrt(2) over sqrt(2)
    assert math.isnan(pool([a, without]).b_simple)
    with pytest.raises(ValueError, match="needs at least one measurement"):
        pool([])


def test_ranks_estimate_what_micro_batches_do() -> None:
    g, ranks, b = Generator().manual_seed(3), 4, 8
    mean, sd = torch.randn(20, generator=g), torch.rand(20, generator=g)
    steps = []
    for _ in range(2000):
        local = mean + sd * torch.randn(ranks, b, 20, generator=g).mean(1)
        norms = local.square().sum(1).tolist()
        steps.append(from_ranks(norms, float(local.mean(0).square().sum()), b))
    both = pool(steps)
    traces = torch.tensor([s.trace_sigma for s in steps])
    se = float(traces.std()) / math.sqrt(len(steps))
    assert abs(both.trace_sigma - float(sd.square().sum())) < 3 * se
    assert both.trace_sigma_se >= se
    assert steps[0].examples == ranks * b
    assert both.norm2 == pytest.approx(float(mean.square().sum()), rel=0.02)


@pytest.mark.parametrize("examples", [400, 5760, 40_000, 10**6, 10**8])
@pytest.mark.parametrize("size", [1, 8, 64])
def test_a_plan_stays_within_its_share(examples: int, size: int) -> None:
    found = plan(examples, size)
    assert 1 <= found.times <= MOST_TIMES
    assert LEAST <= found.micro_batches <= MOST
    assert 1 <= found.micro_size <= size
    assert found.examples <= 0.02 * examples


def test_plans_of_small_and_large_trials() -> None:
    assert plan(720 * 8) == Plan(1, 14, 8)  # digits: 115 examples
    assert plan(720 * 8).examples == 112
    assert plan(399) == Plan(0, 0, 0)
    assert plan(50_000 * 30, 32) == Plan(8, 32, 32)
    assert plan(50_000 * 30, 32, parameters=2**30) == Plan(8, LEAST, 32)
    assert plan(100, 8, times=3) == Plan(3, 16, 8)
    assert plan(10**6, 8, times=0) == Plan(0, 0, 0)


def test_measurements_lie_in_the_stable_phase() -> None:
    assert at_steps(100, 20, 80, 3) == (30, 50, 70)
    assert at_steps(100, 20, 80, 1) == (50,)
    assert at_steps(5, 1, 4, 8) == (1, 2, 3)
    assert at_steps(10, 5, 5, 2) == (2, 7)  # no stable phase
    assert at_steps(0, 0, 0, 2) == ()
    with pytest.raises(ValueError, match=r"must lie in \[0, 10\], got \[5, 12\)"):
        at_steps(10, 5, 12, 2)


def stationary_variance(rate: float, mu: float, curvature: float, noise: float) -> float:
    """Exact Var theta of theta' = theta - eta v', v' = mu v + h theta + xi with Var xi = `noise`.

    The recursion theta' = (1 + mu - eta h) theta - mu theta_before - eta xi is an AR(2) process with
    phi_1 = 1 + mu - eta h and phi_2 = -mu, whose variance is
    (1 - phi_2) eta^2 noise / ((1 + phi_2) ((1 - phi_2)^2 - phi_1^2)).
    """
    return rate * noise * (1 + mu) / (curvature * (1 - mu) * (2 * (1 + mu) - rate * curvature))


@pytest.mark.parametrize(("rate", "mu"), [(0.05, 0.0), (0.4, 0.0), (0.01, 0.9), (0.3, 0.9)])
def test_a_quadratic_bowl_is_as_wide_as_its_measured_noise_says(rate: float, mu: float) -> None:
    # examples c of loss h/2 (theta - c)^2: real mini-batches, here of a skewed set
    h, b, particles = 2.0, 4, 4000
    g = Generator().manual_seed(4)
    centres = torch.rand(64, generator=g, dtype=torch.float64).square()
    centres -= centres.mean()
    gradients = -h * centres  # at the minimum
    batches = gradients[torch.randint(64, (4096, b), generator=g)].mean(1)
    _, trace = two_batch(batches.square().tolist(), float(batches.mean().square()), b)
    theta = torch.zeros(particles, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=rate, momentum=mu, fused=True)
    for _ in range(int(8 / (rate * h) * max(1 - mu, rate * h / 4)) + 100):
        batch = centres[torch.randint(64, (particles, b), generator=g)].mean(1)
        theta.grad = h * (theta.detach() - batch)
        optimizer.step()
    squares = theta.detach().square()
    exact = float(gradients.square().mean())
    assert trace == pytest.approx(exact, rel=3 * math.sqrt(2 / 4095))
    expected = stationary_variance(rate, mu, h, exact / b)
    assert abs(float(squares.mean()) - expected) < 3 * float(squares.std()) / math.sqrt(particles)
    # half the temperature eta/(B (1 - mu)) tr Sigma per unit of curvature, for small steps
    small = rate * exact / (2 * h * b * (1 - mu))
    assert 1 <= expected / small <= 1 / (1 - rate * h / (2 * (1 + mu))) + 1e-12


def _separation(mu: float, replacement: bool, runs: int = 600) -> tuple[float, float, float, float]:
    """Two children on a flat slope: mean and standard error of |A - B|^2, its exact value and 2 dose."""
    rate, b, epochs, n = 0.1, 4, 3, 32
    g = Generator().manual_seed(5)
    gradients = torch.randn(n, 6, generator=g, dtype=torch.float64) + 1
    ends = torch.zeros(2, runs, 6, dtype=torch.float64)
    speed = torch.zeros_like(ends)
    for _ in range(epochs):
        shuffled = torch.rand(2, runs, n, generator=g).argsort(-1)
        order = torch.randint(n, (2, runs, n), generator=g) if replacement else shuffled
        for batch in order.split(b, -1):
            speed = mu * speed + gradients[batch].mean(2)
            ends = ends - rate * speed
    apart = (ends[0] - ends[1]).square().sum(-1)
    steps, trace = epochs * n // b, float(gradients.var(0, correction=0).sum())
    reach = sum(((1 - mu**t) / (1 - mu)) ** 2 for t in range(1, steps + 1))
    dose = steps * rate**2 / (b * (1 - mu) ** 2) * trace
    return float(apart.mean()), float(apart.std()) / math.sqrt(runs), 2 * rate**2 * trace / b * reach, 2 * dose


@pytest.mark.parametrize("mu", [0.0, 0.8])
def test_two_children_part_by_twice_the_dose_with_replacement_and_by_less_without(mu: float) -> None:
    found, se, exact, reference = _separation(mu, replacement=True)
    assert abs(found - exact) < 3 * se
    # each gradient has moved a child by eta/(1 - mu) once the momentum is through: dose is the upper reference
    assert exact <= reference * (1 + 1e-12)
    assert exact == pytest.approx(reference, rel=1e-12) if mu == 0 else exact < reference
    without, _, _, _ = _separation(mu, replacement=False)
    # whole epochs sum the same gradients, whatever their order; momentum alone still remembers it
    assert without < (1e-20 if mu == 0 else 0.5 * exact)

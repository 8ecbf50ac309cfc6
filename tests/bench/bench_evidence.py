"""Tests of `sweeper.analysis.evidence` on tables whose truth is known: error rates and power."""

import argparse
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial
from provenance import provenance

from sweeper.analysis.curve.interval import trim_interval
from sweeper.analysis.evidence.cells import NAMED, Array, Cells, raise_tail, raise_tail_along
from sweeper.analysis.evidence.controls import fit_nested
from sweeper.analysis.evidence.exponents import fit_exponents, measure_share, run_knob_test
from sweeper.analysis.evidence.gains import Finding
from sweeper.analysis.evidence.ranking import FITTED, cross_fit, rank
from sweeper.analysis.evidence.shape import compare_shapes
from sweeper.analysis.evidence.verdict import judge
from sweeper.analysis.regime import locate_optimum
from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler
from sweeper.search.samplers import SAMPLERS
from trainables.noise import NOISE

LEVELS, EACH = 9, 8
SPAN = math.log(1e4)
Curve = Callable[[Array], Array]
# u: place on the axis of log noise, 0 to 1; one repeat scatters by --scatter
NULLS: dict[str, Curve] = {
    "flat": lambda u: 0 * u,
    "linear": lambda u: u,
    "saturating": lambda u: 1 - np.exp(-4 * u),
    "step": lambda u: (u > 0.5) * 1.0,
    "cliff": lambda u: -6 * np.maximum(u - 0.7, 0) / 0.3,
}
PEAKS: dict[str, Curve] = {
    "Gaussian": lambda u: 1.5 * np.exp(-0.5 * ((u - 0.5) / 0.2) ** 2),
    "tent": lambda u: 1.5 - 3 * np.abs(u - 0.5),
    "late": lambda u: 1.5 * np.exp(-0.5 * ((u - 0.65) / 0.2) ** 2),
    "before a cliff": lambda u: np.exp(-0.5 * ((u - 0.5) / 0.2) ** 2) - 4 * np.maximum(u - 0.75, 0) / 0.25,
}
DESIGNS = {
    "72 configurations": f"{LEVELS} noises, {EACH} configurations each, one trial a configuration",
    "9 configurations": f"{LEVELS} noises, one configuration each, {EACH} repeats of it",
    "40 scattered": "40 random noises, one trial each",
}
DEFINITIONS = ("paper", "paper_v1", "linear", "wd_equilibrium")


def cells(x: Array, values: Array, knobs: dict[str, Array] | None = None) -> Cells:
    """Return configurations at log noises x whose repeats have `values`, (C, r)."""
    n, r = values.shape
    knobs = knobs or {}
    factors = {"learning_rate": x} if not knobs else {
        "learning_rate": np.log(knobs["learning_rate"]), "batch_size": -np.log(knobs["batch_size"]),
        "momentum": -np.log1p(-knobs["momentum"]), "weight_decay": np.log(knobs["weight_decay"]),
    }  # fmt: skip
    noise = {name: np.full(n, np.nan) for name in NAMED} | {"paper": x}
    if knobs:
        rows = [{k: float(v[i]) for k, v in knobs.items()} for i in range(n)]
        noise |= {d: np.log([NOISE[d].predict(row) for row in rows]) for d in DEFINITIONS}
    owner = np.repeat(np.arange(n), r)
    names = tuple(f"{i:04d}" for i in range(n))
    return Cells(names, values.mean(axis=1), np.full(n, float(r)), values.ravel(), owner, noise, factors, knobs, ())


def table(design: str, curve: Curve, scatter: float, rng: np.random.Generator) -> Cells:
    """Draw one sweep of a design."""
    if design == "9 configurations":
        u, repeats = np.linspace(0, 1, LEVELS), EACH
    elif design == "72 configurations":
        u, repeats = np.repeat(np.linspace(0, 1, LEVELS), EACH), 1
    else:
        u, repeats = np.sort(rng.uniform(size=40)), 1
    return cells(u * SPAN - SPAN, curve(u)[:, None] + scatter * rng.normal(size=(len(u), repeats)))


def verdicts(design: str, curve: Curve, scatter: float, sims: int, seed: int) -> Array:
    """Return the share of sweeps in which each test rejects, and of each verdict."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(sims):
        drawn = table(design, curve, scatter, rng)
        along = raise_tail_along(drawn, "paper")
        found = judge(along, along, "paper", draws=200)
        test = compare_shapes(drawn.order_along("paper"), "paper", draws=200)
        interior = found.edge_share is not None and found.edge_share < 0.05
        share = math.nan if test.p is None else float(test.p < 0.05)
        out.append([found.gate.passed, share, interior, found.name == "hump", found.name == "plateau then cliff"])
    return np.mean(np.array(out, dtype=float), axis=0)


def rate(share: float, sims: int) -> str:
    """Return a share with its Monte-Carlo error."""
    return "-" if math.isnan(share) else f"{share:.2f} ± {math.sqrt(max(share * (1 - share), 0.25 / sims) / sims):.2f}"


def shapes(sims: int, scatter: float) -> Iterator[str]:
    """Yield the table of reject rates and power, line by line."""
    for design, text in DESIGNS.items():
        yield f"\n### {design}: {text}\n"
        yield "| curve | two lines | isotonic/unimodal | edge share < 5 % | verdict hump | plateau then cliff |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for name, curve in {**NULLS, **PEAKS}.items():
            shares = verdicts(design, curve, scatter, sims, 1)
            kind = "peak" if name in PEAKS else "no peak"
            yield f"| {name} ({kind}) | {' | '.join(rate(s, sims) for s in shares)} |"


def knob_sweep(truth: str, rng: np.random.Generator, n: int = 60, repeats: int = 3) -> Cells:
    """Draw a sweep of four knobs whose objective is a hump in the noise `truth`; repeats scatter by a third of it."""
    knobs = {
        "batch_size": 2.0 ** rng.integers(3, 8, n),
        "momentum": rng.choice([0.0, 0.5, 0.9, 0.95], n),
        "weight_decay": 10 ** rng.uniform(-4, -2, n),
    }
    rest = np.array([NOISE[truth].predict({"learning_rate": 1.0, **{k: float(v[i]) for k, v in knobs.items()}})
                     for i in range(n)])  # fmt: skip
    power = NOISE[truth].exponents["learning_rate"]
    u = rng.uniform(-2.5, 2.5, n)
    knobs["learning_rate"] = np.exp(u + np.log(1e-2) - np.log(rest) / power)
    value = np.exp(-0.5 * (u / 1.0) ** 2)[:, None] + 0.33 * rng.normal(size=(n, repeats))
    return cells(u, value, knobs)


def scalars(sims: int, slow: int) -> Iterator[str]:
    """Yield the table on the one scalar, line by line."""
    yield "\n### one scalar: 60 configurations of four knobs, 3 repeats, a hump in the generating definition\n"
    yield ("| generated by | ranked first | leftover rejects | leftover of another definition | lack of fit rejects "
           "| 90 % intervals that hold 1/B, 1/(1−μ), λ | fitted R² − its own |")  # fmt: skip
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for seed, truth in enumerate(DEFINITIONS):
        rng, quick, held, gap = np.random.default_rng(seed), [], [], []
        other = "wd_equilibrium" if truth != "wd_equilibrium" else "paper"
        for k in range(sims):
            drawn = raise_tail(knob_sweep(truth, rng))
            first = rank(drawn, None, draws=50).rows[0].name == truth
            lack = measure_share(drawn, truth).p
            quick.append(
                [first, run_knob_test(drawn, truth).p < 0.05, run_knob_test(drawn, other).p < 0.05, lack < 0.05]
            )
            if k < slow:
                found = fit_exponents(drawn, DEFINITIONS, draws=60, seed=k)
                want = found.named[truth]
                held.append([found.low[q] <= want[q] <= found.high[q] for q in list(want)[1:]])
                free = np.array([found.value[q] for q in drawn.factors])
                rows = {r.name: r.r2 for r in rank(drawn, cross_fit(drawn, free), draws=50).rows}
                gap.append(rows[FITTED] - rows[truth])
        cover = ", ".join(rate(float(c), slow) for c in np.mean(held, axis=0))
        shares = " | ".join(rate(float(s), sims) for s in np.mean(quick, axis=0))
        yield f"| {truth} | {shares} | {cover} | {np.mean(gap):+.3f} ± {np.std(gap) / math.sqrt(slow):.3f} |"


def absences(sims: int) -> Iterator[str]:
    """Yield the table on what the controls find, line by line: `no more` must not be said of a wrong definition."""
    yield "\n### controls: the same sweeps analysed along `paper`; and accuracy beside a hump\n"
    yield "| truth | more (power) | not detected | no more |"
    yield "| --- | --- | --- | --- |"
    for truth in ("paper", "linear", "paper_v1"):
        rng, found = np.random.default_rng(7), []
        for _ in range(sims):
            drawn = raise_tail(knob_sweep(truth, rng))
            exponents = fit_exponents(drawn, DEFINITIONS, draws=1)
            free = np.array([exponents.value[q] for q in drawn.factors])
            found.append(run_knob_test(drawn, "paper", cross_fit(drawn, free)).finding)
        yield f"| leftover, generated by {truth} | {_findings(found)} |"
    for n, effect in ((34, 0.0), (60, 0.0), (120, 0.0), (34, 0.06), (60, 0.06), (120, 0.06), (60, 0.1)):
        rng, found = np.random.default_rng(8), []
        for _ in range(sims):
            x, accuracy = rng.uniform(-3, 3, n), rng.normal(size=n)
            hump = np.exp(-x * x / 2)
            y = math.sqrt(0.6) * (hump - hump.mean()) / hump.std() + math.sqrt(effect) * accuracy
            y += math.sqrt(0.4 - effect) * rng.normal(size=n)
            found.append(fit_nested("", y, np.arange(n), x, [accuracy]).finding_reverse)
        yield f"| accuracy beyond noise, ΔR² {effect:g}, {n} configurations | {_findings(found)} |"


def _findings(found: list[Finding | None]) -> str:
    return " | ".join(rate(found.count(f) / len(found), len(found)) for f in Finding)


CURVES = {"smooth": math.inf, "collapses from 6 times the best noise on": math.log(6), "from 3 times": math.log(3)}


def collapsing(place: float) -> Callable[[float, np.random.Generator], float]:
    """Return a hump of height 1 at 0 whose merges collapse above `place`."""
    return lambda x, rng: math.exp(-0.5 * (x / 1.2) ** 2) - (20 + rng.exponential(30) if x > place else 0.0)


def optima(sims: int) -> Iterator[str]:
    """Yield the table on the interval of the best noise, line by line: with and without its cut."""
    yield "\n### best noise: random noises over 4 decades, scatter .25, hump of height 1 and width 1.2 at 0\n"
    yield "| curve | configurations | bootstrap covers | cut covers | factor | factor, cut | holds a collapse | cut |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, place in CURVES.items():
        for n in (20, 40):
            rng, rows = np.random.default_rng(9), []
            for _ in range(sims):
                x = np.sort(rng.uniform(-math.log(100), math.log(100), n))
                z = np.array([collapsing(place)(v, rng) for v in x]) + 0.25 * rng.normal(size=n)
                at = locate_optimum(x, z, 0, 100)
                ends = (at.low, at.high), trim_interval(x, z, at.raised, at.optimum, at.low, at.high)
                rows.append([v for low, high in ends for v in (
                    low <= 0 <= high, high - low, bool((z[(x >= low) & (x <= high)] < -10).any()))])  # fmt: skip
            values = np.array(rows, dtype=float)
            covers = [rate(float(values[:, k].mean()), sims) for k in (0, 3)]
            widths = [f"{math.exp(float(np.median(values[:, k]))):.2f}" for k in (1, 4)]
            holds = [rate(float(values[:, k].mean()), sims) for k in (2, 5)]
            yield f"| {name} | {n} | {' | '.join([*covers, *widths, *holds])} |"


KNOBS = {
    "learning_rate": FloatDistribution(3e-4, 3.0, log=True),
    "batch_size": IntDistribution(8, 128, log=True),
    "momentum": CategoricalDistribution((0.0, 0.5, 0.9, 0.95)),
    "weight_decay": FloatDistribution(1e-5, 3e-2, log=True),
}
WANTED = {"batch_size": -1.0, "momentum": -1.0, "weight_decay": 0.0}
BREAKS = {"smooth hump": (math.inf, math.inf), "merges collapse": (1.5, math.inf), "and 30 % fail": (1.5, 1.1)}
"""Curve -> log noise over the best from which merges collapse, and from which trials fail."""


def told(collapse: float, fails: float, seed: int, n: int) -> list[FrozenTrial]:
    """Return the finished trials of a quasi-random sweep whose loss is a hump in the paper's noise."""
    design, rng, trials = SAMPLERS["qmc"].design, np.random.default_rng(seed), []
    assert design is not None
    for i in range(n):
        params = design(KNOBS, seed, i, n, {})
        z = math.log(params["learning_rate"] / (params["batch_size"] * (1 - params["momentum"])) / 1e-2)
        loss = -math.exp(-0.5 * (z / 1.2) ** 2) + 0.2 * float(rng.standard_normal())
        loss += 2 * math.expm1(1.2 * (z - collapse)) if z > collapse else 0.0
        failed = {"value": 2 * math.log(10), "constraints": {"viable": 1.0}} if z > fails else {"value": loss}
        trials.append(create_trial(params=params, distributions=KNOBS, **failed))
        trials[-1].number = i
    return trials


def exponents_of_status(sims: int) -> Iterator[str]:
    """Yield the table on the exponents' intervals of `status` and `sampler.explain`, line by line."""
    yield "\n### exponents in `status`: 60 configurations of four knobs, scatter .2 of a hump of height 1\n"
    yield "| truth | failed trials | 90 % intervals that hold 1/B, 1/(1−μ), λ | median width |"
    yield "| --- | --- | --- | --- |"
    for name, (collapse, fails) in BREAKS.items():
        held, widths, broken = [], [], []
        for seed in range(sims):
            trials = told(collapse, fails, seed, 60)
            found = NoiseTargetedSampler(seed=seed, search_space=KNOBS).explain(trials)
            ends = [(found.exponent_low[k], found.exponent_high[k]) for k in WANTED]
            held.append([low <= want <= high for (low, high), want in zip(ends, WANTED.values(), strict=True)])
            widths.append([high - low for low, high in ends])
            broken.append(sum(bool(t.constraints) for t in trials) / len(trials))
        cover = ", ".join(rate(float(c), sims) for c in np.mean(held, axis=0))
        width = ", ".join(f"{w:.2f}" for w in np.median(widths, axis=0))
        yield f"| {name} | {np.mean(broken):.2f} | {cover} | {width} |"


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sims", type=int, default=40, help="simulated sweeps a curve (default: %(default)s)")
    parser.add_argument("--slow", type=int, default=20, help="of these with intervals (default: %(default)s)")
    parser.add_argument("--scatter", type=float, default=0.5, help="of one trial; peaks are 1 to 1.5 high")
    args = parser.parse_args()
    start = time.perf_counter()
    print(f"evidence, {args.sims} simulated sweeps a row, scatter {args.scatter:g}; {provenance()}")
    print(
        "shares of sweeps ± Monte-Carlo error; targets: at most .10 where there is no peak, at least .90 where there is"
    )
    for line in shapes(args.sims, args.scatter):
        print(line, flush=True)
    for line in scalars(args.sims, min(args.slow, args.sims)):
        print(line, flush=True)
    for line in exponents_of_status(args.sims):
        print(line, flush=True)
    for line in (*absences(args.sims), *optima(args.sims)):
        print(line, flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s on one core")


if __name__ == "__main__":
    main()

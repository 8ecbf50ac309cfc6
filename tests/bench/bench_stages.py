"""Stages on simulated truths: verdict rates by share of the map, and coverage of the confirmed gain.

A trial is drawn from a curve over log noise with normal scatter of a seed; pilots, map, repeats and confirmation are
those of a sweep. The search is a random one around the map's best, since neither the verdict nor the fresh pairs depend
on how it proposes.
"""

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from provenance import provenance
from threadpoolctl import threadpool_limits

from search_spaces import load
from sweeper.analysis.evidence.cells import collect, raise_tail_along
from sweeper.analysis.evidence.verdict import judge
from sweeper.analysis.stages.confirmation import find_confirmation
from sweeper.analysis.stages.designed import select_designed
from sweeper.search.map_design import MapDesign, Pilot
from sweeper.search.objectives import COLLAPSE, OBJECTIVES
from sweeper.search.stages import CHOOSE, MAP, PILOT, REPORT, SEARCH, plan_stages
from sweeper.storage.schema import SCHEMAS
from trainables.noise import predict_all

TRIALS, BEST, HEIGHT, SCATTER, CONFIRM = 60, math.log(1e-2), 0.05, 0.01, 0.2
COLLAPSED = -COLLAPSE * math.log(10)


def _hump(x: float) -> float:
    gain = HEIGHT * math.exp(-0.5 * ((x - BEST) / 1.2) ** 2)
    return gain if x < BEST + 1.8 else gain - 1.5 * (x - BEST - 1.8)


TRUTHS: dict[str, tuple[Callable[[float], float], float]] = {
    "hump, height 5 sd": (_hump, HEIGHT / 5),
    "hump, height 2.5 sd": (_hump, HEIGHT / 2.5),
    "hump, height 1.2 sd": (_hump, HEIGHT / 1.2),
    "flat": (lambda x: 0.02, SCATTER),
    "monotone": (lambda x: 0.005 * (x - BEST), SCATTER),
    "cliff": (lambda x: 0.02 - 1.5 * max(0.0, x - BEST - 1.0), SCATTER),
}


def simulate(truth: Callable[[float], float], sd: float, share: float, seed: int) -> tuple[str, bool | None]:
    """Return the verdict of one sweep, and whether the 90 % interval of the confirmed gain covers the truth."""
    space, rng = load("digits_label_noise"), np.random.default_rng([seed, round(100 * share)])
    design, plan = MapDesign(space.knobs, "paper", {"examples": 720.0}, seed), plan_stages(TRIALS, share, CONFIRM)
    rows: list[dict[str, Any]] = []
    pilots: list[Pilot] = []
    span, winner = design.range, dict[str, Any]()

    def run(params: dict[str, Any], stage: str, number: int) -> float:
        x = design.log_noise(params)
        gain, test = (truth(x) + sd * rng.standard_normal() for _ in range(2))
        knobs = {**params, "examples": 720}
        row = {"digest": str(number), "config": repr(params), "repeat": number, "number": number, "stage": stage}
        row |= {"outcome": "ok", "classes": 10, "sampler": "noise", "augmentation": "none"} | knobs
        row |= {"gain_mean_loss_val": gain, "gain_mean_loss_test": test}
        rows.append(row | {f"noise_{name}": v for name, v in predict_all(knobs).items()})
        return gain

    for segment in plan.segments:
        gains: dict[str, list[float]] = {}
        points: dict[str, dict[str, Any]] = {}
        candidates = sorted(rows, key=lambda r: -r["gain_mean_loss_val"])[: max(1, len(segment) // 2)]
        for number in range(segment.start, segment.end):
            index = number - segment.start
            if segment.stage == PILOT:
                params = design.pilot(index, len(segment))
                gain = run(params, PILOT, number)
                pilots.append(Pilot(design.log_noise(params), -gain, gain < COLLAPSED))
                span = design.find_mergeable_range(pilots)
                continue
            if segment.stage == MAP:
                params = design.point(index, span)
            elif segment.stage == SEARCH:
                best = max(rows, key=lambda r: r["gain_mean_loss_val"])
                x = math.log(best["noise_paper"])
                params = design.point(int(rng.integers(1000)), (x - 0.7, x + 0.7))
            elif segment.stage == CHOOSE:
                params = {k: candidates[index % len(candidates)][k] for k in space.knobs}
            else:
                params = winner
            points[repr(params)] = params
            gains.setdefault(repr(params), []).append(run(params, segment.stage, number))
        if segment.stage == CHOOSE:
            winner = points[max(gains, key=lambda k: float(np.mean(gains[k])))]
    table = pa.Table.from_pylist(rows, schema=SCHEMAS["trials"])
    designed, goal = select_designed(table, "paper"), OBJECTIVES["gain_mean"]
    cells = raise_tail_along(collect(designed, goal), "paper")
    verdict = judge(cells, raise_tail_along(collect(designed, goal, broken=True), "paper"), "paper", seed=seed).name
    confirmed = find_confirmation(table, "gain_mean")
    assert confirmed is not None
    assert confirmed.objective is not None
    low, high = confirmed.objective.interval
    reported = next(r for r in rows if r["stage"] == REPORT)
    return verdict, low <= truth(math.log(reported["noise_paper"])) <= high


def main() -> None:
    """Print verdict rates and coverage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=200, help="simulated sweeps of each truth")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.25, 0.5, 0.75], help="shares of the map")
    args = parser.parse_args()
    print(f"{provenance()}\n{TRIALS} trials, confirm {CONFIRM:g}, n = {args.n} each")
    print(f"{'truth':<22}{'map':>5}  {'hump':>6}  {'cliff':>6}  {'undetermined':>12}  {'covered':>8}  {'s each':>6}")
    with threadpool_limits(1):
        for name, (truth, sd) in TRUTHS.items():
            for share in args.shares:
                start = time.perf_counter()
                found = [simulate(truth, sd, share, seed) for seed in range(args.n)]
                verdicts = Counter(verdict for verdict, _ in found)
                rates = [verdicts[v] / args.n for v in ("hump", "plateau then cliff", "undetermined")]
                covered = sum(bool(c) for _, c in found) / args.n
                each = (time.perf_counter() - start) / args.n
                print(f"{name:<22}{share:>5.2f}  {rates[0]:>6.2f}  {rates[1]:>6.2f}  {rates[2]:>12.2f}  {covered:>8.2f}"
                      f"  {each:>6.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

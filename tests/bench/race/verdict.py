"""What many runs say: trials to a regret, tests over paired seeds, the best noise, the time of an ask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from plotly.subplots import make_subplots
from scipy.stats import wilcoxon

LEVELS = (0.5, 0.25, 0.1)
NOISE_AT, NOISE_FACTOR = 15, 1.5
"""After how many trials the best noise is judged, and the factor that counts as found."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#888888", "#000000")
_FLOOR = 1e-3  # of regret, under its logarithm

Key = tuple[str, int, str]  # problem, parallel, contestant


@dataclass(frozen=True)
class Course:
    """One run: after `done` trials the regret, the error of the best noise, whether its interval covers it."""

    trials: int
    done: np.ndarray
    regret: np.ndarray
    noise_error: np.ndarray
    covered: Sequence[bool | None]
    ask_seconds: float

    def reached(self, level: float) -> int:
        """Return after how many trials the regret was first at most `level`; trials + 1 where it never was."""
        hit = np.flatnonzero(self.regret <= level)
        return int(self.done[hit[0]]) if len(hit) else self.trials + 1

    @property
    def mean_log_regret(self) -> float:
        """Mean over the marks of the logarithm of the regret."""
        return float(np.log(np.maximum(self.regret, _FLOOR)).mean())


def courses(marks: pa.Table) -> dict[Key, dict[int, Course]]:
    """Return the runs by problem, parallel trials and contestant, and within by seed."""
    rows: dict[tuple[Key, int, int], list[dict]] = {}
    for row in marks.to_pylist():
        key = (row["problem"], row["parallel"], row["contestant"])
        rows.setdefault((key, row["seed"], row["trials"]), []).append(row)
    out: dict[Key, dict[int, Course]] = {}
    for (key, seed, trials), own in rows.items():
        own.sort(key=lambda r: r["done"])
        column = {k: np.array([r[k] for r in own], dtype=float) for k in ("done", "regret", "noise_error")}
        covered = [r["covered"] for r in own]
        out.setdefault(key, {})[seed] = Course(trials, **column, covered=covered, ask_seconds=own[-1]["ask_seconds"])
    return out


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for several tests (Holm 1979), in their order."""
    order, out, worst = np.argsort(p), [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        out[int(i)] = worst
    return out


def paired(ours: Mapping[int, Course], theirs: Mapping[int, Course], level: float = 0.25) -> tuple[float, float]:
    """Return p of Wilcoxon's signed-rank test over the common seeds: of trials to `level`, and of mean log regret."""
    seeds = sorted(set(ours) & set(theirs))
    reach = [min(c.trials for c in (ours[s], theirs[s])) + 1 for s in seeds]
    to = [min(ours[s].reached(level), m) - min(theirs[s].reached(level), m) for s, m in zip(seeds, reach, strict=True)]
    log = [ours[s].mean_log_regret - theirs[s].mean_log_regret for s in seeds]
    return _signed_rank(to), _signed_rank(log)


def _signed_rank(differences: Sequence[float]) -> float:
    return float(wilcoxon(differences).pvalue) if any(differences) else 1.0


def _quantiles(values: Sequence[float], trials: int) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    return f"{_many(middle, trials)} [{_many(low, trials)}, {_many(high, trials)}]"


def _many(value: float, trials: int) -> str:
    return f">{trials}" if value > trials else f"{value:.0f}"


def table(found: Mapping[Key, Mapping[int, Course]]) -> str:
    """Return one line per problem and contestant."""
    head = f"{'problem':<16}{'at once':>8} {'contestant':<18}{'n':>3}"
    head += "".join(f"{f'regret {level:g}':>17}" for level in LEVELS) + f"{'last regret':>13}{'noise found':>13}"
    lines = [head + f"{'covered':>9}{'ms/ask':>8}"]
    for (problem, parallel, name), runs in sorted(found.items(), key=lambda item: (item[0][:2], _median(item[1]))):
        some = next(iter(runs.values()))
        cells = "".join(f"{_quantiles([c.reached(level) for c in runs.values()], some.trials):>17}" for level in LEVELS)
        last = float(np.median([c.regret[-1] for c in runs.values()]))
        share, covered = noise_found(runs)
        ask = 1e3 * float(np.median([c.ask_seconds for c in runs.values()]))
        lines.append(
            f"{problem:<16}{parallel:>8} {name:<18}{len(runs):>3}{cells}{last:>13.3f}{share:>13}{covered:>9}{ask:>8.0f}"
        )
    return "\n".join(lines)


def _median(runs: Mapping[int, Course]) -> float:
    return float(np.median([c.mean_log_regret for c in runs.values()]))


def noise_found(runs: Mapping[int, Course]) -> tuple[str, str]:
    """Return the share of runs whose best noise is found after `NOISE_AT` trials, and of intervals that cover it."""
    at = [(c, np.flatnonzero(c.done == NOISE_AT)) for c in runs.values()]
    errors = [abs(c.noise_error[i[0]]) for c, i in at if len(i)]
    covered = [c.covered[i[0]] for c, i in at if len(i) and c.covered[i[0]] is not None]
    share = f"{np.mean([e <= math.log(NOISE_FACTOR) for e in errors]):.0%}" if errors else "-"
    return share, f"{np.mean(covered):.0%}" if covered else "-"


def comparison(found: Mapping[Key, Mapping[int, Course]], ours: str = "noise") -> str:
    """Return, for each problem, ours against the best other sampler: ratio of median trials, p over paired seeds."""
    head = f"{'problem':<16}{'at once':>8} {'regret':>7} {'best other':<12}{'ours':>6}{'other':>7}{'ratio':>7}"
    lines = [head + f"{'p':>10}{'p, Holm':>10}"]
    for level in LEVELS:
        rows: list[tuple[str, int, str, float, float, float]] = []
        for problem, parallel in sorted({key[:2] for key in found}):
            own = found.get((problem, parallel, ours))
            rivals = {
                k[2]: runs for k, runs in found.items() if k[:2] == (problem, parallel) and not k[2].startswith(ours)
            }
            if not own or not rivals:
                continue
            middle = {name: _reach(runs, level) for name, runs in rivals.items()}
            best = min(middle, key=lambda name: (middle[name], _median(rivals[name])))
            p = paired(own, rivals[best], level)[0]
            rows.append((problem, parallel, best, _reach(own, level), middle[best], p))
        for row, adjusted in zip(rows, holm([r[-1] for r in rows]), strict=True):
            problem, parallel, best, mine, other, p = row
            lines.append(
                f"{problem:<16}{parallel:>8} {level:>7g} {best:<12}{mine:>6.0f}{other:>7.0f}{mine / other:>7.2f}"
                f"{p:>10.1e}{adjusted:>10.1e}"
            )
    return "\n".join(lines)


def ablation(found: Mapping[Key, Mapping[int, Course]], ours: str = "noise") -> str:
    """Return, for each variant of ours (`noise-<part>`, `noise+<what>`), how its mean log regret differs from ours."""
    lines = [f"{'problem':<16}{'at once':>8} {'variant':<18}{'n':>3}{'mean log regret':>17}{'s.e.':>7}{'p':>9}"]
    for (problem, parallel, name), runs in sorted(found.items()):
        own = found.get((problem, parallel, ours), {})
        seeds = sorted(set(own) & set(runs))
        if name == ours or not name.startswith(ours) or len(seeds) < 2:
            continue
        gaps = np.array([runs[s].mean_log_regret - own[s].mean_log_regret for s in seeds])
        error, p = float(gaps.std(ddof=1)) / math.sqrt(len(seeds)), _signed_rank(gaps.tolist())
        lines.append(f"{problem:<16}{parallel:>8} {name:<18}{len(seeds):>3}{gaps.mean():>+17.3f}{error:>7.3f}{p:>9.1e}")
    return "\n".join(lines)


def _reach(runs: Mapping[int, Course], level: float) -> float:
    return float(np.median([c.reached(level) for c in runs.values()]))


def figure(found: Mapping[Key, Mapping[int, Course]]) -> go.Figure:
    """Return median regret against trials, one panel a problem, one line a contestant."""
    panels = sorted({key[:2] for key in found})
    titles = [f"{problem}, {parallel} at once" for problem, parallel in panels]
    chart = make_subplots(rows=len(panels), cols=1, subplot_titles=titles)
    names = sorted({key[2] for key in found})
    colours = dict(zip(names, COLOURS * 3, strict=False))
    for (problem, parallel, name), runs in sorted(found.items()):
        row = panels.index((problem, parallel)) + 1
        done = next(iter(runs.values())).done
        middle = np.median([c.regret for c in runs.values() if len(c.done) == len(done)], axis=0)
        chart.add_trace(
            go.Scatter(x=done, y=np.maximum(middle, _FLOOR), name=name, legendgroup=name, showlegend=row == 1,
                       line={"color": colours[name]}),
            row=row, col=1,
        )  # fmt: skip
    chart.update_yaxes(type="log", title="median regret")
    chart.update_xaxes(title="trials")
    return chart.update_layout(template="plotly_white", height=320 * len(panels))

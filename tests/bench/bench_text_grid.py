"""Does the best noise of a small GPT stay where it is as the batch grows? Pairs over learning rates at two batch sizes.

The model and the text are those of the space `shakespeare_gpt`, with 128 windows for validation and 256 for test; the
text is `text/tinyshakespeare.txt` under --data. Each series has one optimizer, and three pairs per learning rate and
batch size. The tables give the gain and the loss of the merge of equal weights, and by which factor the best learning
rate and its noise move between the batch sizes, for each definition of the noise. The best learning rate is that of a
parabola in its logarithm through the best three. Rows already in --out are not trained again, so that a run goes on
where it stopped. A pair takes 10 to 20 s on one core, all series together less than an hour.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from provenance import provenance

from search_spaces import load
from trainables.noise import defined_for
from trainables.pair.run import run_pair
from trainables.runtime import Runtime
from trainables.spec import PairSpec

Row = dict[str, Any]
ADAMW = tuple(5e-4 * 1.6**k for k in range(8))
SGD = tuple(8e-3 * 1.6**k for k in range(-3, 8))
SMALL, LARGE = 8, 32
WINDOWS = {"context": 32, "train": 2048, "val": 128, "test": 256}
TARGETS = {"gain": ("gain_mean_loss_test", 1.0), "merged loss": ("merged_loss_test", -1.0)}
"""Score -> its column, and 1 if the best one is the largest."""


@dataclass(frozen=True)
class Series:
    """Pairs with one optimizer.

    Attributes:
        learning_rates: Learning rates, from small to large.
        params: Values of the space's knobs beside learning rate and batch size.
        fields: Fields that replace those of the space.
        batches: Batch sizes.
        pairs: Pairs per learning rate and batch size.
        measure: Gradient measurements per child.
        like: Another series with the same training at the small batch size; its pairs serve there, too.
    """

    learning_rates: Sequence[float]
    params: Mapping[str, Any]
    fields: Mapping[str, Any] = field(default_factory=lambda: {})
    batches: Sequence[int] = (SMALL, LARGE)
    pairs: int = 3
    measure: int = 4
    like: str = ""

    def specs(self) -> Iterator[PairSpec]:
        """Yield the pairs: all learning rates of a pair before the next pair."""
        fields = {"merges": ["linear"], "dataset_options": WINDOWS, **self.fields}
        space = load("shakespeare_gpt").override({}, fields)
        for pair in range(self.pairs):
            for rate in self.learning_rates:
                for batch in self.batches:
                    params = {**self.params, "learning_rate": rate, "batch_size": batch}
                    yield space.build(params, repeat=pair)


_ADAMW = {"weight_decay": 0.01, "beta2": 0.999}
_DEMO: dict[str, Any] = {"params": _ADAMW, "batches": (SMALL,), "pairs": 4, "measure": 0}
SERIES = {
    "adamw": Series(ADAMW, _ADAMW),
    "adamw_rule": Series(
        ADAMW, _ADAMW, {"betas_batch_size": SMALL, "optimizer_options": {"eps": 1e-8}}, batches=(LARGE,), like="adamw"
    ),
    "sgd": Series(SGD, {"weight_decay": 0.0, "beta2": 0.999}, {"optimizer": "sgd", "momentum": 0.9}),
    "label_noise_0": Series(ADAMW[2:7:2], **_DEMO),
    "label_noise_0.2": Series(ADAMW[2:7:2], fields={"dataset_options": {**WINDOWS, "label_noise": 0.2}}, **_DEMO),
}


def train(series: Series, data: str, out: Path) -> None:
    """Train the pairs of a series that a file lacks, and append their rows."""
    have = set(read(out))
    bases = out.parent / "bases"
    for spec in series.specs():
        if spec.digest not in have:
            row = run_pair(spec, Runtime(data_root=data, bases=str(bases), measure=series.measure)).result.to_row()
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")


def read(out: Path) -> dict[str, Row]:
    """Return digest -> row of a file."""
    lines = out.read_text().splitlines() if out.exists() else []
    return {row["digest"]: row for row in map(json.loads, lines)}


Cells = dict[int, dict[float, list[Row]]]


def cells_of(series: Series, rows: Mapping[str, Row]) -> Cells:
    """Return batch size -> learning rate -> rows, one per pair, of the pairs that have one."""
    cells: Cells = {batch: {rate: [] for rate in series.learning_rates} for batch in series.batches}
    for spec in series.specs():
        if spec.digest in rows:
            cells[spec.batch_size][spec.learning_rate].append(rows[spec.digest])
    return cells


def find_best(curve: Mapping[float, float], sign: float) -> float | None:
    """Return the learning rate of the largest `sign` * score, None if it is at an end of the curve.

    Args:
        curve: Learning rate -> score.
        sign: 1 or -1.
    """
    points = sorted(curve.items())
    if len(points) < 3:
        return None
    x, y = np.log([rate for rate, _ in points]), sign * np.array([score for _, score in points])
    best = int(y.argmax())
    if best in (0, len(y) - 1):
        return None
    a, b, _ = np.polyfit(x[best - 1 : best + 2], y[best - 1 : best + 2], 2)
    return math.exp(-b / 2 / a)


def noise_at(rate: float, cells: Mapping[float, Sequence[Row]], name: str) -> float | None:
    """Return a noise at a learning rate between those of cells, linear in logarithms; None where it is not defined."""
    known = {
        r: statistics.fmean(math.log(row[name]) for row in rows)
        for r, rows in sorted(cells.items())
        if rows and all(row.get(name) for row in rows)
    }
    if not known or not min(known) <= rate <= max(known):
        return None
    return math.exp(np.interp(math.log(rate), np.log(list(known)), list(known.values())))


def moves(cells: Cells, column: str, sign: float, names: Sequence[str]) -> dict[str, float | None]:
    """Return what of the best pair at the large batch size over that at the small one, for learning rate and noises."""
    best: dict[int, float | None] = {}
    for batch in (SMALL, LARGE):
        viable = {r: rows for r, rows in cells[batch].items() if rows and all(row["outcome"] == "ok" for row in rows)}
        best[batch] = find_best({r: statistics.fmean(row[column] for row in rows) for r, rows in viable.items()}, sign)
    small, large = best[SMALL], best[LARGE]
    if small is None or large is None:
        return {"small": small, "large": large}
    found: dict[str, float | None] = {"small": small, "large": large, "learning_rate": large / small}
    for name in names:
        before, after = noise_at(small, cells[SMALL], name), noise_at(large, cells[LARGE], name)
        found[name] = after / before if before and after else None
    return found


def moves_of_pairs(cells: Cells, column: str, sign: float, names: Sequence[str]) -> dict[str, list[float]]:
    """Return what `moves` does for each pair on its own, lists without what is not defined."""
    found: dict[str, list[float]] = {}
    for pair in range(max((len(rows) for of in cells.values() for rows in of.values()), default=0)):
        own = {b: {r: rows[pair : pair + 1] for r, rows in of.items()} for b, of in cells.items()}
        for name, value in moves(own, column, sign, names).items():
            if value is not None:
                found.setdefault(name, []).append(value)
    return found


def _number(value: float | None, spread: Sequence[float] = ()) -> str:
    if value is None:
        return "not defined"
    ends = f" ({min(spread):.2g}–{max(spread):.2g})" if spread else ""
    return f"{value:.2g}×{ends}"


def _cell(rows: Sequence[Row], column: str, show: Callable[[float], str]) -> str:
    values = [row[column] for row in rows if row["outcome"] == "ok"]
    if not values:
        return "not viable" if rows else "–"
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.4f}" if len(values) > 1 else ""
    lost = len(rows) - len(values)
    return show(statistics.fmean(values)) + error + (f" ({lost} of {len(rows)} not viable)" if lost else "")


def print_cells(name: str, cells: Cells) -> None:
    """Print gain and merged loss, mean and standard error over pairs, at each learning rate and batch size."""
    print(f"\n{name}: pairs per cell {sorted({len(r) for of in cells.values() for r in of.values()})}\n")
    heads = [f"{what}, B = {b}" for what in ("gain", "merged loss", "parents' loss") for b in cells]
    print("| η | " + " | ".join(heads) + " |\n|" + " --- |" * (len(heads) + 1))
    for rate in next(iter(cells.values())):
        row = [_cell(of[rate], "gain_mean_loss_test", "{:+.4f}".format) for of in cells.values()]
        row += [_cell(of[rate], "merged_loss_test", "{:.4f}".format) for of in cells.values()]
        for of in cells.values():
            parents = [
                {**r, "parents": (r["a_loss_test"] + r["b_loss_test"]) / 2} for r in of[rate] if r["a_loss_test"]
            ]
            row.append(_cell(parents, "parents", "{:.4f}".format))
        print(f"| {rate:.2g} | " + " | ".join(row) + " |")


def print_moves(name: str, cells: Cells, family: str) -> None:
    """Print by which factor the best learning rate and each noise move: over pairs' mean, and the range over pairs."""
    names = [f"noise_{n}" for n in defined_for(family) if n != "fitted"]
    print(f"\n{name}: best at B = {LARGE} over best at B = {SMALL}\n")
    print("| | " + " | ".join(TARGETS) + " |\n|" + " --- |" * (len(TARGETS) + 1))
    columns = [(moves(cells, c, s, names), moves_of_pairs(cells, c, s, names)) for c, s in TARGETS.values()]
    for which in ("small", "large"):
        shown = [f"{of[which]:.2g}" if of[which] else "edge" for of, _ in columns]
        print(f"| best η, B = {SMALL if which == 'small' else LARGE} | " + " | ".join(shown) + " |")
    for key in ("learning_rate", *names):
        shown = [_number(of.get(key), each.get(key, ())) for of, each in columns]
        print(f"| {key.removeprefix('noise_')} | " + " | ".join(shown) + " |")


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SWEEPER_DATA"), help="data root (default: $SWEEPER_DATA)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench-text-grid/rows.jsonl"), help="default: %(default)s"
    )
    parser.add_argument("--series", nargs="*", choices=list(SERIES), default=list(SERIES), help="default: all")
    args = parser.parse_args()
    if not args.data:
        parser.error("--data must name the folder with text/tinyshakespeare.txt; or set SWEEPER_DATA")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(provenance(), flush=True)
    for name in args.series:
        series = SERIES[name]
        train(series, args.data, args.out)
        rows = read(args.out)
        cells = cells_of(series, rows)
        print_cells(name, cells)
        if series.like:
            cells = {SMALL: cells_of(SERIES[series.like], rows)[SMALL], **cells}
        if set(cells) == {SMALL, LARGE}:
            print_moves(name, cells, "sgd" if name == "sgd" else "adamw")


if __name__ == "__main__":
    main()

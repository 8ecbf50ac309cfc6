"""`sweeper compare`: sweeps side by side, and what must be known before their numbers are held against each other."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.noise import KNOBS, NOISE
from trainables.registry import UnknownName

from .noise_choice import check_shown
from .objective import OBJECTIVES
from .report import ELSEWHERE, SYNTHETIC, WIDTH, emit, format_table, merge_words, number, wrap
from .spec import SpecError

if TYPE_CHECKING:
    import pyarrow as pa

    from .regime import Regime
    from .spec import SweepSpec

DONE = 0
LONGEST_NAME = 24
_SPLITS = {"val": "validation", "test": "test"}
_CURVE = ("grid", "mean", "lower", "upper")


@dataclass(frozen=True)
class Merge:
    """The best merge of a sweep, of its best configuration's best repeat, and the scores of that trial on test.

    Attributes:
        digest: The trial.
        objective: By which objective its configuration was chosen.
        merge: The merge as words; the one chosen on validation where there is one, else linear 1/2.
        loss, accuracy: Of that merge on test [nat, 1].
        gain: Loss gain of the linear merge at 1/2 over the mean parent on test [nat].
        noise: Of the compared definition.
        knobs: Name -> value.
    """

    digest: str
    objective: str
    merge: str
    loss: float | None
    accuracy: float | None
    gain: float | None
    noise: float | None
    knobs: Mapping[str, Any]


@dataclass(frozen=True)
class Compared:
    """One sweep.

    Attributes:
        name: For people; no two sweeps have the same.
        run: Its folder.
        noise, objective: Which noise is shown; what the sweep searched.
        split: Split that optima and the choice of the best merge come from.
        samplers, trainables, tasks, devices: What its trials have; a task is data set and model.
        outcomes: Outcome -> trials.
        configs: Configurations with a finished trial.
        device_seconds: In all; None where no trial says it.
        regimes: Objective -> its optimum.
        best: None where no configuration may win.
    """

    name: str
    run: str
    space: str
    noise: str
    objective: str
    split: str
    samplers: tuple[str, ...]
    trainables: tuple[str, ...]
    tasks: tuple[str, ...]
    devices: tuple[str, ...]
    outcomes: Mapping[str, int]
    configs: int
    device_seconds: float | None
    regimes: Mapping[str, Regime]
    best: Merge | None

    @property
    def trials(self) -> int:
        """Finished trials."""
        return sum(self.outcomes.values())


@dataclass(frozen=True)
class Overlap:
    """Two sweeps' 90 % intervals of the best noise.

    Attributes:
        a, b: Names of the sweeps.
        overlap: Whether the intervals share a noise.
        factor: Optimum of b over that of a.
    """

    a: str
    b: str
    overlap: bool
    factor: float


def look(run: Path, name: str, objectives: Sequence[str], noise: str | None, chosen_by: str | None) -> Compared:
    """Read one sweep.

    Args:
        run: Its folder.
        name: For people.
        objectives: Whose optima to locate.
        noise: Definition of the noise; None is the sweep's.
        chosen_by: Objective that chooses the best merge; None is the sweep's.

    Raises:
        SpecError: The folder holds no sweep, or a newer version wrote it.
    """
    from .regime import fit_regime
    from .runfolder import stored_spec
    from .store import read_trials

    spec = stored_spec(run)
    trials = read_trials(run)
    noise = noise or spec.noise

    def values(column: str) -> tuple[str, ...]:
        return tuple(sorted({v for v in trials[column].to_pylist() if v}))

    seconds = [s for s in trials["device_seconds"].to_pylist() if s is not None]
    tasks = {f"{d} with {m}" for d, m in zip(*(trials[c].to_pylist() for c in ("dataset", "model")), strict=True)}
    return Compared(
        name=name,
        run=str(run.absolute()),
        space=Path(spec.space).name,
        noise=noise,
        objective=spec.objective,
        split=OBJECTIVES[objectives[0]].split_in(trials),
        samplers=values("sampler"),
        trainables=values("trainable"),
        tasks=tuple(sorted(tasks)),
        devices=values("device"),
        outcomes=dict(Counter(trials["outcome"].to_pylist()).most_common()),
        configs=len(set(trials["config"].to_pylist())),
        device_seconds=math.fsum(seconds) if seconds else None,
        regimes={o: fit_regime(trials, o, noise) for o in objectives},
        best=_best(spec, trials, chosen_by or spec.objective, noise),
    )


def _best(spec: SweepSpec, trials: pa.Table, objective: str, noise: str) -> Merge | None:
    from .belief import Belief, belief
    from .winners import over_limits, winner

    # the model is of the objective that was searched
    believed = belief(spec, trials, noise) if objective == spec.objective else Belief()
    row = winner(trials, objective, believed, over_limits(trials, spec))
    if row is None:
        return None
    kind = "chosen" if row["chosen_merge"] else "merged"
    words = merge_words(row["chosen_merge"], row["chosen_coefficient"]) if row["chosen_merge"] else "linear at 0.5"
    return Merge(
        digest=row["digest"],
        objective=objective,
        merge=words,
        loss=row[f"{kind}_loss_test"],
        accuracy=row[f"{kind}_accuracy_test"],
        gain=row["gain_mean_loss_test"],
        noise=row[f"noise_{noise}"],
        knobs={k: row[k] for k in (*KNOBS, "augmentation", "augmentation_strength")},
    )


def overlaps(sweeps: Sequence[Compared], objective: str) -> list[Overlap]:
    """Return how the intervals of each two sweeps lie, of those with the same noise and an optimum."""
    found: list[Overlap] = []
    for one, other in combinations(sweeps, 2):
        a, b = one.regimes[objective], other.regimes[objective]
        if a.optimum is None or b.optimum is None or one.noise != other.noise:
            continue
        assert a.low is not None
        assert a.high is not None
        assert b.low is not None
        assert b.high is not None
        found.append(Overlap(one.name, other.name, a.low <= b.high and b.low <= a.high, b.optimum / a.optimum))
    return found


def doubts(sweeps: Sequence[Compared], objective: str | None) -> list[str]:
    """Return what differs between the sweeps and so must not be read as a difference of their optima.

    Args:
        sweeps: The sweeps.
        objective: What chose the best merge of each, None for each one's own.
    """
    found: list[str] = []
    for what, value, why in _DIFFERENCES:
        values = {s.name: value(s) for s in sweeps if value(s)}
        if len(set(values.values())) > 1 and not (what == "objective" and objective):
            found.append(f"the sweeps differ in {what} ({_by_value(values)}): {why}")
    if unknown := [s.name for s in sweeps if s.trials and s.device_seconds is None]:
        found.append(f"the device time of {', '.join(unknown)} is not known")
    for kind, text in (("synthetic", SYNTHETIC), ("imported", ELSEWHERE)):
        if some := [s.name for s in sweeps if kind in s.trainables]:
            found.append(f"{', '.join(some)}: {text}")
    return found


_DIFFERENCES: Sequence[tuple[str, Callable[[Compared], str], str]] = (
    ("noise", lambda s: s.noise, "their optima are not compared; --noise NAME shows one definition for all"),
    ("objective", lambda s: s.objective, "each best merge was chosen by its own; --objective NAME takes one for all"),
    ("split", lambda s: _SPLITS[s.split] if s.trials else "", "optima and choices on test are not held out"),
    ("task", lambda s: ", ".join(s.tasks), "losses and gains are not of one problem"),
    ("device", lambda s: ", ".join(s.devices), "device times are not of one machine"),
)


def _by_value(values: Mapping[str, str]) -> str:
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return "; ".join(f"{', '.join(own)}: {value}" for value, own in names.items())


# -- as text ----------------------------------------------------------------------------------------------------------


def _cells(sweep: Compared) -> Iterator[tuple[str, str]]:
    yield "space", sweep.space
    yield "sampler", ", ".join(sweep.samplers) or "-"
    yield "objective searched", sweep.objective
    yield "noise", f"{sweep.noise} [{NOISE[sweep.noise].unit}]"
    yield "trials", f"{sweep.outcomes.get('ok', 0)} ok of {sweep.trials}"
    yield "configurations", str(sweep.configs)
    yield "device time [s]", number(sweep.device_seconds)
    for objective, regime in sweep.regimes.items():
        known = regime.optimum is not None
        yield f"best noise, {objective}", number(regime.optimum)
        yield "  90 % interval", f"{number(regime.low)} to {number(regime.high)}" if known else "-"
        yield "  inside what was tried", _inside(regime) if known else "-"
        yield "  share at an edge", f"{regime.edge_share:.0%}" if regime.edge_share is not None else "-"
        yield "  predicted there", number(regime.value)
    yield from _best_cells(sweep)


def _inside(regime: Regime) -> str:
    if not regime.interior:
        return "no"
    return "yes, in this search" if regime.adaptive else "yes"


def _best_cells(sweep: Compared) -> Iterator[tuple[str, str]]:
    best = sweep.best
    yield "best merge", "-" if best is None else best.digest
    yield "  chosen by", "-" if best is None else f"{best.objective}, {_SPLITS[sweep.split]}"
    yield "  merge", "-" if best is None else best.merge
    yield "  test loss [nat]", number(best and best.loss)
    accuracy = best.accuracy if best else None
    yield "  test accuracy", "-" if accuracy is None else f"{100 * accuracy:.2f} %"
    yield "  test gain at 1/2 [nat]", number(best and best.gain)
    yield "  its noise", number(best and best.noise)
    for knob in KNOBS:
        yield f"  {knob.replace('_', ' ')}", number(best and best.knobs[knob])
    yield (
        "  augmentation",
        f"{best.knobs['augmentation']} {number(best.knobs['augmentation_strength'])}" if best else "-",
    )


def format_sweeps(sweeps: Sequence[Compared]) -> str:
    """Return a table with a column for each sweep, in blocks of at most `WIDTH` columns of text."""
    columns = [list(_cells(s)) for s in sweeps]
    blocks: list[str] = []
    left = list(zip(sweeps, columns, strict=True))
    while left:
        count = len(left)
        while count > 1 and _width(_table(left[:count])) > WIDTH:
            count -= 1
        blocks.append(_table(left[:count]))
        left = left[count:]
    return "\n\n".join(blocks)


def _table(some: Sequence[tuple[Compared, list[tuple[str, str]]]]) -> str:
    labels = [label for label, _ in some[0][1]]
    rows = [(label, *(cells[i][1] for _, cells in some)) for i, label in enumerate(labels)]
    return format_table(("", *(s.name for s, _ in some)), rows, indent=0)


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _sentences(objective: str, found: Sequence[Overlap], sweeps: Sequence[Compared]) -> Iterator[str]:
    for sweep in sweeps:
        if sweep.regimes[objective].optimum is None:
            yield f"{objective}, {sweep.name}: {sweep.regimes[objective].message}"
    for o in found:
        if not o.overlap:
            factor = f"the optimum of {o.b} is {number(o.factor)} times that of {o.a}"
            yield f"{objective}: the 90 % intervals of {o.a} and {o.b} do not overlap; {factor}"
    if together := [o for o in found if o.overlap]:
        pairs = ", ".join(f"{o.a} and {o.b}" for o in together)
        names = dict.fromkeys(name for o in together for name in (o.a, o.b))
        whose = ", ".join(names) if len(together) == math.comb(len(names), 2) else f"these pairs: {pairs}"
        factor = max(max(o.factor, 1 / o.factor) for o in together)
        yield f"{objective}: the 90 % intervals overlap of {whose}; the optima lie within a factor {number(factor)}"


# -- the command ------------------------------------------------------------------------------------------------------


def _names(runs: Sequence[Path]) -> list[str]:
    # the shortest ends of the paths that tell them apart
    whole, short = [run.absolute() for run in runs], list[str]()
    for depth in range(1, max(len(p.parts) for p in whole) + 1):
        names = [str(Path(*p.parts[-depth:])) for p in whole]
        short = [n if len(n) <= LONGEST_NAME else f"…{n[1 - LONGEST_NAME :]}" for n in names]
        if len(set(short)) == len(short):
            return short
    return [f"{i} {n}" for i, n in enumerate(short, 1)]


def compare(args: argparse.Namespace) -> int:
    """`sweeper compare DIR DIR...`."""
    from .recommend import BOTH

    runs = [Path(d) for d in args.dirs]
    if len(runs) < 2:
        raise SpecError(f"compare needs two run folders or more, got {args.dirs[0]}")
    resolved = [r.resolve() for r in runs]
    if twice := [d for i, d in enumerate(args.dirs) if resolved[i] in resolved[:i]]:
        raise SpecError(f"{twice[0]} stands there twice; name each run folder once")
    try:
        if args.noise:
            check_shown(args.noise)
        objectives = [args.objective] if args.objective and OBJECTIVES[args.objective] else list(BOTH)
    except (ValueError, UnknownName) as error:
        raise SpecError(str(error)) from None
    names = _names(runs)
    sweeps = [look(r, n, objectives, args.noise, args.objective) for r, n in zip(runs, names, strict=True)]
    found = {o: overlaps(sweeps, o) for o in objectives}
    notes = doubts(sweeps, args.objective)
    record = {
        "sweeps": [_record(s) for s in sweeps],
        "overlaps": {o: [asdict(v) for v in own] for o, own in found.items()},
        "notes": notes,
    }
    said = [s for o in objectives for s in _sentences(o, found[o], sweeps)]
    lines = [wrap(line, 0) for line in (*said, *(f"note: {n}" for n in notes))]
    emit(
        args.json, record, "\n\n".join([format_sweeps(sweeps), "\n".join(lines)] if lines else [format_sweeps(sweeps)])
    )
    return DONE


def _record(sweep: Compared) -> dict[str, Any]:
    found = asdict(sweep)
    found["trials"] = sweep.trials
    found["regimes"] = {o: {k: v for k, v in r.items() if k not in _CURVE} for o, r in found["regimes"].items()}
    return found

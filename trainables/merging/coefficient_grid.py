"""Merges of a trial's children over grids of coefficients, scored on every split of every task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Generator, Tensor

from trainables.merging.fisher import diagonal_fisher
from trainables.merging.methods import MERGES
from trainables.merging.soups import greedy_soup
from trainables.models.tensors import non_finite_names
from trainables.result import SPLITS, MergeRow
from trainables.spec import PairSpec
from trainables.tasks.evaluation import (
    Score,
    barriers,
    features_of,
    gains,
    linear_cka,
    normalised_accuracy,
    recalibrate,
    score,
    score_ensemble,
    score_splits,
)
from trainables.tasks.tasks import Task, Weights, children_tasks, join_by_task

Key = tuple[str, float]  # (method, coefficient)
Splits = Mapping[str, Score]
TIE = 1e-6
MIDPOINT: Key = ("linear", 0.5)
ENDS: tuple[Key, Key] = (("linear", 0.0), ("linear", 1.0))
GREEDY = "greedy_soup"
GREEDY_DESCRIPTION = "Averages the best child with each further one that does not lower the validation accuracy."
GREEDY_SOURCE = "Wortsman et al. 2022, arXiv 2203.05482"
FISHER_EXAMPLES = 512
_SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


class Phase(Protocol):
    """Times a block as part of a phase."""

    def __call__(self, name: str) -> AbstractContextManager[None]:
        """Return the context manager of phase `name`."""
        ...


@dataclass(frozen=True)
class MergeScores:
    """Scores of one merge, per task and averaged over tasks, before and after the BatchNorm re-estimation.

    Attributes:
        tasks: One mapping split -> score per task.
        raw: Validation and test scores before the re-estimation; empty without BatchNorm.
    """

    tasks: Sequence[Splits]
    raw: Sequence[Splits]

    @property
    def mean(self) -> Splits:
        """Split -> mean of loss and of accuracy over the tasks."""
        return _mean(self.tasks)

    @property
    def finite(self) -> bool:
        """Return whether all losses are finite; weights that are not finite never have finite losses."""
        return all(math.isfinite(s.loss) for splits in self.tasks for s in splits.values())


def _mean(tasks: Sequence[Splits]) -> Splits:
    if len(tasks) == 1:
        return tasks[0]
    return {
        s: Score(sum(t[s].loss for t in tasks) / len(tasks), sum(t[s].accuracy for t in tasks) / len(tasks))
        for s in (tasks[0] if tasks else ())
    }


@dataclass(frozen=True)
class MergeCurves:
    """All merges of a trial with their scores.

    Attributes:
        merges: (method, coefficient) -> its scores.
        parents: Scores of A and of B, each on its task, computed in the same way as those of the merges.
        others: Scores of further children.
        ensemble: Split -> score of the children's mean logits, an upper reference; empty in `two_task`.
        chosen: The merge with the lowest validation loss (mean over tasks) of all methods and coefficients.
        cka: Linear CKA of the children's penultimate features on validation.
        weights: State dict of the chosen merge; two tasks have the key prefixes `a/` and `b/`.
        recalibrated: State dicts of A, B and the linear merge at alpha = 1/2 after the re-estimation, for one task.
    """

    merges: Mapping[Key, MergeScores]
    parents: Sequence[Splits]
    others: Sequence[Splits]
    ensemble: Splits
    chosen: Key
    cka: float
    weights: Weights = field(repr=False)
    recalibrated: Mapping[str, Weights] = field(repr=False)

    def normalised(self, key: Key, split: str) -> float:
        """Return the normalised accuracy of a merge; NaN for a single task."""
        tasks = self.merges[key].tasks
        if len(tasks) == 1:
            return math.nan
        return normalised_accuracy([t[split].accuracy for t in tasks], [p[split].accuracy for p in self.parents])

    def fault(self) -> str:
        """Return a sentence on the first parent or linear merge that is not finite; empty if all are finite."""
        for parent in (*self.parents, *self.others):
            if wrong := [s for s, score in parent.items() if not math.isfinite(score.loss)]:
                return f"a parent's {_SPLIT_NAMES[wrong[0]]} loss is not finite"
        line = [alpha for (method, alpha), s in self.merges.items() if method == "linear" and not s.finite]
        return f"the linear merge at alpha = {line[0]:g} is not finite" if line else ""

    def lost(self) -> str:
        """Return words on the merges that are not finite; empty if all are finite."""
        methods: dict[str, list[str]] = {}
        for (method, coefficient), scored in self.merges.items():
            if not scored.finite:
                methods.setdefault(method, []).append(f"{coefficient:g}")
        return "; ".join(f"{method} at {', '.join(at)} is not finite" for method, at in methods.items())

    def columns(self) -> dict[str, float]:
        """Return the columns of `trainables.result.SCORES` that this trial defines."""
        a, b = self.parents
        merged, chosen = self.merges[MIDPOINT].mean, self.merges[self.chosen].mean
        out: dict[str, float] = {}
        for who, splits in {"a": a, "b": b, "merged": merged, "chosen": chosen, "ensemble": self.ensemble}.items():
            for split, value in splits.items():
                out[f"{who}_loss_{split}"] = value.loss
                out[f"{who}_accuracy_{split}"] = value.accuracy
        for split in ("val", "test"):
            out[f"merged_normalised_accuracy_{split}"] = self.normalised(MIDPOINT, split)
            out[f"chosen_normalised_accuracy_{split}"] = self.normalised(self.chosen, split)
        line = {alpha: s.mean for (method, alpha), s in self.merges.items() if method == "linear"}
        gain = gains(a, b, merged)
        if len(self.merges[MIDPOINT].tasks) > 1:
            # no parent of two tasks is the better one, and the ends of their path join a head to the other's backbone
            return out | {k: v for k, v in gain.items() if k.startswith("gain_mean")}
        return out | gain | barriers(line)

    def rows(self, spec: PairSpec) -> Iterator[MergeRow]:
        """Yield the rows of the merges table."""
        for key, scored in self.merges.items():
            raw, several = _mean(scored.raw), len(scored.tasks) > 1
            yield MergeRow(
                digest=spec.digest,
                config=spec.config,
                method=key[0],
                coefficient=key[1],
                **{f"loss_{s}": _finite(v.loss) for s, v in scored.mean.items()},
                **{f"accuracy_{s}": v.accuracy for s, v in scored.mean.items()},
                **{f"raw_loss_{s}": _finite(raw[s].loss) if raw else None for s in ("val", "test")},
                **{f"raw_accuracy_{s}": raw[s].accuracy if raw else None for s in ("val", "test")},
                **{
                    f"accuracy_{name}_{s}": task[s].accuracy if several else None
                    for name, task in zip("ab", scored.tasks, strict=False)
                    for s in ("val", "test")
                },
                **{f"normalised_accuracy_{s}": _finite(self.normalised(key, s)) for s in ("val", "test")},
            )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class _Scorer:
    """Scorer of merges of the weights that tasks share; each task adds the head of its child."""

    def __init__(self, tasks: Sequence[Task], children: Sequence[Weights], phase: Phase) -> None:
        self.tasks, self.children, self.phase = tasks, children, phase
        self.logits: dict[str, Tensor] = {}  # of the last weights that were scored on a task

    def score(self, merged: Weights) -> tuple[MergeScores, list[Weights]]:
        """Return the scores of a merge on every task, and the whole state dict of each task."""
        parts = [self._one(t, t.whole(merged, c)) for t, c in zip(self.tasks, self.children, strict=False)]
        return MergeScores([p[0] for p in parts], [p[1] for p in parts if p[1]]), [p[2] for p in parts]

    def score_child(self, index: int, task: Task) -> Splits:
        """Return the scores of a child on its task."""
        return self._one(task, self.children[index])[0]

    def _one(self, task: Task, weights: Weights) -> tuple[Splits, Splits, Weights]:
        raw: Splits = {}
        if task.batches:
            with self.phase("evaluate"):
                raw, _ = score_splits(task.model, weights, task.data, ("val", "test"))
            with self.phase("recalibrate"):
                weights = recalibrate(task.model, weights, task.batches)
        with self.phase("evaluate"):
            scores, self.logits = score_splits(task.model, weights, task.data)
        if non_finite_names(weights, task.base):  # the loss may be finite by accident
            scores = {split: replace(s, loss=math.inf) for split, s in scores.items()}
        return scores, raw, weights


def score_merges(spec: PairSpec, tasks: Sequence[Task], children: Sequence[Weights], phase: Phase) -> MergeCurves:
    """Return the scores of a trial's children merged by every method and coefficient.

    Args:
        spec: Its `merges` are evaluated.
        tasks: Tasks with modules, base weights and re-estimation batches; scoring overwrites the modules' weights.
        children: State dicts; merges of a pair take the first two.
        phase: Times the phases `recalibrate` and `evaluate`.

    Raises:
        UnknownName: No such merge.
    """
    scorer, own = _Scorer(tasks, children, phase), children_tasks(spec, tasks)
    merges: dict[Key, MergeScores] = {}
    kept: dict[Key, list[Weights]] = {}  # only the needed ones: large models fill the device
    ensemble: list[Mapping[str, Tensor]] = []  # logits by split; for text the weights, because its logits are large
    best: Key | None = None
    for key, merged in _iterate_merges(spec, tasks, own, children, lambda w: scorer.score(w)[0].mean["val"].accuracy):
        merges[key], whole = scorer.score(merged)
        if best is None or _beats(merges[key], merges[best]):
            if best not in (None, MIDPOINT, *ENDS):
                del kept[best]
            best, kept[key] = key, whole
        if key == MIDPOINT or key in ENDS:
            kept[key] = whole
        if key in ENDS:
            ensemble.append(scorer.logits or whole[0])
    assert best is not None  # PairSpec demands the linear merge
    parents: list[Splits] = [merges[end].mean for end in ENDS]
    ends: list[Weights] = [kept[end][0] for end in ENDS]
    if len(tasks) > 1:
        parents, ends, ensemble = [scorer.score_child(i, t) for i, t in enumerate(tasks)], list(children), []
    others: list[Splits] = []
    for extra in range(2, len(children)):
        others.append(scorer.score_child(extra, tasks[0]))
        ensemble.append(scorer.logits or children[extra])
    return MergeCurves(
        merges,
        parents,
        others,
        _ensemble(tasks[0], ensemble),
        best,
        _alignment(tasks, own, ends),
        join_by_task(tasks, kept[best]),
        {"a": ends[0], "b": ends[1], "merged": kept[MIDPOINT][0]},
    )


def _beats(one: MergeScores, other: MergeScores) -> bool:
    if not one.finite:
        return False
    # linear and task arithmetic at 1/2 are the same model; rounding must not choose between them
    return not other.finite or one.mean["val"].loss < other.mean["val"].loss * (1 - TIE)


def _ensemble(task: Task, members: Sequence[Mapping[str, Tensor]]) -> Splits:
    if not members:
        return {}
    if task.data.context is not None:
        return {s: score_ensemble(task.model, members, *task.data.scored(s)) for s in SPLITS}
    return {s: score(torch.stack([child[s] for child in members]).mean(0), task.data.scored(s)[1]) for s in SPLITS}


def _iterate_merges(
    spec: PairSpec,
    tasks: Sequence[Task],
    own: Sequence[Task],
    children: Sequence[Weights],
    accuracy: Callable[[Weights], float],
) -> Iterator[tuple[Key, Weights]]:
    base = tasks[0].shared(tasks[0].base)
    shared = [t.shared(c) for t, c in zip(own, children, strict=True)]
    fishers: list[dict[str, Tensor]] | None = None
    for method in spec.merges:
        if method == GREEDY:
            soup, ingredients = greedy_soup(shared, accuracy)
            yield (GREEDY, float(len(ingredients))), soup
            continue
        merge = MERGES[method]
        if fishers is None and "fishers" in merge.needs:
            fishers = [_fisher(spec, i, t, c) for i, (t, c) in enumerate(zip(own, children, strict=True))]
        parents = shared[:2] if merge.arity == "pair" else shared
        for coefficient in merge.coefficients(len(parents)):
            seed = spec.stream(f"merge/{method}")
            yield (method, coefficient), merge(base, parents, coefficient, seed=seed, fishers=fishers)


def _fisher(spec: PairSpec, index: int, task: Task, weights: Weights) -> dict[str, Tensor]:
    x = task.data.x["train"]
    few = x[slice(0, min(len(x), FISHER_EXAMPLES))]
    draws = Generator().manual_seed(spec.stream(f"merge/fisher/{index}"))
    diagonal = diagonal_fisher(task.model, weights, few, draws)
    return task.shared(diagonal)


def _alignment(tasks: Sequence[Task], own: Sequence[Task], ends: Sequence[Weights]) -> float:
    values: list[float] = []
    for task in tasks:
        x, _ = task.data.scored("val")
        a, b = (features_of(t.model, w, x) for t, w in zip(own[:2], ends, strict=True))
        values.append(linear_cka(a, b))
    return sum(values) / len(values)

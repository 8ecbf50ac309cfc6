"""Merges of a trial's children over grids of coefficients, scored on every split of every task.

Children and merges are on the host; the device holds the one that is scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from trainables.merging.alignment import Repair, match_weights, need_map
from trainables.merging.fisher import diagonal_fisher
from trainables.merging.formulas import Gram
from trainables.merging.grams import gram_matrices
from trainables.merging.merge_curves import ENDS, TIE, Key, MergeCurves, MergeScores, Splits, mean_of, middle_of
from trainables.merging.methods import BY_SCORE, GREEDY, MERGES
from trainables.merging.soups import greedy_soup
from trainables.merging.task_scores import (
    HELD_OUT,
    pairs_of,
)
from trainables.merging.taskwise import Scales, add_scaled, search_scales
from trainables.models.permutations import Moves
from trainables.models.tensors import HOST, move, non_finite_names
from trainables.result import SPLITS
from trainables.spec import PairSpec
from trainables.tasks.evaluation import (
    Score,
    features_of,
    linear_cka,
    recalibrate,
    score,
    score_ensemble,
    score_splits,
)
from trainables.tasks.tasks import Task, Weights, children_tasks, join_by_task

FISHER_EXAMPLES = 512  # of Fishers and of Gram matrices


class Phase(Protocol):
    """Times a block as part of a phase."""

    def __call__(self, name: str) -> AbstractContextManager[None]:
        """Return the context manager of phase `name`."""
        ...


class _Scorer:
    """Scorer of merges of the weights that tasks share; each task adds the head of its child."""

    def __init__(self, tasks: Sequence[Task], children: Sequence[Weights], phase: Phase) -> None:
        self.tasks, self.children, self.phase = tasks, children, phase
        self.base = tasks[0].shared(move(tasks[0].base, HOST))
        self.logits: dict[str, Tensor] = {}  # of the last weights that were scored on a task

    def score(self, merged: Weights) -> tuple[MergeScores, list[Weights]]:
        """Return the scores of a merge and its whole state dicts on the host, one per task."""
        parts = [self._one(t, t.whole(merged, c)) for t, c in zip(self.tasks, self.children, strict=False)]
        return MergeScores([p[0] for p in parts], [p[1] for p in parts if p[1]]), [p[2] for p in parts]

    def validate(self, merged: Weights) -> Score:
        """Return the validation score of a merge, mean over tasks."""
        parts = [self._one(t, t.whole(merged, c), ("val",)) for t, c in zip(self.tasks, self.children, strict=False)]
        return mean_of([p[0] for p in parts])["val"]

    def score_midpoint(self, pair: tuple[int, int]) -> Sequence[Splits]:
        """Return the scores of the midpoint of two tasks' children, one per task."""
        tasks, children = [self.tasks[i] for i in pair], [self.children[i] for i in pair]
        shared = [t.shared(c) for t, c in zip(tasks, children, strict=True)]
        merged = MERGES["linear"](self.base, shared, 0.5)
        return [self._one(t, t.whole(merged, c), HELD_OUT)[0] for t, c in zip(tasks, children, strict=True)]

    def score_child(self, index: int, task: Task) -> Splits:
        """Return the scores of a child on its task."""
        return self._one(task, self.children[index])[0]

    def _one(self, task: Task, weights: Weights, splits: Sequence[str] = SPLITS) -> tuple[Splits, Splits, Weights]:
        raw: Splits = {}
        there = task.mount(weights)
        if task.batches:
            if splits == SPLITS:
                with self.phase("evaluate"):
                    raw, _ = score_splits(task.model, there, task.data, HELD_OUT)
            with self.phase("recalibrate"):
                before, there = there, recalibrate(task.model, there, task.batches)
                weights = {k: weights[k] if v is before[k] else v.to(HOST) for k, v in there.items()}
        with self.phase("evaluate"):
            scores, self.logits = score_splits(task.model, there, task.data, splits)
        if non_finite_names(there, task.base):  # the loss may be finite by accident
            scores = {split: replace(s, loss=math.inf) for split, s in scores.items()}
        return scores, raw, weights


def score_merges(
    spec: PairSpec,
    tasks: Sequence[Task],
    children: Sequence[Weights],
    phase: Phase,
    moments: Sequence[Weights] = (),
    windows: Sequence[Mapping[int, Weights]] = (),
) -> MergeCurves:
    """Return the scores of a trial's children merged by every method and coefficient.

    Args:
        spec: Its `merges` are evaluated.
        tasks: Tasks with modules, base weights and re-estimation batches; scoring overwrites the modules' weights.
        children: State dicts, on any device; merges of a pair take the first two.
        phase: Times the phases `recalibrate` and `evaluate`.
        moments: Adam's second moments of each child, times its batch size, for merges that need them.
        windows: Of each child, number of last checkpoints -> state dict of their mean, on any device.

    Raises:
        UnknownName: No such merge.
        ValueError: A merge needs moments, and there are none.
    """
    children = [move(child, HOST) for child in children]
    scorer, own = _Scorer(tasks, children, phase), children_tasks(spec, tasks)
    merges: dict[Key, MergeScores] = {}
    kept: dict[Key, list[Weights]] = {}  # only the needed ones, on the host
    ensemble: list[Mapping[str, Tensor]] = []  # logits by split; for text the weights, because its logits are large
    best: Key | None = None
    middle = middle_of(len(tasks))
    for key, merged, scales in _iterate_merges(spec, tasks, own, children, scorer, moments):
        scored, whole = scorer.score(merged)
        merges[key] = replace(scored, scales=scales)
        if best is None or _beats(merges[key], merges[best]):
            if best not in (None, middle, *ENDS):
                del kept[best]
            best, kept[key] = key, whole
        if key == middle or key in ENDS:
            kept[key] = whole
        if key in ENDS:
            ensemble.append(scorer.logits or kept[key][0])
    assert best is not None  # PairSpec demands the linear merge
    if len(tasks) > 1:
        ends: list[Weights] = list(children)
        parents, ensemble = [scorer.score_child(i, t) for i, t in enumerate(tasks)], []
    else:
        ends = [kept[end][0] for end in ENDS]
        parents = [merges[end].mean for end in ENDS]
    others: list[Splits] = []
    for extra in range(2, len(children) if len(tasks) == 1 else 0):
        others.append(scorer.score_child(extra, tasks[0]))
        ensemble.append(scorer.logits or children[extra])
    curves = MergeCurves(
        merges,
        parents,
        others,
        _ensemble(tasks[0], ensemble),
        best,
        _alignment(tasks, own, ends),
        join_by_task(tasks, kept[best]),
        {"a": ends[0], "b": ends[1], "merged": kept[middle][0]},
        {pair: scorer.score_midpoint(pair) for pair in (pairs_of(len(tasks)) if len(tasks) > 1 else ())},
    )
    kept.clear()
    for size in windows[0] if windows else ():
        curves = _add_window(curves, spec, tasks, own, size, [w[size] for w in windows], phase, moments)
    return curves


def _add_window(
    curves: MergeCurves, spec: PairSpec, tasks: Sequence[Task], own: Sequence[Task], size: int,
    means: Sequence[Weights], phase: Phase, moments: Sequence[Weights],
) -> MergeCurves:  # fmt: skip
    """Return the curves with the merges of one window of checkpoints."""
    scorer, merges = _Scorer(tasks, means, phase), dict[Key, MergeScores]()
    for key, merged, scales in _iterate_merges(spec, tasks, own, means, scorer, moments):
        scored, whole = scorer.score(merged)
        merges[key] = replace(scored, scales=scales)
        curves = replace(curves, windows={**curves.windows, size: merges})
        if _beats(merges[key], curves.chosen_scores):
            curves = replace(curves, chosen=key, chosen_window=size, weights=join_by_task(tasks, whole))
    return curves


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
    scorer: _Scorer,
    moments: Sequence[Weights],
) -> Iterator[tuple[Key, Weights, Scales]]:
    base = scorer.base
    shared = [t.shared(c) for t, c in zip(own, children, strict=True)]
    needed: dict[str, Any] = {"moments": [t.shared(move(m, HOST)) for t, m in zip(own, moments, strict=False)]}
    for method in spec.merges:
        if method in BY_SCORE:
            yield _search(method, base, shared, scorer)
            continue
        merge = MERGES[method]
        for need in sorted(merge.measured - set(needed)):
            needed[need] = _measure(need, spec, own, children)
        parents = shared[:2] if merge.path and len(tasks) == 1 else shared
        for coefficient in merge.coefficients(len(parents)):
            seed = spec.stream(f"merge/{method}")
            yield (method, coefficient), merge(base, parents, coefficient, seed=seed, **needed), ()


def _search(method: str, base: Weights, shared: Sequence[Weights], scorer: _Scorer) -> tuple[Key, Weights, Scales]:
    if method == GREEDY:
        soup, ingredients = greedy_soup(shared, lambda w: scorer.validate(w).accuracy)
        return (GREEDY, float(len(ingredients))), soup, ()
    grid = MERGES["task_arithmetic"].grid
    scales = search_scales(len(shared), grid, lambda s: scorer.validate(add_scaled(base, shared, s)).loss)
    return (method, sum(scales) / len(scales)), add_scaled(base, shared, scales), scales


def _measure(need: str, spec: PairSpec, own: Sequence[Task], children: Sequence[Weights]) -> Any:
    if need == "alignments":
        return _align(spec, own[0], children)
    if need == "repair":
        model = own[0].model
        return Repair(model, need_map(model, spec.model).linear_maps, _take_few(own[0]))
    measure = {"fishers": _fisher, "grams": _grams}[need]
    return [measure(spec, i, t, c) for i, (t, c) in enumerate(zip(own, children, strict=True))]


def _align(spec: PairSpec, task: Task, children: Sequence[Weights]) -> list[Moves]:
    a, b = children[:2]
    return [{}, match_weights(need_map(task.model, spec.model), a, b, spec.stream("merge/alignment"))]


def _take_few(task: Task) -> Tensor:
    x = task.data.x["train"]
    return x[slice(0, min(len(x), FISHER_EXAMPLES))]


def _grams(spec: PairSpec, index: int, task: Task, weights: Weights) -> dict[str, Gram]:
    grams = gram_matrices(task.model, task.mount(weights), _take_few(task))
    return {key: Gram(gram.matrix.to(HOST), gram.axis) for key, gram in grams.items() if not task.is_own(key)}


def _fisher(spec: PairSpec, index: int, task: Task, weights: Weights) -> dict[str, Tensor]:
    draws = Generator().manual_seed(spec.stream(f"merge/fisher/{index}"))
    diagonal = diagonal_fisher(task.model, task.mount(weights), _take_few(task), draws)
    return task.shared(move(diagonal, HOST))


def _alignment(tasks: Sequence[Task], own: Sequence[Task], ends: Sequence[Weights]) -> float:
    # one task: the first two children; several: mean over pairs of tasks and over both tasks' data
    values: list[float] = []
    for i, j in pairs_of(max(2, len(tasks))):
        for task in [tasks[i], tasks[j]] if len(tasks) > 1 else tasks:
            x, _ = task.data.scored("val")
            a, b = (features_of(own[t].model, own[t].mount(ends[t]), x) for t in (i, j))
            values.append(linear_cka(a, b))
    return sum(values) / len(values)

"""Answer of a sweep in at most twelve lines: verdict, settings, what to expect, how sure it is, what to do next."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from search_spaces import Space
from sweeper.analysis.best import choose_winner, find_over_limits, rank_trials
from sweeper.analysis.evidence.analyse import find_analysis
from sweeper.analysis.evidence.findings import Analysis
from sweeper.analysis.posterior import Posterior
from sweeper.analysis.scorecard.badge import summarize_verdict
from sweeper.analysis.scorecard.next_command import find_next
from sweeper.analysis.stages.confirmation import Confirmation, Score, find_confirmation
from sweeper.analysis.stages.designed import find_share, is_proxy_only
from sweeper.analysis.text import describe_bounds
from sweeper.config.spec import SweepSpec
from sweeper.formatting import (
    ELSEWHERE,
    SYNTHETIC,
    at_share,
    merge_words,
    name_knob,
    number,
    per_token,
    pluralize,
    show_path,
    wrap,
)
from sweeper.search.bounds import find_bounds
from sweeper.search.objectives import resolve_objective
from trainables.noise import KNOBS, NOISE
from trainables.result import TASKS
from trainables.spec import SEVERAL_TASKS, PairSpec

MOST_LINES = 12
COMMAND = ": sweeper "
"""Begins the command of a remark."""
_LESS = "is less accurate"
"""Words of the note that every block keeps."""
_GAINS = ("gain_mean", "gain_best", "barrier")
_MODELS = {"merged": "merged", "parents": "parents", "ensemble": "ensemble"}


@dataclass(frozen=True)
class Answer:
    """The answer of a sweep.

    Attributes:
        verdict: The verdict on the noise in one word.
        reason: Its reason in one line.
        noise: Name of the noise, and `formula`.
        settings: Knob -> value of the winner; None without a winner.
        digest: Digest of the winner's trial.
        objective: Name of the objective, and `label` for people with its unit.
        expected: Mean of the objective with its error; None without a winner.
        confirmed: Number of fresh pairs behind `expected`; 0 if it is a prediction on validation.
        scores: Model -> {`loss` [nat], `accuracy`} with their errors on test; for text also `perplexity` and
            `bits_per_byte`.
        certainty: How sure the answer is.
        remarks: What the reader must know before using the merge, the most important first.
        next: The command to run next.
        page: Path or URI of the page with the evidence; None without one.
        origin: What the trials are, if this product trained no network for them; else empty.
    """

    verdict: str
    reason: str
    noise: str
    formula: str
    settings: Mapping[str, Any] | None
    digest: str | None
    objective: str
    label: str
    expected: Score | None
    confirmed: int
    scores: Mapping[str, Mapping[str, Score]]
    certainty: str
    remarks: tuple[str, ...]
    next: str
    page: str | None = None
    origin: str = ""

    def record(self) -> dict[str, Any]:
        """Return the answer as a record for JSON."""
        return asdict(self)


def find_answer(
    spec: SweepSpec,
    space: Space | None,
    trials: pa.Table,
    posterior: Posterior,
    run: str,
    page: str | None = None,
    analysis: Analysis | None = None,
    flags: str = "",
) -> Answer:
    """Return the answer of a sweep.

    Args:
        spec: The sweep.
        space: Its search space, whose knobs are the settings; None shows the usual knobs.
        trials: Its trials.
        posterior: The model's posterior.
        run: Run folder as the user names it, for the next command.
        page: Path or URI of the sweep's page.
        analysis: Analysis of the sweep's objective and noise, if known; else the trials are analysed here.
        flags: Flags of the next command, with a leading blank.
    """
    goal = resolve_objective(spec.objective, trials)
    found, doubt = (analysis, "") if analysis else find_analysis(trials, spec.objective, spec.noise)
    badge = summarize_verdict(found, doubt)
    winner = choose_winner(trials, spec.objective, posterior, find_over_limits(trials, spec))
    confirmation = _confirm(spec, trials, winner)
    return Answer(
        verdict=badge.word,
        reason=badge.reason,
        noise=spec.noise,
        formula=NOISE[spec.noise].formula,
        settings=_find_settings(winner, space) if winner else None,
        digest=winner["digest"] if winner else None,
        objective=spec.objective,
        label=(goal.on("test") if confirmation else goal).label,
        expected=_find_expected(winner, confirmation),
        confirmed=confirmation.pairs if confirmation else 0,
        scores=_find_scores(winner, confirmation),
        certainty=_describe_certainty(winner, confirmation, trials) + _describe_rest(spec, trials),
        remarks=find_remarks(spec, space, trials, winner, shlex.quote(run)),
        next=find_next(badge, winner, run, not trials.num_rows or count_left(spec, trials) > 0, flags),
        page=page,
        origin=_find_origin(trials),
    )


def find_remarks(
    spec: SweepSpec, space: Space | None, trials: pa.Table, winner: Mapping[str, Any] | None, run: str, flags: str = ""
) -> tuple[str, ...]:
    """Return what the reader must know before using the winner, as phrases, the most important first.

    Args:
        spec: The sweep.
        space: Its search space; None leaves out the ends of ranges.
        trials: Its trials.
        winner: The winning row, see `sweeper.analysis.best.choose_winner`.
        run: The run as a command names it, quoted for the shell.
        flags: Flags of a command for this run, with a leading blank.
    """
    worth = _find_worth(winner, _find_scores(winner, _confirm(spec, trials, winner)))
    other = _find_other_goal(trials, spec, winner, run, flags)
    return (*_find_better_accuracy(winner), *worth, *_describe_bounds(winner, space), *other)


def _confirm(spec: SweepSpec, trials: pa.Table, winner: Mapping[str, Any] | None) -> Confirmation | None:
    return find_confirmation(trials, spec.objective) if winner and winner["confirmed"] else None


def _find_origin(trials: pa.Table) -> str:
    kinds = set(trials["trainable"].to_pylist())
    return SYNTHETIC if "synthetic" in kinds else ELSEWHERE if "imported" in kinds else ""


def _find_settings(winner: Mapping[str, Any], space: Space | None) -> dict[str, Any]:
    if space is not None and winner["spec"]:
        return dict(space.params_of(PairSpec.from_json(winner["spec"])))
    return {name: winner[name] for name in (*KNOBS, "augmentation_strength")}


def _find_expected(winner: Mapping[str, Any] | None, confirmation: Confirmation | None) -> Score | None:
    if confirmation and confirmation.objective:
        return confirmation.objective
    if winner is None:
        return None
    if winner["posterior_mean"] is not None:
        return Score(winner["posterior_mean"], winner["posterior_sd"], winner["config_repeats"])
    return Score(winner["config_mean"], None, winner["config_repeats"])


def _find_scores(winner: Mapping[str, Any] | None, confirmation: Confirmation | None) -> dict[str, dict[str, Score]]:
    if winner is None:
        return {}
    known: dict[str, Score] = {}
    several = winner["pair_kind"] in SEVERAL_TASKS
    children = [who.lower() for who in TASKS] if several else ["a", "b"]
    for who in ("merged", *children, "ensemble"):
        for what in ("loss", "accuracy"):
            # of several tasks the objective is that of the merge that validation chooses
            name = f"chosen_{what}" if several and who == "merged" else f"{who}_{what}"
            value = winner.get(f"{name}_test")
            if confirmation and name in confirmation.scores:
                known[f"{who}_{what}"] = confirmation.scores[name]
            elif value is not None and math.isfinite(value):
                known[f"{who}_{what}"] = Score(value, None, 1)
    for what in ("loss", "accuracy"):
        parents = [score for who in children if (score := known.get(f"{who}_{what}"))]
        if len(parents) > 1:
            known[f"parents_{what}"] = Score(sum(p.mean for p in parents) / len(parents), None, parents[0].n)
    for who in ("merged", "parents", "ensemble"):
        loss = known.get(f"{who}_loss")
        if loss and (found := per_token(loss.mean, winner.get("bytes_per_token"))):
            known[f"{who}_perplexity"], known[f"{who}_bits_per_byte"] = (Score(v, None, loss.n) for v in found)
    what = ("loss", "accuracy", "perplexity", "bits_per_byte")
    pairs = {who: {w: known[f"{who}_{w}"] for w in what if f"{who}_{w}" in known} for who in _MODELS}
    return {who: scores for who, scores in pairs.items() if scores}


def _describe_certainty(winner: Mapping[str, Any] | None, confirmation: Confirmation | None, trials: pa.Table) -> str:
    if winner is None and is_proxy_only(trials):
        return f"the trials so far ran{at_share(find_share(trials))}; none in full has ended"
    if not trials.num_rows:
        return "no trial has finished, so there is nothing to use yet"
    if winner is None:
        outcomes = Counter(trials["outcome"].to_pylist()).most_common()
        counts = ", ".join(f"{n} {outcome}" for outcome, n in outcomes)
        return f"no pair is viable, so there is nothing to use yet ({counts})"
    if confirmation is None:
        return "not confirmed: no fresh pair has tested these settings, and the best of many trials looks too good"
    others = len(confirmation.compared) - 1
    chosen = sum(c.score.n for c in confirmation.compared if c.score)
    text = f"measured by {pluralize(confirmation.pairs, 'fresh pair')} that chose nothing"
    if others > 0:
        text += f"; {chosen} more chose it among {others + 1} candidates"
    if failed := len(confirmation.failed):
        text += f"; {pluralize(failed, 'better candidate')} failed in a fresh pair"
    return text


def _find_better_accuracy(winner: Mapping[str, Any] | None) -> Sequence[str]:
    if winner is None or winner["chosen_merge"] is None or (saved := winner["chosen_accuracy_val"]) is None:
        return ()
    parents = [v for v in (winner["a_accuracy_val"], winner["b_accuracy_val"]) if v is not None]
    others = {"linear 1/2": winner["merged_accuracy_val"], "the better parent": max(parents, default=None)}
    if winner["pair_kind"] in SEVERAL_TASKS:  # a parent knows its own task only
        others = {"the linear merge": winner["merged_accuracy_val"]}
    name = merge_words(winner["chosen_merge"], winner["chosen_coefficient"], winner.get("chosen_window"))
    better = [(other, v) for other, v in others.items() if v is not None and saved < v]
    if not better:
        return ()
    than = " and ".join(f"{other} ({_percent(value)})" for other, value in better)
    return (f"on validation this merge, {name}, {_LESS} ({_percent(saved)}) than {than}",)


def find_winner_bounds(winner: Mapping[str, Any] | None, space: Space | None) -> dict[str, str]:
    """Return knob -> `lower` or `upper` for the settings of a winner at an end of the space.

    Args:
        winner: The winning row, see `sweeper.analysis.best.choose_winner`.
        space: Its search space; without one no end is known.
    """
    if winner is None or space is None or not winner["spec"]:
        return {}
    return find_bounds(space.knobs, space.params_of(PairSpec.from_json(winner["spec"])))


def _describe_bounds(winner: Mapping[str, Any] | None, space: Space | None) -> Sequence[str]:
    found = describe_bounds(find_winner_bounds(winner, space))
    return (found,) if found else ()


def _find_other_goal(
    trials: pa.Table, spec: SweepSpec, winner: Mapping[str, Any] | None, run: str, flags: str
) -> Sequence[str]:
    """Return the command for the lowest merged loss, if its settings may differ: confirmed ones serve both goals."""
    if winner is None or winner["confirmed"] or spec.objective not in _GAINS:
        return ()
    best = rank_trials(trials, "merged_loss", 1, find_over_limits(trials, spec))
    if not best or best[0]["config"] == winner["config"]:
        return ()
    command = f"sweeper recommend {run} --objective merged_loss{flags}"
    return (f"the largest gain is not the lowest merged loss; for that one: {command}",)


def count_left(spec: SweepSpec, trials: pa.Table) -> int:
    """Return the number of configurations that a sweep has not begun; 0 if it may end early."""
    begun = {n for n in trials["number"].to_pylist() if n is not None}
    return 0 if not begun or spec.until_interval else max(0, spec.trials - len(begun))


def _describe_rest(spec: SweepSpec, trials: pa.Table) -> str:
    left = count_left(spec, trials)
    return f"; {spec.trials - left} of {pluralize(spec.trials, 'configuration')} have run" if left else ""


def _find_worth(winner: Mapping[str, Any] | None, scores: Mapping[str, Mapping[str, Score]]) -> Sequence[str]:
    """Return whether the merge is no better than its parents; of several tasks each parent knows its own only."""
    merged, parents = (scores.get(who, {}).get("accuracy") for who in ("merged", "parents"))
    if winner is None or winner["pair_kind"] in SEVERAL_TASKS:
        return ()
    if merged is None or parents is None or merged.mean > parents.mean:
        return ()
    own, theirs = _percent(merged.mean), _percent(parents.mean)
    if own == theirs:
        return (f"on test the merge is as accurate as its parents ({own})",)
    return (f"on test the merge is no more accurate than its parents ({own} against {theirs})",)


def format_answer(answer: Mapping[str, Any]) -> str:
    """Return the record of an answer as text of at most `MOST_LINES` lines.

    A full block leaves out the least important parts; the note on accuracy stays.
    """
    used, scores = answer["settings"], format_scores(answer["scores"])
    settings = ", ".join(f"{name_knob(k).name} {_value(v)}" for k, v in used.items()) if used else ""
    notes = [(2 if _LESS in remark else 8, _format_note(remark)) for remark in answer["remarks"]]
    # (rank, text) in the order of reading; the smallest rank is the most important
    parts = [
        (0, wrap(f"{answer['verdict']}: {answer['reason']}.", 0)),
        (4, _label("data", answer["origin"]) if answer["origin"] else ""),
        (0, _label("use", settings) if used else ""),
        (3, _label("expect", format_expected(answer)) if used else ""),
        (6, _label("on test", scores) if used and scores else ""),
        (5, _label("sure?", answer["certainty"])),
        *notes,
        (1, _label("next", answer["next"], long=True)),
        (7, _label("page", show_path(answer["page"]), long=True) if answer["page"] else ""),
    ]
    return "\n".join(_select_parts([(rank, text) for rank, text in parts if text]))


def _select_parts(parts: Sequence[tuple[int, str]]) -> list[str]:
    left, kept = MOST_LINES, set[int]()
    for i in sorted(range(len(parts)), key=lambda i: parts[i][0]):
        lines = parts[i][1].count("\n") + 1
        if lines <= left:
            kept.add(i)
            left -= lines
    return [parts[i][1] for i in sorted(kept)]


def _label(name: str, text: str, long: bool = False) -> str:
    # a command is not broken, so that it can be copied
    return f"{name + ':':<9}{text if long else wrap(text, 9).lstrip()}"


def _format_note(remark: str) -> str:
    text, separator, command = remark.partition(COMMAND)
    return _label("note", text) + (f":\n{'':9}{COMMAND.removeprefix(': ')}{command}" if separator else "")


def _value(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def format_expected(answer: Mapping[str, Any]) -> str:
    """Return what the record of an answer expects of the objective, and from how many fresh pairs."""
    expected = answer["expected"]
    label, _, unit = answer["label"].partition(" [")
    value = f"{label} {_score(expected)}{' ' + unit.rstrip(']') if unit else ''}"
    if answer["confirmed"]:
        return f"{value} ({pluralize(answer['confirmed'], 'fresh pair')})"
    # a single configuration's mean has no model behind it
    how = "predicted" if expected["error"] is not None else f"observed in {pluralize(expected['n'], 'pair')}"
    return f"{value} ({how})"


def format_scores(scores: Mapping[str, Any]) -> str:
    """Return the test scores of the record of an answer: the merge beside its parents and the ensemble."""
    parts: list[str] = []
    for who, name in _MODELS.items():
        if who in scores and "loss" in scores[who]:
            accuracy = scores[who].get("accuracy")
            loss = scores[who]["loss"]
            text = f"merged loss {_score(loss)}" if who == "merged" else f"{name} {number(loss['mean'])}"
            more = [_percent(accuracy["mean"])] if accuracy else []
            if who == "merged" and "perplexity" in scores[who]:
                perplexity, bits = (scores[who][name]["mean"] for name in ("perplexity", "bits_per_byte"))
                more.append(f"perplexity {perplexity:.3g}, {bits:.3g} bits per byte")
            parts.append(text + (f" ({', '.join(more)})" if more else ""))
    return ", ".join(parts)


def _score(score: Mapping[str, Any]) -> str:
    error = score["error"]
    return number(score["mean"]) if error is None else f"{number(score['mean'])} ± {error:.2g}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"

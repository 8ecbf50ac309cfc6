"""Outputs about a sweep: results, status, trials, advice, analyses, comparisons, reruns, extensions."""

# models of dataclasses are made at run time
# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, create_model

from sweeper.analysis.comparison import Overlap, SweepSummary
from sweeper.analysis.curve.merge_methods import MethodCurve
from sweeper.analysis.curve.remedies import Remedy
from sweeper.analysis.curve.windows import WindowEffect
from sweeper.analysis.evidence.findings import Analysis
from sweeper.analysis.evidence.ranking import Preferred
from sweeper.analysis.posterior import Favourite
from sweeper.analysis.recommend import Recommendation
from sweeper.analysis.regime import Regime
from sweeper.analysis.scorecard.answer import Answer
from sweeper.analysis.settings.settings import Settings
from sweeper.analysis.stages.confirmation import Confirmation
from sweeper.analysis.stages.noise_exponents import NoiseExponents
from sweeper.cli.schemas.base import Output, model_of, say
from sweeper.client.models import SweepRecord
from sweeper.search.noise_sampler.explanation import Explanation

_CURVE = ("grid", "mean", "lower", "upper")

Optimum: Any = model_of(Regime, "Optimum", _CURVE)
Summary: Any = model_of(SweepSummary, "Summary", Regime=Optimum)
ExponentsRecord: Any = model_of(NoiseExponents, "ExponentsRecord")
AnswerRecord: Any = model_of(Answer, "AnswerRecord")
Belief: Any = model_of(Explanation, "BeliefExplanation", sometimes=True)


class PreferredRecord(model_of(Preferred, "PreferredFields")):
    """Definition of noise that ranks before the shown one."""

    sentence: str = say("the comparison as a sentence")


class ModelScore(Output):
    """Scores of a model on test."""

    loss: float | None = say("cross-entropy [nat]")
    accuracy: float | None = say("accuracy")


class TestScores(Output):
    """Test scores of the best trial's models."""

    a: ModelScore = say("parent A")
    b: ModelScore = say("parent B")
    parents: ModelScore = say("mean of the parents")
    merged: ModelScore = say("linear merge at 1/2")
    chosen: ModelScore = say("merge that validation chose")
    ensemble: ModelScore = say("ensemble of the parents")


class Luckiest(Output):
    """The best configuration by observed mean, if it is not the winner."""

    digest: str = say("digest of its best trial")
    config_mean: float = say("mean of the objective over its repeats")
    config_repeats: int = say("number of these repeats")


class NumberKnobs(Output):
    """Settings of a trial that are numbers."""

    learning_rate: float = say("learning rate of the stable phase")
    batch_size: int = say("batch size")
    momentum: float = say("momentum")
    weight_decay: float = say("weight decay")
    augmentation_strength: float = say("strength of the augmentation policy, 0 to 1")


class Knobs(NumberKnobs):
    """Settings of a trial."""

    augmentation: str = say("augmentation policy")


class TaskScores(Output):
    """A task of the winning trial, on test."""

    task: str = say("letter of the task")
    loss: float | None = say("loss of its own child on it [nat]")
    accuracy: float | None = say("accuracy of that child")
    kept: float = say("accuracy of the chosen merge on it over that of the child")


class Best(Knobs):
    """The winning configuration, by its best trial."""

    digest: str = say("digest of the trial")
    config: str = say("digest of the configuration")
    repeat: int = say("repeat of the configuration")
    config_mean: float = say("mean of the objective over the repeats")
    config_repeats: int = say("number of these repeats")
    posterior_mean: float | None = say("posterior mean of the objective; null if the observed mean chose the winner")
    posterior_sd: float | None = say("standard deviation of that mean; null for a single repeat")
    undecided: str = say("why the model has no favourite; else empty")
    luckiest: Luckiest | None = say("best configuration by observed mean; null if it is the winner")
    confirmed: Confirmation | None = say("fresh pairs that confirm the winner; null without them")
    chosen_merge: str | None = say("merge with the lowest validation loss")
    chosen_coefficient: float | None = say("its coefficient")
    chosen_window: int | None = say("last checkpoints that each child averages before merging; null without an average")
    column: str = say("column of the trials table that holds the objective")
    noise: float | None = say("noise of the trial, in the shown definition")
    bytes_per_token: float | None = say("bytes of text per token, for bits per byte; null for images")
    tasks: list[TaskScores] = say("the tasks of a trial with several; else empty")
    test: TestScores = say("scores on test")


class Advice(Output):
    """Settings that reach the best noise of an objective."""

    message: str = say("verdict on the best noise as a sentence")
    recommendations: list[Recommendation] = say("settings")
    text: str = say("the settings as a table for people")


class Results(Output):
    """Results of a sweep: `run`, `resume` and `best`."""

    answer: AnswerRecord = say("verdict, settings to use, what to expect, how sure")
    objective: str = say("objective that ranks the trials")
    objectives: list[str] = say("all objectives of the sweep")
    noise: str = say("shown definition of noise")
    formula: str = say("its formula")
    unit: str = say("its unit")
    trials: int = say("rows of the trials table")
    configs: int = say("configurations among them")
    counts: dict[str, int] = say("outcome -> trials")
    device_seconds: float | None = say("device time of all trials [s]; null if no trial records it")
    synthetic: bool = say("whether a trial is a closed form, without real data")
    imported: bool = say("whether a trial was trained elsewhere")
    proxy_only: bool = say("whether all trials so far had a share of the training budget")
    regimes: dict[str, Optimum] = say("objective -> its best noise")
    preferred: PreferredRecord | None = say("definition that ranks before the shown one; null without one")
    best: Best | None = say("the winner; null without a viable trial")
    front: list[dict[str, Any]] = say("Pareto set of several objectives: config, number, digest, repeats, and a mean "
                                       "for each objective")  # fmt: skip
    recommendations: dict[str, Advice] = say("objective -> settings that reach its best noise")
    warnings: list[str] = say("reasons to doubt numbers")
    first_details: dict[str, str] = say("outcome -> detail of its first trial")
    run: str = say("run folder or URI")
    page: str | None = say("file of the page; null without one")
    weights: str | None = say("kept weights of the winner; null if they are not kept")
    saved: str = say("file or folder of the weights, with `--save`", sometimes=True)
    card: str = say("file of the model card, with `--save`", sometimes=True)
    discarded: float = say("share of the merged update's squared norm that an adapter lacks, with `--rank`",
                           sometimes=True)  # fmt: skip


SettingsRecord: Any = model_of(Settings, "SettingsRecord", ("spec", "sweep"), PairSpec=object, SweepSpec=object)


class BeliefRecord(Belief):
    """Belief of the noise sampler's model; the fields up to `trials` are missing while it cannot give them."""

    given: dict[str, float] = say("role -> exponent of its factor in the definition")
    unexplained: str = say("why the first fields are missing; else empty")
    favourite: Favourite | None = say("the best configuration by posterior mean")
    undecided: str = say("why there is no favourite; else empty")
    at_bounds: list[str] = say("knobs of the recommended settings at an end of their range, which a wider one may beat")
    assumed: str = say("what the folder does not record about the space, and what the model takes instead; else empty")


class StatusRecord(SweepRecord):
    """Status of a sweep in a run folder: `status`."""

    run: str = say("run folder or URI")
    space: str = say("search space")
    sampler: str = say("samplers of the trials")
    objective: str = say("objective that ranks the trials")
    noise: str = say("shown definition of noise")
    running: bool = say("whether a process runs the sweep")
    verdict: str = say("verdict on the noise in one word")
    reason: str = say("its reason in one line")
    preferred: PreferredRecord | None = say("definition that ranks before the shown one; null without one")
    regimes: dict[str, str] = say("objective -> verdict on its best noise")
    belief: BeliefRecord = say("belief of the noise sampler's model")
    exponents: ExponentsRecord = say("exponents of the noise, and what they rest on")


class Trial(NumberKnobs):
    """A trial; it has two more keys, `noise_NAME` of the shown definition and the objective's column."""

    model_config = ConfigDict(extra="allow")
    number: int | None = say("number of the configuration; null for a trial of an extension or an imported one")
    repeat: int = say("repeat of the configuration")
    outcome: str = say("outcome")
    digest: str = say("digest")


class TrialList(Output):
    """Trials of a sweep: `list DIR`."""

    items: list[Trial] = say("trials, by number and repeat")


class Recommendations(Output):
    """Settings to use: `recommend`."""

    settings: list[SettingsRecord] = say("settings, one for each batch size that the user names")
    formats: dict[str, str] = say("yaml, python and torch -> the settings as text; empty for several settings")
    noise_matched: dict[str, Advice] = say("objective -> values that reach its best noise, with "
                                            "--by-noise or without settings")  # fmt: skip
    missing: list[str] = say("reasons for missing parts")


WindowEffectRecord: Any = model_of(WindowEffect, "WindowEffectRecord")
MethodCurveRecord: Any = model_of(MethodCurve, "MethodCurveRecord")
RemedyRecord: Any = model_of(Remedy, "RemedyRecord")
AnalysisRecord: Any = create_model(
    "AnalysisRecord",
    __base__=model_of(Analysis, "AnalysisFields"),
    further_trials=(int | None, Field(description="trials that `extend` would run; null if it cannot")),
    merge_methods=(
        list[MethodCurveRecord],
        Field(description="best noise of every merge method, lowest loss first; empty without `--by-merge`"),
    ),
    remedies=(
        list[RemedyRecord],
        Field(description="whether another merge makes up for the wrong noise; empty without `--by-merge`"),
    ),
    windows=(
        list[WindowEffectRecord],
        Field(description="test losses of every window of checkpoints; empty without `--by-window`"),
    ),
)


class Analyses(Output):
    """Tests of sweeps: `analyse`."""

    sweeps: dict[str, AnalysisRecord] = say("run folder -> its analysis")


class SummaryRecord(Summary):
    """A compared sweep."""

    trials: int = say("number of finished trials")


class Comparison(Output):
    """Sweeps side by side: `compare`."""

    sweeps: list[SummaryRecord] = say("the sweeps")
    overlaps: dict[str, list[Overlap]] = say("objective -> overlaps of the intervals of its best noise")
    notes: list[str] = say("differences that limit the comparison")


class Compared(Output):
    """A stored value, and the one of the rerun."""

    stored: Any = say("value in the run folder")
    again: Any = say("value of the rerun")


class Rerun(Output):
    """A trial run again: `pair`."""

    digest: str = say("digest of the trial")
    agrees: bool = say("whether all scores and the outcome are the same")
    largest_difference: float | None = say("largest difference of a score; null if it is infinite")
    column: str = say("column with the largest difference; else empty")
    outcome: Compared = say("outcomes")
    versions: dict[str, Compared] = say("torch, version, commit, device and threads")
    scores: dict[str, Compared] = say("column -> scores")


class Planned(Knobs):
    """A planned trial."""

    digest: str = say("digest")
    config: str = say("digest of the configuration")
    repeat: int = say("repeat of the configuration")
    new: bool = say("whether the configuration is new")
    noise: float | None = say("noise of the trial")
    why: str = say("what the trial is for")


class ExtensionPlan(Output):
    """Further trials for a firm answer: `extend`."""

    run: str = say("run folder or URI")
    objective: str = say("objective of the analysis")
    noise: str = say("definition of noise")
    verdict: str = say("verdict before the trials")
    planned: list[Planned] = say("the trials")
    impossible: list[str] = say("trials that cannot run, and why")
    outcomes: dict[str, int] = say("outcome -> trials, after they ran", sometimes=True)
    verdict_after: str = say("verdict after the trials", sometimes=True)
    sentences: list[str] = say("findings after the trials", sometimes=True)
    missing: list[str] = say("what a firm answer still needs, after the trials", sometimes=True)

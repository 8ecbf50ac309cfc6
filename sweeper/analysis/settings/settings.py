"""Settings: values of every searched knob with the scores that they promise, as a record and as text.

Their texts are a table for people, a sweep file, a Python dict, and arguments of `torch.optim`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sweeper.analysis.settings.schedule_code import write_schedule
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_text import write
from sweeper.errors import SpecError
from sweeper.formatting import format_table, name_knob, number, pluralize, wrap
from sweeper.search.objectives import OBJECTIVES, SPLIT_WORDS
from trainables.io.printable import printable_line
from trainables.noise import NOISE
from trainables.spec import PairSpec
from trainables.training.optimizers import family, options_of

SCORES = ("gain_mean", "merged_loss", "merged_accuracy")
"""Objectives that settings promise beside the optimised one."""

FORMATS = ("table", "yaml", "python", "torch")
_KEPT = ("space", "objective", "noise", "seed", "data", "smoke", "device")
"""Keys of the sweep that a file of its settings keeps, if the user set them."""
_LABELS = {"gain_mean": "gain over the mean parent [nat]", "merged_loss": "merged loss [nat]"}
_PAIRS = 4
_NOT_THE_MODEL = ("gain_mean", "gain_best", "barrier")
_ABREAST = 3
_UNIT = re.compile(r" \[[^]]*\]$")
_NO_BETAS = (PairSpec.beta1, PairSpec.beta2)


MEANING = "Each ± is the standard error of a mean over pairs; a single pair scatters more."
"""What the errors of promised scores are."""


class NoSettingsError(SpecError):
    """The trials so far determine no settings; more or other trials would."""


@dataclass(frozen=True)
class Estimate:
    """A mean over pairs with its error: the posterior sd of a predicted mean, or the standard error of measured pairs.

    Neither holds the scatter of a single pair. The standard error of one measured pair is None.
    """

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Confirmation:
    """Fresh pairs of these settings that chose nothing.

    Attributes:
        pairs: Number of pairs.
        scores: Objective -> mean and standard error on the test split.
    """

    pairs: int
    scores: Mapping[str, Estimate]


@dataclass(frozen=True)
class Settings:
    """Recommended values of every searched knob.

    Attributes:
        params: Knob -> value, for each knob that acts. A knob that only the user fixed is among them.
        fixed: Knobs whose values the user fixed.
        objective: Name in `OBJECTIVES` of the optimised score.
        split: Split of the predicted scores: val, or test if only test was measured.
        predicted: Posterior mean and sd of the objective's expectation, in the unit of its column.
        scores: The same for the scores of `SCORES` that the trials have.
        noise: Noise of these values; None if it is not defined for them.
        noise_name: Name of its definition.
        learning_rate_low, learning_rate_high: 90 % interval of the best learning rate with these other values; None if
            the learning rate is fixed.
        step: Step size η/(1−μ).
        stability_limit: Step size from which most trials failed; None without such failures.
        outside_tried: Knobs whose values lie outside the range of the viable trials; the user fixed them there.
        at_bound: Free knobs whose value lies at an end of the space's range.
        confirmed: Fresh pairs of exactly these settings; None without any.
        notes: Caveats as sentences, each with a way out.
        spec: A trial with these values, of repeat 0.
        sweep: The sweep whose trials they come from.
    """

    params: dict[str, Any]
    fixed: tuple[str, ...]
    objective: str
    split: str
    predicted: Estimate
    scores: Mapping[str, Estimate]
    noise: float | None
    noise_name: str
    learning_rate_low: float | None
    learning_rate_high: float | None
    step: float
    stability_limit: float | None
    spec: PairSpec = field(repr=False)
    sweep: SweepSpec = field(repr=False)
    outside_tried: tuple[str, ...] = ()
    at_bound: tuple[str, ...] = ()
    confirmed: Confirmation | None = None
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the settings as a record for JSON, without `spec` and `sweep`."""
        names = [f.name for f in fields(self) if f.name not in ("spec", "sweep")]
        record = {name: getattr(self, name) for name in names} | {"predicted": asdict(self.predicted)}
        record["scores"] = {name: asdict(score) for name, score in self.scores.items()}
        if self.confirmed is not None:
            scores = {name: asdict(score) for name, score in self.confirmed.scores.items()}
            record["confirmed"] = {"pairs": self.confirmed.pairs, "scores": scores}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}

    def __str__(self) -> str:
        """Return the settings as a table for people."""
        return format_settings([self])

    def to_yaml(self) -> str:
        """Return the settings as a sweep file that `sweeper run` runs: every knob fixed, a few pairs."""
        return to_yaml(self)

    def to_torch(self) -> str:
        """Return the settings as Python code: a torch optimizer over `params` with its schedule over `steps`."""
        return to_torch(self)


def describe_aim(objective: str, split: str) -> str:
    """Return what settings optimise, such as `lowest predicted merged validation loss`."""
    goal = OBJECTIVES[objective]
    return f"{'largest' if goal.maximize else 'lowest'} predicted {_UNIT.sub('', goal.on(split).label)}"


def format_estimate(estimate: Estimate) -> str:
    """Return a mean with its error; the error of a single pair is unknown."""
    if estimate.sd is None:
        return f"{number(estimate.mean)} (one pair)"
    return f"{number(estimate.mean)} ± {f'{estimate.sd:.1g}' if estimate.sd < 1 else number(estimate.sd)}"


def format_settings(found: Sequence[Settings]) -> str:
    """Return settings as tables with one column each, at most 100 columns wide, with their notes."""
    if not found:
        return ""
    first = found[0]
    lines = [f"Use these settings ({describe_aim(first.objective, first.split)}):"]
    for start in range(0, len(found), _ABREAST):
        lines.append(_format_columns(found[start : start + _ABREAST]))
    lines.append(MEANING)
    if any(settings.confirmed for settings in found):
        lines.append(
            "Trust the confirmed scores: predictions are of validation, where the best of many looks too good."
        )
    if first.objective in _NOT_THE_MODEL and not all(s.confirmed for s in found):
        lines.append("The largest gain is not the best model: --objective merged_loss gives its settings.")
    said: dict[str, list[str]] = {}
    for settings in found:
        for note in settings.notes:
            said.setdefault(note, []).append(_head(settings))
    for note, heads in said.items():
        where = f"{', '.join(heads)}: " if len(found) > 1 and len(heads) < len(found) else ""
        lines.append(wrap(f"{where}{note}", 0))
    return "\n".join(lines)


def _head(settings: Settings) -> str:
    return f"B = {settings.spec.batch_size}"


def _format_columns(found: Sequence[Settings]) -> str:
    cells: dict[tuple[str, str], list[str]] = {}  # (part of the table, label) -> one text per column

    def add(part: str, label: str, i: int, text: str) -> None:
        cells.setdefault((part, label), ["–"] * len(found))[i] = text

    for i, settings in enumerate(found):
        for name, value in settings.params.items():
            add("", name_knob(name).label, i, _format_value(settings, name, value))
            if name == "learning_rate" and settings.learning_rate_low is not None:
                ends = (number(settings.learning_rate_low), number(settings.learning_rate_high))
                add("", "  90 % interval", i, " to ".join(ends))
        if settings.noise is not None:
            add("", f"noise {NOISE[settings.noise_name].formula}", i, number(settings.noise))
            if settings.spec.child_b:
                add("", "  of child B", i, number(settings.noise * _compare_children(settings)))
        predicted = f"predicted on {SPLIT_WORDS[settings.split]}"
        add(predicted, predicted, i, "")
        for name, estimate in _promised(settings).items():
            add(predicted, f"  {_label(name)}", i, format_estimate(estimate))
        if settings.confirmed is not None:
            add("confirmed", "confirmed on test by", i, pluralize(settings.confirmed.pairs, "pair"))
            for name, estimate in settings.confirmed.scores.items():
                add("confirmed", f"  {_label(name)}", i, format_estimate(estimate))
    rows = [(label, *texts) for (_, label), texts in cells.items()]
    several = len(found) > 1
    lines = format_table(("", *(_head(s) if several else "" for s in found)), rows).split("\n")
    lines += ["* outside the tried range"] if any(s.outside_tried for s in found) else []
    return "\n".join(lines if several else lines[1:])


def _compare_children(settings: Settings) -> float:
    """Return the noise of child B over that of child A."""
    spec = settings.spec
    own = {"learning_rate": spec.learning_rate, "batch_size": spec.batch_size}
    return NOISE[settings.noise_name].compare(own, spec.child_b)


def _format_value(settings: Settings, name: str, value: Any) -> str:
    counted = isinstance(value, int | float) and not isinstance(value, bool)
    shown = number(value) if counted else printable_line(str(value))
    return f"{shown}{' (given)' if name in settings.fixed else ''}{'*' if name in settings.outside_tried else ''}"


def _promised(settings: Settings) -> Mapping[str, Estimate]:
    return {settings.objective: settings.predicted, **settings.scores}


def _label(name: str) -> str:
    return _LABELS.get(name) or OBJECTIVES[name].label.replace(" validation", "")


def to_yaml(settings: Settings) -> str:
    """Return settings as a sweep file: the sweep's space with every knob fixed, run as a few pairs of other seeds."""
    given, plain = settings.sweep.dump_explicit(), SweepSpec.model_fields
    fixed = {**given.get("fixed", {}), **settings.params}
    kept = {key: given[key] for key in _KEPT if key in given and given[key] != plain[key].default}
    values = {**kept, "sampler": "random", "trials": 1, "repeats": _PAIRS, "fixed": fixed}
    return "\n".join(_comment(*_promise(settings))) + f"\n{write(values)}"


def to_python(settings: Settings) -> str:
    """Return settings as the text of a Python dict."""
    items = [f"    {name!r}: {value!r},\n" for name, value in settings.params.items()]
    return "\n".join(_comment(*_promise(settings))) + f"\nsettings = {{\n{''.join(items)}}}\n"


def to_torch(settings: Settings) -> str:
    """Return settings as Python code: a torch optimizer over `params`, and its schedule over `steps`."""
    spec = settings.spec
    call, needs = _optimizer(spec)
    left = _find_left_out(spec)
    augmented = spec.augmentation != "none" and spec.augmentation_strength > 0
    strength = f"augmentation {spec.augmentation} at strength {number(spec.augmentation_strength)}"
    budget = pluralize(spec.steps, "step") if spec.steps else pluralize(spec.epochs, "epoch")
    about = [
        f"batch size {spec.batch_size}, {budget}",
        strength if augmented else "no augmentation",
        *([f"gradients clipped to norm {number(spec.clip_norm)}"] if spec.clip_norm else []),
        *(
            f"{name} = {value!r}"
            for name, value in settings.params.items()
            if name not in _SHOWN_IN_CODE and name.partition(".")[0] not in (*left, "noise_schedule")
        ),
        *([f"This code leaves out {', '.join(f'{k} = {v!r}' for k, v in left.items())}."] if left else []),
    ]
    course = {} if "noise_schedule" in left else dict(spec.noise_schedule)
    schedule, factor = write_schedule(spec.schedule, spec.warmup, spec.decay, course)
    lines = [
        *_comment(*_promise(settings), *about),
        *(["import math", ""] if any("math." in line for line in schedule) else []),
        needs,
        "from torch.optim.lr_scheduler import LambdaLR",
        "",
        f"optimizer = {call}  # batch size {spec.batch_size}",
        *schedule,
        "",
        "",
        f"scheduler = LambdaLR(optimizer, {factor})",
    ]
    return "\n".join(lines) + "\n"


def _find_left_out(spec: PairSpec) -> dict[str, Any]:
    """Return the fields that steer a trial and that one optimizer with its schedule does not hold."""
    plain = PairSpec(spec.dataset, spec.model, spec.learning_rate, spec.batch_size)
    held = () if spec.noise_schedule.get("by") == "batch_size" else ("noise_schedule",)
    left = (name for name in _STEERING if name not in held)
    return {name: getattr(spec, name) for name in left if getattr(spec, name) != getattr(plain, name)}


_STEERING = ("noise_schedule", "servo", "pairing", "child_b", "window", "protocol", "branch_step", "trunk")


_SHOWN_IN_CODE = {
    "learning_rate", "batch_size", "momentum", "weight_decay", "augmentation", "augmentation_strength", "optimizer",
    "beta1", "beta2", "betas_batch_size", "clip_norm", "schedule", "warmup", "decay", "epochs", "steps",
}  # fmt: skip


def _promise(settings: Settings) -> list[str]:
    lines = [
        describe_aim(settings.objective, settings.split),
        f"predicted on {SPLIT_WORDS[settings.split]}: {_list_scores(_promised(settings))}",
    ]
    if settings.confirmed is not None:
        pairs = pluralize(settings.confirmed.pairs, "pair")
        lines.append(f"confirmed on test by {pairs}: {_list_scores(settings.confirmed.scores)}")
    return [*lines, MEANING, *settings.notes]


def _list_scores(scores: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{_label(name)} {format_estimate(estimate)}" for name, estimate in scores.items())


def _comment(*lines: str) -> list[str]:
    # a text of the sweep must not end its comment
    return [f"# {part}" for line in lines for part in wrap(printable_line(line), 0).split("\n")]


def _optimizer(spec: PairSpec) -> tuple[str, str]:
    # the call, and the import that it needs
    arguments: dict[str, Any] = {"lr": spec.learning_rate}
    betas = spec.betas
    momentum = {"momentum": spec.momentum}
    kind, needs = "", "import torch"
    if spec.optimizer == "sgd":
        kind, arguments = "torch.optim.SGD(params", arguments | momentum
    elif spec.optimizer == "adamw":
        kind = "torch.optim.AdamW(params"
        arguments |= {"betas": betas} if betas != _NO_BETAS else {}
    else:
        kind, needs = f"create_optimizer_v2(params, {spec.optimizer!r}", "from timm.optim import create_optimizer_v2"
        arguments |= momentum if family(spec.optimizer) in ("sgd", "sgdw") or spec.momentum else {}
        arguments |= {"betas": betas} if betas != _NO_BETAS else {}
    arguments |= {"weight_decay": spec.weight_decay, **options_of(spec)}
    given = "".join(f", {name}={value!r}" for name, value in arguments.items())
    return f"{kind}{given})", needs


def render(settings: Settings, form: str) -> str:
    """Return settings in one of `FORMATS`."""
    writers = {"yaml": to_yaml, "python": to_python, "torch": to_torch}
    return writers[form](settings) if form in writers else format_settings([settings])

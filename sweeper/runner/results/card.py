"""Model card of a merge: settings, scores, data and how to load it, as Markdown beside the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.analysis.stages.confirmation import estimate_mean
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.formatting import merge_words, number, per_token, pluralize
from sweeper.search.objectives import OBJECTIVES
from trainables.io.printable import printable_line
from trainables.result import TASKS
from trainables.spec import PairSpec, adapter_settings
from trainables.training.optimizers import family

if TYPE_CHECKING:
    from trainables.pair.export import Exported

MARK = "<!-- model card of sweeper -->"
"""First line of a card; a file without it is never replaced."""
CARD = "README.md"
"""Name of the card in a model folder, as on the hub."""
_MODELS = {
    "merged, chosen on validation": "chosen", "merged, linear 1/2": "merged", "parent A": "a", "parent B": "b",
    "ensemble of the parents": "ensemble",
}  # fmt: skip
_SETTINGS = {
    "optimizer": "optimizer", "learning rate": "learning_rate", "batch size": "batch_size", "momentum": "momentum",
    "weight decay": "weight_decay", "augmentation": "augmentation", "augmentation strength": "augmentation_strength",
    "epochs": "epochs", "optimizer steps of a parent": "steps", "parents": "members", "precision": "precision",
    "seed": "seed",
}  # fmt: skip
_PATH = re.compile(r"(?<![\w./\\-])(?:~|\.{1,2}|[A-Za-z]:)?(?:[/\\][^\s/\\]+)+")


def check_card(weights: Path) -> Path:
    """Return the file of the card of a file of weights.

    Raises:
        SpecError: That file exists and is no card.
    """
    card = weights.with_name(f"{weights.name}.md") if weights.suffix == ".md" else weights.with_suffix(".md")
    if card.is_dir() or (card.exists() and not card.read_bytes().startswith(MARK.encode())):
        raise SpecError(f"{card} is not a model card, and the card would replace it; choose another --save")
    return card


def format_card(
    weights: str,
    spec: SweepSpec,
    row: Mapping[str, Any],
    exported: Exported | None = None,
    fresh: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the text of a card; texts of the sweep are escaped, and paths are cut to their last part.

    Args:
        weights: Name of the file or folder of weights.
        spec: The sweep.
        row: Row of the trial, as `sweeper.analysis.best` yields it or as stored.
        exported: What the folder holds; None for a file.
        fresh: Rows of the pairs that report the settings of the trial.
    """
    trial = PairSpec.from_json(row["spec"])
    goal = OBJECTIVES[spec.objective]
    noise = row.get(f"noise_{spec.noise}")
    merge = merge_words(row["chosen_merge"], row["chosen_coefficient"], row.get("chosen_window"))
    data = " and ".join(_escape(name) for name in (row["dataset"], row["dataset_b"]) if name)
    facts = {
        "merge": _escape(merge),
        f"objective {spec.objective} ({_escape(goal.label)})": number(row.get(goal.column)),
        f"noise {spec.noise}": number(noise),
        **{label: _escape(row[column]) for label, column in _SETTINGS.items() if row.get(column) not in (None, "")},
        **({"beta2": number(trial.beta2)} if family(trial.optimizer) in ("adam", "adamw") else {}),
        **{f"adapter {_escape(k)}": _escape(v) for k, v in adapter_settings(trial.adapter).items()},
        **{f"option {_escape(k)}": _escape(v) for k, v in trial.model_options.items()},
    }
    window = row.get("tokens_per_example")
    kinds = "tokens in the vocabulary" if window else "classes"
    counts = f"{row['examples'] or 'unknown'} training examples, {row['classes'] or 'unknown'} {kinds}"
    inputs = f"windows of {window} tokens" if window else "images as this data set of sweeper scales them"
    counts += " in task a" if len(trial.tasks) > 1 else ""
    scores = _text_scores if row.get("bytes_per_token") else _image_scores
    loading = _describe_folder(weights, row, exported) if exported else _describe_loading(weights, row, trial)
    return "\n".join(
        (
            MARK,
            f"# Merge of {row['members']} fine-tuned models {_escape(row['model'])} on {data}",
            "",
            f"Weights: `{_code(weights)}`, from trial `{row['digest']}` of sweeper {_escape(row['version'])}.",
            "",
            "## Scores",
            "",
            *scores(row, trial),
            "",
            _describe_sample(fresh),
            "",
            "## Settings",
            "",
            *_table(("", ""), facts.items()),
            "",
            "## Data",
            "",
            f"Data set {data}: {counts}. The model expects {inputs}.",
            "",
            "## How to load it",
            "",
            *loading,
        )
    )


_SPLITS = ("val", "test")
_CHOSEN = "The merge was chosen on validation; test data chose nothing."


def _image_scores(row: Mapping[str, Any], trial: PairSpec) -> Iterable[str]:
    head = ("", "validation loss", "test loss", "validation accuracy", "test accuracy")
    yield from _table(head, ((label, *_losses(row, who), *_shares(row, who)) for label, who in _models(trial).items()))
    yield from ("", f"Losses are cross-entropies in nat. {_CHOSEN}")


def _text_scores(row: Mapping[str, Any], trial: PairSpec) -> Iterable[str]:
    names = ("loss per token", "perplexity", "bits per byte", "next-token accuracy")
    head = ("", *(f"{split} {name}" for name in names for split in ("validation", "test")))
    rows: list[tuple[str, ...]] = []
    for label, who in _models(trial).items():
        losses = [row.get(f"{who}_loss_{split}") for split in _SPLITS]
        measures = [per_token(loss, row["bytes_per_token"]) or (None, None) for loss in losses]
        perplexities, bits = zip(*measures, strict=True)
        rows.append((label, *_losses(row, who), *map(number, (*perplexities, *bits)), *_shares(row, who)))
    yield from _table(head, rows)
    yield from ("", f"Losses are cross-entropies in nat per token, and perplexity is exp(loss). {_CHOSEN}")


def _describe_sample(fresh: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentence about whose scores the table holds, with the means of fresh pairs on test."""
    only = "These are the scores of the saved pair alone."
    means: list[str] = []
    for label, column in (("merged loss", "chosen_loss_test"), ("accuracy", "chosen_accuracy_test")):
        values = [v for row in fresh if (v := row.get(column)) is not None and math.isfinite(v)]
        if values and len(values) == len(fresh):
            mean, error = estimate_mean(values)
            means.append(f"{label} {number(mean)}" + ("" if error is None else f" ± {number(error)}"))
    if not means:
        return only
    pairs = pluralize(len(fresh), "fresh pair")
    return f"{only} On test, {pairs} with the same settings, which chose nothing, have {' and '.join(means)}."


def _models(trial: PairSpec) -> dict[str, str]:
    """Return label -> prefix of the columns of each scored model."""
    if len(trial.tasks) == 1:
        return _MODELS
    models = {"merged, chosen on validation": "chosen", "merged, linear": "merged"}
    return models | {f"child of {_task(trial, i)}, on its task": TASKS[i] for i in range(len(trial.tasks))}


def _losses(row: Mapping[str, Any], who: str) -> list[str]:
    return [number(row.get(f"{who}_loss_{split}")) for split in _SPLITS]


def _shares(row: Mapping[str, Any], who: str) -> list[str]:
    shares = [row.get(f"{who}_accuracy_{split}") for split in _SPLITS]
    return ["-" if s is None else f"{100 * s:.2f} %" for s in shares]


def _task(trial: PairSpec, index: int) -> str:
    return f"task {TASKS[index]} ({_escape(trial.tasks[index][0])})"


def _describe_loading(weights: str, row: Mapping[str, Any], trial: PairSpec) -> Iterable[str]:
    name, model = _code(weights), _code(row["model"])
    if len(trial.tasks) > 1:
        yield "The file holds the state dict of each task, with a prefix; all but the heads are the same:"
        yield ""
        yield from (f"- `{TASKS[i]}/`: {_task(trial, i)}" for i in range(len(trial.tasks)))
        yield from ("", "```python", "from safetensors.torch import load_file", "", 'task = "a/"')
        yield f"weights = load_file({name!r})"
        yield f"model = ...  # {model} with the classes of the task"
        yield "model.load_state_dict({k.removeprefix(task): v for k, v in weights.items() if k.startswith(task)})"
        yield from ("model.eval()", "```", "")
        yield "With sweeper and the run folder, `sweeper.load_results(DIR).best_model(task='a')` returns a module."
        yield ""
        return
    yield "The file holds a state dict. It loads into a module of the same architecture with plain torch:"
    yield from ("", "```python", "from safetensors.torch import load_file", "")
    yield f"model = ...  # {model} with {row['classes']} classes"
    yield f"model.load_state_dict(load_file({name!r}))"
    yield from ("model.eval()", "```", "")
    yield "With sweeper and the run folder, `sweeper.load_results(DIR).best_model()` returns this module."
    yield ""


def _describe_folder(folder: str, row: Mapping[str, Any], exported: Exported) -> Iterable[str]:
    from trainables.pair.export import BASE

    name = _code(folder)
    if exported.discarded is None:
        yield "The folder holds a whole model of transformers:"
        yield from ("", "```python", "from transformers import AutoModelForCausalLM", "")
        yield f"model = AutoModelForCausalLM.from_pretrained({name!r})"
    else:
        base = f"{name}/{BASE}" if exported.own else _code(exported.base)
        where = f"which stands in its folder `{BASE}`" if exported.own else f"`{base}`"
        yield f"The folder holds an adapter of peft, which loads onto its base, {where}:"
        yield from ("", "```python", "from peft import PeftModel", "from transformers import AutoModelForCausalLM", "")
        yield f"base = AutoModelForCausalLM.from_pretrained({base!r})"
        yield f"model = PeftModel.from_pretrained(base, {name!r})"
    if exported.tokenizer:
        yield from ("```", "", "```python", "from transformers import AutoTokenizer", "")
        yield f"tokenizer = AutoTokenizer.from_pretrained({name!r})"
    yield from ("```", "")
    if exported.discarded is not None:
        share = number(100 * exported.discarded)
        yield f"The adapter lacks {share} % of the squared norm of the merged update. It names its base by the path "
        yield "that the base had when the adapter was written. Give the base as above if the folder moves."
        yield ""
    if not exported.tokenizer:
        yield (
            "The folder has no tokenizer. A token is a byte of the text."
            if row.get("bytes_per_token") == 1
            else ("The folder has no tokenizer: use that of the data.")
        )
        yield ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    for line in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(line) + " |"


def _escape(value: Any) -> str:
    text = _without_paths(str(value))
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def _code(value: Any) -> str:
    return _without_paths(str(value)).replace("`", "'")


def _without_paths(text: str) -> str:
    return printable_line(_PATH.sub(lambda match: re.split(r"[/\\]", match[0])[-1], text))

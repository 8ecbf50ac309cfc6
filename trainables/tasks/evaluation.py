"""Scores of weights on data, BatchNorm re-estimation, and the definitions of gain and barrier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn

from trainables.datasets.dataset import Data
from trainables.datasets.images import Inputs
from trainables.models.heads import head_of, outputs_of, penultimate
from trainables.models.losses import by_label
from trainables.models.registry import has_batchnorm
from trainables.models.seeding import seed_generators
from trainables.models.tensors import HOST, mount
from trainables.result import SPLITS

# examples of a forward pass; for text also numbers in its logits (128 MiB in float64)
EVAL_BATCH, EVAL_NUMBERS = 1024, 2**24
# numbers in the logits of an ensemble's members that wait on the host (2 GiB in float32)
BLOCK_NUMBERS = 2**29


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy [nat] and accuracy on one split, per image or per token."""

    loss: float
    accuracy: float


Scores = Mapping[str, Score]


def _parts(x: Inputs | Tensor, size: int = EVAL_BATCH) -> Iterator[Tensor]:
    yield from torch.split(x, size) if isinstance(x, Tensor) else x.split(size)


@torch.no_grad()
def logits_of(model: nn.Module, weights: Mapping[str, Tensor], x: Inputs | Tensor) -> Tensor:
    """Return logits [n, ...] of `weights` in evaluation mode; the model's own weights stay unchanged."""
    return torch.cat(list(map(_forward(model, weights), _parts(x))))


def _forward(model: nn.Module, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    model.eval()
    return lambda part: functional_call(model, dict(weights), (part,), tie_weights=False)


@torch.no_grad()
def features_of(model: nn.Module, weights: Mapping[str, Tensor], x: Inputs | Tensor) -> Tensor:
    """Return the inputs [n, d] of the classifier, in evaluation mode; see `penultimate`."""
    head = head_of(model)
    size = EVAL_BATCH
    if len(x.shape) == 2:  # tokens, whose logits are large
        size = max(1, min(size, EVAL_NUMBERS // (x.shape[1] * outputs_of(model, head))))
    return torch.cat([penultimate(model, weights, part, head) for part in _parts(x, size)])


@torch.no_grad()
def score_inputs(forward: Callable[[Tensor], Tensor], x: Inputs | Tensor, y: Tensor) -> Score:
    """Return the score of the logits that `forward` gives for batches of `x`, against the labels `y`.

    The logits of a text are never in memory as a whole.
    """
    if y.ndim == 1:
        return score(torch.cat([forward(part) for part in _parts(x)]), y)
    tally, done, size = _Tally(y), 0, 1
    while done < len(y):
        numbers = tally.add(forward(x[slice(done, done + size)]), y[done : done + size])
        done += size
        size = max(1, min(EVAL_BATCH, EVAL_NUMBERS // numbers))
    return tally.score


class _Tally:
    """Sums of losses and of right answers over batches."""

    def __init__(self, y: Tensor) -> None:
        self.total, self.sums = y.numel(), list[Tensor]()

    def add(self, logits: Tensor, y: Tensor) -> int:
        """Add a batch; return the numbers in the logits of one example."""
        logits, target = by_label(logits, y)
        self.sums.append(torch.stack([_losses(logits, target).sum(), _right(logits, target).sum()]))
        return logits.numel() // len(y)

    @property
    def score(self) -> Score:
        """The score of all batches; NaN as a loss is infinite."""
        loss, right = (float(v) / self.total for v in torch.stack(self.sums).sum(0))
        return Score(math.inf if math.isnan(loss) else loss, right)


def score_weights(model: nn.Module, weights: Mapping[str, Tensor], x: Inputs | Tensor, y: Tensor) -> Score:
    """Return the score of `weights` in evaluation mode; the model's own weights stay unchanged."""
    return score_inputs(_forward(model, weights), x, y)


@torch.no_grad()
def score_ensemble(model: nn.Module, members: Sequence[Mapping[str, Tensor]], x: Inputs, y: Tensor) -> Score:
    """Return the score of the mean logits of several weights, on labels or tokens.

    The device holds one of them at a time. They take turns on blocks of batches, whose logits wait on the host.

    Args:
        model: Module of the architecture, on the device; its weights may be overwritten.
        members: State dicts, on any device.
        x: Inputs on the device.
        y: Labels [n] or tokens [n, context].
    """

    def logits_of_block(parts: Sequence[slice]) -> Iterator[Tensor]:
        logits = [_list_logits(model, weights, [x[part] for part in parts]) for weights in members]
        for own in zip(*logits, strict=True):
            yield torch.stack(own).mean(0).to(y.device)

    tally, done, size, many, numbers = _Tally(y), 0, 1, 1, 1
    while done < len(y):
        starts = range(done, min(len(y), done + many * size), size)
        parts = [slice(start, min(len(y), start + size)) for start in starts]
        for part, logits in zip(parts, logits_of_block(parts), strict=True):
            numbers = tally.add(logits, y[part])
        done = parts[-1].stop
        size = max(1, min(EVAL_BATCH, EVAL_NUMBERS // numbers))
        many = max(1, BLOCK_NUMBERS // (numbers * size * len(members)))
    return tally.score


def _list_logits(model: nn.Module, weights: Mapping[str, Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
    forward = _forward(model, mount(model, weights, parts[0].device))
    return [forward(part).to(HOST) for part in parts]


def score(logits: Tensor, y: Tensor) -> Score:
    """Return the score of logits [n, classes] against labels [n]; the loss of overflowed logits is infinite.

    A row with NaN counts as wrong.
    """
    loss = cross_entropy(logits.double(), y).item()
    return Score(math.inf if math.isnan(loss) else loss, _right(logits, y).mean().item())


def _losses(logits: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(logits.double(), y, reduction="none")


def _right(logits: Tensor, y: Tensor) -> Tensor:
    # comparisons and maxima would mistake NaN for the best value
    return ((logits.argmax(1) == y) & ~logits.isnan().any(1)).double()


def score_splits(
    model: nn.Module, weights: Mapping[str, Tensor], data: Data, splits: Iterable[str] = SPLITS
) -> tuple[dict[str, Score], dict[str, Tensor]]:
    """Return the scores and the logits of `weights` by split; without the logits of text, which are large."""
    scores: dict[str, Score] = {}
    logits: dict[str, Tensor] = {}
    for split in splits:
        x, y = data.scored(split)
        if data.context is not None:
            scores[split] = score_weights(model, weights, x, y)
            continue
        logits[split] = logits_of(model, weights, x)
        scores[split] = score(logits[split], y)
    return scores, logits


def recalibrate(model: nn.Module, weights: Mapping[str, Tensor], batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return `weights` with BatchNorm statistics re-estimated on augmented training batches.

    Parents and merged models use the same `batches`: recalibrating only the merge would fabricate gain. A model without
    BatchNorm keeps its weights. The parameters of the result are those of `weights`; its buffers are copies.

    Source: Jordan et al. 2022 (REPAIR), arXiv 2211.08403; `torch.optim.swa_utils.update_bn`.
    """
    if not has_batchnorm(model):
        return dict(weights)
    model.load_state_dict(dict(weights))
    # dropout is active in this pass; the seed gives every merge the same masks
    with seed_generators(0, batches[0].device):
        update_bn(batches, model)
    model.eval()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {k: weights[k] if k in parameters else v.detach().clone() for k, v in model.state_dict().items()}


def gains(a: Scores, b: Scores, merged: Scores) -> dict[str, float]:
    """Return every gain column, `gain_{mean,best}_{loss,accuracy}_<split>`; positive means the merge is better.

    Gain in loss is parents minus merged, gain in accuracy merged minus parents.

    Source: arXiv 2510.04686 (gain at alpha = 1/2).
    """
    out: dict[str, float] = {}
    for s in merged:
        la, lb, lm = a[s].loss, b[s].loss, merged[s].loss
        aa, ab, am = a[s].accuracy, b[s].accuracy, merged[s].accuracy
        out[f"gain_mean_loss_{s}"] = (la + lb) / 2 - lm
        out[f"gain_best_loss_{s}"] = min(la, lb) - lm
        out[f"gain_mean_accuracy_{s}"] = am - (aa + ab) / 2
        out[f"gain_best_accuracy_{s}"] = am - max(aa, ab)
    return out


def barriers(curve: Mapping[float, Scores]) -> dict[str, float]:
    """Return every barrier column, `barrier_{frankle,entezari}_{loss,error}_<split>`.

    Args:
        curve: alpha -> scores of the linear merge; must hold alpha = 0 and 1.

    Source: Frankle et al. 2019, arXiv 1912.05671: max L(alpha) - (L_A + L_B)/2; Entezari et al. 2021,
    arXiv 2110.06296: max L(alpha) - ((1 - alpha) L_A + alpha L_B).
    """
    out: dict[str, float] = {}
    for s in curve[0.0]:
        for what in ("loss", "error"):
            value = {alpha: c[s].loss if what == "loss" else 1 - c[s].accuracy for alpha, c in curve.items()}
            a, b = value[0.0], value[1.0]
            out[f"barrier_frankle_{what}_{s}"] = max(value.values()) - (a + b) / 2
            out[f"barrier_entezari_{what}_{s}"] = max(v - ((1 - t) * a + t * b) for t, v in value.items())
    return out


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centred kernel alignment of two feature matrices [n, d] and [n, e]; NaN for constant ones.

    Source: Kornblith et al. 2019, arXiv 1905.00414, eq. 3 with linear kernels.
    """
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    norms = (x.T @ x).square().sum().sqrt() * (y.T @ y).square().sum().sqrt()
    return float((y.T @ x).square().sum() / norms)


def normalised_accuracy(merged: Sequence[float], children: Sequence[float]) -> float:
    """Return the mean over tasks of the merge's accuracy divided by that of the task's child; NaN if one child has 0.

    Source: Ilharco et al. 2022, arXiv 2212.04089, section 4.
    """
    if not all(children):
        return math.nan
    return sum(m / c for m, c in zip(merged, children, strict=True)) / len(children)


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping with non-finite numbers replaced by None, which Parquet stores as null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}

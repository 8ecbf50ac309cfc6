"""Caveats: reasons to doubt the noise numbers of a trial, one sentence each.

Every caveat is `key: sentence` with a fixed key of `KEYS`, so that a sweep can show each key once.
"""

from __future__ import annotations

import math

from trainables.noise import defined_for
from trainables.spec import PairSpec
from trainables.training.optimizers import family

KEYS = {
    "inert_weight_decay": "Weight decay is too weak to act within the training.",
    "clipping": "Gradients were clipped, so the noise is not proportional to the learning rate.",
    "unseen_augmentation": "The augmentation changes the gradient covariance, which most predicted noises leave out.",
    "device_batchnorm": "BatchNorm's statistics come from each process's share of the batch.",
    "without_replacement": "The batch is a large share of the training set, so the noise is smaller than assumed.",
    "no_stable_phase": "The schedule has no phase at a stable learning rate.",
    "unequal_children": "Child B has another noise than child A, whose noise the row holds.",
    "paper_undefined": "No predicted noise is defined for the optimizer.",
}
"""Key -> description of the caveat."""
SEPARATOR = " | "

# policies that mix or smooth labels, or draw from a set of operations
_CHANGES_SIGMA = ("mixup", "cutmix", "label_smoothing", "randaugment")
_LARGE_BATCH = 0.1
_COUPLED, _DECOUPLED = ("sgd",), ("sgdw", "adamw")


def wd_relaxation(spec: PairSpec, steps: int) -> float | None:
    """Return the training time in relaxation times to the norm at which weight decay and gradients balance [1].

    It is eta lambda T / (1 - mu) for SGD, whose decay passes through the momentum sum, and eta lambda T for decoupled
    decay. It is None for other optimizers, for which it depends on the gradients. Below 1 weight decay is inert.

    Args:
        spec: The trial.
        steps: Steps of one child; the function adds the steps of a trunk, `branch_step`, at its learning rate.

    Source: relaxation of the squared norm of scale-invariant weights, arXiv 2010.02916; decoupled, arXiv 2305.17212.
    """
    kind = family(spec.optimizer)
    rates = spec.learning_rate * steps + spec.trunk_spec().learning_rate * spec.branch_step
    decays = rates * spec.weight_decay
    if kind in _COUPLED:
        return decays / (1.0 - spec.momentum)
    return decays if kind in _DECOUPLED else None


def caveats(
    spec: PairSpec,
    examples: int,
    steps: int,
    clipped_fraction: float | None = None,
    has_batchnorm: bool = False,
    ranks: int = 1,
) -> list[str]:
    """Return the caveats of the trial's noise scales, each as `key: sentence`.

    Args:
        spec: The trial.
        examples: Training examples N of one child.
        steps: Optimizer steps T of one child.
        clipped_fraction: Fraction of the steps whose gradient was clipped, if known.
        has_batchnorm: Whether the model has BatchNorm.
        ranks: Number of processes that train each child together.
    """
    sentences = {
        "inert_weight_decay": _inert(spec, steps),
        "clipping": _clipping(clipped_fraction),
        "unseen_augmentation": _augmentation(spec),
        "device_batchnorm": _batchnorm(spec, ranks) if has_batchnorm else None,
        "without_replacement": _replacement(spec, examples),
        "no_stable_phase": _phase(spec),
        "unequal_children": _children(spec),
        "paper_undefined": _paper(spec),
    }
    return [f"{key}: {sentence}" for key, sentence in sentences.items() if sentence]


def key_of(text: str) -> str:
    """Return the key of a caveat.

    Raises:
        ValueError: The text is no caveat.
    """
    key = text.partition(": ")[0]
    if key not in KEYS:
        raise ValueError(f"a caveat must start with one of {', '.join(KEYS)}, got {text!r}")
    return key


def _inert(spec: PairSpec, steps: int) -> str | None:
    times = wd_relaxation(spec, steps)
    if times is None or not spec.weight_decay > 0 or not times < 1:
        return None
    formula = "ηλT/(1−μ)" if family(spec.optimizer) in _COUPLED else "ηλT"
    return (
        f"weight decay is inert, since {formula} = {times:.3g} is below 1: do not trust noises that count it, or raise "
        "λ or T"
    )


def _clipping(fraction: float | None) -> str | None:
    if not fraction:
        return None
    return f"{fraction:.3g} of the steps were clipped, and their noise does not follow η: raise clip_norm to trust it"


def _augmentation(spec: PairSpec) -> str | None:
    parts = [p for p in spec.augmentation.split("+") if p in _CHANGES_SIGMA]
    if not parts or spec.augmentation_strength == 0:
        return None
    return (
        f"{' and '.join(parts)} at strength {spec.augmentation_strength:.3g} changes the gradients' covariance: use "
        "paper_aug, the only predicted noise that sees it"
    )


def _batchnorm(spec: PairSpec, ranks: int) -> str | None:
    if ranks < 2:
        return None
    return (
        f"BatchNorm sees {spec.batch_size / ranks:.4g} examples on each of {ranks} ranks: the noise of its statistics "
        f"follows this number, not the batch of {spec.batch_size}"
    )


def _replacement(spec: PairSpec, examples: int) -> str | None:
    share = spec.batch_size / examples
    if not share > _LARGE_BATCH:
        return None
    return (
        f"B/N = {share:.3g}, so batches drawn without replacement have {max(1 - share, 0):.3g} of the noise variance "
        "that the definitions assume: lower B to trust them"
    )


def _phase(spec: PairSpec) -> str | None:
    if spec.schedule not in ("wsd", "constant"):
        return f"schedule {spec.schedule} has no stable phase: noises are those of its highest η; use wsd to have one"
    rest = spec.decay if spec.protocol == "branch" else spec.warmup + spec.decay
    if spec.schedule == "wsd" and rest >= 1 - 1e-9:
        return f"warmup and decay take {rest:.3g} of the steps: lower them to leave a stable phase"
    return None


def _children(spec: PairSpec) -> str | None:
    a, b = (s.learning_rate / s.batch_size for s in spec.child_specs()[:2])
    if not spec.child_b or math.isclose(a, b):
        return None
    return (
        f"child B has {b / a:.3g} times the η/B of child A, whose noise the row holds: compare trials of one ratio, or "
        "see the map of both noises on the landscape tab"
    )


def _paper(spec: PairSpec) -> str | None:
    kind = family(spec.optimizer)
    if kind != "other":  # the others have predicted noises of their own
        return None
    return f"noise paper is not defined for optimizer {spec.optimizer}: use one of {', '.join(defined_for(kind))}"

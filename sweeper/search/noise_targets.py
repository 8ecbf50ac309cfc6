"""Noises that a sweep may target: predicted ones that its optimizers define."""

from __future__ import annotations

from collections.abc import Iterable

from trainables.noise import NOISE, NoiseScale
from trainables.registry import unknown
from trainables.training.optimizers import OPTIMIZERS

MEASURED_USUAL = "critical_ratio"  # defined for every optimizer
_USUAL = {"sgd": "paper", "sgdw": "paper", "adam": "adam_sde", "adamw": "adam_sde"}
WITH_AUGMENTATION = {"paper": "paper_aug"}
"""Default noise -> the same noise with the factor of the augmentation, which a probe predicts."""
_WHY = {
    "measured": "is measured during training",
    "fitted": "has no exponents before the first trials",
}


def default_noise(family: str) -> str:
    """Return the default target noise of a family of optimizers."""
    return _USUAL.get(family, "paper")


def list_targets(families: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the predicted noises that all these families of optimizers define."""
    wanted = set(families)
    return tuple(n for n, s in NOISE.items() if s.kind == "predicted" and wanted <= set(s.families))


def check_target(name: str) -> NoiseScale:
    """Return a noise that a search can target.

    Raises:
        ValueError: The noise is unknown, or no formula predicts it; the message names others.
    """
    if name not in NOISE:
        raise ValueError(str(unknown("noise", name, NOISE)))
    scale = NOISE[name]
    if scale.kind != "predicted":
        look = f"; `sweeper status DIR --noise {name}` shows it" if scale.kind == "measured" else ""
        use = " or ".join(_find_near(scale))
        raise ValueError(f"noise {name!r} {_WHY[scale.kind]}, so a search cannot target it; use {use}{look}")
    return scale


def target_or_default(name: str, family: str) -> str:
    """Return a noise that a search can target: the named one, or the default of the optimizers."""
    return name if name in NOISE and NOISE[name].kind == "predicted" else default_noise(family)


def check_defined(name: str, optimizers: dict[str, str]) -> None:
    """Check that all optimizers of a sweep (name -> family) define a noise.

    Raises:
        UnknownName: No such optimizer.
        ValueError: An optimizer does not define it; the message names noises that all define.
    """
    for optimizer, family in optimizers.items():
        if family not in NOISE[name].families:
            OPTIMIZERS[optimizer]  # an unknown name has no noise either
            known = list_targets(optimizers.values())
            way = f"use {' or '.join(known)}"
            if not known:
                together = ", ".join(optimizers)
                way = f"no predicted noise is defined for {together}: use --sampler tpe --noise critical_ratio"
            raise ValueError(f"noise {name!r} is not defined for optimizer {optimizer!r}; {way}")


def check_shown(name: str) -> NoiseScale:
    """Return a noise that has a column in the trials table.

    Raises:
        UnknownName: No such noise.
        ValueError: The noise is `fitted` and has no column.
    """
    if NOISE[name].kind == "fitted":
        raise ValueError(
            f"noise {name!r} has no column, because its exponents are estimated from the trials; choose another noise"
        )
    return NOISE[name]


def _find_near(scale: NoiseScale) -> tuple[str, ...]:
    # predicted noises with the same formula apart from measured factors
    rest = {f: e for f, e in scale.exponents.items() if f in _PREDICTED_FACTORS}
    names = [n for n in list_targets(()) if {f: e for f, e in NOISE[n].exponents.items() if f != "k_aug"} == rest]
    return tuple(names) or tuple(dict.fromkeys(default_noise(f) for f in scale.families))


_PREDICTED_FACTORS = {f for s in NOISE.values() if s.kind == "predicted" for f in s.exponents}

"""Which noise a sweep may target: predicted, and defined for its optimizer. What cannot be is said in one line."""

from __future__ import annotations

from collections.abc import Iterable

from trainables.noise import NOISE, NoiseScale
from trainables.registry import unknown

MEASURED_USUAL = "critical_ratio"  # defined for every optimizer
_USUAL = {"sgd": "paper", "sgdw": "paper", "adam": "adam_sde", "adamw": "adam_sde"}
_WHY = {
    "measured": "is measured while training",
    "fitted": "has no exponents before there are trials",
}


def default_noise(family: str) -> str:
    """Return the noise that a sweep with an optimizer of this family targets where none is asked for."""
    return _USUAL.get(family, "paper")


def list_targets(families: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the predicted noises that are defined for all these families of optimizers."""
    wanted = set(families)
    return tuple(n for n, s in NOISE.items() if s.kind == "predicted" and wanted <= set(s.families))


def check_target(name: str) -> NoiseScale:
    """Return a noise that a search can aim at.

    Raises:
        ValueError: No such noise, or one that is not known before training; the message names others.
    """
    if name not in NOISE:
        raise ValueError(str(unknown("noise", name, NOISE)))
    scale = NOISE[name]
    if scale.kind != "predicted":
        look = f", and look at it with `sweeper status DIR --noise {name}`" if scale.kind == "measured" else ""
        raise ValueError(
            f"noise {name!r} {_WHY[scale.kind]}, a search cannot target it; use {' or '.join(_find_near(scale))}{look}"
        )
    return scale


def check_defined(name: str, optimizers: dict[str, str]) -> None:
    """Check that a noise is defined for every optimizer of a sweep, given as name -> family.

    Raises:
        ValueError: It is not; the message names those that are.
    """
    for optimizer, family in optimizers.items():
        if family not in NOISE[name].families:
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
        ValueError: It is `fitted` and has none.
    """
    if NOISE[name].kind == "fitted":
        raise ValueError(f"noise {name!r} has no column: its exponents are estimated from the trials; choose another")
    return NOISE[name]


def _find_near(scale: NoiseScale) -> tuple[str, ...]:
    # the predicted noises that are its formula without what is measured
    rest = {f: e for f, e in scale.exponents.items() if f in _PREDICTED_FACTORS}
    found = [n for n in list_targets(()) if {f: e for f, e in NOISE[n].exponents.items() if f != "k_aug"} == rest]
    return tuple(found) or tuple(dict.fromkeys(default_noise(f) for f in scale.families))


_PREDICTED_FACTORS = {f for s in NOISE.values() if s.kind == "predicted" for f in s.exponents}

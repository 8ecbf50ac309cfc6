"""Freezing: parameters and BatchNorm statistics that training leaves unchanged."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import cast

from torch import nn

from trainables.models.registry import BATCHNORMS


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freeze the parameters whose names match a pattern, in place, and return their names.

    A BatchNorm layer with all its parameters frozen is replaced by a layer with fixed statistics. A layer without
    parameters is replaced if its statistics match a pattern. Neither training nor the re-estimation of a merge changes
    fixed statistics; otherwise the children would lose the features that freezing keeps. Load the start weights first.

    Args:
        model: Model with its start weights.
        patterns: Names of parameters as in `named_parameters`; `*` matches anything, `?` one character.

    Raises:
        ValueError: A pattern matches no parameter, or nothing is left to train.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in named):
            near = difflib.get_close_matches(pattern, named, n=3, cutoff=0.3) or list(named)[:3]
            raise ValueError(f"freeze pattern {pattern!r} matches no parameter; the nearest are {', '.join(near)}")
    # a parameter with several names is frozen if one of them matches
    held = {id(p) for n, p in named.items() if _matches(n, patterns)}
    frozen = [n for n, p in named.items() if id(p) in held]
    if len(frozen) == len(named):
        raise ValueError(f"freeze must leave parameters to train, got {list(patterns)}, which match all {len(named)}")
    for name in frozen:
        named[name].requires_grad_(False)
    _fix_statistics(model, patterns, set(frozen))
    return frozen


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, p) for p in patterns)


def _fix_statistics(model: nn.Module, patterns: Sequence[str], frozen: Collection[str]) -> None:
    modules = list(cast(Iterable[tuple[str, nn.Module]], model.named_modules(remove_duplicate=False)))
    held = {id(m) for name, m in modules if _matches(f"{name}.running_mean", patterns)}
    made: dict[int, nn.Module] = {}
    for name, norm in modules:
        if not isinstance(norm, BATCHNORMS) or norm.running_mean is None:
            continue
        parameters = [f"{name}.{n}" for n, _ in norm.named_parameters()]
        if not (all(n in frozen for n in parameters) if parameters else id(norm) in held):
            continue
        # a layer with two names stays one layer
        made[id(norm)] = fixed = made.get(id(norm)) or _fix(norm)
        if fixed is norm:
            raise ValueError(f"a frozen normalisation must be BatchNorm2d, {name} is {type(norm).__name__}")
        model.set_submodule(name, fixed.to(norm.running_mean))


def _fix(norm: nn.Module) -> nn.Module:
    # here, since the import takes two seconds
    from timm.layers.norm_act import freeze_batch_norm_2d  # pyright: ignore[reportUnknownVariableType]

    return cast(nn.Module, freeze_batch_norm_2d(norm))

"""Advice of a sweep: settings at each batch size that the user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from sweeper.analysis.settings.recommendation import fit_model
from sweeper.analysis.settings.settings import FORMATS, Settings, format_settings, render
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.storage.space_data import known_space
from trainables.noise import NOISE
from trainables.registry import UnknownName


@dataclass(frozen=True)
class SettingsAdvice:
    """Recommended settings with their texts.

    Attributes:
        settings: One per batch size, in the order in which the user names them.
        text: All of them as a table.
        formats: Name of another format -> text; empty for several settings.
    """

    settings: tuple[Settings, ...]
    text: str
    formats: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """Return the advice as a record for JSON."""
        return {"settings": [s.record() for s in self.settings], "text": self.text, "formats": dict(self.formats)}


def keeps_confirmed(spec: SweepSpec, trials: pa.Table, objective: str, noise: str | None = None) -> bool:
    """Return whether the settings by an objective are the confirmed ones, also where no model can tell.

    Args:
        spec: The sweep.
        trials: Its trials table.
        objective: Objective to optimise.
        noise: Noise along which the surrogate models the scores.
    """
    try:
        return advise_settings(spec, trials, objective=objective, noise=noise).settings[0].confirmed is not None
    except SpecError:
        return True


def advise_settings(
    spec: SweepSpec,
    trials: pa.Table,
    *,
    batch_sizes: Sequence[int] | None = None,
    momentum: float | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    objective: str | None = None,
    noise: str | None = None,
    seed: int = 0,
    shown: SweepSpec | None = None,
) -> SettingsAdvice:
    """Return the settings of a stored sweep, one per batch size; see `recommend_settings`.

    Args:
        spec: The sweep, as `sweeper.storage.run_folder.stored_spec` yields it.
        trials: Its trials table.
        batch_sizes: Batch sizes to use; none leaves the batch size free.
        momentum: Momentum to use; None leaves it free.
        learning_rate: Learning rate to use; None leaves it free.
        weight_decay: Weight decay to use; None leaves it free.
        objective: Objective to optimise; by default the sweep's first.
        noise: Noise along which the surrogate models the scores, if it is a predicted one.
        seed: Seed of candidates and draws.
        shown: The sweep as the texts name it; by default `spec`.

    Raises:
        NoSettingsError: There are too few viable trials.
        SpecError: The folder does not determine the space, a name is unknown, or a value breaks its rule or is absurd.
    """
    fixed = {"momentum": momentum, "learning_rate": learning_rate, "weight_decay": weight_decay}
    given = {name: value for name, value in fixed.items() if value is not None}
    each = [{"batch_size": size, **given} for size in dict.fromkeys(batch_sizes or ())] or [given]
    known = known_space(spec)
    try:
        model = fit_model(spec, known.space, trials, each, objective=objective, noise=noise, seed=seed)
        found = [model.recommend(values, seed) for values in each]
    except SpecError:
        raise
    except (ValueError, UnknownName) as error:
        raise SpecError(str(error)) from None
    if shown is not None:
        found = [replace(s, sweep=shown) for s in found]
    if known.assumed:
        found = [replace(s, notes=(*s.notes, known.assumed)) for s in found]
    if noise is not None and model.noise != noise:
        why = f"the noise {noise} is {NOISE[noise].kind}, and no knob predicts it: the noise here is {model.noise}"
        found = [replace(s, notes=(*s.notes, why)) for s in found]
    formats = {form: render(found[0], form) for form in FORMATS[1:]} if len(found) == 1 else {}
    return SettingsAdvice(tuple(found), format_settings(found), formats)

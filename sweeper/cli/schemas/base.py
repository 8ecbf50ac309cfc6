"""Parts of the models of JSON outputs: descriptions, and models of dataclasses."""

from __future__ import annotations

import re
from dataclasses import fields
from inspect import getdoc
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

SOMETIMES = "x-sometimes"
"""Mark of a key that not every output has."""

USUAL: dict[str, str] = {
    "budget": "configurations that the sweep proposes",
    "cause": "what caused the change",
    "config": "digest of the configuration",
    "configs": "number of configurations",
    "configurations": "number of configurations",
    "created": "time of its creation, UTC",
    "device_seconds": "device time [s]",
    "df": "degrees of freedom of the test",
    "df_reverse": "degrees of freedom of the reverse test",
    "digest": "digest of the trial",
    "done": "proposals whose trials have all ended",
    "draws": "number of resamples",
    "dry_run": "whether nothing was run",
    "edge_config": "configuration without which that share is largest",
    "ended": "time of its end, UTC",
    "expires": "time from which it is void, UTC; null for never",
    "failed": "failed proposals",
    "error": "standard error; null for a single pair",
    "formula": "formula of the noise",
    "high": "upper end of the 90 % interval",
    "id": "identifier",
    "knobs": "knob -> value",
    "label": "name of the objective for people, with its unit",
    "levels": "number of distinct noises",
    "low": "lower end of the 90 % interval",
    "mean": "mean",
    "message": "a sentence for people",
    "name": "display name",
    "n": "number of pairs or configurations",
    "noise": "noise: a definition's name, or a value of the shown definition",
    "objective": "name of the objective",
    "optimum": "best noise; null if not determined",
    "owner": "user who submitted it",
    "p_config": "configuration without which p is largest",
    "r2_both": "R² of left-out configurations by both",
    "r2_noise": "R² of left-out configurations by the noise alone",
    "pairs": "number of pairs",
    "reason": "why there is no result; else empty",
    "revoked": "time of its revocation, UTC; null if it is valid",
    "sampler": "name of the sampler",
    "score": "mean objective; null if it is not defined",
    "scores": "name of a score -> estimate",
    "sd": "posterior standard deviation of a prediction, or standard error of measured pairs",
    "se_down": "standard error of the falling slope",
    "se_up": "standard error of the rising slope",
    "space": "search space",
    "spec": "fields of the sweep that the user set",
    "started": "time of its start, UTC",
    "time": "time of the change, UTC",
    "transitions": "changes of the state",
    "trials": "number of trials",
    "unit": "unit of the noise",
    "url": "path in the API",
    "user": "name of the user",
    "value": "the estimate",
    "warnings": "reasons to doubt numbers",
}
"""Key -> its meaning in records that do not say it."""


def read_docs(cls: type[Any]) -> dict[str, str]:
    """Return field -> its description in the section `Attributes:` of a dataclass."""
    section = (
        re.split(r"^Attributes:$", getdoc(cls) or "", flags=re.M)[-1] if "Attributes:" in (cls.__doc__ or "") else ""
    )
    entries = re.findall(r"^    (\w[\w, ]*): (.*(?:\n {6,}.*)*)", section, flags=re.M)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def model_of(
    cls: type[Any], name: str, without: tuple[str, ...] = (), sometimes: bool = False, **known: Any
) -> type[BaseModel]:
    """Return a model with the fields of a dataclass.

    Args:
        cls: The dataclass.
        name: Name of the model.
        without: Fields to leave out.
        sometimes: Whether outputs may lack the fields.
        known: Types that the dataclass's module imports for type checkers only.
    """
    hints, docs = get_type_hints(cls, localns={**known, "Any": Any}), read_docs(cls)
    kept = {f.name: (hints[f.name], say(docs.get(f.name, ""), sometimes)) for f in fields(cls) if f.name not in without}
    make: Any = create_model  # its overloads do not know a mapping of fields
    return make(name, __config__=ConfigDict(extra="forbid"), __doc__=(getdoc(cls) or "").split("\n")[0], **kept)


def say(description: str, sometimes: bool = False) -> Any:
    """Return a field with a description; `sometimes` marks a key that not every output has."""
    return Field(description=description, json_schema_extra={SOMETIMES: True} if sometimes else None)


class Output(BaseModel):
    """Record without further keys."""

    model_config = ConfigDict(extra="forbid")

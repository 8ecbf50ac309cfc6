"""Field `adapter` of a trial: the adapters that children train, with their rules and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from trainables.io.printable import show_value
from trainables.spec.rules import check, check_json

KINDS = ("lora",)
DESCRIPTION = (
    "Adapters that children train on frozen base weights; empty trains the weights. Entries: `kind` (`lora`), `r` "
    "(rank, 8), `alpha` (2 r), `targets` (names or ends of names of linear layers; empty for all but the head), "
    "`rslora` (scaling alpha/√r instead of alpha/r), `dropout`. Merges act on the updates of the weights."
)
_NAMES = ("kind", "r", "alpha", "targets", "rslora", "dropout")


def adapter_settings(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an adapter with the defaults filled in; empty for no adapter.

    Raises:
        ValueError: A setting is unknown or breaks its rule.
    """
    check_json("adapter", adapter)
    if not adapter:
        return {}
    if wrong := sorted(set(adapter) - set(_NAMES)):
        raise ValueError(f"adapter must have no settings but {', '.join(_NAMES)}, got {wrong[0]!r}")
    if adapter.get("kind") not in KINDS:
        raise ValueError(f"adapter.kind must be {' or '.join(KINDS)}, got {show_value(adapter.get('kind'))}")
    rank: Any = adapter.get("r", 8)
    _check("r", rank, "be a whole number >= 1", _is_number(rank) and rank >= 1 and rank == int(rank))
    alpha: Any = adapter.get("alpha", 2 * int(rank))
    _check("alpha", alpha, "be a number > 0", _is_number(alpha) and alpha > 0)
    dropout: Any = adapter.get("dropout", 0.0)
    _check("dropout", dropout, "lie in [0, 1)", _is_number(dropout) and 0 <= dropout < 1)
    rslora: Any = adapter.get("rslora", False)
    _check("rslora", rslora, "be true or false", isinstance(rslora, bool))
    targets: Any = adapter.get("targets", [])
    plain = isinstance(targets, list) and all(isinstance(t, str) and t for t in cast(list[Any], targets))
    _check("targets", targets, "be a list of names of layers", plain)
    return {"kind": "lora", "r": int(rank), "alpha": alpha, "targets": targets, "rslora": rslora, "dropout": dropout}


def _check(name: str, value: Any, rule: str, holds: bool) -> None:
    check(f"adapter.{name}", value, rule, holds)


def check_adapter(spec: Any) -> None:
    """Check the adapter of a `PairSpec`.

    Raises:
        ValueError: A setting breaks its rule, or another field contradicts it.
    """
    if adapter_settings(spec.adapter):
        rule = "be empty with an adapter, which freezes the whole base"
        check("freeze", ", ".join(spec.freeze), rule, not spec.freeze)
    if spec.held_dtype == spec.dtype:
        return
    check("dtype", spec.dtype, "be float32 with model_options.dtype bfloat16", spec.dtype == "float32")
    if not spec.adapter:
        raise ValueError(
            f"model_options.dtype must be float32 without an adapter, got {spec.held_dtype!r}: steps below 2^-9 of a "
            "weight would round to nothing; train an adapter, or set autocast to bfloat16"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""Field `adapter` of a trial: the adapters that children train, with their rules and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

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
        raise ValueError(f"adapter.kind must be {' or '.join(KINDS)}, got {adapter.get('kind')!r}")
    rank = adapter.get("r", 8)
    whole = isinstance(rank, int | float) and not isinstance(rank, bool) and rank == int(rank)
    check("adapter.r", rank, "be a whole number >= 1", whole and rank >= 1)
    out = {"kind": "lora", "r": int(rank), "alpha": adapter.get("alpha", 2 * int(rank)),
           "targets": adapter.get("targets", []), "rslora": adapter.get("rslora", False),
           "dropout": adapter.get("dropout", 0.0)}  # fmt: skip
    check("adapter.alpha", out["alpha"], "be a number > 0", _is_number(out["alpha"]) and out["alpha"] > 0)
    check("adapter.dropout", out["dropout"], "lie in [0, 1)", _is_number(out["dropout"]) and 0 <= out["dropout"] < 1)
    check("adapter.rslora", out["rslora"], "be true or false", isinstance(out["rslora"], bool))
    targets = out["targets"]
    plain = isinstance(targets, list) and all(isinstance(t, str) and t for t in cast(list[Any], targets))
    check("adapter.targets", targets, "be a list of names of layers", plain)
    return out


def check_adapter(spec: Any) -> None:
    """Check the adapter of a `PairSpec`.

    Raises:
        ValueError: A setting breaks its rule, or another field contradicts it.
    """
    if adapter_settings(spec.adapter):
        check("freeze", list(spec.freeze), "be empty with an adapter, which freezes the whole base", not spec.freeze)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

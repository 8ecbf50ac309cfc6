"""Exponents of a noise, from one source for all outputs.

The single index of the designed trials comes first, since no result chose their settings and its intervals hold. The
search's own model replaces it only where these trials are too few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.analysis.evidence.exponents import relative_exponents
from sweeper.formatting import format_table, name_knob, number, pluralize, wrap

if TYPE_CHECKING:
    from sweeper.analysis.evidence.findings import Analysis


@dataclass(frozen=True)
class FactorExponent:
    """Exponent of a factor of the noise, such as 1/B, relative to the first factor's.

    Attributes:
        factor: Symbol of the factor.
        given: Exponent in the definition; None for a measured noise.
        fitted: Exponent fitted to the trials.
        interval: Ends of its 90 % interval; None for an exponent that stays as defined.
    """

    factor: str
    given: float | None
    fitted: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class NoiseExponents:
    """Exponents of a noise, and what they rest on.

    Attributes:
        source: `trials` for the single index of the trials, as `analyse` prints it; `search` for the search's own
            model; empty without exponents.
        words: What they rest on, as a sentence.
        factors: The exponents.
    """

    source: str
    words: str
    factors: tuple[FactorExponent, ...] = ()


def choose_exponents(analysis: Analysis | None, belief: Mapping[str, Any], noise: str) -> NoiseExponents:
    """Return the exponents to show: those of the trials, or those of the search's model if the trials are too few.

    Args:
        analysis: Analysis of the trials, with their single index; None without one.
        belief: Record of the posterior, see `sweeper.analysis.posterior.Posterior.record`.
        noise: Name in `NOISE`.
    """
    found, adaptive = (analysis.exponents, analysis.regime.adaptive) if analysis else (None, False)
    if found is not None and found.value:
        given = relative_exponents(noise, list(found.value))
        factors = tuple(
            FactorExponent(
                name_knob(k).factor,
                given.get(k),
                value,
                None if k == found.unit_knob else (found.low[k], found.high[k]),
            )
            for k, value in found.value.items()
        )
        doubt = "; results chose some settings, which may bias them" if adaptive else ""
        count = pluralize(found.n, "configuration" if adaptive else "designed configuration")
        return NoiseExponents("trials", f"The exponents rest on {count}{doubt}.", factors)
    why = (found.reason if found else "") or "no analysis is possible"
    if belief.get("exponents"):
        words = f"The exponents are those of the search's own model, and their intervals are too narrow: {why}."
        return NoiseExponents("search", words, tuple(list_exponents(belief)))
    return NoiseExponents("", f"No exponents: {why}.")


def list_exponents(record: Mapping[str, Any]) -> list[FactorExponent]:
    """Return the exponents of a posterior's record, with the signs that `sweeper analyse` gives them.

    The definition's exponent of the first factor is 1.
    """
    roles = [str(role) for role in record["exponents"]]
    signs = {role: -1.0 if name_knob(role).divides else 1.0 for role in roles}
    given = {role: signs[role] * record["given"].get(role, 0.0) + 0.0 for role in roles}
    unit = next(iter(given.values()), 1.0) or 1.0
    exponents: list[FactorExponent] = []
    for role in roles:
        low, high = (record.get(f"exponent_{end}", {}).get(role) for end in ("low", "high"))
        # level sets are solved for the pivot, so its exponent stays as defined
        ends = (
            None if low is None or high is None or low == high else sorted(signs[role] * v / unit for v in (low, high))
        )
        fitted = signs[role] * record["exponents"][role] / unit
        interval = (ends[0], ends[1]) if ends else None
        exponents.append(FactorExponent(name_knob(role).factor, given[role] / unit, fitted, interval))
    return exponents


def format_exponents(exponents: NoiseExponents) -> str:
    """Return exponents as a table for a terminal, below a sentence on what they rest on."""
    if not exponents.factors:
        return wrap(exponents.words, 0)
    rows = [(e.factor, number(e.given), number(e.fitted), _format_interval(e.interval)) for e in exponents.factors]
    return f"{wrap(exponents.words, 0)}\n{format_table(('exponent of', 'definition', 'fitted', '90 % interval'), rows)}"


def _format_interval(interval: tuple[float, float] | None) -> str:
    return f"{number(interval[0])} to {number(interval[1])}" if interval else "as defined"

"""Effective noise scales by name: predicted from hyperparameters, before any training.

Each definition is a product of powers, S = prefactor * prod_k factor_k ** exponent_k, with the factors

======================  ==============================  =====================
factor                  value                           set by the knob
======================  ==============================  =====================
``learning_rate``       eta, of the stable phase        ``learning_rate``
``batch_size``          B, global, in examples          ``batch_size``
``one_minus_momentum``  1 - mu                          ``momentum``
``one_plus_momentum``   1 + mu                          ``momentum``
``weight_decay``        lambda                          ``weight_decay``
``examples``            N, training examples            (a constant)
======================  ==============================  =====================

The scale is that of the stable phase: warmup-stable-decay schedules anneal it to zero by design.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .registry import Registry

Settings = Mapping[str, float]
KNOBS = ("learning_rate", "batch_size", "momentum", "weight_decay")

_FACTORS: Mapping[str, Callable[[Settings], float]] = {
    "learning_rate": lambda h: h["learning_rate"],
    "batch_size": lambda h: h["batch_size"],
    "one_minus_momentum": lambda h: 1.0 - h["momentum"],
    "one_plus_momentum": lambda h: 1.0 + h["momentum"],
    "weight_decay": lambda h: h["weight_decay"],
    "examples": lambda h: h["examples"],
}
_KNOB_OF = {"one_minus_momentum": "momentum", "one_plus_momentum": "momentum"}


@dataclass(frozen=True)
class NoiseScale:
    """One definition of the effective noise scale.

    Attributes:
        name: Key in `NOISE`.
        formula: The formula as text.
        unit: Unit of the value.
        source: Paper (arXiv id) it comes from.
        exponents: Exponent of each factor of the table above.
        prefactor: Constant factor.
    """

    name: str
    formula: str
    unit: str
    source: str
    exponents: Mapping[str, float]
    prefactor: float = 1.0
    kind: str = "predicted"

    @property
    def knobs(self) -> tuple[str, ...]:
        """Knobs that stand in the formula, the ones that `solve` accepts."""
        return tuple(k for k in KNOBS if any(_KNOB_OF.get(f, f) == k for f in self.exponents))

    @property
    def needs(self) -> tuple[str, ...]:
        """Settings that `predict` needs: the knobs and, for some, `examples`."""
        return tuple(dict.fromkeys(_KNOB_OF.get(f, f) for f in self.exponents))

    def predict(self, settings: Settings) -> float:
        """Return the noise scale of `settings`.

        Args:
            settings: `learning_rate`, `batch_size`, `momentum`, `weight_decay`, `examples`; those that the
                formula does not use may be missing.

        Returns:
            The scale in `self.unit`; 0 where a factor with a positive exponent is 0.

        Raises:
            ValueError: A setting that the formula needs is missing, or momentum is not below 1.
        """
        value = self.prefactor
        for factor, exponent in self.exponents.items():
            knob = _KNOB_OF.get(factor, factor)
            if knob not in settings:
                raise ValueError(f"noise {self.name!r} needs {knob}: {self.formula}")
            base = _FACTORS[factor](settings)
            illegal = knob == "momentum" and not settings[knob] < 1
            if illegal or base < 0 or (base == 0 and exponent < 0):
                raise ValueError(f"noise {self.name!r} is undefined at {knob} = {settings[knob]!r}: {self.formula}")
            value *= base**exponent
        return value

    def solve(self, knob: str, noise: float, settings: Settings) -> float:
        """Return the value of `knob` at which the other `settings` have the given noise.

        The inverse of `predict`. A batch size comes back as a real number: round it yourself.

        Args:
            knob: One of `self.knobs`.
            noise: Wanted scale, > 0.
            settings: The other settings.

        Raises:
            ValueError: `knob` is not in the formula, `noise` is not positive, or no legal value reaches it.
        """
        if knob not in self.knobs:
            raise ValueError(
                f"noise {self.name!r} cannot be solved for {knob!r}: {self.formula} has {', '.join(self.knobs)}"
            )
        if not noise > 0:
            raise ValueError(f"noise must be > 0, got {noise!r}")
        neutral = {"momentum": 0.0}.get(knob, 1.0)
        rest = self.predict({**settings, knob: neutral})
        if not rest > 0:  # weight decay 0, say
            raise ValueError(f"no {knob} reaches noise {noise:g} with {dict(settings)}: {self.formula}")
        ratio = noise / rest
        try:
            value = self._invert(knob, ratio)
        except OverflowError:
            value = None
        if value is None:
            raise ValueError(f"no {knob} reaches noise {noise:g} with {dict(settings)}: {self.formula}")
        return value

    def _invert(self, knob: str, ratio: float) -> float | None:
        if not (ratio > 0 and math.isfinite(ratio)):
            return None
        if knob != "momentum":
            return ratio ** (1.0 / self.exponents[knob])
        minus = self.exponents.get("one_minus_momentum", 0.0)
        plus = self.exponents.get("one_plus_momentum", 0.0)
        if minus and plus:
            raise NotImplementedError("no definition uses both factors of momentum")
        mu = 1.0 - ratio ** (1.0 / minus) if minus else ratio ** (1.0 / plus) - 1.0
        # 0 may come back as -1e-16
        mu = max(mu, 0.0) if mu > -1e-12 else mu
        return mu if 0.0 <= mu < 1.0 else None


NOISE: Registry[NoiseScale] = Registry("noise")


def _define(
    name: str, formula: str, unit: str, source: str, exponents: Mapping[str, float], prefactor: float = 1.0
) -> None:
    NOISE.add(name, NoiseScale(name, formula, unit, source, exponents, prefactor))


_LR, _B, _MU, _WD, _N = "learning_rate", "batch_size", "one_minus_momentum", "weight_decay", "examples"
_define("paper", "η/(B(1−μ))", "1/examples", "arXiv 2510.04686, final version", {_LR: 1, _B: -1, _MU: -1})
_define("paper_v1", "η/(B(1−μ)²)", "1/examples", "arXiv 2510.04686, first version", {_LR: 1, _B: -1, _MU: -2})
_define("linear", "η/B", "1/examples", "Jastrzębski et al. 2017, arXiv 1711.04623", {_LR: 1, _B: -1})
_define("smith_le", "ηN/(B(1−μ))", "1", "Smith & Le 2018, arXiv 1710.06451", {_LR: 1, _N: 1, _B: -1, _MU: -1})
_define("wd_intrinsic", "ηλ/(1−μ)", "1/steps", "Li, Lyu & Arora 2020, arXiv 2010.02916", {_LR: 1, _WD: 1, _MU: -1})
_define(
    "wd_angular",
    "√(2ηλ/(1+μ))",
    "rad/step",
    "Kosson et al. 2023, arXiv 2305.17212",
    {_LR: 0.5, _WD: 0.5, "one_plus_momentum": -0.5},
    math.sqrt(2.0),
)
_define(
    "wd_equilibrium",
    "√(ηλ/(B(1−μ)))",
    "1/√examples",
    "from Van Laarhoven 2017, arXiv 1706.05350, at the equilibrium norm",
    {_LR: 0.5, _WD: 0.5, _B: -0.5, _MU: -0.5},
)


def predict_all(settings: Settings) -> dict[str, float]:
    """Return every noise scale by name that `settings` suffices for; see `NoiseScale.predict`."""
    return {name: scale.predict(settings) for name, scale in NOISE.items() if set(scale.needs) <= set(settings)}

"""Effective noise scales by name: predicted from hyperparameters, measured in training, or fitted to trials.

Each definition is a product of powers, S = prefactor * prod_k factor_k ** exponent_k, with the factors

======================  ==============================  ============================================================
factor                  value                           comes from
======================  ==============================  ============================================================
``learning_rate``       eta, of the stable phase        the knob
``batch_size``          B, global, in examples          the knob
``one_minus_momentum``  1 - mu                          the knob ``momentum``
``one_plus_momentum``   1 + mu                          the knob ``momentum``
``weight_decay``        lambda                          the knob
``one_minus_beta1``     1 - beta_1                      the setting ``beta1``
``one_plus_beta1``      1 + beta_1                      the setting ``beta1``
``examples``            N, training examples            the data
``k_aug``               tr Sigma with augmentation      the probe at the base weights, before training; 1 without
                        divided by that without         augmentation
``trace_sigma``         tr Sigma, nat^2/parameter^2     measured in the stable phase
``b_simple``            tr Sigma / |G|^2, examples      measured in the stable phase
``weight_norm``         |w|, parameter norm             measured in training
``dose``                see `trainables.measurement.dose`           measured in training
======================  ==============================  ============================================================

Predicted scales are known before training, so that a search can target them; measured ones are known afterwards.
Each definition is valid for some families of optimizers:

=====================================  ===========  ================================================================
definition                             families     why
=====================================  ===========  ================================================================
paper, paper_v1, paper_aug, linear,    sgd, sgdw    diffusion of steps eta v with the sum v <- mu v + g of raw
smith_le, paper_full, effective_lr,                 gradients; Adam's beta_1 is an average without the gain
dose                                                1/(1 - mu), and its steps hardly depend on the gradient's size
wd_intrinsic, wd_angular,              sgd          equilibrium under a decay lambda w that is part of the gradient
wd_equilibrium                                      and so of the momentum sum; a decoupled decay is not
adam_sde                               adam, adamw  a rule for steps g / sqrt(v); the decay does not enter
adamw_angular, adamw_tau               adamw        equilibrium under decoupled decay; inside the gradient it would
                                                    be divided by sqrt(v)
critical_ratio, fitted                 all          a property of the gradients; exponents are estimated
=====================================  ===========  ================================================================

Every scale describes the stable phase; warmup-stable-decay schedules reduce it to zero by design. No scale includes the
factor 1 - B/N of batches drawn without replacement. B is the global batch, with gradient accumulation and ranks. Of
text, B and N count windows of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from trainables.registry import Registry, unknown

Settings = Mapping[str, float]
KNOBS = ("learning_rate", "batch_size", "momentum", "weight_decay")
SOLVABLE = (*KNOBS, "beta1", "k_aug")
FAMILIES = ("sgd", "sgdw", "adam", "adamw", "other")
MEASURED = ("trace_sigma", "b_simple", "weight_norm", "dose")

_FACTORS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "learning_rate": lambda h: h["learning_rate"],
    "batch_size": lambda h: h["batch_size"],
    "one_minus_momentum": lambda h: 1.0 - h["momentum"],
    "one_plus_momentum": lambda h: 1.0 + h["momentum"],
    "weight_decay": lambda h: h["weight_decay"],
    "one_minus_beta1": lambda h: 1.0 - h["beta1"],
    "one_plus_beta1": lambda h: 1.0 + h["beta1"],
    "examples": lambda h: h["examples"],
    "k_aug": lambda h: h["k_aug"],
    "trace_sigma": lambda h: h["trace_sigma"],
    "b_simple": lambda h: h["b_simple"],
    "weight_norm": lambda h: h["weight_norm"],
    "dose": lambda h: h["dose"],
}
_RATES = {"momentum": ("one_minus_momentum", "one_plus_momentum"), "beta1": ("one_minus_beta1", "one_plus_beta1")}
_KNOB_OF = {factor: knob for knob, pair in _RATES.items() for factor in pair}
_ORIGIN = {
    "k_aug": ", which the probe at the base weights measures",
    **dict.fromkeys(MEASURED, ", which training measures"),
}


@dataclass(frozen=True)
class NoiseScale:
    """One definition of the effective noise scale.

    Attributes:
        name: Key in `NOISE`.
        formula: The formula as text.
        unit: Unit of the value.
        source: Paper, with its arXiv id.
        exponents: Exponent of each factor of the module's table; empty for `fitted` before `with_exponents`.
        prefactor: Constant factor.
        kind: `predicted` (known before training), `measured` (filled after it) or `fitted` (estimated exponents).
        families: Families of optimizers, of `FAMILIES`, for which it is defined.
        description: One sentence on its meaning.

    Raises:
        ValueError: It has both factors of momentum or of beta1, and their exponents are not opposite.
    """

    name: str
    formula: str
    unit: str
    source: str
    exponents: Mapping[str, float]
    prefactor: float = 1.0
    kind: str = "predicted"
    families: tuple[str, ...] = FAMILIES
    description: str = ""

    def __post_init__(self) -> None:
        for knob, pair in _RATES.items():
            minus, plus = (self.exponents.get(factor, 0.0) for factor in pair)
            if minus and plus and minus != -plus:
                raise ValueError(f"exponents of 1 - {knob} and 1 + {knob} must be opposite, got {minus:g} and {plus:g}")

    @property
    def knobs(self) -> tuple[str, ...]:
        """Knobs in the formula, which `solve` accepts."""
        return tuple(k for k in SOLVABLE if any(_KNOB_OF.get(f, f) == k for f in self.exponents))

    @property
    def needs(self) -> tuple[str, ...]:
        """Settings that `predict` needs."""
        return tuple(dict.fromkeys(_KNOB_OF.get(f, f) for f in self.exponents))

    def predict(self, settings: Settings) -> float:
        """Return the noise scale of `settings`.

        Args:
            settings: Settings of the module's table; the formula may not need all of them.

        Returns:
            The scale in `self.unit`; 0 if a factor with a positive exponent is 0.

        Raises:
            ValueError: A needed setting is missing, the scale is undefined at these settings (such as momentum 1), or
                it is `fitted` without exponents.
        """
        self._check_exponents()
        for need in self.needs:
            if need not in settings:
                raise ValueError(f"noise {self.name!r} needs {need}{_ORIGIN.get(need, '')}: {self.formula}")
        if (fault := self._fault(settings)) is not None:
            raise ValueError(f"noise {self.name!r} is undefined at {fault} = {settings[fault]!r}: {self.formula}")
        return self.prefactor * math.prod(_FACTORS[f](settings) ** e for f, e in self.exponents.items())

    def factors(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return factor -> value of the formula's factors, elementwise for arrays, without checks."""
        return {name: _FACTORS[name](settings) for name in self.exponents}

    def compare(self, settings: Settings, changes: Settings) -> float:
        """Return the noise with `changes` over that of `settings`; factors that neither holds cancel.

        Args:
            settings: Settings of the module's table, at least those that change.
            changes: Those that change, with their new values.
        """
        factors = [f for f in self.exponents if _KNOB_OF.get(f, f) in changes]
        after = {**settings, **changes}
        return math.prod((_FACTORS[f](after) / _FACTORS[f](settings)) ** self.exponents[f] for f in factors)

    def defined_at(self, settings: Settings) -> bool:
        """Return whether `settings` suffice and no measured one, nor a weight decay of 0, makes the scale undefined."""
        if not self.exponents or not set(self.needs) <= set(settings):
            return False
        fault = self._fault(settings)
        return fault not in (*MEASURED, "k_aug") and not (fault == "weight_decay" and settings["weight_decay"] == 0)

    def _check_exponents(self) -> None:
        if not self.exponents:
            raise ValueError(
                f"noise {self.name!r} has no exponents: estimate them from the trials of a sweep and call "
                f"with_exponents: {self.formula}"
            )

    def _fault(self, settings: Settings) -> str | None:
        for factor, exponent in self.exponents.items():
            knob, base = _KNOB_OF.get(factor, factor), _FACTORS[factor](settings)
            illegal = knob in _RATES and not settings[knob] < 1
            if illegal or not (math.isfinite(base) and base >= 0) or (base == 0 and exponent < 0):
                return knob
        return None

    def solve(self, knob: str, noise: float, settings: Settings) -> float:
        """Return the value of `knob` at which the other `settings` give a noise: the inverse of `predict`.

        Measured settings stay fixed. A batch size is returned as a real number, without rounding. To reach a `k_aug`,
        look up its strength in the probe.

        Args:
            knob: One of `self.knobs`.
            noise: Target scale, > 0.
            settings: The other settings.

        Raises:
            ValueError: `knob` is not in the formula, `noise` is not positive, a needed setting is missing, or no valid
                value reaches the noise.
        """
        self._check_exponents()
        if knob not in self.knobs:
            has = f"{self.formula} has {', '.join(self.knobs) or 'no knob, because training measures it'}"
            raise ValueError(f"noise {self.name!r} cannot be solved for {knob!r}: {has}")
        if not noise > 0:
            raise ValueError(f"noise must be > 0, got {noise!r}")
        rest = self.predict({**settings, knob: 0.0 if knob in _RATES else 1.0})
        try:
            value = self._invert(knob, noise / rest) if rest > 0 else None  # 0 with weight decay 0, for example
        except OverflowError:
            value = None
        if value is None:
            raise ValueError(f"no {knob} reaches noise {noise:g} with {dict(settings)}: {self.formula}")
        return value

    def _invert(self, knob: str, ratio: float) -> float | None:
        if not (ratio > 0 and math.isfinite(ratio)):
            return None
        if knob not in _RATES:
            return ratio ** (1.0 / self.exponents[knob])
        minus, plus = (self.exponents.get(factor, 0.0) for factor in _RATES[knob])
        root = ratio ** (1.0 / (minus or plus))
        rate = (1.0 - root) / (1.0 + root) if minus and plus else 1.0 - root if minus else root - 1.0
        # rounding may give -1e-16 for 0
        rate = max(rate, 0.0) if rate > -1e-12 else rate
        return rate if 0.0 <= rate < 1.0 else None


NOISE: Registry[NoiseScale] = Registry("noise")


def _define(
    name: str,
    description: str,
    formula: str,
    unit: str,
    source: str,
    exponents: Mapping[str, float],
    families: str,
    *,
    prefactor: float = 1.0,
    kind: str = "predicted",
) -> None:
    groups = tuple(families.split())
    NOISE.add(name, NoiseScale(name, formula, unit, source, exponents, prefactor, kind, groups, description))


_LR, _B, _MU, _WD, _N = "learning_rate", "batch_size", "one_minus_momentum", "weight_decay", "examples"
_SGD, _PAPER = "sgd sgdw", {_LR: 1.0, _B: -1.0, _MU: -1.0}
_FINAL, _KOSSON = "arXiv 2510.04686, final version", "Kosson et al. 2023, arXiv 2305.17212"
_define("paper", "Learning rate over batch size, times the gain 1/(1−μ) of momentum; the default.",
        "η/(B(1−μ))", "1/examples", _FINAL, _PAPER, _SGD)  # fmt: skip
_define("paper_v1", "Like `paper`, with the square of the gain of momentum.",
        "η/(B(1−μ)²)", "1/examples", "arXiv 2510.04686, first version", {**_PAPER, _MU: -2}, _SGD)  # fmt: skip
_define("paper_full", "Like `paper`, times the measured gradient covariance.",
        "η/(B(1−μ))·trΣ", "nat²/parameter²/examples", _FINAL, {**_PAPER, "trace_sigma": 1}, _SGD,
        kind="measured")  # fmt: skip
_define("paper_aug", "Like `paper`, times the factor by which augmentation raises the gradient covariance.",
        "k_aug·η/(B(1−μ))", "1/examples", "arXiv 2510.04686, trΣ taken at the base weights",
        {**_PAPER, "k_aug": 1}, _SGD)  # fmt: skip
_define("linear", "Learning rate over batch size, without momentum.",
        "η/B", "1/examples", "Jastrzębski et al. 2017, arXiv 1711.04623", {_LR: 1, _B: -1}, _SGD)  # fmt: skip
_define("smith_le", "Noise of SGD seen as a stochastic differential equation; grows with the training set.",
        "ηN/(B(1−μ))", "1", "Smith & Le 2018, arXiv 1710.06451", {**_PAPER, _N: 1}, _SGD)  # fmt: skip
_define("wd_intrinsic", "Intrinsic learning rate under weight decay: the inverse of the time to equilibrium.",
        "ηλ/(1−μ)", "1/steps", "Li, Lyu & Arora 2020, arXiv 2010.02916", {_LR: 1, _WD: 1, _MU: -1},
        "sgd")  # fmt: skip
_define("wd_angular", "Rotation of the weights per step at the equilibrium of SGD with weight decay.",
        "√(2ηλ/(1+μ))", "rad/step", _KOSSON, {_LR: 0.5, _WD: 0.5, "one_plus_momentum": -0.5}, "sgd",
        prefactor=math.sqrt(2.0))  # fmt: skip
_define("wd_equilibrium", "Like `effective_lr`, at the weight norm at which decay and gradients balance.",
        "√(ηλ/(B(1−μ)))", "1/√examples",
        "from Van Laarhoven 2017, arXiv 1706.05350, at the equilibrium norm",
        {_LR: 0.5, _WD: 0.5, _B: -0.5, _MU: -0.5}, "sgd")  # fmt: skip
_define("effective_lr", "Like `paper`, relative to the squared norm of the weights, for networks with normalisation.",
        "η/((1−μ)‖w‖²B)", "1/parameter norm²/examples",
        "Van Laarhoven 2017, arXiv 1706.05350; Hoffer et al. 2018, arXiv 1803.01814",
        {**_PAPER, "weight_norm": -2}, _SGD, kind="measured")  # fmt: skip
_define("adam_sde", "Square-root scaling rule of Adam-type optimizers.",
        "η/√B", "1/√examples", "Malladi et al. 2022, arXiv 2205.10287", {_LR: 1, _B: -0.5}, "adam adamw")  # fmt: skip
_define("adamw_angular", "Rotation of the weights per step at the equilibrium of AdamW.",
        "√(2ηλ(1−β₁)/(1+β₁))", "rad/step", _KOSSON,
        {_LR: 0.5, _WD: 0.5, "one_minus_beta1": 0.5, "one_plus_beta1": -0.5}, "adamw",
        prefactor=math.sqrt(2.0))  # fmt: skip
_define("adamw_tau", "Time over which AdamW averages its updates, in epochs.",
        "B/(ηλN), larger is less noise", "epochs", "Wang & Aitchison 2024, arXiv 2405.13698",
        {_B: 1, _LR: -1, _WD: -1, _N: -1}, "adamw")  # fmt: skip
_define("dose", "Variance that gradient noise alone gives to the end weights.",
        "Σ_t η_t²/(B(1−μ)²)·trΣ_t", "parameter norm²", "variance of a random walk of momentum steps",
        {"dose": 1}, _SGD, kind="measured")  # fmt: skip
_define("critical_ratio", "Simple noise scale over batch size: above 1 the noise dominates the gradient.",
        "B_simple/B, B_simple = trΣ/‖G‖²", "1", "McCandlish et al. 2018, arXiv 1812.06162",
        {"b_simple": 1, _B: -1}, " ".join(FAMILIES), kind="measured")  # fmt: skip
_define("fitted", "Product of powers whose exponents a sweep estimates from its trials.",
        "exp(a·[ln η, −ln B, −ln(1−μ), ln λ, ln k_aug])", "1",
        "single-index model, exponents a estimated from the trials", {}, " ".join(FAMILIES), kind="fitted")  # fmt: skip

# setting -> its factor and symbol in `fitted`, and the sign of the factor's logarithm
_INDEX = {"learning_rate": (_LR, "η", 1), "batch_size": (_B, "B", -1), "momentum": (_MU, "(1−μ)", -1),
          "weight_decay": (_WD, "λ", 1), "k_aug": ("k_aug", "k_aug", 1)}  # fmt: skip


def with_exponents(exponents: Mapping[str, float]) -> NoiseScale:
    """Return the scale `fitted` with these exponents, which predicts and solves like the others.

    Args:
        exponents: a of the formula by setting: `learning_rate`, `batch_size`, `momentum`, `weight_decay`, `k_aug`;
            missing ones are 0. `paper` has 1 for the first three.

    Raises:
        UnknownName: No such setting.
        ValueError: An exponent is not finite, or all exponents are 0.
    """
    if wrong := sorted(set(exponents) - set(_INDEX)):
        raise unknown("exponent", wrong[0], _INDEX)
    used = {name: float(a) for name, a in exponents.items() if a != 0}
    if not used or not all(map(math.isfinite, used.values())):
        raise ValueError(f"exponents must be finite and at least one must not be 0, got {dict(exponents)}")
    factors = {_INDEX[name][0]: _INDEX[name][2] * a for name, a in used.items()}
    formula = "·".join(f"{_INDEX[name][1]}^{_INDEX[name][2] * a:.3g}" for name, a in used.items())
    return replace(NOISE["fitted"], exponents=factors, formula=formula)


def predict_all(settings: Settings, family: str = "sgd") -> dict[str, float]:
    """Return name -> scale for the scales that are defined for a family of optimizers and these settings.

    The result lacks scales that a measured setting (estimates of |G|^2 may be below 0) or a weight decay of 0 makes
    undefined.

    Raises:
        ValueError: A scale is undefined at another setting; see `NoiseScale.predict`.
    """
    return {n: s.predict(settings) for n, s in NOISE.items() if family in s.families and s.defined_at(settings)}


def defined_for(family: str) -> tuple[str, ...]:
    """Return the names of the scales that are defined for a family of optimizers."""
    return tuple(name for name, scale in NOISE.items() if family in scale.families)

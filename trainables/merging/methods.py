"""Merges: (base, children, coefficient) -> weights. Pure functions on dicts of tensors.

Merges combine floating-point entries, running statistics included (BatchNorm is re-estimated afterwards). Integer and
boolean entries come from the first child. Symbols: theta_i the children, theta_0 their base, tau_i = theta_i - theta_0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from trainables.merging import formulas
from trainables.merging.formulas import Extras, Grams, Weights
from trainables.merging.regmean import regmean
from trainables.models.permutations import Moves
from trainables.models.tensors import tied_names
from trainables.registry import Registry

Combine = Callable[[Weights, Sequence[Weights], float, Extras], dict[str, Tensor]]


@dataclass(frozen=True)
class Merge:
    """One way to merge models.

    Attributes:
        name: Key in `MERGES`.
        combine: Formula on the floating-point entries, (base, children, coefficient, extras) -> merged.
        grid: Coefficients that a trial evaluates.
        symbol, meaning: The coefficient's symbol and meaning.
        formula, source: The formula as text and its paper.
        description: One sentence on what it does.
        arity: `pair` takes exactly two children, `any` two or more.
        path: Whether it goes along a path between two models; of several children of one task it takes the first two.
        equal: Whether more than two children have equal weights, so that the coefficient is 1/n.
        needs: Subset of `base`, `seed`, `fishers`, `grams`, `moments`, `alignments` and `repair` that the formula
            needs; `ends` may tell of the base, too, see `uses_base`.
        ends: Coefficients at which the merge equals `base`, the first child `a` or the second of two `b`, bit for bit.
        neutral: Coefficients at which the merge of a model with itself is that model.
        symmetric: Whether the result does not depend on the order of three or more children.
        elementwise: Whether an entry of the result depends on that entry of the models alone (in TIES, and on the
            thresholds), so that parts of a tensor may be merged on their own.
    """

    name: str
    combine: Combine
    grid: tuple[float, ...]
    symbol: str
    meaning: str
    formula: str
    source: str
    description: str
    arity: Literal["pair", "any"] = "any"
    path: bool = False
    equal: bool = False
    needs: frozenset[str] = frozenset()
    ends: Mapping[float, Literal["base", "a", "b"]] = field(default_factory=lambda: {})
    neutral: tuple[float, ...] = ()
    symmetric: bool = True
    elementwise: bool = False

    def coefficients(self, children: int) -> tuple[float, ...]:
        """Return the coefficients to evaluate for a number of children: the grid, or the one with equal weights."""
        return (1 / children,) if children > 2 and self.equal else self.grid

    @property
    def uses_base(self) -> bool:
        """Whether the result depends on the base."""
        return "base" in self.needs or "base" in self.ends.values()

    @property
    def measured(self) -> frozenset[str]:
        """What the formula needs beside the models' weights and a seed."""
        return self.needs - {"base", "seed"}

    def check_coefficient(self, coefficient: float, children: int) -> None:
        """Check a coefficient: a scale of task vectors may be any number, others lie within the grid.

        Args:
            coefficient: The coefficient.
            children: Number of children.

        Raises:
            ValueError: It breaks the rule.
        """
        allowed = self.coefficients(children)
        if len(allowed) == 1:
            equal = f"1/{children}" if children > 2 and self.equal else f"{allowed[0]:g}"
            if not math.isclose(coefficient, allowed[0]):
                raise ValueError(
                    f"coefficient must be {equal} in merge {self.name!r} of {children} models, got {coefficient:g}"
                )
            return
        low, high = (-math.inf, math.inf) if "base" in self.ends.values() else (min(allowed), max(allowed))
        if not (math.isfinite(coefficient) and low <= coefficient <= high):
            rule = "be finite" if math.isinf(low) else f"lie in [{low:g}, {high:g}]"
            raise ValueError(
                f"coefficient must {rule} in merge {self.name!r}, where it is the {self.meaning}, got {coefficient:g}"
            )

    def __call__(
        self,
        base: Weights,
        children: Sequence[Weights],
        coefficient: float,
        *,
        seed: int = 0,
        fishers: Sequence[Weights] | None = None,
        thresholds: Sequence[Tensor] = (),
        grams: Sequence[Grams] | None = None,
        moments: Sequence[Weights] | None = None,
        alignments: Sequence[Moves] | None = None,
        repair: Callable[[Weights, Sequence[Weights], float], dict[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """Return the merged weights with the same keys; the inputs stay unchanged.

        Names that share one tensor in all models are one entry and share one tensor in the result. Half precision is
        combined in float32; the result has the widest type of the merged models. Running variances never get below 0.

        Args:
            base: State dict theta_0.
            children: State dicts theta_i.
            coefficient: One of `grid`, or another value of `symbol`.
            seed: Seed of random masks.
            fishers: One diagonal Fisher per child, from `trainables.merging.fisher`; parameters only.
            thresholds: See `Extras`; for a merge of a part of the models.
            grams: Gram matrices of each child's linear layers, from `trainables.merging.grams`.
            moments: Adam's second moments of each child, times its batch size; parameters only.
            alignments: Per child, the moves that reorder its units, from `trainables.merging.alignment`.
            repair: Corrects an interpolation, see `trainables.merging.alignment.Repair`.

        Raises:
            ValueError: The models do not have the same keys and shapes, are too few or too many, or lack what
                `needs` names.
        """
        given = {"fishers": fishers, "grams": grams, "moments": moments, "alignments": alignments}
        self._check(children, given, repair is not None)
        models = [base, *children]
        _check_same(models)
        first = tied_names([*children, base])
        used = models if self.uses_base else children
        kinds = {k: formulas.common_type([m[k] for m in used]) for k, v in children[0].items() if v.is_floating_point()}
        moved = [
            k for k in kinds if k not in first and (self.moves_units or not formulas.unmoved([m[k] for m in models]))
        ]
        wide = [{k: m[k].to(formulas.compute_type(kinds[k])) for k in moved} for m in models]
        extras = Extras(
            seed, fishers or (), thresholds, grams or (), moments or (), alignments or (),
            repair if "repair" in self.needs else None,
        )  # fmt: skip
        merged = self.combine(wide[0], wide[1:], coefficient, extras)
        out: dict[str, Tensor] = {}
        for key, value in children[0].items():
            if key in first:
                out[key] = out[first[key]]
            elif key in merged:
                entry = merged[key].clamp(min=0) if formulas.is_variance(key) else merged[key]
                out[key] = entry.to(kinds[key])
            else:
                out[key] = value.to(kinds.get(key, value.dtype), copy=True)
        return out

    @property
    def moves_units(self) -> bool:
        """Whether the formula reorders the units of the children, also in entries that are equal in all of them."""
        return "alignments" in self.needs

    def _check(self, children: Sequence[Weights], given: Mapping[str, Sequence[object] | None], repairs: bool) -> None:
        many = len(children)
        self.check_number(many)
        for need, values in given.items():
            if need in self.needs and (values is None or len(values) != many):
                got = "none" if values is None else len(values)
                raise ValueError(f"merge {self.name!r} needs one {_NEEDS[need]} per child, {many} in all, got {got}")
        if "repair" in self.needs and not repairs:
            raise ValueError(f"merge {self.name!r} needs the network and inputs for its repair, got none")

    def check_number(self, children: int) -> None:
        """Check that the merge takes this number of children.

        Raises:
            ValueError: It takes another number.
        """
        if children < 2 or (self.arity == "pair" and children > 2):
            wanted = "exactly two" if self.arity == "pair" else "two or more"
            raise ValueError(f"merge {self.name!r} takes {wanted} children, got {children}")


_NEEDS = {"fishers": "diagonal Fisher", "grams": "set of Gram matrices", "moments": "set of second moments of Adam",
          "alignments": "alignment"}  # fmt: skip
MERGES: Registry[Merge] = Registry("merge")


def _check_same(models: Sequence[Weights]) -> None:
    for other in models:
        if wrong := sorted(set(models[0]) ^ set(other)):
            raise ValueError(f"models to merge must have the same keys; {wrong[0]} is not in all of them")
    for key in models[0]:
        shapes = [tuple(w[key].shape) for w in models]
        if len(set(shapes)) > 1:
            raise ValueError(f"models to merge must have the same shapes; {key} has {shapes}")


_TENTHS = tuple(i / 10 for i in range(11))
_QUARTERS = tuple(i / 4 for i in range(7))
_WEIGHT, _SCALE = "weight of the second child", "scale of the task vectors"

for _merge in (
    Merge(
        "linear", formulas.linear, _TENTHS, "alpha", _WEIGHT,
        "(1 − α)θ_A + αθ_B", "Wortsman et al. 2022, arXiv 2203.05482",
        "Interpolates the two children linearly; averages the children of more than two tasks.",
        path=True, equal=True, ends={0.0: "a", 1.0: "b"}, neutral=_TENTHS, elementwise=True,
    ),
    Merge(
        "task_arithmetic", formulas.task_arithmetic, _QUARTERS, "s", _SCALE,
        "θ₀ + s(τ_A + τ_B)", "Ilharco et al. 2022, arXiv 2212.04089",
        "Adds the scaled task vectors of all children to the base.",
        ends={0.0: "base"}, neutral=(0.5,), elementwise=True,
    ),
    Merge(
        "ties", formulas.ties, _QUARTERS, "s", _SCALE,
        "θ₀ + s·mean of the largest 20 % of τ_i that agree with the sign of the sum of these trimmed τ_i",
        "Yadav et al. 2023, arXiv 2306.01708",
        "Trims small changes, elects a sign per parameter, and averages the changes that agree.",
        ends={0.0: "base"}, elementwise=True,
    ),
    Merge(
        "dare", formulas.dare, _QUARTERS, "s", _SCALE,
        "θ₀ + s·Σ m_i τ_i/(1 − p), m_i ~ Bernoulli(1 − p), p = 0.5", "Yu et al. 2023, arXiv 2311.03099",
        "Drops random entries of the task vectors, rescales the rest, and adds them to the base.",
        needs=frozenset({"seed"}), ends={0.0: "base"}, symmetric=False,
    ),
    Merge(
        "slerp", formulas.slerp, _TENTHS, "alpha", _WEIGHT,
        "(sin((1 − α)Ω)·θ_A + sin(αΩ)·θ_B)/sin Ω per tensor, cos Ω = ⟨θ_A, θ_B⟩/(‖θ_A‖‖θ_B‖)",
        "Shoemake 1985, SIGGRAPH 19(3); Goddard et al. 2024, arXiv 2403.13257",
        "Interpolates each tensor of the two children along the great circle.",
        arity="pair", path=True, ends={0.0: "a", 1.0: "b"}, neutral=_TENTHS,
    ),
    Merge(
        "fisher", formulas.fisher, _TENTHS, "alpha", _WEIGHT,
        "Σ λ_i F_i θ_i/Σ λ_i F_i, λ = (1 − α, α)", "Matena & Raffel 2021, arXiv 2111.09832",
        "Averages the children, weighted by their diagonal Fisher information.",
        equal=True, needs=frozenset({"fishers"}), ends={0.0: "a", 1.0: "b"}, neutral=_TENTHS,
    ),
    Merge(
        "fisher_adam", formulas.fisher_adam, _TENTHS, "alpha", _WEIGHT,
        "Σ λ_i F_i θ_i/Σ λ_i F_i, F_i = B_i v̂_i, v̂ the bias-corrected second moments of Adam, λ = (1 − α, α)",
        "Li et al. 2025, arXiv 2507.18807, section 3; Matena & Raffel 2021, arXiv 2111.09832",
        "Averages the children, weighted by the second moments of the Adam that trained them; no extra pass.",
        equal=True, needs=frozenset({"moments"}), ends={0.0: "a", 1.0: "b"}, neutral=_TENTHS,
    ),
    Merge(
        "model_stock", formulas.model_stock, (1.0,), "none", "not used",
        "t·(1/n) Σ θ_i + (1 − t)·θ₀ per tensor, t = n cos φ/(1 + (n − 1) cos φ), φ the angle of the τ_i, at most 90°",
        "Jang et al. 2024, arXiv 2403.19522, section 4 (two models: t = 2 cos φ/(1 + cos φ)) and appendix (n models)",
        "Pulls the average of the children towards the base, the more the less their task vectors agree.",
        needs=frozenset({"base"}), neutral=(1.0,),
    ),
    Merge(
        "regmean", regmean, (0.0, 0.1, 0.5, 0.7, 0.9, 1.0), "gamma",
        "factor of the off-diagonal entries of the Gram matrices",
        "(Σ G̃_i)⁺ Σ G̃_i W_i per linear layer, G_i = E x xᵀ of its inputs, G̃ = γG + (1 − γ)·diag G; else (1/n) Σ θ_i",
        "Jin et al. 2022, arXiv 2212.09849",
        "Fits each linear layer by least squares to the outputs of the children's; averages the other parameters.",
        needs=frozenset({"grams"}), neutral=(0.0, 0.1, 0.5, 0.7, 0.9, 1.0),
    ),
    Merge(
        "weight_matching", formulas.weight_matching, _TENTHS, "alpha", _WEIGHT,
        "(1 − α)θ_A + αP(θ_B), P the order of B's units with the highest ⟨θ_A, P(θ_B)⟩ that a search by layers finds",
        "Ainsworth et al. 2023, arXiv 2209.04836, algorithm 1",
        "Reorders the units of the second child like those of the first, then interpolates; for children of different "
        "initial weights.",
        arity="pair", path=True, needs=frozenset({"alignments"}), ends={0.0: "a", 1.0: "b"}, neutral=_TENTHS,
    ),
    Merge(
        "weight_matching_repair", formulas.weight_matching, _TENTHS, "alpha", _WEIGHT,
        "as weight_matching; then each unit's weights times r, its bias b to r·b + m* − r·m, r = s*/s: m, s mean and "
        "standard deviation of its output, m*, s* their interpolation between θ_A and P(θ_B)",
        "Jordan et al. 2023, arXiv 2211.08403, section 3; Ainsworth et al. 2023, arXiv 2209.04836, algorithm 1",
        "Interpolates as `weight_matching`, then gives each unit the mean and spread that the children have on "
        "average; equal to it where BatchNorm normalises all units.",
        arity="pair", path=True, needs=frozenset({"alignments", "repair"}), ends={0.0: "a", 1.0: "b"},
        neutral=_TENTHS,
    ),
    Merge(
        "uniform_soup", formulas.uniform_soup, (1.0,), "none", "not used",
        "(1/n) Σ θ_i", "Wortsman et al. 2022, arXiv 2203.05482",
        "Averages the weights of all children.",
        neutral=(1.0,), elementwise=True,
    ),
):  # fmt: skip
    MERGES.add(_merge.name, _merge)


class ByScore(NamedTuple):
    """A merge that the scores of its candidates determine: what it does and its paper."""

    description: str
    source: str


GREEDY, TASKWISE = "greedy_soup", "taskwise_arithmetic"
BY_SCORE: Mapping[str, ByScore] = {
    GREEDY: ByScore(
        "Averages the best child with each further one that does not lower the validation accuracy.",
        "Wortsman et al. 2022, arXiv 2203.05482",
    ),
    TASKWISE: ByScore(
        "Adds task vectors, each with its own scale: θ₀ + Σ s_i τ_i. A coordinate search on the validation loss sets "
        "the scales.",
        "Yang et al. 2023, arXiv 2310.02575",
    ),
}
"""Merges that need scores, see `trainables.merging.soups` and `trainables.merging.taskwise`."""

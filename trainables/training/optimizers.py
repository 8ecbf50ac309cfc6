"""Optimizers by name, and their families of noise scales.

`sgd` and `adamw` are torch's; every other name of `timm.optim` works too. The import of this module loads neither
library, because the family of an optimizer must be known without torch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from trainables.noise import NOISE, defined_for
from trainables.registry import Registry, unknown
from trainables.spec import PairSpec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

Build = Callable[["list[Tensor]", PairSpec], "Optimizer"]

_BETAS = tuple(float(f.default) for f in fields(PairSpec) if f.name in ("beta1", "beta2"))  # pyright: ignore[reportArgumentType]
# devices with fused kernels in every supported torch
_FUSED = ("cpu", "cuda", "mps", "xpu")
UNFUSED = ("foreach", "differentiable")
"""Options of torch's optimizers that rule fused kernels out."""
# timm's names with `c` scale the decay with the learning rate; in the stable phase they equal the others
_FAMILIES = {
    **dict.fromkeys(("sgd", "momentum", "nesterov"), "sgd"),
    **dict.fromkeys(("sgdw", "nesterovw", "sgdc"), "sgdw"),
    "adam": "adam",
    **dict.fromkeys(("adamw", "adamwlegacy", "adamc"), "adamw"),
}
_SET_ELSEWHERE = {
    "lr": "learning_rate", "weight_decay": "weight_decay", "momentum": "momentum", "betas": "beta1 and beta2",
}  # fmt: skip
_OTHER_FORMULA = ("dampening", "decoupled_weight_decay", "caution", "maximize")


class _Optimizers(Registry[Build]):
    """Registered optimizers and those of timm; iteration covers the registered ones only."""

    def __getitem__(self, name: str) -> Build:
        if name in self._items:
            return self._items[name]
        from timm.optim import list_optimizers  # pyright: ignore[reportPrivateImportUsage]

        names = [str(n).lower() for n in list_optimizers()]
        if name in names:
            return partial(_timm, name)
        raise unknown(self.kind, name, {*self._items, *names})

    def __contains__(self, name: object) -> bool:
        try:
            self[str(name)]
        except KeyError:
            return False
        return True


OPTIMIZERS = _Optimizers("optimizer")


@OPTIMIZERS.register("sgd")
def sgd(parameters: list[Tensor], spec: PairSpec) -> Optimizer:
    """SGD: g <- g + lambda w, v <- mu v + g, w <- w - eta v; with `nesterov` w <- w - eta (g + mu v).

    Source: torch.optim.SGD; momentum after Sutskever et al. 2013, without dampening.
    """
    from torch.optim import SGD

    return _make(SGD, parameters, spec, {"fused": _can_fuse(parameters, spec)})


@OPTIMIZERS.register("adamw")
def adamw(parameters: list[Tensor], spec: PairSpec) -> Optimizer:
    """AdamW: w <- (1 - eta lambda) w, then w <- w - eta m / (sqrt(v) + eps) with bias-corrected moments m, v of g.

    Source: torch.optim.AdamW; Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2.
    """
    from torch.optim import AdamW

    return _make(AdamW, parameters, spec, {"fused": _can_fuse(parameters, spec)})


def _timm(name: str, parameters: list[Tensor], spec: PairSpec) -> Optimizer:
    from timm.optim import get_optimizer_class, get_optimizer_info  # pyright: ignore[reportPrivateImportUsage]

    info = get_optimizer_info(name)
    if info.second_order:
        raise ValueError(f"optimizer must need first-order gradients only, got {name!r}; choose another")
    try:
        kind: Callable[..., Optimizer] = get_optimizer_class(name, bind_defaults=False)
    except (AssertionError, ImportError) as error:  # needs a GPU or a package
        raise ValueError(f"optimizer {name!r} cannot be used here: {error}; choose another") from None
    return _make(kind, parameters, spec, info.defaults or {})


def build(parameters: Iterable[Tensor], spec: PairSpec) -> Optimizer:
    """Return the optimizer that `spec` names, over `parameters`, at the stable learning rate.

    `momentum` is passed if the optimizer has one. `beta1` and `beta2` are passed if they differ from the spec's
    defaults, so that optimizers with other defaults, such as lion, keep them. Without momentum, `nesterov` does not
    change the step and is switched off. All parameters decay, including biases and norms.

    Args:
        parameters: Parameters on one device.
        spec: `optimizer`, `optimizer_options`, `learning_rate`, `momentum`, `beta1`, `beta2`, `weight_decay`.

    Raises:
        UnknownName: No such optimizer; the message names similar ones.
        ValueError: The optimizer lacks or rejects an option, or lacks momentum or betas.
    """
    return OPTIMIZERS[spec.optimizer](list(parameters), spec)


def options_of(spec: PairSpec) -> dict[str, Any]:
    """Return `optimizer_options` at the batch size of `spec`: where the betas follow it, `eps` falls as its root.

    Source: Malladi et al. 2022, arXiv 2205.10287, definition 5.2.
    """
    options = dict(spec.optimizer_options)
    if spec.betas_batch_size and "eps" in options:
        options["eps"] *= math.sqrt(spec.betas_batch_size / spec.batch_size)
    return options


def check(spec: PairSpec) -> None:
    """Take a step of the optimizer of `spec` on one small parameter to find errors before training.

    Raises:
        UnknownName, ValueError: See `build`; or an option does not let it take a step.
    """
    import torch

    parameter = torch.zeros(2, 2, requires_grad=True)
    optimizer = build([parameter], spec)
    parameter.grad = torch.ones(2, 2)
    try:
        optimizer.step()
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise _refusal(spec, error) from error


def _refusal(spec: PairSpec, error: BaseException) -> ValueError:
    text = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"optimizer {spec.optimizer!r} refuses optimizer_options {dict(spec.optimizer_options)}: {text}")


def family(name: str) -> str:
    """Return the family of an optimizer, which decides its noise scales: sgd, sgdw, adam, adamw or other.

    `sgd` and `adam` add the decay to the gradient; `sgdw` and `adamw` decouple it. Loads neither torch nor timm.
    """
    return _FAMILIES.get(name, "other")


def elementwise(name: str) -> bool:
    """Return whether the update of each number of a parameter depends on the gradients of this number alone.

    Such an optimizer trains stacked members in the same way as separate ones.
    """
    return name in _FAMILIES


def check_defined(noise: str, optimizer: str) -> None:
    """Check that a noise scale is defined for an optimizer.

    Raises:
        UnknownName: No such noise.
        ValueError: It is not defined; the message names the scales that are.
    """
    scale, optimizer_family = NOISE[noise], family(optimizer)
    if optimizer_family not in scale.families:
        raise ValueError(
            f"noise must be defined for optimizer {optimizer!r}, got {noise!r} ({scale.formula}; for "
            f"{', '.join(scale.families)}); defined are {', '.join(defined_for(optimizer_family))}"
        )


def _can_fuse(parameters: list[Tensor], spec: PairSpec) -> bool | None:
    if any(spec.optimizer_options.get(o) for o in UNFUSED):
        return None
    return all(p.device.type in _FUSED and p.is_floating_point() for p in parameters)


def _make(
    kind: Callable[..., Optimizer], parameters: list[Tensor], spec: PairSpec, defaults: Mapping[str, Any]
) -> Optimizer:
    accepted = inspect.signature(kind).parameters
    _check_options(spec, list(accepted)[1:])
    settings = {**defaults, **options_of(spec), **_rates(spec, accepted, defaults)}
    settings |= {"lr": spec.learning_rate, "weight_decay": spec.weight_decay}
    if settings.get("nesterov") and settings.get("momentum") == 0:
        settings["nesterov"] = False
    try:
        return kind(parameters, **settings)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise _refusal(spec, error) from error


def _rates(spec: PairSpec, accepted: Mapping[str, inspect.Parameter], defaults: Mapping[str, Any]) -> dict[str, Any]:
    # momentum and betas under the names of the optimizer
    name, betas, rates = spec.optimizer, spec.betas, dict[str, Any]()
    if "momentum" in accepted:
        rates["momentum"] = spec.momentum
    elif spec.momentum != 0:
        raise ValueError(f"momentum must be 0 with optimizer {name!r}, which has none, got {spec.momentum!r}")
    if betas == _BETAS:
        return rates
    if "betas" not in accepted:
        which, value, default = next(
            (f"beta{i + 1}", a, d) for i, (a, d) in enumerate(zip(betas, _BETAS, strict=True)) if a != d
        )
        raise ValueError(f"{which} must stay {default:g} with optimizer {name!r}, which has no betas, got {value!r}")
    usual = tuple(defaults.get("betas", accepted["betas"].default) or betas)
    pairs = zip(betas, _BETAS, usual, strict=False)
    rates["betas"] = (*(a if a != d else u for a, d, u in pairs), *usual[2:])
    return rates


def _check_options(spec: PairSpec, known: list[str]) -> None:
    for option in spec.optimizer_options:
        if option in _SET_ELSEWHERE:
            raise ValueError(f"optimizer_options must not hold {option!r}: set {_SET_ELSEWHERE[option]} of the spec")
        if option not in known:
            others = [k for k in known if k not in _SET_ELSEWHERE]
            raise ValueError(str(unknown(f"option of optimizer {spec.optimizer!r}", option, others)))
        if option in _OTHER_FORMULA and family(spec.optimizer) != "other":
            raise ValueError(
                f"optimizer_options must not hold {option!r}: the noise scales of {spec.optimizer!r} assume "
                "another formula; choose another optimizer"
            )

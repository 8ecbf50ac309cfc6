"""LoRA adapters that children train on a frozen base, by peft, and their fold into full weights.

The update of a weight is scaling B A; scaling is alpha / r, or alpha / sqrt(r) with rsLoRA.
Sources: Hu et al. 2021, arXiv 2106.09685; Kalajdzievski 2023, arXiv 2312.03732.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainables.models.heads import head_of
from trainables.models.seeding import seed_generators
from trainables.models.tensors import HOST, aliases, list_some, wide_type, widen

Weights = Mapping[str, Tensor]
_INSTALL = "an adapter needs the package peft: pip install 'sweeper[text]'"
_BASE, _A, _B = ".base_layer.", "lora_A.default.weight", "lora_B.default.weight"


def scaling_of(alpha: float, rank: int, rslora: bool) -> float:
    """Return the factor of B A in the update of a weight."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def update_of(a: Tensor, b: Tensor, scaling: float, transposed: bool) -> Tensor:
    """Return the update of a weight, as `merge_and_unload` of peft computes it, in float32 at least.

    Args:
        a: Factor A [r, inputs].
        b: Factor B [outputs, r].
        scaling: Factor of B A.
        transposed: Whether the weight is [inputs, outputs], as in GPT-2.
    """
    kind = torch.promote_types(a.dtype, torch.float32)
    product = b.to(kind) @ a.to(kind)
    return (product.T if transposed else product) * scaling


@dataclass(frozen=True)
class AdaptedModule:
    """A module with adapters on frozen parameters, which share their memory with those of the plain module.

    The frozen parameters may be of half precision; the factors have the type that the trial's weights have.

    Attributes:
        module: Module with adapters; training changes the factors alone.
        scaling: Factor of B A.
        transposed: Name of each adapted layer -> whether its weight is [inputs, outputs].
        factors: Entries of the state dict that the plain module lacks, as they start, on the host: B is 0, so that the
            update is 0.
    """

    module: nn.Module
    scaling: float
    transposed: Mapping[str, bool]
    factors: Weights = field(repr=False)

    def start(self, base: Weights) -> dict[str, Tensor]:
        """Return the state dict of the module at plain weights, with the factors as they start."""
        return {k: self.factors[k] if k in self.factors else base[_plain(k)] for k in self.module.state_dict()}

    def fold(self, weights: Weights) -> dict[str, Tensor]:
        """Return the plain module's state dict that equals a state dict of the module: base weights plus updates.

        It is float32 where the base is of half precision, because rounding the sum would lose most of an update.
        """
        out = {_plain(k): widen(v) for k, v in weights.items() if k not in self.factors}
        for name, transposed in self.transposed.items():
            update = update_of(weights[f"{name}.{_A}"], weights[f"{name}.{_B}"], self.scaling, transposed)
            key = f"{name}.weight"
            out[key] = (out[key] + update).to(out[key].dtype)
        return out


def _plain(key: str) -> str:
    return key.replace(_BASE, ".")


def adapt(model: nn.Module, settings: Mapping[str, Any], seed: int, classes: int | None) -> AdaptedModule:
    """Return a module with LoRA adapters beside a plain one, which stays as it is.

    Args:
        model: Plain module; its linear layers are those of torch or GPT-2.
        settings: Field `adapter` of a trial.
        seed: Seed of the factors A.
        classes: Number of logits; by default every linear layer but the one that computes them is adapted. None takes
            the last linear layer for it.

    Raises:
        ValueError: The package peft is not installed, or `targets` match no linear layer, or a tied one.
    """
    peft, pytorch_utils = _libraries()
    linear = (nn.Linear, pytorch_utils.Conv1D)
    modules = dict(cast(Iterable[tuple[str, nn.Module]], model.named_modules()))
    layers = [n for n, m in modules.items() if isinstance(m, linear)]
    names = _choose_layers(model, layers, settings["targets"], classes)
    most = max(min(cast(Tensor, modules[n].weight).shape) for n in names)
    if settings["r"] > most:
        raise ValueError(
            f"adapter.r must be at most {most}, the smaller side of the largest layer, got {settings['r']}"
        )
    transposed = {n: not isinstance(modules[n], nn.Linear) for n in names}
    # stand-ins without memory, because peft gives factors the type of the base
    shared = {
        id(p): nn.Parameter(p.new_zeros((), dtype=wide_type(p.dtype)).expand_as(p), requires_grad=False)
        for p in model.parameters()
    }
    twin = copy.deepcopy(model, cast(dict[int, Any], shared))
    config = peft.LoraConfig(
        r=settings["r"], lora_alpha=settings["alpha"], lora_dropout=settings["dropout"],
        use_rslora=settings["rslora"], target_modules=names, bias="none",
    )  # fmt: skip
    with warnings.catch_warnings(), seed_generators(seed):
        warnings.simplefilter("ignore")  # about fan_in_fan_out, which peft finds out
        twin = peft.inject_adapter_in_model(config, twin)
    # parameters of the copy are views, so that the device holds one base
    views = {id(shared[id(p)]): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    for module in twin.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in views:
                setattr(module, name, views[id(parameter)])
    plain = set(model.state_dict())
    factors = {k: v.detach().to(HOST, copy=True) for k, v in twin.state_dict().items() if _plain(k) not in plain}
    return AdaptedModule(twin, scaling_of(settings["alpha"], settings["r"], settings["rslora"]), transposed, factors)


def _libraries() -> tuple[Any, Any]:
    try:
        import peft
        from transformers import pytorch_utils
    except ImportError:
        raise ValueError(_INSTALL) from None
    return peft, pytorch_utils


def _choose_layers(model: nn.Module, layers: Sequence[str], targets: Sequence[str], classes: int | None) -> list[str]:
    if not targets:
        head = head_of(model, classes)
        if not (found := [n for n in layers if n != head]):
            raise ValueError("adapter needs a model with linear layers beside its head")
        return found
    found = [n for n in layers if any(f".{n}".endswith(f".{t}") for t in targets)]
    for target in targets:
        if not any(f".{n}".endswith(f".{target}") for n in found):
            ends = list(dict.fromkeys(n.rpartition(".")[2] for n in layers))
            raise ValueError(f"adapter.targets must name linear layers, such as {list_some(ends)}, got {target!r}")
    tied = aliases(model)
    tied_too = {k.removesuffix(".weight") for k in (*tied, *tied.values())}
    if wrong := next((n for n in found if n in tied_too), None):
        raise ValueError(f"adapter.targets must not name {wrong}, whose weight is that of another layer, too")
    return found

"""LoRA adapters of peft as folders: their effective updates on the base weights, and adapters from merged updates."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from trainables.merging.streaming import StreamedMerge, StreamingMerge
from trainables.models.adapters import scaling_of, update_of
from trainables.models.model_folders import (
    ADAPTER_CONFIG,
    Draft,
    Entry,
    ModelFolder,
    copy_companions,
    read_entries,
    read_json,
    read_tensor,
    save_tensors,
)
from trainables.models.seeding import seed_generators

WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_HARMLESS = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version",
    "r", "lora_alpha", "use_rslora", "lora_dropout", "target_modules", "exclude_modules", "fan_in_fan_out", "bias",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_core",
    "qalora_group_size", "eva_config",
}  # fmt: skip
"""Settings under which the update is scaling B A; any other one, unless it is off, is refused by name."""
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base weights as they are."""
_FULL = 512
"""Smaller side up to which a matrix has a full singular value decomposition, and a randomised one beyond."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter whose factors stay on the disk.

    Attributes:
        path: Its folder.
        config: Content of `adapter_config.json`.
        factors: Module of the base -> entries of A [r, inputs] and B [outputs, r].
    """

    path: Path
    config: Mapping[str, Any]
    factors: Mapping[str, tuple[Entry, Entry]] = field(repr=False)

    @property
    def base(self) -> str:
        """Name or path of the base that the adapter was trained on; empty if unknown."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def transposed(self) -> bool:
        """Whether the base holds its weights as [inputs, outputs]."""
        return bool(self.config.get("fan_in_fan_out"))

    def scaling(self, module: str) -> float:
        """Return the factor of B A."""
        patterns = cast(Mapping[str, float], self.config.get("alpha_pattern") or {})
        alpha = next((a for k, a in patterns.items() if f".{module}".endswith(f".{k}")), self.config["lora_alpha"])
        return scaling_of(alpha, self.factors[module][0].shape[0], bool(self.config.get("use_rslora")))

    def update(self, module: str) -> Tensor:
        """Return scaling B A in the layout of the base."""
        # copies, because the bits of a product may depend on the alignment of its factors
        a, b = (read_tensor(e.file, _key(module, f)).clone() for e, f in zip(self.factors[module], "AB", strict=True))
        return update_of(a, b, self.scaling(module), self.transposed)


def open_adapter(path: Path) -> Adapter:
    """Return an adapter after a look at its configuration and the headers of its weights.

    Raises:
        ValueError: It is no LoRA adapter, its update is not scaling B A, or a file is missing or damaged.
    """
    config = read_json(path / ADAPTER_CONFIG)
    _check_config(path, config)
    if not (path / WEIGHTS).is_file():
        raise ValueError(f"{path} must hold {WEIGHTS}; save the adapter as safetensors")
    factors: dict[str, dict[str, Entry]] = {}
    for key, entry in read_entries(path / WEIGHTS).items():
        found = _KEY.fullmatch(key)
        if not found or len(entry.shape) != 2 or not entry.dtype.is_floating_point:
            raise ValueError(
                f"{path} holds {key} of shape {entry.shape}; adapters to merge must hold LoRA factors of linear layers"
            )
        factors.setdefault(found["module"], {})[found["factor"]] = entry
    for module, pair in factors.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            raise ValueError(f"{path} must hold factors A and B of one rank for {module}; save the adapter again")
    if not factors:
        raise ValueError(f"{path} holds no LoRA factors")
    return Adapter(path, config, {m: (pair["A"], pair["B"]) for m, pair in factors.items()})


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{path} must be a LoRA adapter, got peft_type {config.get('peft_type')!r}")
    if wrong := [k for k, v in config.items() if v and k not in _HARMLESS]:
        raise ValueError(f"{path} uses {wrong[0]}, which cannot be merged: its update must be scaling·BA alone")
    if config.get("bias", "none") != "none":
        raise ValueError(f"{path} trains biases (bias {config['bias']!r}), which cannot be merged; use bias 'none'")
    if (start := config.get("init_lora_weights", True)) not in _STARTS:
        raise ValueError(f"{path} was started by {start!r}, which changes the base weights; convert it to plain LoRA")
    if not isinstance(config.get("lora_alpha"), int | float):
        raise ValueError(f"{path} must have a number as lora_alpha, got {config.get('lora_alpha')!r}")
    if not _are_plain(config.get("alpha_pattern") or {}):
        got = config["alpha_pattern"]
        raise ValueError(f"{path} must have names of modules and numbers as alpha_pattern, got {got!r}")


def _are_plain(patterns: Any) -> bool:
    # names alone, because a regular expression from elsewhere may take forever
    items = cast(dict[Any, Any], patterns).items() if isinstance(patterns, dict) else [("", patterns)]
    return all(re.fullmatch(r"[\w.]+", str(k)) and isinstance(v, int | float) for k, v in items)


def _key(module: str, factor: str) -> str:
    return f"base_model.model.{module}.lora_{factor}.weight"


@dataclass(frozen=True)
class AdaptedModel:
    """A base folder with the update of an adapter, as a source of full weights; see `Source`.

    Attributes:
        base: Folder of the base.
        adapter: The adapter.
        keys: Key of the base -> module of the adapter.
        entries: Key -> shape, type and file; an adapted weight has the file of the adapter.
    """

    base: ModelFolder
    adapter: Adapter
    keys: Mapping[str, str]
    entries: Mapping[str, Entry] = field(init=False, repr=False)

    @property
    def path(self) -> Path:
        """Folder of the base."""
        return self.base.path

    @property
    def config(self) -> Mapping[str, Any]:
        """Configuration of the base."""
        return self.base.config

    def __post_init__(self) -> None:
        """Set `entries`."""
        file, entries = self.adapter.path / WEIGHTS, self.base.entries
        adapted = {k: Entry(entries[k].shape, entries[k].dtype, file, torch.float64) for k in self.keys}
        object.__setattr__(self, "entries", {**entries, **adapted})

    def read(self, key: str) -> Tensor:
        """Return one tensor, on the CPU; an adapted one in float64, in which the sum with its update is exact."""
        weight = self.base.read(key)
        return weight.double() + self.adapter.update(self.keys[key]).double() if key in self.keys else weight


def adapt(base: ModelFolder, adapters: Sequence[Adapter]) -> list[AdaptedModel]:
    """Return the base with each adapter.

    Raises:
        ValueError: The adapters have different bases, or do not fit this one.
    """
    first = adapters[0]
    for other in adapters[1:]:
        if first.base != other.base:
            raise ValueError(
                f"adapters to merge must have one base, got {first.base!r} of {first.path} and {other.base!r} of "
                f"{other.path}; if both are {base.path}, edit base_model_name_or_path"
            )
    origin = Path(first.base).expanduser() if first.base else None
    if origin is not None and origin.is_dir() and origin.resolve() != base.path.resolve():
        raise ValueError(
            f"--base must be the model that the adapters were trained on, {first.base}, got {base.path}; if that is a "
            "copy, edit base_model_name_or_path"
        )
    return [AdaptedModel(base, adapter, _find_keys(base, adapter)) for adapter in adapters]


def _find_keys(base: ModelFolder, adapter: Adapter) -> dict[str, str]:
    keys: dict[str, str] = {}
    for module, (a, b) in adapter.factors.items():
        # old folders leave out the name of the backbone
        names = (f"{module}.weight", f"{module.partition('.')[2]}.weight")
        key = next((n for n in names if n in base.entries), None)
        if key is None:
            raise ValueError(f"adapter {adapter.path} changes {module}, which {base.path} does not hold as a weight")
        shape = (b.shape[0], a.shape[1])
        if base.entries[key].shape != (shape[::-1] if adapter.transposed else shape):
            got = base.entries[key].shape
            raise ValueError(f"adapter {adapter.path} must fit its base: {module} has {shape}, in {base.path} {got}")
        keys[key] = module
    return keys


# -- adapters from merged updates -----------------------------------------------------------------------------------


def write_adapter(target: Path, merge: StreamingMerge, rank: int) -> tuple[StreamedMerge, float]:
    """Write a merge of adapters as an adapter of rank `rank`, by the singular values of its updates.

    Args:
        target: Folder to make.
        merge: Merge of models of `adapt`.
        rank: Rank of the new adapter.

    Returns:
        Size of the adapter, and the share of the merged update that is discarded: 1 - |kept|² / |update|² in
        Frobenius norms over all weights; 0 if the update is 0.

    Raises:
        ValueError: The rank is < 1 or above every layer's smaller side, the target exists, or the disk lacks room.
    """
    models = cast(Sequence[AdaptedModel], merge.models)
    modules = {m: k for model in models for k, m in model.keys.items()}
    most = max(min(models[0].base.entries[key].shape) for key in modules.values())
    if rank > most:
        raise ValueError(f"rank must be at most {most}, the smaller side of the largest layer, got {rank}")
    adapters = [model.adapter for model in models]
    if len({adapter.transposed for adapter in adapters}) > 1:
        raise ValueError("adapters to merge must have one fan_in_fan_out; save them from one class of model")

    def update(module: str) -> Tensor:
        key = modules[module]
        change = merge.combine(key).double() - models[0].base.read(key).double()
        return change.T if adapters[0].transposed else change

    config = _config_of(adapters, sorted(modules))
    with Draft(target, 0) as folder:
        return save_updates(folder, list(modules), update, config, rank, adapters[0].path)


def save_updates(
    folder: Path,
    modules: Sequence[str],
    update: Callable[[str], Tensor],
    config: Mapping[str, Any],
    rank: int,
    companions: Path | None = None,
) -> tuple[StreamedMerge, float]:
    """Write updates of linear layers as an adapter of rank `rank` into a folder.

    Args:
        folder: Folder, which exists.
        modules: Names of the layers.
        update: Function of a name that returns the update [outputs, inputs].
        config: Settings of `adapter_config.json` other than rank and scaling.
        rank: Rank of the adapter.
        companions: Folder with a tokenizer to copy.

    Returns:
        Size and discarded share, as `write_adapter`.

    Raises:
        ValueError: The rank is < 1.
    """
    if rank < 1:
        raise ValueError(f"rank must be >= 1, got {rank}")
    tensors: dict[str, Tensor] = {}
    kept = total = 0.0
    for module in modules:
        change = update(module)
        a, b, share = _factorise(change, rank)
        tensors |= {_key(module, "A"): a, _key(module, "B"): b}
        norm2 = float(change.square().sum())
        kept, total = kept + share * norm2, total + norm2
    save_tensors(folder / WEIGHTS, tensors)
    plain: dict[str, Any] = {"use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}, "bias": "none"}
    plain |= {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "init_lora_weights": True, "inference_mode": True}
    (folder / ADAPTER_CONFIG).write_text(json.dumps({"task_type": "CAUSAL_LM", **config, **plain}, indent=2) + "\n")
    if companions:
        copy_companions(companions, folder)
    values = tensors.values()
    size = StreamedMerge(len(values), sum(t.numel() for t in values), sum(t.nbytes for t in values))
    return size, max(0.0, 1 - kept / total) if total else 0.0


def _factorise(update: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Return A [rank, inputs] and B [outputs, rank] in float32, and the share of the squared norm that B A keeps.

    Source: Eckart & Young 1936, Psychometrika 1(3); beyond `_FULL` Halko et al. 2011, SIAM Review 53(2).
    """
    total = float(update.square().sum())
    if min(update.shape) <= _FULL:
        u, s, vh = cast(tuple[Tensor, Tensor, Tensor], torch.linalg.svd(update, full_matrices=False))  # pyright: ignore[reportUnknownMemberType]
    else:
        with seed_generators(0):
            u, s, v = torch.svd_lowrank(update, q=min(*update.shape, 2 * rank + 64), niter=4)
        vh = v.T
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    a, b = s.sqrt()[:, None] * vh, u * s.sqrt()
    lacking = rank - len(s)  # the rank may exceed the size of the weight
    a = torch.nn.functional.pad(a, (0, 0, 0, lacking)).float().contiguous()
    b = torch.nn.functional.pad(b, (0, lacking)).float().contiguous()
    return a, b, float(s.square().sum()) / total if total else 1.0


def _config_of(adapters: Sequence[Adapter], modules: Sequence[str]) -> dict[str, Any]:
    first = adapters[0]
    same = all(
        set(a.factors) == set(first.factors) and a.config.get("target_modules") == first.config.get("target_modules")
        for a in adapters
    )
    targets = dict(first.config) if same else {**first.config, "target_modules": list(modules)}
    if not same:
        targets |= {k: None for k in ("exclude_modules", "layers_to_transform", "layers_pattern") if k in targets}
    return targets

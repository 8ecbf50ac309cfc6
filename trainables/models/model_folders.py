"""Hugging Face model folders as lazy sources of tensors, and their writer; reading and writing run no code of theirs.

A folder holds `config.json` and one `model.safetensors`, or several shards with their index. A source gives one tensor
at a time, so that a model never lies in memory as a whole.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from trainables.io.atomic import replace_atomic
from trainables.models.tensors import list_some
from trainables.models.weight_files import weight_map

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 10**9
"""Size of a shard, of which the writer holds two copies; a larger tensor has a shard of its own."""
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "spiece.model", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""Files of a tokenizer."""
COMPANIONS = ("generation_config.json", *TOKENIZER, "preprocessor_config.json", "processor_config.json")
"""Files beside the weights that a merged folder takes from the first model; code is never among them."""
_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Shape and type of a tensor that is not in memory, and the file that holds it.

    Attributes:
        given: Type that `Source.read` gives, if it is wider than `dtype`.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    given: torch.dtype | None = None

    @property
    def bytes(self) -> int:
        """Size of the tensor in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Source(Protocol):
    """Weights of a model, one tensor at a time."""

    @property
    def path(self) -> Path:
        """Folder of the model."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Content of the model's `config.json`."""
        ...

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Key -> shape and type, in the order of the file."""
        ...

    def read(self, key: str) -> Tensor:
        """Return one tensor, on the CPU."""
        ...


@dataclass(frozen=True)
class ModelFolder:
    """A model folder whose weights stay on the disk until `read`.

    Attributes:
        path: The folder.
        config: Content of `config.json`.
        entries: Key -> shape, type and file.
    """

    path: Path
    config: Mapping[str, Any]
    entries: Mapping[str, Entry] = field(repr=False)

    def read(self, key: str) -> Tensor:
        """Return one tensor, on the CPU.

        Raises:
            ValueError: The file vanished or is damaged.
        """
        return read_tensor(self.entries[key].file, key)


def read_tensor(file: Path, key: str) -> Tensor:
    """Return one tensor of a safetensors file, on the CPU.

    Raises:
        ValueError: The file is missing or damaged.
    """
    # one handle per tensor, because pages of an open file stay in memory
    with _open(file) as content:
        return content.get_tensor(key)


@contextmanager
def _open(file: Path) -> Generator[Any]:
    """Yield the handle of a safetensors file."""
    import safetensors

    kind: Any = safetensors
    try:
        with kind.safe_open(file, framework="pt") as content:
            yield content
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{file} is no readable safetensors file: {' '.join(str(error).split())}") from None


def is_model_folder(path: Path) -> bool:
    """Return whether a path is a folder with a model's or an adapter's configuration."""
    return (path / CONFIG).is_file() or (path / ADAPTER_CONFIG).is_file()


def is_adapter_alone(path: Path) -> bool:
    """Return whether a folder holds an adapter and no whole model."""
    return (path / ADAPTER_CONFIG).is_file() and not (path / CONFIG).is_file()


def open_model_folder(path: Path) -> ModelFolder:
    """Return a model folder after a look at the headers of its files.

    Raises:
        ValueError: It lacks a configuration or safetensors, is quantised, or a file is missing or damaged.
    """
    config = read_json(path / CONFIG)
    if "quantization_config" in config:
        raise ValueError(f"{path} holds quantised weights, which cannot be merged; use the model before quantisation")
    files = _weight_files(path)
    entries = {k: entry for file, keys in files.items() for k, entry in read_entries(path / file, keys).items()}
    return ModelFolder(path, config, entries)


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping of a JSON file.

    Raises:
        ValueError: The file is missing, is no JSON, or holds no mapping.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError:
        raise ValueError(f"a model folder must hold {path.name}, but {path.parent} has none") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} must be JSON; copy or download it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(content).__name__}")
    return cast(dict[str, Any], content)


def _weight_files(path: Path) -> dict[str, Sequence[str] | None]:
    """Return file -> its keys; None for all keys of the file."""
    if not (path / INDEX).is_file():
        if not (path / SINGLE).is_file():
            raise ValueError(f"{path} must hold {SINGLE} or {INDEX}; save the model as safetensors")
        return {SINGLE: None}
    files: dict[str, list[str]] = {}
    for key, file in weight_map(path / INDEX).items():
        files.setdefault(file, []).append(key)
    if missing := [f for f in files if not (path / f).is_file()]:
        raise ValueError(f"{path / INDEX} needs {len(files)} shards, of which {list_some(missing)} are missing")
    return dict(files)


def read_entries(file: Path, keys: Iterable[str] | None = None) -> dict[str, Entry]:
    """Return shape and type of tensors of a safetensors file; of all if `keys` is None.

    Raises:
        ValueError: The file is damaged, lacks a key, or holds a type that cannot be merged.
    """
    with _open(file) as content:
        held: list[str] = list(content.keys())
        wanted = held if keys is None else list(keys)
        if lost := sorted(set(wanted) - set(held)):
            raise ValueError(f"{file} does not hold {list_some(lost)}, which its index says it does")
        parts = {k: content.get_slice(k) for k in wanted}
        types = {k: str(part.get_dtype()) for k, part in parts.items()}
        if wrong := [f"{k} ({kind})" for k, kind in types.items() if kind not in _TYPES]:
            raise ValueError(f"{file} holds types that cannot be merged: {list_some(wrong)}")
        return {k: Entry(tuple(p.get_shape()), _TYPES[types[k]], file) for k, p in parts.items()}


def check_alike(models: Sequence[Source]) -> None:
    """Check that models can be merged: one class, one vocabulary, the same keys and shapes.

    Raises:
        ValueError: They differ; the message names the two folders and the first difference.
    """
    first = models[0]
    check_configs({m.path: m.config for m in models})
    for other in models[1:]:
        pair = f"{first.path} and {other.path}"
        if apart := sorted(set(first.entries) ^ set(other.entries)):
            holder = first if apart[0] in first.entries else other
            raise ValueError(
                f"models to merge must have the same keys; only {holder.path} has {list_some(apart)} ({pair})"
            )
        for key, entry in first.entries.items():
            if entry.shape != other.entries[key].shape:
                shapes = f"{entry.shape} and {other.entries[key].shape}"
                raise ValueError(f"models to merge must have the same shapes; {key} has {shapes} in {pair}")


def check_configs(configs: Mapping[Path, Mapping[str, Any]]) -> None:
    """Check that models can be merged by their configurations: one class, one vocabulary.

    Args:
        configs: Folder -> content of its `config.json`.

    Raises:
        ValueError: They differ; the message names the two folders and the values.
    """
    paths = list(configs)
    for first, other in zip(paths[:1] * len(paths), paths, strict=True):
        for what, name in (("architectures", "class"), ("model_type", "type"), ("vocab_size", "vocabulary size")):
            one, two = configs[first].get(what), configs[other].get(what)
            if one != two:
                raise ValueError(
                    f"models to merge must have one {name}, got {_say(one)} in {first} and {_say(two)} in {other}"
                )


def _say(value: Any) -> str:
    return ", ".join(map(str, cast(list[Any], value))) if isinstance(value, list) else str(value)


# -- writing --------------------------------------------------------------------------------------------------------


class Draft:
    """A folder under a temporary name beside its target, renamed at the end: a reader never sees half of it.

    Use it as a context manager; an exception removes the draft.

    Raises:
        ValueError: The target exists, its parent does not, or the disk lacks room.
    """

    def __init__(self, target: Path, need: int) -> None:
        check_free(target, need)
        self.target = target
        self.path = target.with_name(f".{target.name}.{uuid.uuid4().hex}")

    def __enter__(self) -> Path:
        """Return the folder to write into."""
        self.path.mkdir()
        return self.path

    def __exit__(self, kind: object, *_: object) -> None:
        """Rename the folder, or remove it after an exception."""
        try:
            if kind is None:
                replace_atomic(self.path, self.target)
        finally:
            shutil.rmtree(self.path, ignore_errors=True)


def check_free(target: Path, need: int) -> None:
    """Check that a folder can be written.

    Args:
        target: The folder.
        need: Its size in bytes.

    Raises:
        ValueError: It exists, its parent does not, or the disk lacks room.
    """
    if target.exists():
        raise ValueError(f"{target} exists; choose another folder")
    if not target.parent.is_dir():
        raise ValueError(f"there is no folder {target.parent}; create it, or choose another folder")
    free = shutil.disk_usage(target.parent).free
    if free < need:
        raise ValueError(f"{target} needs {need / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; choose another disk")


def write_model_folder(
    target: Path, like: Source, types: Mapping[str, torch.dtype], read: Callable[[str], Tensor]
) -> int:
    """Write a model folder, one shard in memory at a time, and return the size of its weights in bytes.

    `config.json` and `COMPANIONS` come from the folder `like`.

    Args:
        target: Folder to make.
        like: Model with the keys, shapes and configuration.
        types: Key -> type of the written tensor.
        read: Function of a key that returns the tensor.

    Raises:
        ValueError: The target exists or the disk lacks room.
    """
    sizes = {k: torch.Size(e.shape).numel() * types[k].itemsize for k, e in like.entries.items()}
    shards = _plan_shards(sizes)
    with Draft(target, sum(sizes.values())) as folder:
        for name, keys in shards.items():
            save_tensors(folder / name, {k: read(k) for k in keys})
        if len(shards) > 1:
            where = {k: name for name, keys in shards.items() for k in keys}
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        (folder / CONFIG).write_text(json.dumps(_config_of(like, types), indent=2) + "\n")
        copy_companions(like.path, folder)
    return sum(sizes.values())


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that transformers and peft load."""
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    save_file({k: v.contiguous() for k, v in tensors.items()}, file, metadata={"format": "pt"})


def copy_companions(source: Path, target: Path, names: Iterable[str] = COMPANIONS) -> None:
    """Copy tokenizer and generation settings from folder to folder."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _plan_shards(sizes: Mapping[str, int]) -> dict[str, list[str]]:
    parts: list[list[str]] = [[]]
    filled = 0
    for key, size in sizes.items():
        if parts[-1] and filled + size > SHARD_BYTES:
            parts.append([])
            filled = 0
        parts[-1].append(key)
        filled += size
    if len(parts) == 1:
        return {SINGLE: parts[0]}
    return {f"model-{i:05d}-of-{len(parts):05d}.safetensors": part for i, part in enumerate(parts, 1)}


def _config_of(like: Source, types: Mapping[str, torch.dtype]) -> dict[str, Any]:
    """Return the configuration; its type changes if a merge with another type widened the weights."""
    widened = {kind for k, kind in types.items() if kind != like.entries[k].dtype}
    if not widened:
        return dict(like.config)
    words = str(reduce(torch.promote_types, widened)).removeprefix("torch.")
    return {**like.config, **{name: words for name in ("dtype", "torch_dtype") if name in like.config}}

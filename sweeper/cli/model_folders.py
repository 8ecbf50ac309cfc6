"""Merges of model folders by `sweeper merge`, tensor by tensor, without data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from sweeper.cli.output import emit
from sweeper.cli.parsing import Arguments
from sweeper.errors import SpecError
from sweeper.formatting import merge_words, number, pluralize, show_path
from trainables.registry import UnknownName

if TYPE_CHECKING:
    from trainables.models.model_folders import ModelFolder

_NEEDS_DATA = ("out", "landscape", "data")


def are_model_folders(args: Arguments) -> bool:
    """Return whether `--models` names model folders.

    Raises:
        SpecError: Some are folders and some are files.
    """
    from trainables.models.model_folders import is_model_folder

    found = [is_model_folder(Path(m).expanduser()) for m in args.models]
    if any(found) and not all(found):
        raise SpecError(
            f"--models must all be files or all model folders; {args.models[found.index(False)]} is no model folder"
        )
    return all(found)


def find_weights(path: Path) -> Path:
    """Return the weights of a model folder, or the index of its shards; another path comes back as it is.

    Raises:
        SpecError: The folder holds an adapter.
    """
    from trainables.models.model_folders import ADAPTER_CONFIG, INDEX, SINGLE

    if not path.is_dir():
        return path
    if (path / ADAPTER_CONFIG).is_file():
        raise SpecError(
            f"{path} is an adapter, which has no scores of its own; merge adapters with --coefficient, without data"
        )
    return next((path / name for name in (INDEX, SINGLE) if (path / name).is_file()), path)


def check_scored_folders(args: Arguments) -> None:
    """Check that model folders that data score have one class and one vocabulary, also with that of `--model`.

    Raises:
        SpecError: They differ.
    """
    from trainables.models.model_folders import CONFIG, check_configs, read_json

    own = (args.model or "").removeprefix("hf:") if (args.model or "").startswith("hf:") else ""
    paths = [Path(p).expanduser() for p in (own, *args.models, args.base) if p]
    folders = [path for path in paths if (path / CONFIG).is_file()]
    try:
        check_configs({path: read_json(path / CONFIG) for path in folders})
    except ValueError as error:
        raise SpecError(str(error)) from None


def merge_folders(args: Arguments) -> int:
    """Merge model folders, or adapters with their base, at one coefficient and write the result."""
    target = _check_arguments(args)
    started = time.perf_counter()
    try:
        record = _write(args, target)
    except (ValueError, UnknownName, OSError) as error:
        raise SpecError(" ".join(str(error).split())) from None
    record |= {"seconds": time.perf_counter() - started, "saved": str(target)}
    emit(args.json, record, _format_record(record))
    return 0


def _write(args: Arguments, target: Path) -> dict[str, Any]:
    from trainables.merging.adapter_folders import adapt, open_adapter, write_adapter
    from trainables.merging.streaming import StreamingMerge
    from trainables.models.model_folders import ADAPTER_CONFIG, open_model_folder

    method, coefficient = _choose_merge(args)
    paths = [Path(m).expanduser() for m in args.models]
    adapted = [(path / ADAPTER_CONFIG).is_file() for path in paths]
    if any(adapted) and not all(adapted):
        raise ValueError(f"--models must all be models or all adapters; {paths[adapted.index(False)]} is no adapter")
    if args.rank is not None and not any(adapted):
        raise ValueError("--rank is for adapters; leave it out for whole models")
    if any(adapted) and not args.base:
        raise ValueError("adapters need --base FOLDER, the model that they were trained on")
    base = _open_base(Path(args.base).expanduser()) if args.base else None
    record = {"models": [str(p) for p in paths], "base": str(base.path) if base else None,
              "merge": method, "coefficient": coefficient, "rank": args.rank, "discarded": None}  # fmt: skip
    if base and all(adapted):
        sources = adapt(base, [open_adapter(p) for p in paths])
    else:
        sources = [open_model_folder(p) for p in paths]
    merge = StreamingMerge(sources, base, method, coefficient)
    if args.rank is not None:
        written, record["discarded"] = write_adapter(target, merge, args.rank)
    else:
        written = merge.write(target)
    return record | {"tensors": written.tensors, "parameters": written.parameters, "bytes": written.bytes}


def _open_base(path: Path) -> ModelFolder:
    from trainables.models.model_folders import is_adapter_alone, open_model_folder

    if is_adapter_alone(path):
        raise ValueError(f"--base must be a whole model, got the adapter {path}; give the model that it was trained on")
    return open_model_folder(path)


def _check_arguments(args: Arguments) -> Path:
    """Return the folder to write."""
    if len(args.models) < 2:
        raise SpecError(f"--models must be at least two folders, got {args.models[0]}")
    if not args.save:
        raise SpecError("a merge of model folders needs --save FOLDER")
    if given := [name for name in _NEEDS_DATA if getattr(args, name)]:
        raise SpecError(f"--{given[0]} is for merges that are scored: give --space or --model, or leave it out")
    return Path(args.save).expanduser().absolute()


def _choose_merge(args: Arguments) -> tuple[str, float]:
    from trainables.merging.streaming import streamable

    names = args.merges or ["linear"]
    if len(names) > 1:
        raise SpecError(f"a merge without data needs one of --merges, got {', '.join(names)}")
    merge = streamable(names[0])
    possible = merge.coefficients(len(args.models))
    if len(possible) == 1 and args.coefficient is None:
        return merge.name, possible[0]  # there is no other
    if args.coefficient is None:
        raise SpecError(f"merge {merge.name!r} needs --coefficient {merge.symbol.upper()}, the {merge.meaning}")
    try:
        merge.check_coefficient(args.coefficient, len(args.models))
    except ValueError as error:
        raise SpecError(f"--{error}") from None
    return merge.name, args.coefficient


def _format_record(record: Mapping[str, Any]) -> str:
    tensors = pluralize(record["tensors"], "tensor")
    size = f"{record['parameters']:,} parameters in {tensors}, {record['bytes'] / 1e9:.2f} GB"
    facts = {f"model {who}": path for who, path in zip(ascii_uppercase, record["models"], strict=False)}
    facts |= {"base": record["base"]} if record["base"] else {}
    facts |= {"merge": merge_words(record["merge"], record["coefficient"]), "size": size}
    if record["rank"] is not None:
        share = f"{number(100 * record['discarded'])} % of the merged update's squared norm is discarded"
        facts |= {"adapter": f"rank {record['rank']}; {share}"}
    facts |= {"time": f"{number(record['seconds'])} s", "saved": show_path(record["saved"])}
    return "\n".join(f"{name + ':':<9}{text}" for name, text in facts.items())

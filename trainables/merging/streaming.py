"""Merges of model folders, tensor by tensor: the host holds one tensor of each model and one shard of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainables.merging import formulas
from trainables.merging.methods import BY_SCORE, MERGES, Merge
from trainables.models.model_folders import Source, check_alike, write_model_folder

PART = 2**22
"""Entries of a tensor that an elementwise merge combines at a time."""


@dataclass(frozen=True)
class StreamedMerge:
    """Size of a merge that was written to a folder.

    Attributes:
        tensors: Number of tensors.
        parameters: Number of their entries.
        bytes: Size of the weights.
    """

    tensors: int
    parameters: int
    bytes: int


def streamable(method: str) -> Merge:
    """Return a merge that needs the models' weights alone.

    Raises:
        UnknownName: No such merge.
        ValueError: It needs Fishers, Gram matrices, scores, the model, or the optimizer of the training.
    """
    if method in BY_SCORE or MERGES[method].measured:
        needs = MERGES[method].needs if method not in BY_SCORE else frozenset[str]()
        needed = "the optimizer's moments" if "moments" in needs else "the model" if "alignments" in needs else "data"
        raise ValueError(
            f"merge {method!r} needs {needed}, so it cannot stream; choose from {', '.join(list_streamable())}"
        )
    return MERGES[method]


def list_streamable() -> list[str]:
    """Return the names of the merges that need the models' weights alone."""
    return [name for name, merge in MERGES.items() if not merge.measured]


class StreamingMerge:
    """One merge of models whose tensors are read when they are needed.

    The result equals, bit for bit, the merge of whole state dicts.

    Args:
        models: Two or more sources.
        base: Source of theta_0; None takes the first model, for merges without task vectors.
        method: Name of the merge.
        coefficient: Its coefficient.
        seed: Seed of random masks.

    Raises:
        UnknownName: No such merge.
        ValueError: The merge needs data, a base, another coefficient or number of models, or the models differ.
    """

    def __init__(
        self, models: Sequence[Source], base: Source | None, method: str, coefficient: float, seed: int = 0
    ) -> None:
        self.merge, self.coefficient, self.seed = streamable(method), coefficient, seed
        self.merge.check_number(len(models))
        self.merge.check_coefficient(coefficient, len(models))
        if base is None and self.merge.uses_base:
            raise ValueError(f"merge {method!r} needs the base of the task vectors; give --base FOLDER")
        self.models, self.base = models, base or models[0]
        check_alike([*models, *([base] if base else [])])
        self.thresholds = self._find_thresholds() if method == "ties" else ()

    def read(self, key: str) -> Tensor:
        """Return the merged tensor of a key in its own type."""
        merged, kind = self.combine(key), self.dtype(key)
        # by way of float32, as peft rounds a half-precision weight plus its update
        return merged if merged.dtype == kind else merged.to(formulas.compute_type(kind)).to(kind)

    def combine(self, key: str) -> Tensor:
        """Return the merged tensor of a key in the widest type that its models give."""
        base = self.base.read(key)
        if all(m.entries[key] == self.base.entries[key] for m in self.models):
            return base  # one entry of one file
        children = [base if m is self.base else m.read(key) for m in self.models]
        if not self.merge.elementwise:
            return self._combine(key, base, children)
        parts = zip(_split(base), *(_split(c) for c in children), strict=True)
        return torch.cat([self._combine(key, one, others).flatten() for one, *others in parts]).reshape(base.shape)

    def _combine(self, key: str, base: Tensor, children: Sequence[Tensor]) -> Tensor:
        models = [{key: child} for child in children]
        merged = self.merge({key: base}, models, self.coefficient, seed=self.seed, thresholds=self.thresholds)
        return merged[key]

    def dtype(self, key: str) -> torch.dtype:
        """Return the type of the merged tensor of a key."""
        kinds = [m.entries[key].dtype for m in self.models]
        used = [*kinds, self.base.entries[key].dtype] if self.merge.uses_base else kinds
        return formulas.widest(used) if kinds[0].is_floating_point else kinds[0]

    def write(self, target: Path) -> StreamedMerge:
        """Write the merge as a model folder, with the first model's configuration and tokenizer.

        Raises:
            ValueError: The target exists, the disk lacks room, or a file cannot be read.
        """
        entries = self.models[0].entries
        size = write_model_folder(target, self.models[0], {k: self.dtype(k) for k in entries}, self.read)
        return StreamedMerge(len(entries), sum(torch.Size(e.shape).numel() for e in entries.values()), size)

    def _find_thresholds(self) -> list[Tensor]:
        """Return the least magnitude that TIES keeps of each task vector, after passes over all of its tensors."""
        kinds = [e.given or e.dtype for m in (*self.models, self.base) for e in m.entries.values()]
        kind = formulas.compute_type(formulas.widest([k for k in kinds if k.is_floating_point]))
        return [formulas.find_threshold(self._changes(i), kind) for i in range(len(self.models))]

    def _changes(self, index: int) -> Callable[[], Iterator[Tensor]]:
        def iterate() -> Iterator[Tensor]:
            for key, entry in self.models[0].entries.items():
                if not entry.dtype.is_floating_point or formulas.is_statistic(key):
                    continue
                if self.models[index].entries[key] == self.base.entries[key]:
                    continue
                child, base = self.models[index].read(key), self.base.read(key)
                if formulas.unmoved([child, base]):  # constants may be infinite
                    continue
                wide = formulas.compute_type(formulas.widest([child.dtype, base.dtype]))
                for one, other in zip(_split(child), _split(base), strict=True):
                    yield one.to(wide) - other.to(wide)

        return iterate


def _split(tensor: Tensor) -> Sequence[Tensor]:
    """Return views of a contiguous tensor's parts."""
    return torch.split(tensor.flatten(), PART)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

"""Data sets of text: any files, and named corpora by the names of their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from trainables.datasets.cache import cache_folder, fingerprint, make_once
from trainables.datasets.dataset import Data, DataError
from trainables.datasets.text.corpus import find_text, list_texts, read_documents
from trainables.datasets.text.tokenizer import BYTES, Tokenizer, open_tokenizer
from trainables.datasets.text.tokens import token_data
from trainables.result import SPLITS
from trainables.runtime import Runtime
from trainables.spec import stream


def text(
    root: Path | None,
    *,
    path: str,
    val_path: str = "",
    test_path: str = "",
    field: str = "text",
    separator: str = "",
    tokenizer: str = BYTES,
    context: int = 128,
    val_share: float = 0.05,
    test_share: float = 0.05,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    split_seed: int = 0,
    label_noise: float = 0.0,
    runtime: Runtime = Runtime(),  # noqa: B008 - frozen
) -> Data:
    """Build a data set of token windows from a text file or a folder of .txt and .jsonl files; needs its `path`.

    An example is a window of `context` tokens; its targets are the next tokens. Windows do not overlap. Splits are
    contiguous parts in the order train, val, test, unless files are given for them.

    Args:
        root: Data root.
        path: File (.txt, .jsonl, each also as .gz) or folder, relative to the data root or absolute.
        val_path: File or folder of the validation text; empty takes a share of `path`.
        test_path: File or folder of the test text; empty takes a share of `path`.
        field: Field of a .jsonl line that holds its text.
        separator: Text between the documents of a .txt file; empty takes a file as one document.
        tokenizer: `bytes`, or a folder with `tokenizer.json`, relative to the data root or absolute.
        context: Tokens per example.
        val_share: Share of the tokens for validation, without `val_path`.
        test_share: Share of the tokens for test, without `test_path`.
        train: Number of training windows, evenly spaced; None keeps all.
        val: Number of validation windows, likewise.
        test: Number of test windows, likewise.
        split_seed: Seed of the label noise.
        label_noise: Share of the training targets that change to another token.
        runtime: Cache folder of encoded text.

    Raises:
        DataError: Files are missing or cannot be read, there is no tokenizer, or a split is shorter than one window.
    """
    files = {"train": path, "val": val_path, "test": test_path}
    found = {s: find_text(root, p, "path" if s == "train" else f"{s}_path") for s, p in files.items() if p}
    corpus = _Corpus(open_tokenizer(root, tokenizer), field, separator, runtime)
    parts = {s: corpus.encode(p) for s, p in found.items()}
    parts |= _carve(parts["train"], {"val": val_share, "test": test_share}, set(found))
    return _assemble("text", parts, corpus.tokenizer, context, (train, val, test), (label_noise, split_seed), path)


_WORDS = (
    ("a", "the", "one", "every"),
    ("small", "old", "green", "quiet", "lost", "clever"),
    ("king", "fox", "river", "child", "stone", "ship", "queen"),
    ("sees", "finds", "leaves", "follows", "likes"),
)


def sentences(
    root: Path | None,
    *,
    number: int = 2000,
    context: int = 32,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    split_seed: int = 0,
    label_noise: float = 0.0,
) -> Data:
    """Build random sentences of a small grammar, in bytes; needs no files, for tests and first tries.

    Args:
        root: Not used.
        number: Number of sentences, of about 36 bytes.
        context: As in `text`, like the options that follow.
        train: Number of training windows.
        val: Number of validation windows.
        test: Number of test windows.
        split_seed: Seed of the label noise.
        label_noise: Share of the training targets that change to another token.

    Raises:
        DataError: Too few sentences for a window in each split.
    """
    if number < 1:
        raise DataError(f"number must be >= 1 sentence, got {number}")
    rng = np.random.default_rng(stream("sentences", "text"))
    pattern = [_WORDS[i] for i in (0, 1, 2, 3, 0, 2)]
    draws: list[list[int]] = [rng.integers(len(words), size=number).tolist() for words in pattern]
    lines = [" ".join(words[drawn[i]] for words, drawn in zip(pattern, draws, strict=True)) for i in range(number)]
    tokenizer = open_tokenizer(None, BYTES)
    tokens, _ = tokenizer.encode([". ".join(lines).encode()])
    parts = _carve(Part(tokens, 1.0), {"val": 0.1, "test": 0.1}, set())
    return _assemble("sentences", parts, tokenizer, context, (train, val, test), (label_noise, split_seed), "a grammar")


@dataclass(frozen=True)
class Part:
    """The tokens of a split, and the bytes of its file per token."""

    tokens: np.ndarray
    bytes_per_token: float


@dataclass(frozen=True)
class _Corpus:
    """How files become tokens."""

    tokenizer: Tokenizer
    field: str
    separator: str
    runtime: Runtime

    def encode(self, path: Path) -> Part:
        if not self.tokenizer.key:
            return self._encode(path)
        key = fingerprint(list_texts(path), f"{self.tokenizer.key}/{self.field}/{self.separator}")
        file = make_once(cache_folder(self.runtime) / "text" / f"{key}.npz", partial(self._write, path))
        with np.load(file, allow_pickle=False) as kept:
            return Part(kept["tokens"], float(kept["bytes_per_token"]))

    def _encode(self, path: Path) -> Part:
        documents = read_documents(path, self.field, self.separator.encode())
        tokens, size = self.tokenizer.encode(documents)
        return Part(tokens, size / max(1, len(tokens)))

    def _write(self, source: Path, target: Path) -> None:
        part = self._encode(source)
        with target.open("wb") as file:  # by name, numpy would append a suffix
            np.savez(file, tokens=part.tokens, bytes_per_token=part.bytes_per_token)


def _carve(whole: Part, shares: Mapping[str, float], given: set[str]) -> dict[str, Part]:
    """Return the contiguous parts of the training text: train, then the splits that have no files."""
    if not len(whole.tokens):
        raise DataError("the text is empty; give a file with text in it")
    for split, share in shares.items():
        if not 0 < share < 1:
            raise DataError(f"{split}_share must lie in (0, 1), got {share!r}")
    cut = {s: round(shares[s] * len(whole.tokens)) for s in ("val", "test") if s not in given}
    end = len(whole.tokens) - sum(cut.values())
    if end <= 0:
        raise DataError(f"val_share and test_share must leave text to train on, got {dict(shares)}")
    parts = {"train": Part(whole.tokens[:end], whole.bytes_per_token)}
    for split, size in cut.items():
        parts[split] = Part(whole.tokens[end : end + size], whole.bytes_per_token)
        end += size
    return parts


def _assemble(
    name: str,
    parts: Mapping[str, Part],
    tokenizer: Tokenizer,
    context: int,
    limits: tuple[int | None, int | None, int | None],
    noise: tuple[float, int],
    source: str,
    licence: str = "",
) -> Data:
    held = [parts["val"], parts["test"]]
    tokens = sum(len(p.tokens) for p in held)
    return token_data(
        name,
        {s: parts[s].tokens for s in SPLITS},
        context,
        tokenizer.vocabulary,
        sum(p.bytes_per_token * len(p.tokens) for p in held) / max(1, tokens),
        limits=dict(zip(SPLITS, limits, strict=True)),
        noise=noise,
        licence=licence,
        source=source,
        tokenizer=tokenizer.name,
    )


@dataclass(frozen=True)
class Named:
    """A corpus by the exact names of its files under the data root.

    Attributes:
        name: Its name in `DATASETS`.
        files: Split -> file; splits without a file are contiguous parts of the one before them.
        about: Sentence for the reference.
        separator: Text between documents.
    """

    name: str
    files: Mapping[str, str]
    about: str
    licence: str
    source: str
    separator: str = ""


NAMED = (
    Named(
        "tinyshakespeare", {"train": "text/tinyshakespeare.txt"},
        "Build Tiny Shakespeare, 1.1 million bytes of plays; needs text/tinyshakespeare.txt.",
        "public domain", "Karpathy 2015, char-rnn, from Project Gutenberg",
    ),
    Named(
        "tinystories", {"train": "text/TinyStories-train.txt", "val": "text/TinyStories-valid.txt"},
        "Build TinyStories, short stories in simple words; needs text/TinyStories-train.txt and "
        "text/TinyStories-valid.txt, whose second half is the test split.",
        "CDLA-Sharing-1.0", "Eldan & Li 2023, arXiv 2305.07759", "<|endoftext|>",
    ),
    Named(
        "wikitext2",
        {s: f"text/wikitext-2-raw/wiki.{f}.raw" for s, f in (("train", "train"), ("val", "valid"), ("test", "test"))},
        "Build WikiText-2, articles of Wikipedia; needs text/wikitext-2-raw/wiki.train.raw, wiki.valid.raw and "
        "wiki.test.raw.",
        "CC BY-SA 3.0", "Merity et al. 2016, arXiv 1609.07843",
    ),
)  # fmt: skip


def builder(named: Named) -> Callable[..., Data]:
    """Return the builder of a named corpus."""

    def build(
        root: Path | None,
        *,
        tokenizer: str = BYTES,
        context: int = 128,
        train: int | None = None,
        val: int | None = None,
        test: int | None = None,
        split_seed: int = 0,
        label_noise: float = 0.0,
        runtime: Runtime = Runtime(),  # noqa: B008 - frozen
    ) -> Data:
        if root is None:
            raise DataError(f"{named.name} needs a data root with {', '.join(named.files.values())}; pass --data ROOT")
        if missing := [f for f in named.files.values() if not (root / f).is_file()]:
            raise DataError(f"{named.name} needs {missing[0]} under the data root {root}; put the file there")
        corpus = _Corpus(open_tokenizer(root, tokenizer), "text", named.separator, runtime)
        parts = {s: corpus.encode(root / f) for s, f in named.files.items()}
        if "val" not in parts:
            parts |= _carve(parts["train"], {"val": 0.05, "test": 0.05}, set())
        elif "test" not in parts:
            half = len(parts["val"].tokens) // 2
            first, second = (Part(t, parts["val"].bytes_per_token) for t in np.split(parts["val"].tokens, [half]))
            parts |= {"val": first, "test": second}
        return _assemble(
            named.name, parts, corpus.tokenizer, context, (train, val, test), (label_noise, split_seed), named.source,
            named.licence,
        )  # fmt: skip

    build.__doc__ = named.about
    return build

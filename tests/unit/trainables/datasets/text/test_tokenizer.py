from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from trainables.datasets.dataset import DataError
from trainables.datasets.text.tokenizer import open_tokenizer

WORDS = {"<end>": 0, "the": 1, "king": 2, "queen": 3, "<unk>": 4}


def make_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of five words."""
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<end>"}}))
    return folder


def test_bytes_need_no_files() -> None:
    tokenizer = open_tokenizer(None, "bytes")
    tokens, size = tokenizer.encode(["aü".encode(), b"b"])
    assert tokens.tolist() == [97, 195, 188, 10, 10, 98]
    assert (tokens.dtype, size, tokenizer.vocabulary, tokenizer.key) == (np.uint8, 6, 256, "")


def test_a_folder_ends_each_document_with_its_end_token(tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "words")
    tokenizer = open_tokenizer(tmp_path, "words")
    tokens, size = tokenizer.encode([b"the king", b"the queen sings"])
    assert tokens.tolist() == [1, 2, 0, 1, 3, 4, 0]
    assert (size, tokenizer.vocabulary, len(tokenizer.key)) == (23, 5, 64)
    (tmp_path / "words" / "tokenizer_config.json").unlink()
    assert open_tokenizer(tmp_path, "words").encode([b"the", b"king"])[0].tolist() == [1, 2]


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no tokenizer.json; save one by"):
        open_tokenizer(tmp_path, ".")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer.json is no tokenizer: "):
        open_tokenizer(tmp_path, ".")
    with pytest.raises(DataError, match="tokenizer must be bytes or a folder"):
        open_tokenizer(tmp_path, "")
    with pytest.raises(DataError, match="must be UTF-8"):
        open_tokenizer(tmp_path, str(make_tokenizer(tmp_path / "w"))).encode([b"\xff"])

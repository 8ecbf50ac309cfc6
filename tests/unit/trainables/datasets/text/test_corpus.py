from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from trainables.datasets.dataset import DataError
from trainables.datasets.text.corpus import find_text, list_texts, read_documents


def _folder(tmp_path: Path) -> Path:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "more").mkdir()
    with gzip.open(tmp_path / "more" / "c.jsonl.gz", "wt") as file:
        file.write(json.dumps({"story": "third"}) + "\n\n" + json.dumps({"story": "fourth ü"}) + "\n")
    (tmp_path / "notes.md").write_text("not read")
    return tmp_path


def test_documents_come_in_order_of_the_files(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    assert [p.name for p in list_texts(folder)] == ["a.txt", "b.txt", "c.jsonl.gz"]
    assert list(read_documents(folder, "story")) == [b"first", b"second", b"third", "fourth ü".encode()]


def test_a_separator_splits_a_text_file(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("one<|end|>two<|end|>\n")
    assert list(read_documents(tmp_path / "a.txt.gz", separator=b"<|end|>")) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"other": "x"}\n', r"line 1, must have text in field 'text', it has the fields other; set field"),
        ("a.jsonl", b'{"text": "x"}\n{oops\n', r"line 2, must be JSON"),
        ("a.jsonl", b"[1]\n", r"it has the fields none"),
        ("a.txt.gz", b"no gzip", r"a.txt.gz cannot be read: Not a gzipped file"),
        ("a.pdf", b"%PDF", r"must be a .txt, .jsonl, .txt.gz, .jsonl.gz, .raw file"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_documents(tmp_path / name))


def test_a_path_must_exist(tmp_path: Path) -> None:
    assert find_text(tmp_path, ".") == tmp_path
    with pytest.raises(DataError, match=r"x.txt does not exist; val_path must be absolute or under the data root"):
        find_text(tmp_path, "x.txt", "val_path")
    with pytest.raises(DataError, match=r"path 'x.txt' is relative to the data root, which is not set"):
        find_text(None, "x.txt")
    with pytest.raises(DataError, match=r"must hold .* files, but it has none"):
        list_texts(tmp_path)

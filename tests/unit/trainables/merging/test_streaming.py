"""Merges of model folders, tensor by tensor, equal those of whole state dicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.model_folders import half_ulp, load, tiny_llama
from trainables.merging import formulas, streaming
from trainables.merging.methods import MERGES
from trainables.merging.streaming import StreamingMerge, list_streamable
from trainables.models import model_folders
from trainables.models.model_folders import open_model_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and two children near it, in one file and in shards, and children in bfloat16."""
    root = tmp_path_factory.mktemp("models")
    base = tiny_llama(root / "base", 0)
    out = {"base": base}
    for i, name in enumerate("ab", 1):
        out[name] = tiny_llama(root / name, i, near=base, shard="20KB" if name == "b" else "50GB")
        out[f"{name}16"] = tiny_llama(root / f"{name}16", i, near=base, dtype=torch.bfloat16)
    return out


@pytest.fixture(scope="module", autouse=True)
def _partly_moved(folders: dict[str, Path]) -> None:
    """The embedding of one child changes in few rows, and its first layer's norms not at all."""
    file = folders["a"] / "model.safetensors"
    weights, base = load_file(file), state(folders["base"])
    for key in weights:
        if "layernorm" in key:
            weights[key] = base[key]
    weights["model.embed_tokens.weight"][2:] = base["model.embed_tokens.weight"][2:]
    save_file(weights, file, metadata={"format": "pt"})


def state(folder: Path) -> dict[str, Tensor]:
    source = open_model_folder(folder)
    return {k: source.read(k) for k in source.entries}


@pytest.mark.parametrize("method", list_streamable())
@pytest.mark.parametrize("kind", ["", "16"])
def test_a_streamed_merge_equals_the_merge_of_state_dicts(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str
) -> None:
    monkeypatch.setattr(model_folders, "SHARD_BYTES", 30_000)
    monkeypatch.setattr(streaming, "PART", 1000)
    names, target = [f"a{kind}", f"b{kind}"], tmp_path / "merged"
    coefficient = 1.0 if MERGES[method].grid == (1.0,) else 0.7
    merge = StreamingMerge(
        [open_model_folder(folders[n]) for n in names], open_model_folder(folders["base"]), method, coefficient, seed=3
    )
    written = merge.write(target)
    expected = MERGES[method](state(folders["base"]), [state(folders[n]) for n in names], coefficient, seed=3)
    merged = state(target)
    assert merged.keys() == expected.keys()
    for key, value in expected.items():
        assert merged[key].dtype == value.dtype
        assert torch.equal(merged[key], value)
    assert written.parameters == sum(v.numel() for v in expected.values())
    assert written.bytes == sum(v.nbytes for v in expected.values())
    assert len(list(target.glob("model-*-of-*.safetensors"))) > 1
    loaded = load(target).state_dict()
    for key, value in expected.items():
        assert torch.equal(loaded[key], value.to(loaded[key].dtype))


@pytest.mark.parametrize("method", list_streamable())
def test_a_merge_of_half_precision_is_rounded_once(folders: dict[str, Path], tmp_path: Path, method: str) -> None:
    children, coefficient = [folders["a16"], folders["b16"]], 1.0 if MERGES[method].grid == (1.0,) else 0.7
    base = tiny_llama(tmp_path / "base16", 0, near=folders["base"], dtype=torch.bfloat16)
    models = [open_model_folder(p) for p in children]
    StreamingMerge(models, open_model_folder(base), method, coefficient, seed=3).write(tmp_path / "out")
    merged = state(tmp_path / "out")

    def merge_in(kind: torch.dtype) -> dict[str, Tensor]:
        first, *others = ({k: v.to(kind) for k, v in state(p).items()} for p in (base, *children))
        return MERGES[method](first, others, coefficient, seed=3)

    single, exact = merge_in(torch.float32), merge_in(torch.float64)
    for key, value in merged.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, single[key].bfloat16())
        assert bool(((value.double() - exact[key]).abs() <= 1.01 * half_ulp(exact[key])).all())


def test_weight_one_returns_the_second_model_with_its_tokenizer_and_type(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (folders["a16"] / "tokenizer.json").write_text("{}")
    (folders["a16"] / "code.py").write_text("raise SystemExit")
    pair = [open_model_folder(folders[n]) for n in ("a16", "b16")]
    StreamingMerge(pair, None, "linear", 1.0).write(tmp_path / "out")
    expected = state(folders["b16"])
    assert all(torch.equal(v, expected[k]) for k, v in state(tmp_path / "out").items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == json.loads((folders["a16"] / "config.json").read_text())
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert not (tmp_path / "out" / "code.py").exists()


def test_a_wider_type_is_said_in_the_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    pair = [open_model_folder(folders[n]) for n in ("a16", "b")]
    StreamingMerge(pair, None, "linear", 0.5).write(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    assert {p.dtype for p in load(tmp_path / "out").parameters()} == {torch.float32}


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    one = tiny_llama(tmp_path / "one", 0, tie_word_embeddings=True)
    two = tiny_llama(tmp_path / "two", 1, near=one)
    StreamingMerge([open_model_folder(p) for p in (one, two)], None, "slerp", 0.5).write(tmp_path / "out")
    model = load(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in open_model_folder(tmp_path / "out").entries


def test_a_failed_write_leaves_nothing(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = [open_model_folder(folders[n]) for n in "ab"]
    merge = StreamingMerge(pair, None, "linear", 0.5)
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="taken exists; choose another folder"):
        merge.write(tmp_path / "taken")
    with pytest.raises(ValueError, match=r"there is no folder .*none; create it"):
        merge.write(tmp_path / "none" / "out")

    def stop(key: str) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(merge, "read", stop)
    with pytest.raises(KeyboardInterrupt):
        merge.write(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("many", [1, 7, 1000])
def test_the_threshold_is_an_order_statistic(kind: torch.dtype, many: int) -> None:
    draws = torch.Generator().manual_seed(many)
    parts = [torch.randn(many, generator=draws, dtype=kind), torch.zeros(5, dtype=kind)]  # of one tensor
    parts += [torch.randn(3, many, generator=draws, dtype=kind).exp() * 1e-30, torch.ones(many, dtype=kind)]
    sizes = torch.cat([p.abs().flatten() for p in parts])
    expected = sizes.sort(descending=True).values[-(-len(sizes) // 5) - 1]
    assert torch.equal(formulas.find_threshold(lambda: parts, kind), expected)
    assert formulas.find_threshold(lambda: [*parts, torch.full((2,), torch.nan, dtype=kind)], kind).isnan()
    assert formulas.find_threshold(list, kind) == 0

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import sys
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.models.heads import head_of, penultimate
from trainables.models.registry import build
from trainables.models.seeding import seed_generators
from trainables.models.tensors import aliases

SMALL = {"layers": 1, "heads": 2, "width": 8}
X = torch.arange(12).view(2, 6) % 32


def _model(length: int = 6, **options: Any) -> nn.Module:
    with seed_generators(0):
        return build("gpt", 32, 6, 1, {**SMALL, **options}, text={"length": length, "tokenizer": "bytes"}).eval()


def _folder(path: Path, **options: Any) -> Path:
    _model(**options).save_pretrained(path)
    return path


def _read(path: Path | str, classes: int = 32, length: int = 6, **more: Any) -> nn.Module:
    return build(f"hf:{path}", classes, length, 1, {}, text={"length": length, "tokenizer": "words", **more}).eval()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_tokens_become_logits_that_see_no_later_token(kind: str, attention: str) -> None:
    model = _model(kind=kind, attention=attention)
    logits = model(X)
    assert logits.shape == (2, 6, 32)
    changed = X.clone()
    changed[:, 4] = 31
    later = model(changed)
    torch.testing.assert_close(later[:, :4], logits[:, :4])
    assert not torch.allclose(later[:, 4:], logits[:, 4:])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_stack_of_models_computes_what_each_computes(kind: str) -> None:
    model = _model(kind=kind)
    named = {n: torch.stack([p, 1.5 * p]) for n, p in model.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH):
        both = vmap(lambda p: functional_call(model, p, (X,)))(named)
    torch.testing.assert_close(both[0], model(X), rtol=1e-4, atol=1e-5)
    alone = functional_call(model, {n: p[1] for n, p in named.items()}, (X,))
    torch.testing.assert_close(both[1], alone, rtol=1e-4, atol=1e-5)


def test_the_head_is_the_embedding_and_its_input_is_averaged_over_tokens() -> None:
    model = _model()
    assert head_of(model, 32) == "lm_head"
    assert aliases(model) == {"lm_head.weight": "transformer.wte.weight"}
    hidden = model.transformer(X).last_hidden_state
    torch.testing.assert_close(penultimate(model, model.state_dict(), X, "lm_head"), hidden.mean(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "width must be a multiple of heads, got width 8 and heads 3"),
        ({"layers": 0}, "layers must be >= 1, got 0"),
        ({"kind": "bert"}, "kind must be one of gpt2, llama, got 'bert'"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"context": 5}, "context must be at most that of the model, 5 tokens, got 6"),
    ],
)
def test_options_follow_their_rules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _model(**options)


def test_the_data_set_gives_the_length() -> None:
    with pytest.raises(ValueError, match="model_options must not have 'length', which the data set"):
        build("gpt", 32, 6, 1, {"length": 5}, text={"length": 6})


def test_images_and_text_need_their_models() -> None:
    with pytest.raises(ValueError, match="model 'gpt' takes text, but the data set has images"):
        build("gpt", 10, 1, 8, {})
    with pytest.raises(ValueError, match="model 'small_cnn' takes images, but the data set has text"):
        build("small_cnn", 256, 6, 1, {}, text={"length": 6})


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'sweeper\[text\]'"):
        _model()


def test_a_saved_folder_is_the_same_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    saved = _folder(tmp_path / "gpt")
    again = _read(saved)
    assert torch.equal(again(X), _model()(X))
    assert len(again.weights_sha256) == 64
    theirs: Tensor = AutoModelForCausalLM.from_pretrained(saved).eval()(X).logits
    assert torch.equal(theirs, again(X))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    saved = _folder(tmp_path / "gpt")
    with pytest.raises(ValueError, match=r"has a context of 6 tokens, got 7; lower dataset_options.context"):
        _read(saved, length=7)
    with pytest.raises(ValueError, match="has a vocabulary of 32 tokens, the tokenizer 'words' has 33"):
        _read(saved, classes=33)
    with pytest.raises(ValueError, match="has a vocabulary of 32 tokens, the tokenizer 'bytes' has 31"):
        _read(saved, classes=31, tokenizer="bytes")
    (saved / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has its own tokenizer, got bytes; set dataset_options.tokenizer"):
        _read(saved, tokenizer="bytes")
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "n_layer": 2}))
    with pytest.raises(ValueError, match=r"does not fit its class GPT2LMHeadModel: 12 missing \(transformer.h.1"):
        _read(saved)
    (saved / "config.json").write_text(json.dumps({**config, "n_embd": 16}))
    with pytest.raises(ValueError, match=r"other shape \("):
        _read(saved)
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "no_such_model"}))
    with pytest.raises(ValueError, match="is no causal language model that loads"):
        _read(saved)
    (saved / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ValueError, match="is no causal language model"):
        _read(saved)


def test_a_folder_must_hold_safetensors(tmp_path: Path) -> None:
    saved = _folder(tmp_path / "gpt")
    (saved / "model.safetensors").rename(saved / "model.bin")
    with pytest.raises(ValueError, match=r"it has no \*.safetensors"):
        _read(saved)
    (saved / "config.json").unlink()
    with pytest.raises(ValueError, match=r"it has no config.json"):
        _read(saved)
    shutil.rmtree(saved)
    with pytest.raises(ValueError, match="must name a folder of transformers, which does not exist"):
        _read(saved)


def test_a_hub_name_needs_download() -> None:
    with pytest.raises(ValueError, match=r"'hf:owner/name' is no folder on this machine; .* set --download"):
        _read("owner/name")


class _Hub(BaseHTTPRequestHandler):
    """A hub with one model, which notes each request."""

    name: str
    folder: Path
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        file = self.folder / path.rpartition("/")[2]
        body: bytes | None = None
        if path == f"/api/models/{self.name}/revision/main":
            files = [{"rfilename": f.name} for f in self.folder.iterdir()]
            body = json.dumps({"id": self.name, "sha": "0" * 40, "siblings": files}).encode()
        elif path.startswith(f"/{self.name}/resolve/") and file.is_file():
            body = file.read_bytes()
        self.send_response(404 if body is None else 200)
        self.send_header("X-Repo-Commit", "0" * 40)
        if body is None and "/resolve/" in path:
            self.send_header("X-Error-Code", "EntryNotFound")
        body = body or b""
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[type[_Hub]]:
    """Yield a hub on this machine, whose cache is empty; no other hub can be asked."""
    from huggingface_hub import constants

    handler: Any = type("Handler", (_Hub,), {"name": "owner/name", "folder": tmp_path / "hub", "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_hub_is_asked_for_configuration_and_safetensors_alone(hub: Any) -> None:
    saved = _folder(hub.folder)
    for name in ("modeling_own.py", "pytorch_model.bin", "model.pickle", "README.md"):
        (saved / name).write_bytes(b"raise SystemExit")
    model = _read(hub.name, download=True)
    torch.testing.assert_close(model(X), _read(saved)(X))
    files = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert {"config.json", "model.safetensors"} <= files
    assert files <= {"config.json", "adapter_config.json", "generation_config.json", "model.safetensors"}


def test_a_model_on_the_hub_without_safetensors_is_refused(hub: Any) -> None:
    saved = _folder(hub.folder)
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"must hold weights in safetensors, but it has no \*\.safete"):
        _read(hub.name, download=True)
    assert not any("/resolve/" in path for path in hub.asked)


def test_a_name_that_the_hub_lacks_is_refused(hub: Any) -> None:
    with pytest.raises(ValueError, match=r"'hf:owner/none' must be on the hub, which answers 404 at revision 'main'; "):
        _read("owner/none", download=True)
    assert not any("/resolve/" in path for path in hub.asked)


def test_without_an_answer_the_cache_serves_and_an_empty_one_is_one_sentence(
    hub: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from huggingface_hub import constants

    saved = _folder(hub.folder)
    _read(hub.name, download=True)
    capfd.readouterr()
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        torch.testing.assert_close(_read(hub.name, download=True)(X), _read(saved)(X))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
        with pytest.raises(ValueError, match="must be in the cache of the hub, which does not answer; "):
            _read(hub.name, download=True)
    assert "Retrying" not in "".join(capfd.readouterr())

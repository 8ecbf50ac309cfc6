"""Language models of transformers: built from options, or read from a folder; all map tokens to logits.

The modules are transformers' own classes with a forward pass that takes tokens alone. Names in the state dict stay
those of transformers, so that saved weights load with `from_pretrained`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from trainables.models.model_folders import is_adapter_alone
from trainables.models.tensors import hold, list_some

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
PATIENCE = 10.0
"""Longest time to wait for an answer of the hub, s."""
_INSTALL = "language models need the package transformers: pip install 'sweeper[text]'"
Attention = Literal["sdpa", "eager"]
Held = Literal["float32", "bfloat16"]


def gpt(
    classes: int,
    channels: int,
    *,
    length: int,
    kind: str = "gpt2",
    layers: int = 2,
    heads: int = 4,
    width: int = 64,
    context: int = 0,
    dropout: float = 0.0,
    attention: Attention = "sdpa",
    dtype: Held = "float32",
) -> nn.Module:
    """Build a small GPT of transformers with random weights and tied embeddings; needs text.

    Args:
        classes: Tokens in the vocabulary.
        channels: Not used.
        length: Tokens per example.
        kind: `gpt2` (learned positions, GELU) or `llama` (rotary positions, RMSNorm, gated SiLU of 8/3 the width).
        layers: Number of blocks.
        heads: Heads per block.
        width: Size of a token's vector; a multiple of `heads`.
        context: Longest context of the model; 0 takes that of the data.
        dropout: Share of units that training drops.
        attention: Implementation of attention in transformers: `sdpa`, with the fused kernels of torch, or `eager`.
        dtype: `bfloat16` holds the frozen base of adapters in half the memory; `float32` leaves the type to the trial.

    Raises:
        ValueError: An option breaks its rule, or the package transformers is not installed.

    Source: Radford et al. 2019 (GPT-2); Touvron et al. 2023, arXiv 2302.13971 (Llama).
    """
    for name, value in {"layers": layers, "heads": heads, "width": width}.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if width % heads or (kind == "llama" and width // heads % 2):
        even = " of even size" if kind == "llama" else ""
        raise ValueError(f"width must be a multiple of heads{even}, got width {width} and heads {heads}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout!r}")
    _check_length(length, context or length, f"gpt with context {context}")
    hf = _transformers()
    common: dict[str, Any] = {
        "vocab_size": classes, "bos_token_id": None, "eos_token_id": None, "use_cache": False,
        "tie_word_embeddings": True,
    }  # fmt: skip
    if kind == "gpt2":
        config = hf.GPT2Config(
            n_positions=context or length, n_embd=width, n_layer=layers, n_head=heads, resid_pdrop=dropout,
            embd_pdrop=dropout, attn_pdrop=dropout, **common,
        )  # fmt: skip
    elif kind == "llama":
        config = hf.LlamaConfig(
            max_position_embeddings=context or length, hidden_size=width, num_hidden_layers=layers,
            num_attention_heads=heads, intermediate_size=max(8, 8 * round(width / 3)), attention_dropout=dropout,
            pad_token_id=None, **common,
        )  # fmt: skip
    else:
        raise ValueError(f"kind must be one of gpt2, llama, got {kind!r}")
    _check_options(attention, dtype)
    with quiet():
        model = hf.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return _rounded(token_model(model), dtype)


def pretrained(
    where: str,
    classes: int,
    channels: int,
    *,
    length: int,
    tokenizer: str = "",
    download: bool = False,
    attention: Attention = "sdpa",
    dtype: Held = "float32",
    revision: str = "main",
) -> nn.Module:
    """Read a causal language model from a folder of transformers, in safetensors; it runs no code of the folder.

    Args:
        where: Folder, or with `download` a name on the hub.
        classes: Tokens in the vocabulary of the data.
        channels: Not used.
        length: Tokens per example.
        tokenizer: Tokenizer of the data.
        download: Whether a hub name may be downloaded.
        attention: As in `gpt`.
        dtype: As in `gpt`.
        revision: Branch, tag or commit of a hub name.

    Returns:
        The model; its attribute `weights_sha256` changes with the folder's weights.

    Raises:
        ValueError: No such folder, a hub name without `download`, no causal language model, keys that do not fit, a
            context or a vocabulary that is smaller than that of the data.
    """
    hf = _transformers()
    _check_options(attention, dtype)
    folder = Path(where).expanduser()
    local = folder.is_dir()
    if not local and not _HUB_NAME.fullmatch(where):
        raise ValueError(f"model 'hf:{where}' must name a folder of transformers, which does not exist")
    if not local and not download:
        raise ValueError(
            f"model 'hf:{where}' is no folder on this machine; give the path of one, or set --download for a hub name"
        )
    source = str(folder) if local else where
    if local and is_adapter_alone(folder):
        raise ValueError(f"model 'hf:{where}' must be a whole model, got an adapter; give the model it was trained on")
    if local and not (folder / "config.json").is_file():
        raise ValueError(f"model 'hf:{where}' must name a folder of transformers, but it has no config.json")
    if local and not any(folder.glob("*.safetensors")):
        raise _no_safetensors(where)
    silent = not local and not _hub_answers(where, revision)
    at = {"local_files_only": local or silent, "trust_remote_code": False, "revision": revision}
    with quiet():
        try:
            config = hf.AutoConfig.from_pretrained(source, **at)
            _check_config(config, where, classes, length, tokenizer, folder if local else None)
            model, report = hf.AutoModelForCausalLM.from_pretrained(
                source, config=config, use_safetensors=True, attn_implementation=attention, dtype="auto",
                ignore_mismatched_sizes=True, output_loading_info=True, **at,
            )  # fmt: skip
        except (OSError, ImportError, KeyError, RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, ValueError) and str(error).startswith("model 'hf:"):
                raise
            if silent:
                raise ValueError(
                    f"model 'hf:{where}' must be in the cache of the hub, which does not answer; connect this machine, "
                    "or give the path of a folder"
                ) from None
            raise ValueError(f"model 'hf:{where}' is no causal language model that loads: {_line(error)}") from None
    _check_report(report, where, type(model).__name__)
    model = _rounded(token_model(model), dtype)
    if local:
        model.weights_sha256 = _digest(folder)  # type: ignore[assignment]
    return model


def _hub_answers(where: str, revision: str) -> bool:
    """Return whether the hub answers within seconds.

    Raises:
        ValueError: It answers, and has no such model for this user, or one without safetensors.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().model_info(where, revision=revision, timeout=PATIENCE)
    except HfHubHTTPError as error:
        raise ValueError(
            f"model 'hf:{where}' must be on the hub, which answers {error.response.status_code} at revision "
            f"{revision!r}; check the name, or log in if the model is private"
        ) from None
    except Exception:  # of the HTTP client, whose package depends on the version
        return False
    if not any(file.rfilename.endswith(".safetensors") for file in info.siblings or ()):
        raise _no_safetensors(where)
    return True


def _no_safetensors(where: str) -> ValueError:
    return ValueError(f"model 'hf:{where}' must hold weights in safetensors, but it has no *.safetensors")


def _rounded(model: nn.Module, dtype: Held) -> nn.Module:
    return hold(model, torch.bfloat16) if dtype == "bfloat16" else model


def _check_options(attention: str, dtype: str) -> None:
    if attention not in get_args(Attention):
        raise ValueError(f"model_options.attention must be sdpa or eager, got {attention!r}{_why_not(attention)}")
    if dtype not in get_args(Held):
        raise ValueError(f"model_options.dtype must be float32 or bfloat16, got {dtype!r}; `autocast` trains in less")


def _why_not(attention: Any) -> str:
    name = str(attention)
    if name.startswith("flash_attention"):
        lacks = "the package flash-attn computes in half precision alone, and a trial scores its merges in float32"
    elif name == "flex_attention":
        lacks = "it has no second derivatives, which the landscape needs"
    else:
        return ""
    return f": {lacks}; sdpa with autocast bfloat16 uses the flash kernels of torch"


def token_model(model: nn.Module) -> nn.Module:
    """Return a causal language model of transformers whose forward pass maps tokens to logits, changed in place."""
    model.config.use_cache = False  # type: ignore[union-attr]
    model.__class__ = _with_logits(type(model))
    return model


@cache
def _with_logits(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: nn.Module, input_ids: Tensor) -> Tensor:
        return kind.forward(self, input_ids=input_ids, use_cache=False).logits

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__, "__doc__": kind.__doc__})


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ValueError(_INSTALL) from None
    return transformers


@contextmanager
def quiet() -> Generator[None]:
    """Run the block without the log lines and progress bars of transformers."""
    from transformers.utils import logging

    log = cast(Any, logging)
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _check_length(length: int, longest: int | None, who: str) -> None:
    if longest is not None and length > longest:
        raise ValueError(
            f"context must be at most that of the model, {longest} tokens, got {length} for {who}; lower "
            "dataset_options.context"
        )


def _check_config(config: Any, where: str, classes: int, length: int, tokenizer: str, folder: Path | None) -> None:
    who = f"model 'hf:{where}'"
    size = getattr(config, "vocab_size", None)
    if size is None:
        raise ValueError(f"{who} is no causal language model: its config has no vocab_size")
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise ValueError(f"{who} has a context of {longest} tokens, got {length}; lower dataset_options.context")
    if tokenizer == "bytes" and folder is not None and (folder / "tokenizer.json").is_file():
        raise ValueError(f"{who} has its own tokenizer, got bytes; set dataset_options.tokenizer={where}")
    if size < classes or (tokenizer == "bytes" and size != classes):
        raise ValueError(
            f"{who} has a vocabulary of {size} tokens, the tokenizer {tokenizer!r} has {classes}; set "
            "dataset_options.tokenizer to the folder of the model's tokenizer"
        )


def _check_report(report: Any, where: str, kind: str) -> None:
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    other = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    lists = {"missing": missing, "unexpected": unexpected, "other shape": other}
    if any(lists.values()):
        faults = "; ".join(f"{len(names)} {what} ({list_some(names)})" for what, names in lists.items() if names)
        raise ValueError(f"model 'hf:{where}' does not fit its class {kind}: {faults}")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

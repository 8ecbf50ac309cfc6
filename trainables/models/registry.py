"""Models by name: those of this package, of the user, of timm, of torchvision and of transformers.

A builder is called as (classes, channels, **options). A parameter `size` receives the images' side, or (height, width)
if they differ. A builder with a parameter `pretrained` can load its library's weights. A builder with a parameter
`length` maps tokens to logits; it receives the tokens per example.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from trainables.models import language
from trainables.models.heads import head_of, replace_head
from trainables.models.networks import MLP, ResNet18Small, SmallCNN, initialise, small_vit
from trainables.models.tensors import unite
from trainables.registry import Registry, UnknownName, build_with, unknown

Builder = Callable[..., nn.Module]
Size = int | tuple[int, int]
HUB_SECONDS = 10.0
"""Longest wait for the first answer of the hub."""
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Models(Registry[Builder]):
    """The registered models; a look-up also finds timm's models, then torchvision's classifiers.

    `timm:NAME` and `torchvision:NAME` select the library; `hf:PATH` is a language model's folder. Iteration, length
    and `in` cover registered names only.
    """

    def __getitem__(self, name: str) -> Builder:
        if name in self:
            return super().__getitem__(name)
        if name.startswith("hf:"):
            return partial(language.pretrained, name.removeprefix("hf:"))
        library, _, plain = name.rpartition(":")
        if library in ("", "timm") and _in_timm(plain):
            return partial(_timm, plain)
        if library in ("", "torchvision") and plain in _torchvision_names():
            return partial(_torchvision, plain)
        raise self._unknown(name, library, plain)

    def _unknown(self, name: str, library: str, plain: str) -> UnknownName:
        theirs = {"timm": _timm_names("." in plain), "torchvision": _torchvision_names()}
        if library in theirs:
            known = [f"{library}:{n}" for n in theirs[library]]
        else:
            known = [*self, *theirs["timm"], *theirs["torchvision"]]
        if difflib.get_close_matches(name, known, n=1, cutoff=0.5):
            return unknown(self.kind, name, known)
        # the libraries have two thousand names
        return UnknownName(f"{unknown(self.kind, name, self)}, every model of timm and classifier of torchvision")


MODELS = Models("model")


def build(
    name: str,
    classes: int,
    channels: int,
    size: Size,
    options: Mapping[str, Any],
    pretrained: bool = False,
    text: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model; its initial weights are drawn from torch's global generator.

    Args:
        name: Name in `MODELS`, or of a model of timm or torchvision.
        classes: Number of logits; a pretrained model gets a new head.
        channels: Input channels. timm converts a pretrained first convolution to this number. torchvision's first
            convolution gets new weights (normal, variance 2 / (outputs * kernel area)); pretrained weights have 3.
        size: Side of the images, or (height, width), for models with a fixed size.
        options: Further arguments of the builder.
        pretrained: Whether to load the library's weights from its cache, or download them to it.
        text: For data of tokens, what a language model may take: `length` (tokens per example), `tokenizer` (its name)
            and `download`. None for images.

    Raises:
        UnknownName: No such model.
        ValueError: The model takes no images or no tokens; the builder does not take the options, channels or size; a
            parameter cannot be merged (see `trainables.models.tensors.unite`); the model has no pretrained weights, or
            they are neither in the cache nor can they be downloaded.
    """
    builder = MODELS[name]
    takes = inspect.signature(builder).parameters
    given: dict[str, Any] = {"size": _square(size)} if "size" in takes else {}
    if (text is None) == ("length" in takes):
        kinds = ("text", "images") if text is None else ("images", "text")
        raise ValueError(f"model {name!r} takes {kinds[0]}, but the data set has {kinds[1]}; choose another of the two")
    given |= {k: v for k, v in (text or {}).items() if k in takes}
    if own := sorted(set(options) & {"length", "tokenizer", "download"} & set(given)):
        raise ValueError(f"model_options must not have {own[0]!r}, which the data set gives")
    if pretrained:
        if "pretrained" not in takes:
            raise ValueError(f"model {name!r} has no pretrained weights; name a weights file, or a model of timm")
        given["pretrained"] = True
    model = build_with(f"model {name!r}", builder, (classes, channels), options, given)
    try:
        unite(model)
    except ValueError as error:
        raise ValueError(f"model {name!r} cannot be merged: {error}") from None
    return model


def has_batchnorm(model: nn.Module) -> bool:
    """Return whether the model has running batch statistics, which a merge invalidates."""
    return any(isinstance(m, BATCHNORMS) for m in model.modules())


def drops(model: nn.Module) -> bool:
    """Return whether the names of the modules show that training drops units or layers at random."""
    names = {type(m).__name__.lower() for m in model.modules() if getattr(m, "p", 1.0) != 0}
    return any("drop" in name or name == "stochasticdepth" for name in names)


def _square(size: Size) -> Size:
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size


@cache
def _timm_names(tagged: bool = False) -> list[str]:
    import timm

    return timm.list_models(pretrained=tagged)


def _in_timm(name: str) -> bool:
    import timm
    from timm.models import is_model_pretrained

    return is_model_pretrained(name) if "." in name else timm.is_model(name)


def _timm(
    name: str, classes: int, channels: int, size: Size = 224, pretrained: bool = False, **options: Any
) -> nn.Module:
    import timm
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name, allow_unregistered=True)
    # convolutional models take any size and no `img_size`
    sized = {"img_size": size} if config is not None and config.fixed_input_size else {}
    build = partial(timm.create_model, name, num_classes=classes, in_chans=channels, **{**sized, **options})
    if pretrained:
        return _fetch(f"timm:{name}", partial(_load_from_hub, partial(build, pretrained=True)))
    try:
        return build()
    except (RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise ValueError(f"timm cannot build {name!r} for images of size {size}: {_line(error)}") from None


@cache
def _torchvision_names() -> Sequence[str]:
    import torchvision  # pyright: ignore[reportMissingTypeStubs]

    return torchvision.models.list_models(module=torchvision.models)


# defaults would give these two classifiers extra outputs in training
_PLAIN: dict[str, dict[str, bool]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def _torchvision(
    name: str, classes: int, channels: int, size: Size = 224, pretrained: bool = False, **options: Any
) -> nn.Module:
    import torchvision  # pyright: ignore[reportMissingTypeStubs]

    if pretrained and channels != 3:
        raise ValueError(
            f"pretrained weights of torchvision:{name} take 3 channels, got {channels}; timm converts its weights"
        )
    build = partial(torchvision.models.get_model, name, **({"image_size": size} if name.startswith("vit_") else {}))
    if pretrained:
        model = _fetch(f"torchvision:{name}", partial(build, weights="DEFAULT", **options))
        replace_head(model, head_of(model), classes)
        return model
    model = build(num_classes=classes, **{**_PLAIN.get(name, {}), **options})
    if channels != 3:
        _replace_stem(model, channels)
    return model


def _replace_stem(model: nn.Module, channels: int) -> None:
    stem = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    stem.in_channels = channels
    stem.weight = nn.Parameter(stem.weight.new_empty(stem.out_channels, channels, *stem.kernel_size))
    initialise(stem)


def _fetch(label: str, make: Callable[[], nn.Module]) -> nn.Module:
    try:
        return make()
    except OSError as error:
        raise ValueError(
            f"the pretrained weights of {label} are not in its library's cache and cannot be downloaded "
            f"({_line(error)}); fetch them once on a machine with a network, or name a weights file"
        ) from None
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f"the pretrained weights of {label} cannot be used: {_line(error)}") from None


def _load_from_hub(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a model whose weights come from the hub's cache, or else from the hub.

    Raises:
        OSError: They are not in the cache, and the hub does not answer.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    before, state = constants.HF_HUB_OFFLINE, torch.get_rng_state()
    constants.HF_HUB_OFFLINE = True
    try:
        return make()
    except OSError:
        if before:
            raise
    finally:
        constants.HF_HUB_OFFLINE = before
    try:
        # without an answer, the hub's client would repeat its requests for each of several files: 90 s
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception as error:  # the errors of its HTTP library, which has changed before
        raise OSError(f"{constants.ENDPOINT} does not answer: {_line(error)}") from None
    torch.set_rng_state(state)  # the new head has the same weights as with a filled cache
    return make()


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def resnet18(classes: int, channels: int, pretrained: bool = False, **options: Any) -> nn.Module:
    """Build torchvision's ResNet-18.

    Source: He et al. 2015, arXiv 1512.03385.
    """
    return _torchvision("resnet18", classes, channels, pretrained=pretrained, **options)


for _name, _builder in {
    "small_cnn": SmallCNN,
    "mlp": MLP,
    "resnet18_32": ResNet18Small,
    "resnet18": resnet18,
    "small_vit": small_vit,
    "gpt": language.gpt,
}.items():
    MODELS.add(_name, _builder)

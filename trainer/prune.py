"""Depth pruning: a smaller model from some of a model's layers, the cheapest start for a student that works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from trainer.stage import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Drop every other layer, in place.

    Works for any decoder that keeps its layers in a ModuleList `layers`. What is indexed by layer goes along: each
    module's `layer_idx` (the position in the KV cache) and the configuration's `num_hidden_layers` and `layer_types`.

    Raises:
        StageError: layers that do not exist or do not ascend, or a model without such a list.
    """
    decoder = decoder_of(model)
    stack = decoder.layers
    assert isinstance(stack, nn.ModuleList)  # noqa: S101 - decoder_of has checked it
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= len(stack):
        raise StageError(
            f"student.layers: {list(layers)} must be ascending numbers below {len(stack)}, the base model's layers"
        )
    decoder.layers = nn.ModuleList(stack[index] for index in layers)
    for position, layer in enumerate(decoder.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = position
    configs = {id(each): each for each in (model.config, model.config.get_text_config(), decoder.config)}
    for config in configs.values():
        config.num_hidden_layers = len(layers)
        types = getattr(config, "layer_types", None)
        if types is not None:
            config.layer_types = [types[index] for index in layers]
    return model


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The module that has the embeddings and `layers`, without the output head. Raises: StageError."""
    decoder = model.get_decoder()
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        raise StageError(
            f"{type(model).__name__} keeps its layers elsewhere than in `layers`; choose another base model"
        )
    return decoder


def freeze(model: PreTrainedModel, layers: int, embeddings: bool) -> None:
    """Take the lowest layers, and the embeddings (with an output head that is tied to them), out of training.

    Raises:
        StageError: as many layers as the model has, or more.
    """
    stack = decoder_of(model).layers
    assert isinstance(stack, nn.ModuleList)  # noqa: S101 - decoder_of has checked it
    if layers >= len(stack):
        raise StageError(f"train.freeze_layers: {layers} leaves nothing to train of {len(stack)} layers")
    for layer in stack[:layers]:
        layer.requires_grad_(False)
    if embeddings:
        model.get_input_embeddings().requires_grad_(False)

"""open_clip's layout of a CLIP (HPSv2's files, and those of every CLIP trained with it) as transformers' CLIPModel."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError
from grpo_bench.rewarding.weights import fill

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPConfig, CLIPModel

VISION_HEAD, TEXT_HEAD = 80, 64
"""Width of an attention head of ViT-H-14, which the shapes of the weights do not tell."""
DROPPED = frozenset({"attn_mask"})
"""Saved by old versions of open_clip; a constant."""

_FIXED = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_TOWERS = {"transformer.resblocks.": "text_model", "visual.transformer.resblocks.": "vision_model"}
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_FUSED = "attn.in_proj_"


def load_open_clip(tensors: Mapping[str, Tensor], what: str) -> CLIPModel:
    """A CLIPModel with the weights of an open_clip file; widths and depths are read from the shapes.

    Raises:
        UserError: it is no such file: a weight is missing, left over, or of another shape.
    """
    from transformers import CLIPModel

    config = open_clip_config(tensors, what)
    model = fill(lambda: CLIPModel(config), rename(tensors), what)
    assert isinstance(model, CLIPModel)
    return model


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by transformers' names; one whose name is unknown keeps it, so that the strict load refuses it."""
    named: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in _TRANSPOSED:
            named[_TRANSPOSED[name]] = value.T.contiguous()
        elif name not in DROPPED:
            named |= _block(name, value)
    return named


def _block(name: str, value: Tensor) -> dict[str, Tensor]:
    prefix = next((prefix for prefix in _TOWERS if name.startswith(prefix)), None)
    if prefix is None:
        return {_FIXED.get(name, name): value}
    layer, _, part = name.removeprefix(prefix).partition(".")
    stem = f"{_TOWERS[prefix]}.encoder.layers.{layer}"
    if part.startswith(_FUSED):
        kind = part.removeprefix(_FUSED)
        return {f"{stem}.self_attn.{n}_proj.{kind}": v.clone() for n, v in zip("qkv", value.chunk(3), strict=True)}
    module, _, kind = part.rpartition(".")
    return {f"{stem}.{_BLOCK.get(module, module)}.{kind}": value}


def open_clip_config(tensors: Mapping[str, Tensor], what: str) -> CLIPConfig:
    """The architecture that the shapes tell.

    Raises:
        UserError: a weight that tells it is missing, or a width is no multiple of the head's.
    """
    from transformers import CLIPConfig

    try:
        width, _, _, patch = tensors["visual.conv1.weight"].shape
        tokens, text_width = tensors["positional_embedding"].shape
        side = isqrt(len(tensors["visual.positional_embedding"]) - 1) * patch
        projection = tensors["text_projection"].shape[1]
        vision = {
            **_tower(tensors, "visual.transformer.resblocks.", width, VISION_HEAD, what),
            "image_size": side,
            "patch_size": patch,
            "projection_dim": projection,
        }
        text = {
            **_tower(tensors, "transformer.resblocks.", text_width, TEXT_HEAD, what),
            "vocab_size": len(tensors["token_embedding.weight"]),
            "max_position_embeddings": tokens,
            "projection_dim": projection,
            "bos_token_id": len(tensors["token_embedding.weight"]) - 2,
            # transformers takes 2 for a broken config and then pools elsewhere; the end mark is the last entry.
            "eos_token_id": len(tensors["token_embedding.weight"]) - 1,
            "pad_token_id": 0,
        }
    except (KeyError, ValueError) as error:
        raise UserError(
            f"these are not the weights of {what}: {error} is missing or of another shape; give the published file"
        ) from error
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)


def _tower(tensors: Mapping[str, Tensor], prefix: str, width: int, head: int, what: str) -> dict[str, object]:
    layers = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    return {
        "hidden_size": width,
        "intermediate_size": len(tensors[f"{prefix}0.mlp.c_fc.bias"]),
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads(width, head, what),
        "hidden_act": "gelu",
    }


def heads(width: int, head: int, what: str) -> int:
    """Attention heads of a transformer of this width: ViT-H-14 has 1280 / 80 and 1024 / 64; a narrow model has one.

    Raises:
        UserError: the width is no multiple of the head's.
    """
    if width > head and width % head:
        raise UserError(f"these are not the weights of {what}: width {width} is no multiple of a head's {head}")
    return max(1, width // head)

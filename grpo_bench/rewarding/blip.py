"""BLIP's layout with a head, as ImageReward is published, on transformers' BlipVisionModel and BlipTextModel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from grpo_bench.errors import UserError
from grpo_bench.rewarding.head import linear_head
from grpo_bench.rewarding.openclip import heads
from grpo_bench.rewarding.weights import fill

HEAD = 64
"""Width of an attention head in both towers: 1024 / 16 and 768 / 12 as published."""
DROPPED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
"""In the published file and not used to score: BLIP's contrastive projections, and a constant."""
_VISION, _TEXT, _HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
_RENAMED = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"^norm\.", "post_layernorm."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
)


class BlipJudge(nn.Module):
    """Image and prompt together, through cross-attention and the head, to one number a pair."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig, head: nn.Sequential) -> None:
        super().__init__()
        self.vision, self.text, self.mlp = BlipVisionModel(vision), BlipTextModel(text, add_pooling_layer=False), head

    @property
    def side(self) -> int:
        """Pixels a side of its images."""
        return int(self.vision.config.image_size)

    def forward(self, ids_BT: Tensor, mask_BT: Tensor, images_BCHW: Tensor) -> Tensor:
        """The head's output (B,), before ImageReward's mean and deviation are taken out."""
        image_BND = self.vision(pixel_values=images_BCHW).last_hidden_state
        hidden_BTD = self.text(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            encoder_hidden_states=image_BND,
            encoder_attention_mask=torch.ones(image_BND.shape[:2], dtype=torch.long, device=image_BND.device),
        ).last_hidden_state
        value_B1: Tensor = self.mlp(hidden_BTD[:, 0])
        return value_B1[:, 0]


def load_blip(tensors: Mapping[str, Tensor], what: str) -> BlipJudge:
    """The model with the weights of an ImageReward file; widths and depths are read from the shapes.

    Raises:
        UserError: it is no such file: a weight is missing, left over, or of another shape.
    """
    named = rename(tensors)
    try:
        vision, text = _vision_config(named, what), _text_config(named, what)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"these are not the weights of {what}: {error} is missing or of another shape; give the published file"
        ) from error
    head = {name.removeprefix("mlp."): value for name, value in named.items() if name.startswith("mlp.")}
    model = fill(lambda: BlipJudge(vision, text, linear_head(head, what)), named, what)
    assert isinstance(model, BlipJudge)
    return model


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by `BlipJudge`'s names; one whose name is unknown keeps it, so that the strict load refuses it."""
    return {_name(name): value for name, value in tensors.items() if not name.startswith(DROPPED)}


def _name(name: str) -> str:
    if name.startswith(_HEAD):
        return "mlp." + name.removeprefix(_HEAD)
    if name.startswith(_TEXT):
        return "text." + name.removeprefix(_TEXT)
    if not name.startswith(_VISION):
        return name
    own = name.removeprefix(_VISION)
    for pattern, replacement in _RENAMED:
        own = re.sub(pattern, replacement, own)
    return "vision." + own


def _vision_config(named: Mapping[str, Tensor], what: str) -> BlipVisionConfig:
    width, _, patch, _ = named["vision.embeddings.patch_embedding.weight"].shape
    places = named["vision.embeddings.position_embedding"].shape[1] - 1
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(named["vision.encoder.layers.0.mlp.fc1.bias"]),
        num_hidden_layers=_layers(named, "vision.encoder.layers."),
        num_attention_heads=heads(width, HEAD, what),
        image_size=isqrt(places) * patch,
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )


def _text_config(named: Mapping[str, Tensor], what: str) -> BlipTextConfig:
    words, width = named["text.embeddings.word_embeddings.weight"].shape
    return BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=named["text.encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=len(named["text.encoder.layer.0.intermediate.dense.bias"]),
        num_hidden_layers=_layers(named, "text.encoder.layer."),
        num_attention_heads=heads(width, HEAD, what),
        max_position_embeddings=len(named["text.embeddings.position_embeddings.weight"]),
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        is_decoder=True,  # makes the cross-attention; the forward pass looks both ways all the same
        use_cache=False,
        pad_token_id=0,
        bos_token_id=None,  # used to generate only, and outside a small vocabulary
        eos_token_id=None,
        sep_token_id=None,
    )


def _layers(named: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in named if name.startswith(prefix)})

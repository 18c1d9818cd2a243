"""ImageReward by its authors' own code, in an environment of its own: `load` and `score` of the package image-reward.

The package scores one image and one prompt at a time, in single precision.
"""

from __future__ import annotations

# isort: off
import torchvision_ops  # noqa: F401 (before anything imports torchvision)
import ImageReward as package

# isort: on
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from ImageReward.models.BLIP import blip_pretrain
from ImageReward.models.BLIP.vit import VisionTransformer
from PIL import Image

_VISION = "blip.visual_encoder."
_TEXT = "blip.text_encoder."
_HEAD = 64
"""Numbers in an attention head of either tower; a narrow tower has one head."""

State = Mapping[str, torch.Tensor]


def load(settings: Mapping[str, str]) -> Callable[[Iterable[np.ndarray], Sequence[str]], list[float]]:
    """The scorer of the file `settings["weights"]`; `vocabulary` is the tokenizer's vocab.txt."""
    # The package asks for its tokenizer by name; a folder of that name, where it runs, is found before the hub's cache.
    Path("bert-base-uncased").mkdir(exist_ok=True)
    shutil.copy(settings["vocabulary"], "bert-base-uncased/vocab.txt")
    state = torch.load(settings["weights"], map_location="cpu", weights_only=True)
    if f"{_VISION}cls_token" not in state:
        raise ValueError("these are not the weights of ImageReward: there is no cls_token")
    Path("med_config.json").write_text(json.dumps(_text_sizes(state)))
    _describe_vision(state)
    model = package.load(settings["weights"], device=settings["device"], med_config="med_config.json")
    _check(model, state)
    model.requires_grad_(False)  # the package would keep a graph of every score

    def score(images: Iterable[np.ndarray], prompts: Sequence[str]) -> list[float]:
        pairs = zip(images, prompts, strict=True)
        return [model.score(prompt, Image.fromarray(image)) for image, prompt in pairs]

    return score


def _check(model: torch.nn.Module, state: State) -> None:
    """The package loads any file, and leaves at random what the file lacks; such scores would mean nothing."""
    lacking = sorted(name for name in set(model.state_dict()) - set(state) if "position_ids" not in name)
    if lacking:
        raise ValueError(f"these are not the weights of ImageReward: the file lacks {lacking[0]}")


def _text_sizes(state: State) -> dict[str, object]:
    """What the published med_config.json says, with the sizes of the file."""
    positions, width = state[f"{_TEXT}embeddings.position_embeddings.weight"].shape
    return {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": len(state[f"{_TEXT}encoder.layer.0.intermediate.dense.bias"]),
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": positions,
        "model_type": "bert",
        "num_attention_heads": max(1, width // _HEAD),
        "num_hidden_layers": _layers(state, f"{_TEXT}encoder.layer."),
        "pad_token_id": 0,
        "add_type_embeddings": False,
        "vocab_size": len(state[f"{_TEXT}embeddings.word_embeddings.weight"]),
        "encoder_width": state[f"{_VISION}cls_token"].shape[-1],
        "add_cross_attention": True,
    }


def _describe_vision(state: State) -> None:
    """Let the package build its vision tower in the file's sizes: of the published one they are those it has anyway."""
    width, _, patch, _ = state[f"{_VISION}patch_embed.proj.weight"].shape
    mlp = len(state[f"{_VISION}blocks.0.mlp.fc1.bias"])
    side = math.isqrt(state[f"{_VISION}pos_embed"].shape[1] - 1) * patch

    def create(*_: object) -> tuple[torch.nn.Module, int]:
        tower = VisionTransformer(
            img_size=side,
            patch_size=patch,
            embed_dim=width,
            depth=_layers(state, f"{_VISION}blocks."),
            num_heads=max(1, width // _HEAD),
            mlp_ratio=(mlp + 0.5) / width,  # the package rounds down
        )
        return tower, width

    blip_pretrain.create_vit = create


def _layers(state: State, prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})

"""Tiny random checkpoints in the layouts of the published reward models, and the images and prompts they are tried on.

Everything comes from numpy's Philox, so that any environment (the official packages have their own) makes the same.
Only numpy, Pillow and torch are imported here; `make_clip_folder` needs transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HPS_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 160, "head_width": 80, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2},
}
"""open_clip's description of `make_hps`'s model: what stands in for ViT-H-14.json. Heads are as wide as ViT-H-14's."""

VIT = {"width": 128, "layers": 2, "heads": 2, "patch": 16, "image_size": 224}
"""`make_image_reward`'s vision tower: what stands in for BLIP's ViT-L."""

WORDS = ["a", "the", "cat", "dog", "red", "blue", "square", "circle", "photo", "of", "left", "on", "highly", "detailed"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789éñüß"
MARKS = "!\"#$%&'()*+,-./:;<=>?@[]^_{|}~"
BERT_VOCAB = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    *MARKS,
    *(word for word in WORDS if len(word) > 1),
]
"""The words of `make_bert_folder`, which stands in for bert-base-uncased."""

MED_CONFIG = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "add_type_embeddings": False,
    "type_vocab_size": 2,
    "vocab_size": len(BERT_VOCAB) + 2,
    "encoder_width": VIT["width"],
    "add_cross_attention": True,
}
"""med_config.json of `make_image_reward`: the published one with fewer layers, words and positions."""

PROMPTS = {
    "short": "a photo of a cat",
    "long": "a highly detailed photo of a red square left of a blue circle, " * 12,
    "unicode": "an astronaut’s café — “naïve” 日本語 🐱 &amp;amp; ﬁne",
    "case": "A DOG, highly detailed!! it's 8k\n  on the   left",
    "empty": "",
}


class _Numbers:
    """Random weights of a seed, in half precision as HPS's file."""

    def __init__(self, seed: int) -> None:
        self._stream = np.random.Generator(np.random.Philox(seed))

    def normal(self, *shape: int, std: float = 0.05, mean: float = 0.0) -> torch.Tensor:
        values = self._stream.standard_normal(shape, dtype=np.float32) * np.float32(std) + np.float32(mean)
        return torch.from_numpy(np.asarray(values)).half()

    def linear(self, name: str, out: int, into: int, std: float | None = None) -> dict[str, torch.Tensor]:
        spread = into**-0.5 if std is None else std
        return {f"{name}.weight": self.normal(out, into, std=spread), f"{name}.bias": self.normal(out)}

    def norm(self, name: str, width: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": self.normal(width, std=0.1, mean=1.0), f"{name}.bias": self.normal(width, std=0.1)}


def make_hps(path: Path, seed: int = 0) -> Path:
    """Write HPSv2's file format with a tiny model of `HPS_CONFIG` (13 MB: the vocabulary is the true one)."""
    numbers = _Numbers(seed)
    vision, text, dim = HPS_CONFIG["vision_cfg"], HPS_CONFIG["text_cfg"], HPS_CONFIG["embed_dim"]
    assert isinstance(vision, dict) and isinstance(text, dict) and isinstance(dim, int)
    wide, narrow, patch = vision["width"], text["width"], vision["patch_size"]
    state = {
        "positional_embedding": numbers.normal(text["context_length"], narrow, std=0.3),
        "text_projection": numbers.normal(narrow, dim, std=narrow**-0.5),
        "logit_scale": torch.tensor(4.6),
        "visual.class_embedding": numbers.normal(wide, std=0.5),
        "visual.positional_embedding": numbers.normal((vision["image_size"] // patch) ** 2 + 1, wide, std=0.3),
        "visual.proj": numbers.normal(wide, dim, std=wide**-0.5),
        "visual.conv1.weight": numbers.normal(wide, 3, patch, patch),
        "token_embedding.weight": numbers.normal(text["vocab_size"], narrow, std=1.0),
    }
    for prefix, width, layers in (
        ("visual.transformer", wide, vision["layers"]),
        ("transformer", narrow, text["layers"]),
    ):
        for layer in range(layers):
            stem = f"{prefix}.resblocks.{layer}"
            fused = numbers.linear("in", 3 * width, width)
            state |= {f"{stem}.attn.in_proj_{kind}": fused[f"in.{kind}"] for kind in ("weight", "bias")}
            state |= numbers.linear(f"{stem}.attn.out_proj", width, width)
            state |= numbers.linear(f"{stem}.mlp.c_fc", 4 * width, width)
            state |= numbers.linear(f"{stem}.mlp.c_proj", width, 4 * width)
            state |= numbers.norm(f"{stem}.ln_1", width) | numbers.norm(f"{stem}.ln_2", width)
    for name, width in (("visual.ln_pre", wide), ("visual.ln_post", wide), ("ln_final", narrow)):
        state |= numbers.norm(name, width)
    torch.save({"epoch": 1, "name": "tiny", "state_dict": state}, path)
    return path


def make_image_reward(path: Path, seed: int = 0) -> Path:
    """Write ImageReward.pt's format with a tiny model of `VIT` and `MED_CONFIG`; the head is as wide as published."""
    numbers = _Numbers(seed)
    state = {f"blip.visual_encoder.{name}": value for name, value in _vit(numbers).items()}
    state |= {f"blip.text_encoder.{name}": value for name, value in _bert(numbers).items()}
    state |= numbers.linear("blip.vision_proj", 256, VIT["width"]) | numbers.linear("blip.text_proj", 256, 768)
    state |= {f"mlp.layers.{name}": value for name, value in _head(numbers, 768).items()}
    torch.save(state, path)
    return path


def _vit(numbers: _Numbers) -> dict[str, torch.Tensor]:
    width, patch = VIT["width"], VIT["patch"]
    state = {
        "cls_token": numbers.normal(1, 1, width, std=0.5),
        "pos_embed": numbers.normal(1, (VIT["image_size"] // patch) ** 2 + 1, width, std=0.3),
        "patch_embed.proj.weight": numbers.normal(width, 3, patch, patch),
        "patch_embed.proj.bias": numbers.normal(width),
    }
    for layer in range(VIT["layers"]):
        stem = f"blocks.{layer}"
        state |= numbers.linear(f"{stem}.attn.qkv", 3 * width, width) | numbers.linear(
            f"{stem}.attn.proj", width, width
        )
        state |= numbers.linear(f"{stem}.mlp.fc1", 4 * width, width) | numbers.linear(
            f"{stem}.mlp.fc2", width, 4 * width
        )
        state |= numbers.norm(f"{stem}.norm1", width) | numbers.norm(f"{stem}.norm2", width)
    return state | numbers.norm("norm", width)


def _bert(numbers: _Numbers) -> dict[str, torch.Tensor]:
    width, inner, positions = 768, 64, 64
    state = {
        "embeddings.position_ids": torch.arange(positions)[None],
        "embeddings.word_embeddings.weight": numbers.normal(len(BERT_VOCAB) + 2, width, std=1.0),
        "embeddings.position_embeddings.weight": numbers.normal(positions, width, std=0.3),
    } | numbers.norm("embeddings.LayerNorm", width)
    for layer in range(2):
        for kind, source in (("attention", width), ("crossattention", VIT["width"])):
            stem = f"encoder.layer.{layer}.{kind}"
            state |= numbers.linear(f"{stem}.self.query", width, width)
            state |= numbers.linear(f"{stem}.self.key", width, source) | numbers.linear(
                f"{stem}.self.value", width, source
            )
            state |= numbers.linear(f"{stem}.output.dense", width, width)
            state |= numbers.norm(f"{stem}.output.LayerNorm", width)
        stem = f"encoder.layer.{layer}"
        state |= numbers.linear(f"{stem}.intermediate.dense", inner, width)
        state |= numbers.linear(f"{stem}.output.dense", width, inner) | numbers.norm(f"{stem}.output.LayerNorm", width)
    return state


def _head(numbers: _Numbers, into: int) -> dict[str, torch.Tensor]:
    """Five linear layers with dropout between them, which takes numbers of its own in the published names."""
    state: dict[str, torch.Tensor] = {}
    for index, (width, out) in zip(
        (0, 2, 4, 6, 7), ((into, 1024), (1024, 128), (128, 64), (64, 16), (16, 1)), strict=True
    ):
        state |= numbers.linear(str(index), out, width)
    return state


def make_bert_folder(folder: Path) -> Path:
    """Write a tokenizer folder in the place of bert-base-uncased."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in BERT_VOCAB), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}), encoding="utf-8")
    return folder


def make_clip_folder(folder: Path, seed: int = 0) -> Path:
    """Write a tiny CLIP with the true vocabulary in transformers' format, as PickScore_v1 and OpenAI's CLIP come."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 32}
    text = tower | {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 49408, "eos_token_id": 49407}
    vision = tower | {"hidden_size": 48, "intermediate_size": 96, "image_size": 224, "patch_size": 32}
    config = CLIPConfig(text_config=text | {"bos_token_id": 49406}, vision_config=vision, projection_dim=32)
    model, numbers = CLIPModel(config).eval(), _Numbers(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.dim() > 1:
                weight.copy_(numbers.normal(*weight.shape, std=weight[0].numel() ** -0.5).float())
            elif name.endswith(("bias", "class_embedding")):
                weight.copy_(numbers.normal(*weight.shape).float())
        model.logit_scale.fill_(3.0)
    model.save_pretrained(folder)
    return folder


def make_aesthetic(path: Path, seed: int = 0, width: int = 32) -> Path:
    """Write the aesthetic predictor's file format, for a CLIP whose features are `width` wide (published: 768)."""
    torch.save({f"layers.{name}": value.float() for name, value in _head(_Numbers(seed), width).items()}, path)
    return path


@dataclass(frozen=True)
class RewardFiles:
    """All of the above in one folder, each made when it is first asked for."""

    folder: Path

    @cached_property
    def hps(self) -> Path:
        return make_hps(self.folder / "hps.pt")

    @cached_property
    def image_reward(self) -> Path:
        return make_image_reward(self.folder / "image-reward.pt")

    @cached_property
    def bert(self) -> Path:
        return make_bert_folder(self.folder / "bert")

    @cached_property
    def clip(self) -> Path:
        return make_clip_folder(self.folder / "clip")

    @cached_property
    def aesthetic(self) -> Path:
        return make_aesthetic(self.folder / "aesthetic.pth")

    @property
    def settings(self) -> dict[str, dict[str, str]]:
        """`[reward.NAME]` tables that name these files."""
        return {
            "hps": {"path": str(self.hps)},
            "image-reward": {"path": str(self.image_reward), "tokenizer": str(self.bert)},
            "pickscore": {"path": str(self.clip)},
            "clip": {"path": str(self.clip)},
            "aesthetic": {"path": str(self.aesthetic), "clip": str(self.clip)},
        }


def images() -> dict[str, Image.Image]:
    """RGB images of many forms; what is grey or transparent is converted, as a decoder's output would be."""
    made = {name: _picture(*size, seed=i) for i, (name, size) in enumerate(SIZES.items())}
    made["grey"] = made["grey"].convert("L").convert("RGB")
    made["rgba"].putalpha(128)
    made["rgba"] = made["rgba"].convert("RGB")
    return made


SIZES = {
    "square": (256, 256),
    "exact": (224, 224),
    "wide": (301, 130),
    "tall": (97, 260),
    "tiny": (5, 3),
    "grey": (64, 64),
    "rgba": (80, 61),
}
"""Width and height of `images`."""


def _picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colours with some noise, so that every step of a resize shows."""
    stream = np.random.Generator(np.random.Philox(seed))
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    phase = stream.random((3, 3)) * 6
    waves = [np.sin(x / width * phase[i, 0] * 3 + y / height * phase[i, 1] * 3 + phase[i, 2]) for i in range(3)]
    values = 127 + 90 * np.stack(waves, -1) + 30 * stream.standard_normal((height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))

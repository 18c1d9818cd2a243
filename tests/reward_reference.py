"""The published reward models once more, in plain torch from their papers and state-dict names, to compare with.

Nothing of grpo_bench or transformers is used here: weights go from the file's own names into the formulas.
"""

from __future__ import annotations

import gzip
import html
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import ftfy
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
Weights = Mapping[str, Tensor]


def floats(image: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of (tokens, width) matrices, head by head."""
    out = []
    for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        weight = a @ b.T / math.sqrt(a.shape[-1])
        out.append((weight if mask is None else weight + mask).softmax(-1) @ c)
    return torch.cat(out, -1)


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def patches(image: Tensor, kernel: Tensor) -> Tensor:
    """Non-overlapping patches times the kernel: (patches, width)."""
    side = kernel.shape[-1]
    cut = image.unfold(1, side, side).unfold(2, side, side)
    return cut.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1) @ kernel.flatten(1).T


# HPSv2: open_clip's CLIP (arXiv 2103.00020), pre-norm blocks, GELU


def clip_tower(x: Tensor, w: Weights, prefix: str, heads: int, mask: Tensor | None = None) -> Tensor:
    layers = {int(name.removeprefix(prefix).split(".")[0]) for name in w if name.startswith(prefix)}
    for layer in sorted(layers):
        stem = f"{prefix}{layer}"
        y = norm(x, w, f"{stem}.ln_1", 1e-5)
        qkv = y @ w[f"{stem}.attn.in_proj_weight"].T + w[f"{stem}.attn.in_proj_bias"]
        x = x + linear(attention(*qkv.chunk(3, -1), heads, mask), w, f"{stem}.attn.out_proj")
        y = gelu(linear(norm(x, w, f"{stem}.ln_2", 1e-5), w, f"{stem}.mlp.c_fc"))
        x = x + linear(y, w, f"{stem}.mlp.c_proj")
    return x


def hps_image(image: Image.Image, w: Weights, heads: int, side: int = 224) -> Tensor:
    x = floats(image)
    height, width = x.shape[1:]
    scale = side / max(height, width)
    if scale != 1:
        size = round(height * scale), round(width * scale)
        x = F.interpolate(x[None], size=size, mode="bicubic", antialias=True)[0]
        square = torch.zeros(3, side, side)
        top, left = (side - size[0]) // 2, (side - size[1]) // 2
        square[:, top : top + size[0], left : left + size[1]] = x
        x = square
    x = patches((x - MEAN) / STD, w["visual.conv1.weight"])
    x = torch.cat([w["visual.class_embedding"][None], x]) + w["visual.positional_embedding"]
    x = clip_tower(norm(x, w, "visual.ln_pre", 1e-5), w, "visual.transformer.resblocks.", heads)
    return F.normalize(norm(x[0], w, "visual.ln_post", 1e-5) @ w["visual.proj"], dim=-1)


def hps_text(tokens: Sequence[int], w: Weights, heads: int) -> Tensor:
    """Of 77 tokens, padded with 0, as open_clip has it."""
    ids = torch.tensor([*tokens, *[0] * (77 - len(tokens))])
    mask = torch.full((77, 77), -math.inf).triu(1)
    x = clip_tower(
        w["token_embedding.weight"][ids] + w["positional_embedding"], w, "transformer.resblocks.", heads, mask
    )
    return F.normalize(norm(x, w, "ln_final", 1e-5)[ids.argmax()] @ w["text_projection"], dim=-1)


class Bpe:
    """Byte-pair encoding as OpenAI's simple_tokenizer.py describes it, after open_clip's cleaning."""

    def __init__(self, path: Path) -> None:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
        self.ranks = {tuple(line.split()): i for i, line in enumerate(lines)}
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in shown]
        self.letter = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
        words = list(self.letter.values())
        words = [*words, *(word + "</w>" for word in words), *("".join(pair) for pair in self.ranks)]
        self.number = {word: i for i, word in enumerate(words)}

    def __call__(self, text: str) -> list[int]:
        clean = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        clean = re.sub(r"\s+", " ", clean).strip().lower()
        found = [number for piece in _pieces(clean) for number in self._merged(piece)]
        return [49406, *found[:75], 49407]

    def _merged(self, piece: str) -> list[int]:
        word = [self.letter[byte] for byte in piece.encode()]
        word[-1] += "</w>"
        while True:
            ranked = [(self.ranks[pair], i) for i, pair in enumerate(pairwise(word)) if pair in self.ranks]
            if not ranked:
                return [self.number[part] for part in word]
            first = word[min(ranked)[1]], word[min(ranked)[1] + 1]
            joined: list[str] = []
            for part in word:
                if joined and (joined[-1], part) == first:
                    joined[-1] += part
                else:
                    joined.append(part)
            word = joined


def _pieces(text: str) -> list[str]:
    import regex

    return list(regex.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", text))


# ImageReward: BLIP's ViT (timm's layout) and BERT with cross-attention, post-norm blocks


def image_reward(image: Image.Image, tokens: Sequence[int], w: Weights, side: int = 224) -> float:
    vision = {name.removeprefix("blip.visual_encoder."): value for name, value in w.items()}
    text = {name.removeprefix("blip.text_encoder."): value for name, value in w.items()}
    seen = _vit(_cropped(image, side), vision)
    heads = text["embeddings.word_embeddings.weight"].shape[1] // 64
    ids = torch.tensor(tokens)
    x = text["embeddings.word_embeddings.weight"][ids] + text["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x, text, "embeddings.LayerNorm", 1e-12)
    for layer in range(len({name.split(".")[2] for name in text if name.startswith("encoder.layer.")})):
        stem = f"encoder.layer.{layer}"
        x = _bert_attention(x, x, text, f"{stem}.attention", heads)
        x = _bert_attention(x, seen, text, f"{stem}.crossattention", heads)
        y = linear(gelu(linear(x, text, f"{stem}.intermediate.dense")), text, f"{stem}.output.dense")
        x = norm(x + y, text, f"{stem}.output.LayerNorm", 1e-12)
    value = x[0]
    for layer in (0, 2, 4, 6, 7):
        value = linear(value, w, f"mlp.layers.{layer}")
    return (value.item() - 0.16717362830052426) / 1.0333394966054072


def _bert_attention(x: Tensor, source: Tensor, w: Weights, stem: str, heads: int) -> Tensor:
    q = linear(x, w, f"{stem}.self.query")
    k, v = linear(source, w, f"{stem}.self.key"), linear(source, w, f"{stem}.self.value")
    return norm(x + linear(attention(q, k, v, heads), w, f"{stem}.output.dense"), w, f"{stem}.output.LayerNorm", 1e-12)


def _vit(x: Tensor, w: Weights) -> Tensor:
    x = patches(x, w["patch_embed.proj.weight"]) + w["patch_embed.proj.bias"]
    x = torch.cat([w["cls_token"][0], x]) + w["pos_embed"][0]
    for layer in range(len({name.split(".")[1] for name in w if name.startswith("blocks.")})):
        stem = f"blocks.{layer}"
        qkv = linear(norm(x, w, f"{stem}.norm1", 1e-6), w, f"{stem}.attn.qkv")
        x = x + linear(attention(*qkv.chunk(3, -1), x.shape[1] // 64), w, f"{stem}.attn.proj")
        x = x + linear(gelu(linear(norm(x, w, f"{stem}.norm2", 1e-6), w, f"{stem}.mlp.fc1")), w, f"{stem}.mlp.fc2")
    return norm(x, w, "norm", 1e-6)


def _cropped(image: Image.Image, side: int) -> Tensor:
    """torchvision's Resize and CenterCrop of a PIL image."""
    width, height = image.size
    short = min(width, height)
    size = (side * width // short if width > height else side), (side * height // short if height > width else side)
    resized = np.array(image.resize(size, Image.Resampling.BICUBIC))
    top, left = round((size[1] - side) / 2), round((size[0] - side) / 2)
    return (floats(Image.fromarray(resized[top : top + side, left : left + side])) - MEAN) / STD


def read(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors in single precision."""
    held = torch.load(path, weights_only=True)
    held = held.get("state_dict", held)
    return {name: value.float() if value.is_floating_point() else value for name, value in held.items()}

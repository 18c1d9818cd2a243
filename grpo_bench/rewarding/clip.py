"""A CLIP that judges: features of images and prompts, in fp32, each prompt encoded once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from grpo_bench.errors import UserError, reason
from grpo_bench.rewarding.openclip import load_open_clip
from grpo_bench.rewarding.pixels import Rounding, longest_side_padded, short_side_cropped
from grpo_bench.rewarding.tokens import ClipTokens
from grpo_bench.rewarding.weights import fill, read_tensors

if TYPE_CHECKING:
    from transformers import CLIPModel

PROMPTS_KEPT = 16384
POSITIONS = frozenset({"text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"})
"""Constants that old versions of transformers saved."""


@contextmanager
def full_precision(device: torch.device, *, gradient: bool = False) -> Iterator[None]:
    """fp32 throughout, whatever the training around it does: no autocast and no TF32; gradients only if asked for."""
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.set_grad_enabled(gradient), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution


class ClipJudge:
    """Normalised features of images and prompts.

    `padded` prepares images as HPSv2 does (longest side, black borders) and mends prompts as open_clip does. Otherwise
    images are cropped to their centre, with `rounding`, and prompts taken as they are (transformers' CLIPProcessor).
    """

    def __init__(
        self,
        model: CLIPModel,
        reward: str,
        *,
        padded: bool,
        rounding: Rounding = "down",
        tokenizer: Path | None = None,
    ) -> None:
        self.model, self._padded, self._rounding = model, padded, rounding
        self.side = int(model.config.vision_config.image_size)
        self.width = int(model.config.projection_dim)
        limit = int(model.config.text_config.max_position_embeddings)
        self._tokens = ClipTokens(reward, limit=limit, repair=padded, folder=tokenizer)
        self._text = lru_cache(maxsize=PROMPTS_KEPT)(self._encoded)

    @classmethod
    def open_clip(cls, path: Path, reward: str, *, tokenizer: Path | None = None) -> ClipJudge:
        """Of a file in open_clip's layout, prepared as HPSv2 does; with the tokenizer of a folder, if it has its own.

        Raises:
            UserError: it is no such file.
        """
        model = load_open_clip(read_tensors(path), f"reward {reward!r} ({path.name})")
        return cls(model, reward, padded=True, tokenizer=tokenizer)

    @classmethod
    def folder(cls, folder: Path, reward: str, *, rounding: Rounding = "down") -> ClipJudge:
        """Of a folder in transformers' CLIP format: config.json and model.safetensors.

        Raises:
            UserError: it is no such folder.
        """
        from transformers import CLIPConfig, CLIPModel

        try:
            config = CLIPConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        except Exception as error:  # the validators' errors have no common base
            raise UserError(f"{folder / 'config.json'} is not a CLIP's ({reason(error)}); fetch it anew") from error
        tensors = read_tensors(folder / "model.safetensors")
        kept = {name: value for name, value in tensors.items() if name not in POSITIONS}
        model = fill(lambda: CLIPModel(config), kept, f"reward {reward!r} (model.safetensors)")
        assert isinstance(model, CLIPModel)
        return cls(model, reward, padded=False, rounding=rounding)

    def to(self, device: torch.device) -> ClipJudge:
        """Move to `device`, where the images are; what was kept of prompts is dropped when it moves."""
        if next(self.model.parameters()).device != device:
            self.model.to(device)
            self.forget()
        return self

    def forget(self) -> None:
        """Drop the features of prompts that were kept."""
        self._text.cache_clear()

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), which some rewards multiply the cosine with."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale

    def images(self, images_BCHW: Tensor) -> Tensor:
        """Unit features (B, D) of images in [0, 1]; where these require gradients, so do the features."""
        prepared = (
            longest_side_padded(images_BCHW, self.side)
            if self._padded
            else short_side_cropped(images_BCHW, self.side, self._rounding)
        )
        with full_precision(prepared.device, gradient=prepared.requires_grad):
            pooled = self.model.vision_model(pixel_values=prepared).pooler_output
            return normalize(self.model.visual_projection(pooled), dim=-1)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit features (B, D) of prompts."""
        features: Mapping[str, Tensor] = {prompt: self._text(prompt) for prompt in dict.fromkeys(prompts)}
        return torch.stack([features[prompt] for prompt in prompts])

    def cosine(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine (B,) of each image with its own prompt."""
        self.to(images_BCHW.device)
        image_BD, text_BD = self.images(images_BCHW), self.texts(prompts)
        return (image_BD * text_BD).sum(dim=-1)

    def _encoded(self, prompt: str) -> Tensor:
        """By itself, so that its last bits do not depend on its company, and unpadded: no token sees a later one."""
        device = next(self.model.parameters()).device
        ids = torch.tensor([self._tokens.ids(prompt)], device=device)
        with full_precision(device):
            pooled = self.model.text_model(input_ids=ids).pooler_output
            return normalize(self.model.text_projection(pooled), dim=-1)[0]

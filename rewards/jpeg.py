"""DDPO's two toy rewards (arXiv 2305.13301, section 5.1): the size of the image as a JPEG file, and its negative."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from grpo_bench import Reward, RewardConfig

if TYPE_CHECKING:
    from torch import Tensor


class JpegConfig(RewardConfig):
    """Settings of both rewards."""

    quality: int = Field(95, ge=1, le=95)
    """JPEG quality (DDPO's code: 95)."""


def jpeg_kilobytes(images_BCHW: Tensor, quality: int) -> Tensor:
    """Size of each image's JPEG file, (B,) fp32, in units of 1,000 bytes; 8-bit RGB in [0, 1], rounded."""
    import torch
    from PIL import Image

    pixels_BHWC = (images_BCHW.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    sizes = []
    for pixels_HWC in pixels_BHWC:
        buffer = io.BytesIO()
        Image.fromarray(pixels_HWC).save(buffer, format="JPEG", quality=quality)
        sizes.append(buffer.tell() / 1000)
    return torch.tensor(sizes, dtype=torch.float32)


def _check(images_BCHW: Tensor, prompts: Sequence[str]) -> None:
    if len(images_BCHW) != len(prompts):
        raise ValueError(f"{len(images_BCHW)} images need as many prompts, not {len(prompts)}")


class JpegCompressibility(Reward[JpegConfig]):
    """Minus the image's JPEG size in kilobytes: plain images score high (DDPO's task, easily hacked)."""

    name = "jpeg-compressibility"
    paper = "2305.13301"
    Config = JpegConfig
    range = (float("-inf"), 0.0)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """-kilobytes."""
        _check(images_BCHW, prompts)
        return -jpeg_kilobytes(images_BCHW, self.config.quality)


class JpegIncompressibility(Reward[JpegConfig]):
    """The image's JPEG size in kilobytes: detailed or noisy images score high (DDPO's task, easily hacked)."""

    name = "jpeg-incompressibility"
    paper = "2305.13301"
    Config = JpegConfig
    range = (0.0, float("inf"))

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Kilobytes."""
        _check(images_BCHW, prompts)
        return jpeg_kilobytes(images_BCHW, self.config.quality)

"""Images as the official packages prepare them, without torchvision.

All of them read 8-bit images, so ours are rounded to 8 bits first: a score is that of the image as it would be stored.
Images that require gradients are not rounded where the preparation has a derivative (HPSv2's has).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training images, by channel; BLIP uses the same."""

Rounding = Literal["half-even", "down"]


def eight_bits(images_BCHW: Tensor) -> Tensor:
    """Images in [0, 1] rounded to 8 bits, uint8, on the device that they are on."""
    return (images_BCHW.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def normalised(images_BCHW: Tensor) -> Tensor:
    """(x - MEAN) / STD, by channel."""
    mean, std = (images_BCHW.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images_BCHW - mean) / std


def longest_side_padded(images_BCHW: Tensor, side: int) -> Tensor:
    """HPSv2's: the longest side to `side` by antialiased bicubic interpolation of floats, then black around it.

    Source: open_clip/transform.py of the hpsv2 package (ResizeMaxSize after ToTensor). Its result depends on the
    version of torchvision, which antialiases since 0.17; so do we.
    """
    # On a CPU an image at a time stays in its caches; a whole batch takes twice as long.
    parts = images_BCHW.split(1 if images_BCHW.device.type == "cpu" else len(images_BCHW))
    return torch.cat([_padded(part, side) for part in parts])


def _padded(images_BCHW: Tensor, side: int) -> Tensor:
    x_BCHW = images_BCHW.float() if images_BCHW.requires_grad else eight_bits(images_BCHW).float() / 255
    height, width = x_BCHW.shape[-2:]
    scale = side / float(max(height, width))
    if scale != 1.0:
        size = round(height * scale), round(width * scale)
        x_BCHW = functional.interpolate(x_BCHW, size=size, mode="bicubic", align_corners=False, antialias=True)
        high, wide = side - size[0], side - size[1]
        x_BCHW = functional.pad(x_BCHW, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
    return normalised(x_BCHW)


def short_side_cropped(images_BCHW: Tensor, side: int, rounding: Rounding) -> Tensor:
    """CLIP's and ImageReward's: the short side to `side` with Pillow's bicubic filter, then the centre's square.

    `rounding` is how half a pixel of the crop's corner is rounded: "half-even" in torchvision (OpenAI's clip,
    ImageReward), "down" in transformers' CLIPProcessor.
    """
    pixels_BHWC = eight_bits(images_BCHW).permute(0, 2, 3, 1).cpu().numpy()
    cropped = np.stack([_cropped(Image.fromarray(pixels), side, rounding) for pixels in pixels_BHWC])
    return normalised(torch.from_numpy(cropped).to(images_BCHW.device).permute(0, 3, 1, 2).float() / 255)


def _cropped(image: Image.Image, side: int, rounding: Rounding) -> np.ndarray:
    width, height = image.size
    if width < height:
        size = side, int(side * height / width)
    else:
        size = int(side * width / height), side
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = ((length - side) // 2 if rounding == "down" else round((length - side) / 2) for length in size)
    return np.asarray(image.crop((left, top, left + side, top + side)))

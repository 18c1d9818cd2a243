"""How large a model's images are: its own size, unless another is asked for that it can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grpo_bench.config import ModelSection
from grpo_bench.errors import UserError


def latent_size(settings: ModelSection, sample_size: object, scale: int, multiple: int) -> tuple[int, int]:
    """Height and width of a latent: `settings` in pixels, else `sample_size`, the denoiser's own in latent pixels.

    Args:
        settings: what is asked for.
        sample_size: a number, a pair, or None where the denoiser was trained on no one size.
        scale: pixels a latent pixel.
        multiple: what pixels must be a multiple of.

    Raises:
        UserError: neither says it, or the model cannot do it.
    """
    own = list(sample_size) if isinstance(sample_size, Sequence) else [sample_size] * 2
    asked = [settings.height, settings.width]
    size = [a or (o * scale if isinstance(o, int) else 0) for a, o in zip(asked, own, strict=False)]
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"the model says no size of its own (sample_size = {sample_size}); set model.height and width")
    if any(pixels % multiple for pixels in size):
        raise UserError(
            f"model.height and model.width must be multiples of {multiple} for this model, not {size[0]} x {size[1]}"
        )
    return size[0] // scale, size[1] // scale


def decoder_scale(vae: Mapping[str, object]) -> int:
    """Pixels a latent pixel: the decoder doubles between its blocks.

    Raises:
        UserError: its config does not say how many it has.
    """
    blocks = vae["block_out_channels"]
    if not isinstance(blocks, Sequence) or not blocks:
        raise UserError(f"the vae's block_out_channels = {blocks!r} in config.json is no list; copy the model again")
    return int(2 ** (len(blocks) - 1))


def whole(config: Mapping[str, object], name: str) -> int:
    """A positive whole number of a model's config.

    Raises:
        UserError: it is none.
    """
    value = config[name]
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{name} = {value!r} in the model's config.json is no whole number; copy the model again")
    return value

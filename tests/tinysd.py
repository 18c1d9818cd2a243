"""A random Stable Diffusion 1.x folder in diffusers' own format, small enough for a test."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from tiny import CPU, PIXELS, settings, text_encoder, tokenizer
from transformers import CLIPTextModel

from grpo_bench.policies.sd import SDPolicy

LATENT = (4, PIXELS // 2, PIXELS // 2)
"""The decoder doubles."""


def scheduler(**changes: object) -> DDIMScheduler:
    """The scheduler of SD 1.x: betas, spacing, offset and last alpha as its hub repositories have them."""
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler.from_config(config | changes)


def unet() -> UNet2DConditionModel:
    """A random U-Net with one attention block on either side and one in the middle."""
    return UNet2DConditionModel(
        sample_size=LATENT[1],
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=2,
    )


def make_sd(path: Path, seed: int = 0, noise: SchedulerMixin | None = None) -> Path:
    """Write a random SD pipeline (32 x 32 pixels, 4 x 16 x 16 latents, no safety checker) to `path`, and return it."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        sample_size=PIXELS,
        block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.18215,
    )
    StableDiffusionPipeline(
        unet=unet(),
        scheduler=noise or scheduler(),
        vae=vae,
        text_encoder=CLIPTextModel(text_encoder().config).eval(),
        tokenizer=tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(path)
    return path


def sd_policy(path: Path, **changes: object) -> SDPolicy:
    """The tiny pipeline as a policy, on the CPU."""
    return SDPolicy.load(str(path), settings(**changes), CPU)

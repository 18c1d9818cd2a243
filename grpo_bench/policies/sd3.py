"""Stable Diffusion 3 and 3.5 (and the built-in tiny models, which have their format): MMDiT, flow matching."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from grpo_bench.config import ModelSection
from grpo_bench.errors import UserError
from grpo_bench.forest.schedule import Grid
from grpo_bench.policies.base import Policy
from grpo_bench.policies.loading import load_pipeline
from grpo_bench.sampling.handle import Conditioning

ENCODE_BATCH = 32
REQUIRED = ("transformer", "vae", "scheduler", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
"""What cannot be left out of the pipeline's index; T5 can."""


class SD3Policy(Policy):
    """Stable Diffusion 3 and 3.5, with or without T5."""

    name = "sd3"
    component = "transformer"
    pipeline_class = StableDiffusion3Pipeline
    # Flow-GRPO's LoRA layers (scripts/train_sd3.py): the attention of both streams.
    lora_targets = (
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
    )

    def __init__(self, pipeline: StableDiffusion3Pipeline, settings: ModelSection, device: torch.device) -> None:
        self.settings, self.device = settings, device
        absent = [name for name in REQUIRED if getattr(pipeline, name) is None]
        if absent:
            raise UserError(f"the model's model_index.json leaves out {absent[0]!r}; use a complete SD3 pipeline")
        self._pipeline = pipeline.to(device)
        # Latents are decoded in fp32: SD3's decoder overflows fp16 and rounds visibly in bf16.
        self._vae = pipeline.vae.float()
        self._scheduler = pipeline.scheduler
        scale = pipeline.vae_scale_factor * pipeline.patch_size
        if settings.height % scale or settings.width % scale:
            raise UserError(
                f"model.height and model.width must be multiples of {scale} for this model, not "
                f"{settings.height} x {settings.width}"
            )
        self._shape = (
            int(pipeline.transformer.config.in_channels),
            settings.height // pipeline.vae_scale_factor,
            settings.width // pipeline.vae_scale_factor,
        )
        self._adopt(pipeline.transformer)

    @classmethod
    def load(cls, source: str, settings: ModelSection, device: torch.device) -> SD3Policy:
        """See `Policy.load`."""
        dtype = torch.bfloat16 if settings.dtype == "bf16" else torch.float32
        return cls(load_pipeline(StableDiffusion3Pipeline, source, dtype), settings, device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        return self._shape

    def grid(self, steps: int) -> Grid:
        """The scheduler's own grid, shift included."""
        options = {}
        if self._scheduler.config.use_dynamic_shifting:
            options["mu"] = self._shift_exponent()
        self._scheduler.set_timesteps(steps, **options)
        return Grid(np.asarray(self._scheduler.sigmas, dtype=np.float64))

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """CLIP and (where there is one) T5 tokens and the pooled CLIP vectors, one row a prompt."""
        texts = ["", *prompts]
        tokens, pooled = [], []
        for start in range(0, len(texts), ENCODE_BATCH):
            token_BSD, _, pooled_BD, _ = self._pipeline.encode_prompt(
                texts[start : start + ENCODE_BATCH],
                None,
                None,
                device=self.device,
                do_classifier_free_guidance=False,
                max_sequence_length=self.settings.max_sequence_length,
            )
            # Kept on the CPU: a training set's tokens would not fit beside the model.
            tokens.append(token_BSD.cpu())
            pooled.append(pooled_BD.cpu())
        both = {"tokens": torch.cat(tokens), "pooled": torch.cat(pooled)}
        return Conditioning({k: v[1:] for k, v in both.items()}, {k: v[:1] for k, v in both.items()})

    def release_encoders(self) -> None:
        """Free the text encoders and tokenizers."""
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"):
            setattr(self._pipeline, name, None)

    @torch.no_grad()
    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], fp32."""
        config = self._vae.config
        scaled_BCHW = latent_BCHW / config.scaling_factor + (config.shift_factor or 0.0)
        image_BCHW: Tensor = self._vae.decode(scaled_BCHW, return_dict=False)[0]
        return (image_BCHW / 2 + 0.5).clamp(0, 1)

    def _network(self, x_BCHW: Tensor, sigma_B: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        velocity_BCHW: Tensor = self.denoiser(
            hidden_states=x_BCHW,
            timestep=sigma_B * self._scheduler.config.num_train_timesteps,
            encoder_hidden_states=conditioning["tokens"],
            pooled_projections=conditioning["pooled"],
            return_dict=False,
        )[0]
        return velocity_BCHW

    def _shift_exponent(self) -> float:
        """SD3.5's dynamic shift: linear in the number of image tokens (diffusers' `calculate_shift`)."""
        config = self._scheduler.config
        tokens = self._shape[1] * self._shape[2] / self._pipeline.patch_size**2
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        return float(config.base_shift + slope * (tokens - config.base_image_seq_len))

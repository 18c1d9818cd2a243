"""Stable Diffusion 3 and 3.5 (and the built-in tiny models, which have their format): MMDiT, flow matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from grpo_bench.config import ModelSection
from grpo_bench.errors import UserError
from grpo_bench.forest.schedule import Grid
from grpo_bench.policies.base import Policy
from grpo_bench.policies.loading import PipelineFolder, followed, open_pipeline, precisions
from grpo_bench.policies.size import decoder_scale, latent_size, whole
from grpo_bench.policies.texts import Tokenizer

REQUIRED = ("transformer", "vae", "scheduler", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
"""What cannot be left out of the pipeline's index; T5 can."""
T5 = ("text_encoder_3", "tokenizer_3")
WITHOUT_T5 = "fetch it too, or go on without T5 by --set model.max_sequence_length=0"
FOLLOWED = "FlowMatchEulerDiscreteScheduler"
NOT_FOLLOWED = {
    "invert_sigmas": "it goes from the image to the noise",
    "stochastic_sampling": "its own sampler draws noise, where evaluation here is deterministic",
}
"""Options of that scheduler that say more than which sigmas there are."""


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
        self._pipeline = pipeline
        pipeline.transformer.to(device)
        self._vae = pipeline.vae.to(device)
        self._scheduler = pipeline.scheduler
        self._shape = _latent_shape(pipeline.transformer.config, pipeline.vae.config, settings)
        self._adopt(pipeline.transformer)

    @classmethod
    def load(cls, source: str, settings: ModelSection, device: torch.device) -> SD3Policy:
        """See `Policy.load`; without T5 where no tokens of it are wanted."""
        options = dict.fromkeys(T5) if settings.max_sequence_length == 0 else {}
        found = open_pipeline(
            StableDiffusion3Pipeline, source, settings, options=options, without=dict.fromkeys(T5, WITHOUT_T5)
        )
        found.require(REQUIRED)
        _check_scheduler(found)
        _latent_shape(found.config("transformer"), found.config("vae"), settings)  # before gigabytes are read
        return cls(found.load(precisions(settings, cls.component)), settings, device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        return self._shape

    def grid(self, steps: int) -> Grid:
        """The scheduler's own grid, shift included."""
        options = {}
        if self._scheduler.config.use_dynamic_shifting:
            options["mu"] = self._shift_exponent()
        with followed():
            self._scheduler.set_timesteps(steps, **options)
        return Grid(np.asarray(self._scheduler.sigmas, dtype=np.float64))

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """CLIP and (where there is one) T5 tokens, and the pooled CLIP vectors."""
        token_BSD, _, pooled_BD, _ = self._pipeline.encode_prompt(
            texts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.settings.max_sequence_length,
        )
        return {"tokens": token_BSD, "pooled": pooled_BD}

    def _encoders(self) -> Sequence[nn.Module]:
        """Two CLIPs, and T5 where there is one."""
        parts = self._pipeline.text_encoder, self._pipeline.text_encoder_2, self._pipeline.text_encoder_3
        return [part for part in parts if part is not None]

    def _tokenizers(self) -> Sequence[Tokenizer]:
        """Theirs: the pipeline cuts for both CLIPs as the first one's tokenizer says."""
        pipeline = self._pipeline
        clip = [Tokenizer(each, pipeline.tokenizer_max_length) for each in (pipeline.tokenizer, pipeline.tokenizer_2)]
        if pipeline.tokenizer_3 is None:
            return clip
        return [*clip, Tokenizer(pipeline.tokenizer_3, self.settings.max_sequence_length)]

    @torch.no_grad()
    def decode(self, latent_BZ: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], fp32."""
        config = self._vae.config
        scaled_BCHW = latent_BZ / config.scaling_factor + (config.shift_factor or 0.0)
        image_BCHW: Tensor = self._vae.decode(scaled_BCHW, return_dict=False)[0]
        return (image_BCHW / 2 + 0.5).clamp(0, 1)

    def _evaluate(self, network: nn.Module, x_BZ: Tensor, sigma_B: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        velocity_BZ: Tensor = network(
            hidden_states=x_BZ,
            timestep=sigma_B * self._scheduler.config.num_train_timesteps,
            encoder_hidden_states=conditioning["tokens"],
            pooled_projections=conditioning["pooled"],
            return_dict=False,
        )[0]
        return velocity_BZ

    def _shift_exponent(self) -> float:
        """SD3.5's dynamic shift: linear in the number of image tokens (diffusers' `calculate_shift`)."""
        config = self._scheduler.config
        tokens = self._shape[1] * self._shape[2] / self._pipeline.patch_size**2
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        return float(config.base_shift + slope * (tokens - config.base_image_seq_len))


def _check_scheduler(found: PipelineFolder[StableDiffusion3Pipeline]) -> None:
    name, config = found.classes["scheduler"].__name__, found.config("scheduler")
    if name != FOLLOWED:
        raise UserError(
            f"policy sd3 takes Euler's steps along the sigmas of a {FOLLOWED}, and this model's scheduler is a {name}, "
            f"which steps otherwise; in a copy of the model, save a {FOLLOWED} with the same shift (its `flow_shift` "
            "or `shift`) in scheduler/, and name it in model_index.json"
        )
    for option, why in NOT_FOLLOWED.items():
        if config[option]:
            raise UserError(
                f"policy sd3 does not follow {option} = {config[option]} in this model's scheduler_config.json, since "
                f"{why}; in a copy of the model, set it to false"
            )


def _latent_shape(
    transformer: Mapping[str, object], vae: Mapping[str, object], settings: ModelSection
) -> tuple[int, int, int]:
    """Channels, height and width of a latent.

    Raises:
        UserError: a size that the model has no positions for, or that its patches do not fill.
    """
    patch, scale, most = whole(transformer, "patch_size"), decoder_scale(vae), transformer["pos_embed_max_size"]
    height, width = latent_size(settings, transformer["sample_size"], scale, scale * patch)
    if isinstance(most, int) and max(height, width) > most * patch:
        raise UserError(
            f"this model has positions for {most * patch * scale} pixels a side, not for {height * scale} x "
            f"{width * scale}; lower model.height and model.width, or leave them out"
        )
    return whole(transformer, "in_channels"), height, width

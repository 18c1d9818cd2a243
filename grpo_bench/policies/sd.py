"""Stable Diffusion 1.x and 2.x (latent diffusion, arXiv 2112.10752): a U-Net that predicts the noise.

x = sqrt(a) x0 + sqrt(1-a) eps with alpha-bar a falling over 1,000 training timesteps. Sampled by DDIM (arXiv
2010.02502, eq. 12 and 16) on the scheduler's own timesteps, as DDPO (arXiv 2305.13301) post-trains it: kernel `ddim`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.schedulers import KarrasDiffusionSchedulers
from torch import Tensor, nn

from grpo_bench.config import ModelSection
from grpo_bench.errors import UserError
from grpo_bench.forest.schedule import Grid
from grpo_bench.policies.base import Policy
from grpo_bench.policies.loading import PipelineFolder, followed, open_pipeline, precisions
from grpo_bench.policies.size import decoder_scale, latent_size, whole
from grpo_bench.policies.texts import Tokenizer
from grpo_bench.sampling.schedule import timestep_grid

REQUIRED = ("unet", "vae", "scheduler", "text_encoder", "tokenizer")
OPTIONS = {"requires_safety_checker": False}
FOLLOWED = frozenset(kind.name for kind in KarrasDiffusionSchedulers) - {"EDMEulerScheduler"}
"""Schedulers whose noise schedule DDIM shares: alpha-bar over the training's timesteps, read from the same betas."""
NOT_FOLLOWED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas")
"""Options of theirs that put the steps elsewhere than on DDIM's timesteps."""


class SDPolicy(Policy):
    """Stable Diffusion 1.x and 2.x. `sigma` is the timestep as a share of the training steps."""

    name = "sd"
    component = "unet"
    pipeline_class = StableDiffusionPipeline
    prediction = "epsilon"
    # DDPO's LoRA layers (scripts/train.py): every attention of the U-Net, to itself and to the text.
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, pipeline: StableDiffusionPipeline, settings: ModelSection, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self._pipeline = pipeline
        pipeline.unet.to(device)
        self._vae = pipeline.vae.to(device)
        self._scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        self._alpha = self._scheduler.alphas_cumprod.double().numpy()
        self._shape = _latent_shape(pipeline.unet.config, pipeline.vae.config, settings)
        self._adopt(pipeline.unet)

    @classmethod
    def load(cls, source: str, settings: ModelSection, device: torch.device) -> SDPolicy:
        """See `Policy.load`; a safety checker is not loaded."""
        found = open_pipeline(StableDiffusionPipeline, source, settings, options=OPTIONS)
        found.require(REQUIRED)
        _check_scheduler(found)
        _latent_shape(found.config("unet"), found.config("vae"), settings)  # before gigabytes are read
        return cls(found.load(precisions(settings, cls.component)), settings, device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        return self._shape

    def grid(self, steps: int) -> Grid:
        """The timesteps that a DDIM scheduler of the pipeline's config takes, with its alpha-bar."""
        if not 1 <= steps <= self._alpha.size:
            raise UserError(f"this model's steps must be between 1 and {self._alpha.size}, got {steps}: choose fewer")
        with followed():
            self._scheduler.set_timesteps(steps)
        return timestep_grid(self._scheduler.timesteps.numpy(), self._alpha)

    def signal_and_noise(self, sigma: float) -> tuple[float, float]:
        """sqrt(alpha-bar) and sqrt(1 - alpha-bar) of the nearest timestep."""
        alpha = float(self._alpha[min(round(sigma * self._alpha.size), self._alpha.size - 1)])
        return float(np.sqrt(alpha)), float(np.sqrt(1 - alpha))

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """CLIP tokens."""
        token_BSD, _ = self._pipeline.encode_prompt(
            texts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"tokens": token_BSD}

    def _encoders(self) -> Sequence[nn.Module]:
        """One CLIP."""
        return [self._pipeline.text_encoder]

    def _tokenizers(self) -> Sequence[Tokenizer]:
        """Its own."""
        return [Tokenizer(self._pipeline.tokenizer, self._pipeline.tokenizer.model_max_length)]

    @torch.no_grad()
    def decode(self, latent_BZ: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], fp32."""
        image_BCHW: Tensor = self._vae.decode(latent_BZ / self._vae.config.scaling_factor, return_dict=False)[0]
        return (image_BCHW / 2 + 0.5).clamp(0, 1)

    def _evaluate(self, network: nn.Module, x_BZ: Tensor, sigma_B: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        epsilon_BZ: Tensor = network(
            x_BZ,
            (sigma_B * self._alpha.size).round().clamp(max=self._alpha.size - 1),
            encoder_hidden_states=conditioning["tokens"],
            return_dict=False,
        )[0]
        return epsilon_BZ


def _check_scheduler(found: PipelineFolder[StableDiffusionPipeline]) -> None:
    name, config = found.classes["scheduler"].__name__, found.config("scheduler")
    if name not in FOLLOWED:
        raise UserError(
            f"policy sd samples by DDIM on the noise schedule of a DDIM, PNDM, Euler or DPM-Solver scheduler, and this "
            f"model's scheduler is a {name}, which has none of theirs; give a model that was trained with one"
        )
    predicts = config.get("prediction_type", "epsilon")
    if predicts != "epsilon":
        raise UserError(
            f"policy sd is for models that predict epsilon, this one's scheduler says prediction_type = "
            f"{predicts!r}; use one of SD 1.x or a base model of SD 2.x"
        )
    for option in NOT_FOLLOWED:
        if config.get(option):
            raise UserError(
                f"policy sd does not follow {option} in this model's scheduler_config.json, since DDIM's timesteps lie "
                "elsewhere; in a copy of the model, set it to false"
            )


def _latent_shape(
    unet: Mapping[str, object], vae: Mapping[str, object], settings: ModelSection
) -> tuple[int, int, int]:
    """Channels, height and width of a latent."""
    scale = decoder_scale(vae)
    return whole(unet, "in_channels"), *latent_size(settings, unet["sample_size"], scale, scale)

"""Tiny real objects for tests: a random Stable Diffusion 3 folder, and a denoiser whose ODE has a closed form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.utils import logging as diffusers_logging
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from grpo_bench.config import ModelSection, validated
from grpo_bench.forest.builders import chains
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Bools, Credit, Floats, Rollout, leaf_credit
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Ledger
from grpo_bench.method import EdgeBatch, Method, MethodConfig
from grpo_bench.policies.base import Policy
from grpo_bench.policies.sd3 import SD3Policy
from grpo_bench.registry import METHODS
from grpo_bench.sampling.engine import Trajectories
from grpo_bench.sampling.gaussian import Likelihood
from grpo_bench.sampling.handle import Conditioning, Denoiser, Metered, Regime
from grpo_bench.training.losses.edges import Batch, Diagnostics, Objective

diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()
torch.set_num_threads(1)

P = TypeVar("P", bound=Policy)
CPU = torch.device("cpu")
PIXELS = 32
"""Height and width of the tiny pipeline's images; latents are (4, 16, 16)."""


def tokenizer(length: int = 16) -> CLIPTokenizer:
    """A CLIP tokenizer that spells every word in bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=length)


def text_encoder(width: int = 32) -> CLIPTextModelWithProjection:
    """A random CLIP text encoder of two layers."""
    config = CLIPTextConfig(
        vocab_size=514,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
        hidden_size=width,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=width,
        max_position_embeddings=77,
        hidden_act="gelu",
    )
    return CLIPTextModelWithProjection(config).eval()


def make(path: Path, seed: int = 0) -> Path:
    """Write a random SD3 pipeline without T5 (32 x 32 pixels, 4 x 16 x 16 latents) to `path`, and return it."""
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
    )
    vae = AutoencoderKL(
        sample_size=PIXELS,
        block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=text_encoder(),
        tokenizer=tokenizer(),
        text_encoder_2=text_encoder(),
        tokenizer_2=tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(path)
    return path


def settings(**changes: object) -> ModelSection:
    """The model settings that fit the tiny pipeline."""
    return ModelSection.model_validate({"max_sequence_length": 0, "height": PIXELS, "width": PIXELS} | changes)


def policy(path: Path, **changes: object) -> SD3Policy:
    """The tiny pipeline as a policy, on the CPU."""
    return SD3Policy.load(str(path), settings(**changes), CPU)


def shaken(trained: P, size: float = 0.1) -> P:
    """The policy with every trained weight moved, as after training."""
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, weight in trained.parameters():
            weight += size * torch.randn(weight.shape, generator=stream)
    return trained


class LinearDenoiser:
    """v = gain x + push c, where c is the prompt's code: real weights, exact gradients, an ODE in closed form.

    `evaluations` counts the samples it was asked for, by itself and not through any ledger. Above guidance 1 the empty
    prompt's code is 0, so that v = gain x + guidance push c. The reference policy has gain and push `base`.
    """

    def __init__(self, shape: tuple[int, ...] = (1, 2, 2), gain: float = 0.3, push: float = 0.0) -> None:
        self.latent_shape, self.device = shape, CPU
        self.gain, self.push = (torch.nn.Parameter(torch.tensor(value)) for value in (gain, push))
        self.base = (gain, push)
        self.evaluations = 0

    def regime(self, sigma: float, guidance: float) -> Regime:
        """See `Denoiser.regime`: one network, guided everywhere or nowhere."""
        return Regime("linear", guidance, 2 if guidance > 1 else 1)

    def predict(
        self, x_BZ: torch.Tensor, sigma_B: torch.Tensor, conditioning: Conditioning, regime: Regime
    ) -> torch.Tensor:
        """See `Denoiser.predict`."""
        self.evaluations += len(x_BZ) * regime.evaluations
        code_B1 = conditioning.tensors["code"].view(-1, *(1,) * (x_BZ.dim() - 1))
        return self.gain * x_BZ + max(regime.guidance, 1.0) * self.push * code_B1

    @contextmanager
    def reference(self) -> Iterator[None]:
        """See `Denoiser.reference`."""
        now = self.gain.data, self.push.data
        self.gain.data, self.push.data = (torch.tensor(value) for value in self.base)
        try:
            yield
        finally:
            self.gain.data, self.push.data = now

    @staticmethod
    def conditioning(prompts: int) -> Conditioning:
        """Prompt p has the code p + 1."""
        return Conditioning({"code": torch.arange(1.0, prompts + 1)[:, None]}, {"code": torch.zeros(1, 1)})


def batch(
    forest: Forest,
    schedule: Schedule,
    grown: Trajectories,
    conditioning: Conditioning,
    advantage_EP: Floats,
    keep_EP: Bools | None = None,
) -> Batch:
    """What the objective trains on, all weights 1; by default every trained edge is kept."""
    return Batch(
        forest=forest,
        schedule=schedule,
        trajectories=grown,
        conditioning=conditioning,
        advantage_EP=advantage_EP,
        weight_E=np.ones(len(advantage_EP)),
        keep_EP=np.ones(advantage_EP.shape, dtype=bool) if keep_EP is None else keep_EP,
    )


def method(name: str, **settings: object) -> Method[MethodConfig]:
    """A registered method with its settings."""
    kind = METHODS.get(name)
    return kind(validated(kind.Config, settings, "method"))


class Recording(Method[MethodConfig]):
    """The default loss, which notes each micro-batch it is given."""

    name = "recording"

    def __init__(self) -> None:
        super().__init__(MethodConfig())
        self.seen: list[EdgeBatch] = []

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        """Two chains; the tests give their own forests."""
        return chains(schedule.sigmas, 2, np.arange(schedule.steps) < schedule.steps - 1)

    def credit(self, rollout: Rollout) -> Credit:
        """The leaves' z-scores."""
        return leaf_credit(rollout)

    def edge_loss(self, batch: EdgeBatch) -> torch.Tensor:
        """See `Method.edge_loss`."""
        self.seen.append(batch)
        return super().edge_loss(batch)


def accumulate(
    denoiser: Denoiser,
    data: Batch,
    *,
    ledger: Ledger | None = None,
    chosen: Method[MethodConfig] | None = None,
    prompts: list[int] | None = None,
    clip: float = 1e-3,
    beta: float = 0.0,
    train_batch: int = 64,
    likelihood: Likelihood | None = None,
    diagnostics: Diagnostics | None = None,
) -> tuple[float, int]:
    """One accumulation over `prompts`; gradients stay on the weights."""
    objective = Objective(
        chosen or method("flat"),
        Metered(denoiser, ledger or Ledger(), guidance=1.0, batch=64),
        likelihood or Likelihood(),
        clip=clip,
        beta=beta,
        train_batch=train_batch,
    )
    index = np.arange(data.keep_EP.shape[1]) if prompts is None else np.array(prompts)
    return objective.accumulate(data, index, diagnostics or Diagnostics.empty(data.forest.steps))

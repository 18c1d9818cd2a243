"""A policy wraps the parts of a diffusers pipeline that the engine needs; one subclass a model family.

Shared here: full or low-rank training, the reference policy, precision, and weights in diffusers' own format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from grpo_bench.config import ModelSection
from grpo_bench.errors import UserError
from grpo_bench.forest.schedule import Grid, Prediction
from grpo_bench.policies.copies import WeightCopy
from grpo_bench.policies.texts import Reading, Tokenizer, fixed_batches, read, visiting
from grpo_bench.sampling.handle import Conditioning

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

ADAPTER = "default"


class Policy(ABC):
    """A trainable denoiser with its text encoders and decoder.

    Subclasses load a pipeline in `__init__`, hand the denoiser to `_adopt`, and implement the abstract methods.
    """

    name: ClassVar[str]
    lora_targets: ClassVar[tuple[str, ...]]
    component: ClassVar[str]
    """The denoiser's name in the pipeline."""
    prediction: ClassVar[Prediction] = "velocity"
    """What `predict` returns; it decides which kernels can sample from the policy."""
    pipeline_class: ClassVar[type[DiffusionPipeline]]
    denoiser: ModelMixin
    settings: ModelSection
    device: torch.device

    @classmethod
    @abstractmethod
    def load(cls, source: str, settings: ModelSection, device: torch.device) -> Policy:
        """The policy of a pipeline, from a folder or a hub id.

        Raises:
            UserError: no such folder or id, or a component is missing.
        """

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""

    @abstractmethod
    def grid(self, steps: int) -> Grid:
        """The model's own grid of `steps` + 1 points, from noise to 0.

        Raises:
            UserError: the model's noise schedule has no such grid.
        """

    def signal_and_noise(self, sigma: float) -> tuple[float, float]:
        """Coefficients of x0 and eps in the state at `sigma`: 1-s and s for a velocity model."""
        return 1 - sigma, sigma

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Features of the prompts and of the empty one, on the CPU; a prompt's depend on its text alone."""
        texts = ["", *prompts]
        with visiting(self._encoders(), self.device):
            parts = [self._encode(batch) for batch in fixed_batches(texts)]
            rows = {name: torch.cat([part[name].cpu() for part in parts])[: len(texts)] for name in parts[0]}
        return Conditioning(
            {name: value[1:] for name, value in rows.items()}, {name: value[:1] for name, value in rows.items()}
        )

    @abstractmethod
    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Features of a batch by name, one row a text, each of a length that the settings fix."""

    def _encoders(self) -> Sequence[nn.Module]:
        """The text encoders: they stay on the CPU, and visit the device while prompts are encoded."""
        return ()

    def _tokenizers(self) -> Sequence[Tokenizer]:
        """What cuts prompts before they are encoded; nothing does where there is none."""
        return ()

    def read(self, prompts: Sequence[str]) -> Iterator[Reading]:
        """What the policy reads of each prompt: prompts of equal tokens have equal features."""
        return read(self._tokenizers(), prompts)

    @property
    def token_limit(self) -> int | None:
        """The fewest tokens that any tokenizer leaves of a prompt; None: no prompt is cut, and no two read alike."""
        return min((each.limit for each in self._tokenizers()), default=None)

    @abstractmethod
    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], fp32."""

    @abstractmethod
    def _network(self, x_BCHW: Tensor, sigma_B: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """One unguided evaluation of the denoiser: what it predicts, velocity or epsilon."""

    def predict(self, x_BCHW: Tensor, sigma_B: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """Velocity or epsilon (B, C, H, W), fp32; above guidance 1, empty and text predictions in one batch of 2 B."""
        with self._autocast():
            if guidance <= 1:
                return self._network(x_BCHW, sigma_B, dict(conditioning.tensors)).float()
            both = self._network(
                torch.cat([x_BCHW, x_BCHW]), torch.cat([sigma_B, sigma_B]), dict(conditioning.with_empty())
            ).float()
        empty_BCHW, text_BCHW = both.chunk(2)
        return empty_BCHW + guidance * (text_BCHW - empty_BCHW)

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The trained weights by name, in a fixed order."""
        return [(name, weight) for name, weight in self.denoiser.named_parameters() if weight.requires_grad]

    def reference(self) -> AbstractContextManager[None]:
        """A context in which `predict` is the policy as it was loaded."""
        if self.settings.trainable == "lora":
            return self._without_adapter()
        return self._frozen.applied()

    def keep_reference(self) -> None:
        """Keep a frozen copy of full weights for `reference`; adapters need none. Call before training."""
        if self.settings.trainable == "full":
            self._frozen = WeightCopy(self.parameters())

    def save(self, folder: Path) -> None:
        """Write the trained weights in diffusers' own format: a transformer folder, or LoRA safetensors with alpha."""
        if self.settings.trainable == "full":
            self.denoiser.save_pretrained(folder / self.component)
            return
        self._save_lora(folder)

    def restore(self, folder: Path) -> None:
        """Read back what `save` wrote into the existing weights, bit for bit."""
        if self.settings.trainable == "full":
            stored = {}
            for file in sorted((folder / self.component).glob("*.safetensors")):
                stored.update(load_file(file))
            self.denoiser.load_state_dict({name: tensor.clone() for name, tensor in stored.items()})
            return
        from peft import set_peft_model_state_dict

        stored = load_file(folder / "pytorch_lora_weights.safetensors")
        prefix = f"{self.component}."
        set_peft_model_state_dict(
            self.denoiser, {name.removeprefix(prefix): tensor.clone() for name, tensor in stored.items()}, ADAPTER
        )

    def _adopt(self, denoiser: ModelMixin) -> None:
        """Freeze or prepare the denoiser's weights as the settings ask for."""
        self.denoiser = denoiser
        denoiser.requires_grad_(False)
        denoiser.eval()
        if self.settings.trainable == "lora":
            from peft import LoraConfig

            denoiser.add_adapter(
                LoraConfig(
                    r=self.settings.lora_rank,
                    lora_alpha=self.settings.lora_alpha,
                    init_lora_weights="gaussian",
                    target_modules=list(self.lora_targets),
                ),
                ADAPTER,
            )
            for _, weight in self.parameters():
                weight.data = weight.data.float()
            if not self.parameters():
                raise UserError("this model has no attention layers that LoRA could adapt; use model.trainable=full")
        else:
            denoiser.requires_grad_(True)
            denoiser.float()
        if self.settings.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()

    def _autocast(self) -> AbstractContextManager[object]:
        if self.settings.dtype == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    @contextmanager
    def _without_adapter(self) -> Iterator[None]:
        self.denoiser.disable_adapters()
        try:
            yield
        finally:
            self.denoiser.enable_adapters()

    def _save_lora(self, folder: Path) -> None:
        from peft import get_peft_model_state_dict

        # Without the metadata diffusers forgets lora_alpha, and the reloaded adapter would be scaled otherwise.
        self.pipeline_class.save_lora_weights(
            folder,
            **{
                f"{self.component}_lora_layers": get_peft_model_state_dict(self.denoiser, adapter_name=ADAPTER),
                f"{self.component}_lora_adapter_metadata": self.denoiser.peft_config[ADAPTER].to_dict(),
            },
        )

"""A policy wraps the parts of a diffusers pipeline that the engine needs; one subclass a model family.

Shared here: full or low-rank training, the reference policy, precision, and weights in diffusers' own format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from grpo_bench.config import ModelSection
from grpo_bench.errors import UserError
from grpo_bench.forest.schedule import Grid, Prediction
from grpo_bench.media import Media, kind_of
from grpo_bench.policies.copies import WeightCopy
from grpo_bench.policies.texts import Reading, Tokenizer, fixed_batches, read, visiting
from grpo_bench.sampling.handle import Conditioning, Regime

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

ADAPTER = "default"


class Policy(ABC):
    """A trainable denoiser, of one network or several, with its text encoders and decoder.

    Subclasses load a pipeline in `__init__`, hand the denoiser to `_adopt`, and implement the abstract methods.
    """

    name: ClassVar[str]
    lora_targets: ClassVar[tuple[str, ...]]
    component: ClassVar[str]
    """The denoiser's name in the pipeline, of its first network where it has several."""
    prediction: ClassVar[Prediction] = "velocity"
    """What `predict` returns; it decides which kernels can sample from the policy."""
    pipeline_class: ClassVar[type[DiffusionPipeline]]
    media: ClassVar[Media] = "pictures"
    """What `decode` gives."""
    fps: float = 0.0
    """Frames a second of its clips; 0 of pictures."""
    networks: Mapping[str, ModelMixin]
    """What is trained, by component: one network, or several that serve noise levels of their own."""
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
    def latent_shape(self) -> tuple[int, ...]:
        """Of a latent: channels, height and width, with frames between where it is a clip's."""

    @abstractmethod
    def grid(self, steps: int) -> Grid:
        """The model's own grid of `steps` + 1 points, from noise to 0.

        Raises:
            UserError: the model's noise schedule has no such grid.
        """

    def steps_of(self, steps: int) -> Grid:
        """`grid`, held to the number of steps that plans and costs are made of.

        Raises:
            UserError: it has another; or as `grid`.
        """
        grid = self.grid(steps)
        if len(grid.sigmas) != steps + 1:
            raise UserError(
                f"policy {self.name!r} gave a grid of {len(grid.sigmas)} points for {steps} steps, which have "
                f"{steps + 1}; mend its `grid`"
            )
        return grid

    def signal_and_noise(self, sigma: float) -> tuple[float, float]:
        """Coefficients of x0 and eps in the state at `sigma`: 1-s and s for a velocity model."""
        return 1 - sigma, sigma

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Features of the prompts and of what guidance moves away from, on the CPU; a text's depend on it alone."""
        texts = [self.settings.negative_prompt or "", *prompts]
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
    def decode(self, latent_BZ: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], fp32, or clips (B, F, 3, H, W), as `media` says."""

    def media_of(self, latent_BZ: Tensor) -> Tensor:
        """`decode`, held to what `media` says.

        Raises:
            UserError: it gives the other, or clips whose rate nobody knows.
        """
        media_B = self.decode(latent_BZ)
        if kind_of(media_B) != self.media or (self.media == "clips") != (self.fps > 0):
            raise UserError(
                f"policy {self.name!r} says that it draws {self.media} at fps = {self.fps:g}, and decodes to shape "
                f"{tuple(media_B.shape)}; pictures are (B, 3, H, W) without a rate, clips (B, F, 3, H, W) with one"
            )
        return media_B

    @property
    def denoiser(self) -> ModelMixin:
        """The network, of several the first."""
        return self.networks[self.component]

    @abstractmethod
    def _evaluate(self, network: nn.Module, x_BZ: Tensor, sigma_B: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """One unguided evaluation of a network: what it predicts, velocity or epsilon."""

    def regime(self, sigma: float, guidance: float) -> Regime:
        """What serves the states at noise level `sigma` where the run's guidance is `guidance`.

        The first network at all of them, in two evaluations above guidance 1. A family overrides it whose networks
        share the noise levels out, or that guides at some of them only.
        """
        return Regime(self.component, guidance, 2 if guidance > 1 else 1)

    def predict(self, x_BZ: Tensor, sigma_B: Tensor, conditioning: Conditioning, regime: Regime) -> Tensor:
        """Velocity or epsilon (B, Z), fp32; where it is guided, negative and text predictions in one batch of 2 B."""
        network = self.networks[regime.network]
        with self._autocast():
            if regime.evaluations == 1:
                return self._evaluate(network, x_BZ, sigma_B, dict(conditioning.tensors)).float()
            both = self._evaluate(
                network, torch.cat([x_BZ, x_BZ]), torch.cat([sigma_B, sigma_B]), dict(conditioning.with_empty())
            ).float()
        empty_BZ, text_BZ = both.chunk(2)
        return self.combine(text_BZ, empty_BZ, regime.guidance)

    def combine(self, text_BZ: Tensor, empty_BZ: Tensor, guidance: float) -> Tensor:
        """The guided prediction: the negative prompt's, moved towards the text's (classifier-free guidance)."""
        return empty_BZ + guidance * (text_BZ - empty_BZ)

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The trained weights by name, in a fixed order; of several networks, each under its component's name."""
        return [
            (f"{prefix}{name}", weight)
            for prefix, network in self._prefixed()
            for name, weight in network.named_parameters()
            if weight.requires_grad
        ]

    def _prefixed(self) -> list[tuple[str, ModelMixin]]:
        alone = len(self.networks) == 1
        return [("" if alone else f"{name}.", network) for name, network in self.networks.items()]

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
        """Write the trained weights in diffusers' own format: a network's folder, or LoRA safetensors with alpha.

        Of several networks, each one's LoRA lies in a folder of its component's name.
        """
        for name, network in self.networks.items():
            if self.settings.trainable == "full":
                network.save_pretrained(folder / name)
            else:
                self._save_lora(network, self._lora_folder(folder, name))

    def restore(self, folder: Path) -> None:
        """Read back what `save` wrote into the existing weights, bit for bit."""
        for name, network in self.networks.items():
            if self.settings.trainable == "full":
                stored = {}
                for file in sorted((folder / name).glob("*.safetensors")):
                    stored.update(load_file(file))
                network.load_state_dict({key: tensor.clone() for key, tensor in stored.items()})
                continue
            from peft import set_peft_model_state_dict

            stored = load_file(self._lora_folder(folder, name) / "pytorch_lora_weights.safetensors")
            prefix = f"{self.component}."
            set_peft_model_state_dict(
                network, {key.removeprefix(prefix): tensor.clone() for key, tensor in stored.items()}, ADAPTER
            )

    def _adopt(self, denoiser: ModelMixin, **others: ModelMixin) -> None:
        """Freeze or prepare the networks' weights as the settings ask for; `others` by component."""
        self.networks = {self.component: denoiser, **others}
        for network in self.networks.values():
            self._prepare(network)

    def _prepare(self, denoiser: ModelMixin) -> None:
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
            adapted = [weight for weight in denoiser.parameters() if weight.requires_grad]
            for weight in adapted:
                weight.data = weight.data.float()
            if not adapted:
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
        with ExitStack() as back:
            for network in self.networks.values():
                network.disable_adapters()
                back.callback(network.enable_adapters)
            yield

    def _lora_folder(self, folder: Path, name: str) -> Path:
        return folder if len(self.networks) == 1 else folder / name

    def _save_lora(self, network: ModelMixin, folder: Path) -> None:
        from peft import get_peft_model_state_dict

        # Without the metadata diffusers forgets lora_alpha, and the reloaded adapter would be scaled otherwise.
        self.pipeline_class.save_lora_weights(
            folder,
            **{
                f"{self.component}_lora_layers": get_peft_model_state_dict(network, adapter_name=ADAPTER),
                f"{self.component}_lora_adapter_metadata": network.peft_config[ADAPTER].to_dict(),
            },
        )

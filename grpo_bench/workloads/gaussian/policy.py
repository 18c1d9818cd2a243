"""The analytic workload's policy: the closed-form flow of each prompt's Gaussian, and a trained residual affine in x.

With x_s = (1-s) x0 + s eps and x0 ~ N(mu, S), the velocity E[eps - x0 | x_s = x] is affine in x:

    C_s = (1-s)^2 S + s^2 I,    r = x - (1-s) mu
    E[x0 | x] = mu + (1-s) S C_s^-1 r,    E[eps | x] = s C_s^-1 r
    v = R diag(gain) R^T r - mu,    gain = (s - (1-s) l) / ((1-s)^2 l + s^2),    S = R diag(l) R^T
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from grpo_bench.config import ModelSection
from grpo_bench.errors import UserError
from grpo_bench.forest.schedule import Grid
from grpo_bench.policies.base import Policy
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.workloads.gaussian.clouds import NUMBERS, SHAPE, cloud
from grpo_bench.workloads.gaussian.judge import REACH

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
SIDE = 8
"""Pixels a side of its images, where no other size is asked for."""


def gain(sigma: Tensor, spectrum: Tensor) -> Tensor:
    """The closed-form velocity's factor along each principal axis; broadcasts."""
    rest = 1 - sigma
    return (sigma - rest * spectrum) / (rest.square() * spectrum + sigma.square())


class GaussianDenoiser(nn.Module):
    """v = closed form + weight_k x + bias_k, where k is the knot nearest to sigma; zero weights are the exact flow.

    The knots are the sigmas of the grid of `steps` steps, so that on that grid every step has a row of its own; on any
    other, neighbouring steps may share one. `weight` is (steps, D, D), `bias` (steps, D), shared by all prompts.
    """

    def __init__(self, steps: int = 10) -> None:
        super().__init__()
        self.steps = steps
        self.weight = nn.Parameter(torch.zeros(steps, NUMBERS, NUMBERS))
        self.bias = nn.Parameter(torch.zeros(steps, NUMBERS))
        knot_K = shifted_grid(steps)[:-1]
        between = torch.tensor((knot_K[:-1] + knot_K[1:]) / 2, dtype=torch.float32).flip(0)
        self.register_buffer("between", between, persistent=False)

    def rows(self, sigma_B: Tensor) -> Tensor:
        """The row of the knot nearest to each sigma, compared in fp32; row 0 is pure noise."""
        between = self.get_buffer("between")
        return self.steps - 1 - torch.bucketize(sigma_B.float().to(between.device), between)

    def forward(self, x_BD: Tensor, sigma_B: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """The velocity (B, D), each row with its own sigma and prompt."""
        mean_BD, spectrum_BD, basis_BDD = (conditioning[name] for name in ("mean", "spectrum", "basis"))
        sigma_B1 = sigma_B[:, None]
        centred_B1D = (x_BD - (1 - sigma_B1) * mean_BD)[:, None]
        along_BD = gain(sigma_B1, spectrum_BD) * torch.bmm(centred_B1D, basis_BDD)[:, 0]
        row_B = self.rows(sigma_B)
        residual_BD = torch.baddbmm(self.bias[row_B][..., None], self.weight[row_B], x_BD[..., None])[..., 0]
        return torch.bmm(basis_BDD, along_BD[..., None])[..., 0] - mean_BD + residual_BD

    def save_pretrained(self, folder: Path) -> None:
        """Weights and config under diffusers' names."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"_class_name": type(self).__name__, "steps": self.steps}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({name: value.detach().contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS)

    @classmethod
    def from_folder(cls, folder: Path) -> GaussianDenoiser:
        """What `save_pretrained` wrote; without weights, the exact flow.

        Raises:
            UserError: no such folder, or it holds another kind of model.
        """
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            if config["_class_name"] != cls.__name__:
                raise ValueError(f"it holds a {config['_class_name']}")
            denoiser = cls(int(config["steps"]))
            if (folder / WEIGHTS).exists():
                stored = load_file(folder / WEIGHTS)
                denoiser.load_state_dict({name: value.clone() for name, value in stored.items()})
        except Exception as error:  # the disk's, JSON's, safetensors' and torch's errors have no common base
            raise UserError(
                f"model {str(folder.parent)!r} is not a Gaussian policy's folder ({' '.join(str(error).split())}); "
                "leave out --model, or choose the policy that fits it with model.policy"
            ) from error
        return denoiser


class GaussianPolicy(Policy):
    """The analytic workload's closed-form flow with a trained residual that is affine in the latent."""

    name = "gaussian"
    component = "denoiser"

    def __init__(self, denoiser: GaussianDenoiser, settings: ModelSection, device: torch.device) -> None:
        _check(settings)
        self.settings, self.device = settings, device
        self._height, self._width = _size(settings)
        self._adopt(denoiser.to(device))

    @classmethod
    def load(cls, source: str, settings: ModelSection, device: torch.device) -> GaussianPolicy:
        """See `Policy.load`."""
        return cls(GaussianDenoiser.from_folder(Path(source) / cls.component), settings, device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        return SHAPE

    def grid(self, steps: int) -> Grid:
        """SD3's grid, on which plans are drawn where no model is loaded."""
        return Grid(shifted_grid(steps))

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Each prompt's mean (D,), spectrum (D,) and basis (D, D), fp32; the empty prompt has its own."""
        clouds = [cloud(text) for text in texts]
        columns = {
            "mean": [c.mean for c in clouds],
            "spectrum": [c.spectrum for c in clouds],
            "basis": [c.basis for c in clouds],
        }
        return {name: torch.tensor(np.array(values), dtype=torch.float32) for name, values in columns.items()}

    @torch.no_grad()
    def decode(self, latent_BZ: Tensor) -> Tensor:
        """0.5 + x / 16 in [0, 1], every number a block of pixels; fp32."""
        image_BCHW = (latent_BZ.float() / (2 * REACH) + 0.5).clamp(0, 1)
        tall_BCHW = image_BCHW.repeat_interleave(self._height // SHAPE[1], dim=2)
        return tall_BCHW.repeat_interleave(self._width // SHAPE[2], dim=3)

    def _evaluate(self, network: nn.Module, x_BZ: Tensor, sigma_B: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        velocity_BD: Tensor = network(x_BZ.flatten(1), sigma_B, conditioning)
        return velocity_BD.view_as(x_BZ)


def _check(settings: ModelSection) -> None:
    """Refuse what the closed form has no use for."""
    fixed: dict[str, tuple[object, object]] = {
        "trainable": (settings.trainable, "full"),
        "dtype": (settings.dtype, "fp32"),
        "gradient_checkpointing": (settings.gradient_checkpointing, False),
    }
    for key, (value, only) in fixed.items():
        if value != only:
            raise UserError(f"policy 'gaussian' takes model.{key} = {only!r} only, not {value!r}; leave it out")
    height, width = _size(settings)
    if height % SHAPE[1] or width % SHAPE[2]:
        raise UserError(f"policy 'gaussian' draws images of even height and width, not {height} x {width}; use {SIDE}")


def _size(settings: ModelSection) -> tuple[int, int]:
    return settings.height or SIDE, settings.width or SIDE

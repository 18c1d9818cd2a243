"""Which schedulers a policy follows, and which image sizes a model has and can do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from layouts import configured, listed
from tiny import CPU, policy
from tinysd import make_sd, sd_policy

from grpo_bench.config import ModelSection
from grpo_bench.errors import UserError
from grpo_bench.policies.sd import SDPolicy
from grpo_bench.policies.sd3 import SD3Policy


@pytest.fixture
def sd3(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny SD3, to be changed."""
    return Path(shutil.copytree(tiny_model, tmp_path / "sd3"))


@pytest.fixture(scope="module")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD 1.x; read only."""
    return make_sd(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture
def sd(tiny_sd: Path, tmp_path: Path) -> Path:
    """A copy of the tiny SD 1.x, to be changed."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "sd"))


def scheduled(model: Path, name: str, **config: object) -> Path:
    """Give the pipeline another scheduler."""
    shutil.rmtree(model / "scheduler")
    getattr(diffusers, name)(**config).save_pretrained(model / "scheduler")
    listed(model, scheduler=["diffusers", name])
    return model


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
        ("DPMSolverMultistepScheduler", FLOW | {"flow_shift": 3.0}),
        ("UniPCMultistepScheduler", FLOW),
        ("FlowMatchLCMScheduler", {}),
        ("DDIMScheduler", {}),
    ],
)
def test_sd3_refuses_other_schedulers_by_name(sd3: Path, name: str, config: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"FlowMatchEulerDiscreteScheduler, and this model's scheduler is a {name}"):
        policy(scheduled(sd3, name, **config))


@pytest.mark.parametrize("option", ["invert_sigmas", "stochastic_sampling"])
def test_sd3_refuses_options_that_it_does_not_follow(sd3: Path, option: str) -> None:
    with pytest.raises(UserError, match=f"does not follow {option} = True"):
        policy(scheduled(sd3, "FlowMatchEulerDiscreteScheduler", shift=3.0, **{option: True}))


@pytest.mark.parametrize(
    "config",
    [
        {"shift": 1.5},
        {"shift": 3.0, "use_karras_sigmas": True},
        {"shift": 3.0, "use_exponential_sigmas": True},
        {"shift": 3.0, "use_beta_sigmas": True},
        {"shift": 3.0, "shift_terminal": 0.1},
        {"num_train_timesteps": 500},
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [4, 10])
def test_sd3_takes_the_sigmas_that_its_schedulers_options_make(
    sd3: Path, config: dict[str, object], steps: int
) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    theirs.set_timesteps(steps)
    ours = policy(scheduled(sd3, "FlowMatchEulerDiscreteScheduler", **config)).grid(steps)
    np.testing.assert_array_equal(ours.sigmas, theirs.sigmas.double().numpy())


@pytest.mark.parametrize("change", [{"shift": "three"}, {"num_train_timesteps": None}, {"time_shift_type": "cubic"}])
def test_nonsense_in_a_schedulers_config_is_one_sentence(sd3: Path, change: dict[str, object]) -> None:
    configured(sd3, "scheduler", **change)
    with pytest.raises(UserError, match="scheduler") as caught:
        policy(sd3).grid(4)
    assert "\n" not in str(caught.value)


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_sd_follows_every_scheduler_that_shares_ddims_noise_schedule(sd: Path, tiny_sd: Path, name: str) -> None:
    ours, ddim = sd_policy(scheduled(sd, name, **BETAS, **LEADING)).grid(10), sd_policy(tiny_sd).grid(10)
    np.testing.assert_array_equal(ours.sigmas, ddim.sigmas)
    assert ours.alpha is not None and ddim.alpha is not None
    np.testing.assert_array_equal(ours.alpha, ddim.alpha)


@pytest.mark.parametrize(
    "name", ["LCMScheduler", "TCDScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"]
)
def test_sd_refuses_other_schedulers_by_name(sd: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"this model's scheduler is a {name}"):
        sd_policy(scheduled(sd, name))


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("EulerDiscreteScheduler", "use_karras_sigmas"),
        ("EulerDiscreteScheduler", "use_beta_sigmas"),
        ("DPMSolverMultistepScheduler", "use_lu_lambdas"),
        ("DPMSolverMultistepScheduler", "use_flow_sigmas"),
    ],
)
def test_sd_refuses_options_that_move_the_timesteps(sd: Path, name: str, option: str) -> None:
    with pytest.raises(UserError, match=f"does not follow {option}"):
        sd_policy(scheduled(sd, name, **BETAS, **LEADING, **{option: True}))


@pytest.mark.parametrize(
    ("folder", "component", "change", "latent"),
    [
        ("sd3", "transformer", {}, (4, 16, 16)),
        ("sd3", "transformer", {"sample_size": 8}, (4, 8, 8)),
        ("sd", "unet", {}, (4, 16, 16)),
        ("sd", "unet", {"sample_size": [8, 24]}, (4, 8, 24)),
    ],
)
def test_an_image_is_as_large_as_the_model_says(
    sd3: Path, sd: Path, folder: str, component: str, change: dict[str, object], latent: tuple[int, int, int]
) -> None:
    model, kind = (sd3, SD3Policy) if folder == "sd3" else (sd, SDPolicy)
    configured(model, component, **change)
    own = ModelSection(max_sequence_length=0)
    assert kind.load(str(model), own, CPU).latent_shape == latent
    # and one side may be set without the other; the decoder doubles
    wide = own.model_copy(update={"width": 48})
    assert kind.load(str(model), wide, CPU).latent_shape == (4, latent[1], 24)


@pytest.mark.parametrize(("height", "width"), [(36, 32), (32, 36), (4096, 4096)])
def test_sd3_refuses_a_size_that_it_has_no_positions_for(sd3: Path, height: int, width: int) -> None:
    configured(sd3, "transformer", pos_embed_max_size=8)
    # and says so before it reads the weights, which are not even there
    (sd3 / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    asked = ModelSection(max_sequence_length=0, height=height, width=width)
    with pytest.raises(UserError, match=f"positions for 32 pixels a side, not for {height} x {width}"):
        SD3Policy.load(str(sd3), asked, CPU)


@pytest.mark.parametrize(
    ("component", "change", "expected"),
    [
        ("transformer", {"sample_size": None}, "set model.height and width"),
        ("transformer", {"sample_size": 15}, "multiples of 4 for this model, not 30 x 30"),
        ("transformer", {"patch_size": "two"}, "patch_size = 'two'"),
        ("vae", {"block_out_channels": 8}, "block_out_channels = 8"),
    ],
)
def test_a_model_that_does_not_say_its_size_is_one_sentence(
    sd3: Path, component: str, change: dict[str, object], expected: str
) -> None:
    configured(sd3, component, **change)
    with pytest.raises(UserError, match=expected):
        SD3Policy.load(str(sd3), ModelSection(max_sequence_length=0), CPU)


def test_a_stored_config_with_a_size_is_read_as_before() -> None:
    stored = ModelSection.model_validate(json.loads('{"height": 32, "width": 48}'))
    assert (stored.height, stored.width) == (32, 48)
    assert (ModelSection().height, ModelSection().width) == (None, None)

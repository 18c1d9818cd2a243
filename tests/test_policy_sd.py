"""The SD policy: diffusers' own sampler and U-Net, weights in diffusers' own format, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tiny import CPU, settings, shaken
from tinysd import LATENT, make_sd, scheduler, sd_policy

from grpo_bench.errors import UserError
from grpo_bench.forest.builders import chains
from grpo_bench.metering.ledger import Ledger
from grpo_bench.policies.sd import SDPolicy
from grpo_bench.registry import POLICIES
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise, Purpose

PROMPTS = ["a red circle", "a blue square left of a star"]
STEPS = 5


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sd(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture
def broken(pipeline: Path, tmp_path: Path) -> Path:
    """A copy of the pipeline's folder, to be broken."""
    return Path(shutil.copytree(pipeline, tmp_path / "broken"))


def theirs(folder: Path) -> StableDiffusionPipeline:
    """The folder in diffusers' own hands."""
    loaded = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def configured(folder: Path, **changes: object) -> Path:
    """The folder with another scheduler config."""
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def latents(count: int = 2) -> torch.Tensor:
    return torch.randn(count, *LATENT, generator=torch.Generator().manual_seed(0))


def epsilon(sd: SDPolicy, prompts: list[str] = PROMPTS, guidance: float = 1.0) -> torch.Tensor:
    """The prediction at fixed latents and timesteps 901 and 301, with gradient."""
    sigma_B = torch.tensor([0.901, 0.301])
    return sd.predict(latents(), sigma_B, sd.encode(prompts), sd.regime(0.5, guidance))


def test_the_family_is_registered() -> None:
    assert POLICIES.get("sd") is SDPolicy


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_the_grid_is_the_schedulers_own(broken: Path, spacing: str, steps: int) -> None:
    scheduled = scheduler(timestep_spacing=spacing)
    scheduled.set_timesteps(steps)
    grid = sd_policy(configured(broken, timestep_spacing=spacing)).grid(steps)
    # exact in fp32 too, which is what the network is given
    np.testing.assert_array_equal(np.rint(grid.sigmas[:-1].astype(np.float32) * 1000), scheduled.timesteps.numpy())
    assert grid.alpha is not None
    alpha = scheduled.alphas_cumprod.double().numpy()
    np.testing.assert_array_equal(grid.alpha, alpha[np.append(scheduled.timesteps.numpy(), 0)])


def test_a_pipeline_with_another_scheduler_is_sampled_by_ddim(tmp_path: Path) -> None:
    # given SD 1.5's own PNDM, whose timesteps repeat one
    config = {
        name: scheduler().config[name] for name in ("beta_start", "beta_end", "beta_schedule", "set_alpha_to_one")
    }
    other = PNDMScheduler.from_config(config | {"skip_prk_steps": True, "steps_offset": 1})
    grid = sd_policy(make_sd(tmp_path / "pndm", noise=other)).grid(10)
    np.testing.assert_allclose(grid.sigmas, [0.901, 0.801, 0.701, 0.601, 0.501, 0.401, 0.301, 0.201, 0.101, 0.001, 0])


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, None), (4.0, None), (4.0, "a dull grey shape")])
def test_deterministic_sampling_is_the_pipelines_own(pipeline: Path, guidance: float, negative: str | None) -> None:
    # given our initial noise handed to diffusers as `latents`
    sd = sd_policy(pipeline, negative_prompt=negative)
    schedule = make_schedule(sd.grid(STEPS), "ode")
    forest = chains(schedule.sigmas, 1, np.zeros(STEPS, dtype=bool))
    noise = Noise(0, 0, PROMPTS, sd.latent_shape)
    start = noise.draw(Purpose.ROOT, forest.key_N[:1], CPU)[0]
    expected = theirs(pipeline)(
        PROMPTS,
        negative_prompt=[negative or ""] * 2,
        latents=start,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        height=32,
        width=32,
        output_type="pt",
    ).images
    # when we sample from it
    ledger = Ledger()
    handle = Metered(sd, ledger, guidance=guidance, batch=64)
    out = grow(forest, schedule, handle, sd.encode(PROMPTS), noise)
    # then the images are the same, and a guided step was charged as two evaluations
    torch.testing.assert_close(sd.decode(out.leaf_LPZ[0]), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.01
    assert ledger.evaluations("rollout") == STEPS * len(PROMPTS) * (2 if guidance > 1 else 1)


def test_the_prediction_is_the_unets_at_the_timestep(pipeline: Path) -> None:
    other = theirs(pipeline)
    rows, _ = other.encode_prompt(PROMPTS, CPU, 1, False)
    with torch.no_grad():
        expected = other.unet(latents(), torch.tensor([901, 301]), encoder_hidden_states=rows).sample
    torch.testing.assert_close(epsilon(sd_policy(pipeline)), expected, rtol=1e-5, atol=1e-6)


def test_guidance_is_empty_plus_a_multiple_of_the_difference(pipeline: Path) -> None:
    sd = sd_policy(pipeline)
    text, empty = epsilon(sd), epsilon(sd, ["", ""])
    torch.testing.assert_close(epsilon(sd, guidance=3.0), empty + 3 * (text - empty), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(text, empty, atol=1e-4)


def test_prompts_are_encoded_each_by_itself_and_as_the_pipeline_does(pipeline: Path) -> None:
    # given more prompts than one encoding batch: a row does not depend on its neighbours
    sd = sd_policy(pipeline)
    many = sd.encode([f"a number {i}" for i in range(70)])
    text, empty = theirs(pipeline).encode_prompt("a number 66", CPU, 1, True, "")
    torch.testing.assert_close(many.tensors["tokens"][66:67], text, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(many.empty["tokens"], empty, rtol=1e-5, atol=1e-6)


def test_decoded_images_are_the_pipelines_own_and_in_range(pipeline: Path) -> None:
    sd, other = sd_policy(pipeline), theirs(pipeline)
    x_BCHW = 3 * latents(3)
    with torch.no_grad():
        raw = other.vae.decode(x_BCHW / other.vae.config.scaling_factor).sample
    expected = other.image_processor.postprocess(raw, output_type="pt")
    images = sd.decode(x_BCHW)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)
    assert images.shape == (3, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize(("sigma", "timestep"), [(0.95, 950), (0.25, 250), (1.0, 999), (0.0, 0)])
def test_states_are_mixed_as_the_scheduler_adds_noise(pipeline: Path, sigma: float, timestep: int) -> None:
    signal, spread = sd_policy(pipeline).signal_and_noise(sigma)
    x0, eps = latents(1), torch.ones(1, *LATENT)
    expected = scheduler().add_noise(x0, eps, torch.tensor([timestep]))
    torch.testing.assert_close(signal * x0 + spread * eps, expected, rtol=1e-5, atol=1e-6)


def test_a_full_checkpoint_is_diffusers_own_and_restores_bit_for_bit(pipeline: Path, tmp_path: Path) -> None:
    trained = shaken(sd_policy(pipeline))
    trained.save(tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    for name, weight in trained.parameters():
        assert torch.equal(loaded.get_parameter(name), weight), name
    fresh = sd_policy(pipeline)
    fresh.restore(tmp_path)
    assert torch.equal(epsilon(fresh), epsilon(trained))


def test_a_lora_restores_bit_for_bit_and_keeps_its_alpha_in_diffusers_own_hands(pipeline: Path, tmp_path: Path) -> None:
    # given alpha three times the rank: without its metadata diffusers would take alpha = rank
    lora = {"trainable": "lora", "lora_rank": 4, "lora_alpha": 12}
    trained = shaken(sd_policy(pipeline, **lora))
    trained.save(tmp_path)
    fresh = sd_policy(pipeline, **lora)
    assert not torch.equal(epsilon(fresh), epsilon(trained))
    fresh.restore(tmp_path)
    assert torch.equal(epsilon(fresh), epsilon(trained))
    other = theirs(pipeline)
    other.load_lora_weights(tmp_path)
    rows = trained.encode(PROMPTS).tensors["tokens"]
    with torch.no_grad():
        expected = other.unet(latents(), torch.tensor([901, 301]), encoder_hidden_states=rows).sample
    torch.testing.assert_close(epsilon(trained), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, epsilon(sd_policy(pipeline)), atol=1e-3)


@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_the_reference_is_the_policy_as_loaded(pipeline: Path, trainable: str) -> None:
    base = epsilon(sd_policy(pipeline)).detach()
    sd = sd_policy(pipeline, trainable=trainable)
    sd.keep_reference()
    trained = epsilon(shaken(sd)).detach()
    with sd.reference(), torch.no_grad():
        assert torch.equal(epsilon(sd), base)
    assert torch.equal(epsilon(sd), trained)
    assert not torch.equal(trained, base)


def test_what_is_trained(pipeline: Path) -> None:
    full, lora = sd_policy(pipeline), sd_policy(pipeline, trainable="lora", lora_rank=2)
    assert len(full.parameters()) == len(list(full.denoiser.parameters()))
    # 4 attention blocks (1 down, 1 middle, 2 up), to itself and to the text, 4 projections of two matrices each
    assert len(lora.parameters()) == 4 * 2 * 4 * 2
    assert all(weight.dtype == torch.float32 for _, weight in [*full.parameters(), *lora.parameters()])


def test_gradient_checkpointing_gives_the_same_gradients(pipeline: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        sd = sd_policy(pipeline, gradient_checkpointing=checkpointing)
        epsilon(sd).square().sum().backward()
        gradients.append([weight.grad for _, weight in sd.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_bf16_computes_in_bf16_and_answers_in_fp32(pipeline: Path, trainable: str) -> None:
    sd = sd_policy(pipeline, dtype="bf16", trainable=trainable)
    out = epsilon(sd, guidance=2.0)
    exact = epsilon(sd_policy(pipeline), guidance=2.0).detach()
    assert out.dtype == torch.float32
    assert 1e-6 < float((out.detach() - exact).abs().max()) < 0.2
    out.square().sum().backward()
    assert all(torch.isfinite(weight.grad).all() for _, weight in sd.parameters() if weight.grad is not None)
    assert sd.decode(latents()).dtype == torch.float32


def test_a_safety_checker_is_never_read(broken: Path) -> None:
    # given a pipeline as the hub has it: the checker and its extractor are listed (and here not even there)
    index = broken / "model_index.json"
    listed = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "requires_safety_checker": True,
    }
    index.write_text(json.dumps(json.loads(index.read_text()) | listed))
    assert sd_policy(broken)._pipeline.safety_checker is None


def test_an_index_that_does_not_mention_a_safety_checker_will_do(broken: Path) -> None:
    index = broken / "model_index.json"
    mentioned = json.loads(index.read_text())
    for name in ("safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker"):
        del mentioned[name]
    index.write_text(json.dumps(mentioned))
    assert sd_policy(broken).latent_shape == LATENT


@pytest.mark.parametrize("predicts", ["v_prediction", "sample"])
def test_a_model_that_predicts_something_else_is_refused(broken: Path, predicts: str) -> None:
    with pytest.raises(UserError, match=f"models that predict epsilon.* prediction_type = '{predicts}'"):
        sd_policy(configured(broken, prediction_type=predicts))


def test_a_scheduler_whose_timesteps_end_at_zero_is_refused(broken: Path) -> None:
    with pytest.raises(UserError, match="between 1 and 999, got 999 to 0"):
        sd_policy(configured(broken, timestep_spacing="linspace")).grid(10)


@pytest.mark.parametrize("steps", [0, 1001])
def test_a_number_of_steps_that_does_not_fit_is_refused(pipeline: Path, steps: int) -> None:
    with pytest.raises(UserError, match=f"steps must be between 1 and 1000, got {steps}"):
        sd_policy(pipeline).grid(steps)


def test_another_family_is_refused(broken: Path) -> None:
    index = broken / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "StableDiffusion3Pipeline"}))
    with pytest.raises(UserError, match="holds a StableDiffusion3Pipeline, but a StableDiffusionPipeline is needed"):
        sd_policy(broken)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "scheduler", "tokenizer"])
def test_a_missing_component_is_named(broken: Path, component: str) -> None:
    shutil.rmtree(broken / component)
    with pytest.raises(UserError, match=f"lacks its component '{component}'"):
        sd_policy(broken)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_component_that_the_index_leaves_out_is_named(broken: Path, component: str) -> None:
    index = broken / "model_index.json"
    listed = json.loads(index.read_text())
    del listed[component]
    index.write_text(json.dumps(listed))
    with pytest.raises(UserError, match=f"leaves out '{component}'"):
        sd_policy(broken)


def test_an_image_size_that_does_not_fit_is_one_sentence(pipeline: Path) -> None:
    with pytest.raises(UserError, match="must be multiples of 2 for this model, not 32 x 31"):
        SDPolicy.load(str(pipeline), settings(width=31), CPU)


def test_the_schedulers_config_decides_the_noise_schedule(broken: Path) -> None:
    # given linear betas, which SD does not have
    grid = sd_policy(configured(broken, beta_schedule="linear")).grid(10)
    other = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
    assert grid.alpha is not None
    assert grid.alpha[0] == pytest.approx(float(other.alphas_cumprod[901]), rel=1e-6)

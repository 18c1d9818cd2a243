"""The SD3 policy: diffusers' own sampler, weights in diffusers' own format, LoRA, precision, and what it refuses."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from huggingface_hub import constants
from tiny import CPU, make, policy, settings, shaken

from grpo_bench.errors import UserError
from grpo_bench.forest.builders import chains
from grpo_bench.metering.ledger import Ledger
from grpo_bench.policies.sd3 import SD3Policy
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise, Purpose

PROMPTS = ["a red circle", "a blue square left of a star"]
STEPS = 5


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sd3") / "model")


@pytest.fixture
def broken(pipeline: Path, tmp_path: Path) -> Path:
    """A copy of the pipeline's folder, to be broken."""
    return Path(shutil.copytree(pipeline, tmp_path / "broken"))


def theirs(folder: Path) -> StableDiffusion3Pipeline:
    """The folder in diffusers' own hands."""
    loaded = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def velocity(sd3: SD3Policy, prompts: list[str] = PROMPTS, guidance: float = 1.0) -> torch.Tensor:
    """The velocity at fixed latents, with gradient."""
    x_BCHW = torch.randn(len(prompts), *sd3.latent_shape, generator=torch.Generator().manual_seed(0))
    sigma_B = torch.linspace(0.9, 0.3, len(prompts))
    return sd3.predict(x_BCHW, sigma_B, sd3.encode(prompts), sd3.regime(0.5, guidance))


@pytest.mark.parametrize("steps", [5, 10, 40])
def test_the_grid_is_the_schedulers_own(pipeline: Path, steps: int) -> None:
    scheduler = theirs(pipeline).scheduler
    scheduler.set_timesteps(steps)
    np.testing.assert_array_equal(policy(pipeline).grid(steps).sigmas, scheduler.sigmas.double().numpy())


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, None), (4.0, None), (4.0, "a dull grey shape")])
def test_ode_sampling_is_the_pipelines_own(pipeline: Path, guidance: float, negative: str | None) -> None:
    # given our initial noise handed to diffusers as `latents`
    sd3 = policy(pipeline, negative_prompt=negative)
    schedule = make_schedule(sd3.grid(STEPS), "ode")
    forest = chains(schedule.sigmas, 1, np.zeros(STEPS, dtype=bool))
    noise = Noise(0, 0, PROMPTS, sd3.latent_shape)
    latents = noise.draw(Purpose.ROOT, forest.key_N[:1], CPU)[0]
    expected = theirs(pipeline)(
        PROMPTS,
        negative_prompt=negative,
        latents=latents,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        height=32,
        width=32,
        max_sequence_length=0,
        output_type="pt",
    ).images
    # when we sample from it
    ledger = Ledger()
    handle = Metered(sd3, ledger, guidance=guidance, batch=64)
    out = grow(forest, schedule, handle, sd3.encode(PROMPTS), noise)
    images = sd3.decode(out.leaf_LPZ[0])
    # then the images are the same, and a guided step was charged as two evaluations
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.01
    assert ledger.evaluations("rollout") == STEPS * len(PROMPTS) * (2 if guidance > 1 else 1)


def test_guidance_is_empty_plus_a_multiple_of_the_difference(pipeline: Path) -> None:
    sd3 = policy(pipeline)
    text, empty = velocity(sd3), velocity(sd3, ["", ""])
    torch.testing.assert_close(velocity(sd3, guidance=3.0), empty + 3 * (text - empty), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(text, empty, atol=1e-4)


def test_prompts_are_encoded_each_by_itself(pipeline: Path) -> None:
    # given more prompts than one encoding batch: a row does not depend on its neighbours
    sd3 = policy(pipeline)
    many = sd3.encode([f"a number {i}" for i in range(70)])
    one = sd3.encode(["a number 66"])
    for name, value in one.tensors.items():
        assert torch.equal(many.tensors[name][66:67], value)
        assert torch.equal(many.empty[name], one.empty[name])


def test_a_full_checkpoint_is_diffusers_own_and_restores_bit_for_bit(pipeline: Path, tmp_path: Path) -> None:
    trained = shaken(policy(pipeline))
    trained.save(tmp_path)
    # diffusers reads it by itself
    loaded = SD3Transformer2DModel.from_pretrained(tmp_path / "transformer")
    for name, weight in trained.parameters():
        assert torch.equal(loaded.get_parameter(name), weight), name
    # and a fresh policy becomes the trained one, in the tensors its optimiser holds
    fresh = policy(pipeline)
    held = [weight for _, weight in fresh.parameters()]
    fresh.restore(tmp_path)
    assert all(one is other for one, (_, other) in zip(held, fresh.parameters(), strict=True))
    assert torch.equal(velocity(fresh), velocity(trained))


def test_a_lora_checkpoint_restores_bit_for_bit(pipeline: Path, tmp_path: Path) -> None:
    trained = shaken(policy(pipeline, trainable="lora", lora_rank=4, lora_alpha=12))
    trained.save(tmp_path)
    fresh = policy(pipeline, trainable="lora", lora_rank=4, lora_alpha=12)
    held = [weight for _, weight in fresh.parameters()]
    assert not torch.equal(velocity(fresh), velocity(trained))
    fresh.restore(tmp_path)
    assert all(one is other for one, (_, other) in zip(held, fresh.parameters(), strict=True))
    assert torch.equal(velocity(fresh), velocity(trained))


def test_a_lora_keeps_its_alpha_in_diffusers_own_hands(pipeline: Path, tmp_path: Path) -> None:
    # given alpha three times the rank: without its metadata diffusers would take alpha = rank
    trained = shaken(policy(pipeline, trainable="lora", lora_rank=4, lora_alpha=12))
    trained.save(tmp_path)
    other = theirs(pipeline)
    other.load_lora_weights(tmp_path)
    x_BCHW = torch.randn(2, *trained.latent_shape, generator=torch.Generator().manual_seed(0))
    rows = trained.encode(PROMPTS).tensors
    with torch.no_grad():
        expected = other.transformer(
            hidden_states=x_BCHW,
            timestep=torch.linspace(900, 300, 2),
            encoder_hidden_states=rows["tokens"],
            pooled_projections=rows["pooled"],
            return_dict=False,
        )[0]
    torch.testing.assert_close(velocity(trained), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, velocity(policy(pipeline)), atol=1e-3)


@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_the_reference_is_the_policy_as_loaded(pipeline: Path, trainable: str) -> None:
    base = velocity(policy(pipeline, trainable="full")).detach()
    sd3 = policy(pipeline, trainable=trainable)
    sd3.keep_reference()
    trained = velocity(shaken(sd3)).detach()
    with sd3.reference(), torch.no_grad():
        assert torch.equal(velocity(sd3), base)
    # and afterwards it is the trained one again, weights still trainable, by an error's way out too
    with pytest.raises(RuntimeError), sd3.reference():
        raise RuntimeError
    assert torch.equal(velocity(sd3), trained)
    assert not torch.equal(trained, base)
    assert all(weight.requires_grad for _, weight in sd3.parameters())


def test_what_is_trained(pipeline: Path) -> None:
    full, lora = policy(pipeline), policy(pipeline, trainable="lora", lora_rank=2)
    assert len(full.parameters()) == len(list(full.denoiser.parameters()))
    # 8 projections in the first block; the last block has no text output: 7; two matrices each
    assert len(lora.parameters()) == 2 * (8 + 7)
    assert all(name.endswith(("lora_A.default.weight", "lora_B.default.weight")) for name, _ in lora.parameters())
    assert all(weight.dtype == torch.float32 for _, weight in [*full.parameters(), *lora.parameters()])


@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_gradient_checkpointing_gives_the_same_gradients(pipeline: Path, trainable: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)  # the adapters' random start
        sd3 = shaken(policy(pipeline, trainable=trainable, gradient_checkpointing=checkpointing))
        velocity(sd3).square().sum().backward()
        gradients.append({name: weight.grad for name, weight in sd3.parameters()})
    for name, gradient in gradients[0].items():
        if gradient is None:
            assert gradients[1][name] is None, name
            continue
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trainable", ["full", "lora"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_bf16_computes_in_bf16_and_answers_in_fp32(pipeline: Path, trainable: str, guidance: float) -> None:
    sd3 = policy(pipeline, dtype="bf16", trainable=trainable)
    out = velocity(sd3, guidance=guidance)
    exact = velocity(policy(pipeline), guidance=guidance).detach()
    assert out.dtype == torch.float32
    # bf16 keeps 8 bits: near the fp32 velocity, and not equal to it
    assert 1e-6 < float((out.detach() - exact).abs().max()) < 0.1 * guidance
    out.square().sum().backward()
    with_gradient = [weight for _, weight in sd3.parameters() if weight.grad is not None]
    assert with_gradient
    assert all(weight.dtype == torch.float32 and torch.isfinite(weight.grad).all() for weight in with_gradient)
    assert sd3.decode(torch.zeros(1, *sd3.latent_shape)).dtype == torch.float32


def test_loading_draws_nothing_from_the_base_weights(pipeline: Path) -> None:
    # given two policies of one folder: training one leaves the files, and so the other, alone
    before = velocity(policy(pipeline)).detach()
    shaken(policy(pipeline))
    assert torch.equal(velocity(policy(pipeline)), before)


def test_decoded_images_are_in_range(pipeline: Path) -> None:
    sd3 = policy(pipeline)
    images = sd3.decode(10 * torch.randn(3, *sd3.latent_shape))
    assert images.shape == (3, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder", "scheduler", "tokenizer_2"])
def test_a_missing_component_is_named(broken: Path, component: str) -> None:
    shutil.rmtree(broken / component)
    with pytest.raises(UserError, match=f"lacks its component '{component}'; copy the model again"):
        policy(broken)


def test_a_folder_without_an_index_is_not_a_pipeline(broken: Path) -> None:
    (broken / "model_index.json").unlink()
    with pytest.raises(UserError, match=r"has no model_index\.json"):
        policy(broken)


def test_a_file_in_place_of_a_folder_is_not_a_pipeline(broken: Path) -> None:
    with pytest.raises(UserError, match=r"has no model_index\.json"):
        policy(broken / "model_index.json")


def test_another_family_is_refused(broken: Path) -> None:
    index = broken / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match="holds a FluxPipeline, but a StableDiffusion3Pipeline is needed"):
        policy(broken)


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder_2"])
def test_a_component_that_the_index_leaves_out_is_named(broken: Path, component: str) -> None:
    index = broken / "model_index.json"
    listed = json.loads(index.read_text())
    del listed[component]
    index.write_text(json.dumps(listed))
    with pytest.raises(UserError, match=f"leaves out '{component}'"):
        policy(broken)


@pytest.mark.parametrize("content", ["{", "[1]", '"text"'])
def test_a_broken_index_is_named(broken: Path, content: str) -> None:
    (broken / "model_index.json").write_text(content)
    with pytest.raises(UserError, match=r"model_index\.json.* is not (readable JSON|a JSON object)"):
        policy(broken)


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_damaged_weights_are_one_sentence(broken: Path, damage: str) -> None:
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    with pytest.raises(UserError, match="component 'transformer'") as caught:
        policy(broken)
    assert "\n" not in str(caught.value)


def test_an_image_size_that_does_not_fit_is_one_sentence(pipeline: Path) -> None:
    # the decoder doubles, patches are 2 wide: multiples of 4
    with pytest.raises(UserError, match="must be multiples of 4 for this model, not 32 x 30"):
        SD3Policy.load(str(pipeline), settings(width=30), CPU)


@pytest.mark.parametrize("source", ["nobody/no-such-model", "no-such-folder", "a/b/c", "/no/such/folder"])
def test_a_source_that_is_not_there_is_one_quick_sentence(source: str) -> None:
    started = time.perf_counter()
    with pytest.raises(UserError, match=f"model {source!r}") as caught:
        SD3Policy.load(source, settings(), CPU)
    assert "\n" not in str(caught.value)
    assert source in str(caught.value)
    assert time.perf_counter() - started < 5


def test_a_hub_id_is_found_in_the_hubs_cache(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given the hub's cache layout, as a download would leave it
    revision = "0" * 40
    entry = tmp_path / "hub" / "models--tiny--sd3"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text(revision)
    shutil.copytree(pipeline, entry / "snapshots" / revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    found = SD3Policy.load("tiny/sd3", settings(), CPU)
    assert torch.equal(velocity(found), velocity(policy(pipeline)))

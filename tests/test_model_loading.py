"""Loading a pipeline is strict: every component has exactly the weights of its files, or one sentence says what not."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from layouts import Tensors, add_t5, as_bin, as_variant, listed, rewrite, sharded, weights
from safetensors.torch import load_file
from tiny import policy
from tinysd import make_sd, sd_policy

from grpo_bench.errors import UserError
from grpo_bench.policies.base import Policy

SD3 = ("transformer", "vae", "text_encoder", "text_encoder_2")
SD = ("unet", "vae", "text_encoder")


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


def state(loaded: Policy) -> Tensors:
    """All tensors of a policy's models, by component and name."""
    parts = loaded._pipeline.components.items()  # type: ignore[attr-defined]
    models = {name: part for name, part in parts if isinstance(part, torch.nn.Module)}
    return {f"{name}/{key}": value for name, part in models.items() for key, value in part.state_dict().items()}


def assert_same(left: Policy, right: Policy) -> None:
    """Fail unless two policies have the same weights, bit for bit."""
    ours, theirs = state(left), state(right)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def last(tensors: Tensors) -> str:
    """The name of the tensor that the damage is done to."""
    return max(tensors)


def without(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name != last(tensors)}


def with_another(tensors: Tensors) -> Tensors:
    return {**tensors, "somebody.elses": torch.zeros(3)}


def reshaped(tensors: Tensors) -> Tensors:
    return {**tensors, last(tensors): torch.zeros(3, 2, 1)}


def halved(tensors: Tensors) -> Tensors:
    return dict(sorted(tensors.items())[: len(tensors) // 2])


DAMAGE = [
    (without, "lacks {last}"),
    (halved, r"lacks \S+ and \d+ more weights"),
    (with_another, "has somebody.elses too many"),
    (reshaped, r"has {last} in the shape \(3, 2, 1\) instead of \("),
]


def refusal(load: Callable[[], object]) -> str:
    """The sentence with which loading is refused."""
    with pytest.raises(UserError) as caught:
        load()
    said = str(caught.value)
    assert "\n" not in said and len(said) < 600, said
    for advice in ("trust_remote_code", "weights_only", "ignore_mismatched", "low_cpu_mem"):
        assert advice not in said
    return said


@pytest.mark.parametrize("component", SD3)
@pytest.mark.parametrize(("change", "expected"), DAMAGE, ids=[change.__name__ for change, _ in DAMAGE])
def test_weights_that_do_not_fit_are_named_with_their_component(
    sd3: Path, component: str, change: Callable[[Tensors], Tensors], expected: str
) -> None:
    name = last(load_file(weights(sd3, component)))
    rewrite(sd3, component, change)
    said = refusal(lambda: policy(sd3))
    assert f"component {component!r}" in said
    assert re.search(expected.replace("{last}", re.escape(name)), said), said


@pytest.mark.parametrize("component", SD)
@pytest.mark.parametrize("change", [without, with_another, reshaped])
def test_the_same_holds_for_stable_diffusion_1(sd: Path, component: str, change: Callable[[Tensors], Tensors]) -> None:
    rewrite(sd, component, change)
    assert f"component {component!r}" in refusal(lambda: sd_policy(sd))


@pytest.mark.parametrize("component", SD3)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
def test_the_prefix_that_a_wrapper_left_is_named(sd3: Path, component: str, prefix: str) -> None:
    rewrite(sd3, component, lambda tensors: {prefix + name: value for name, value in tensors.items()})
    said = refusal(lambda: policy(sd3))
    assert f"component {component!r}" in said
    assert f"begin with {prefix!r}" in said


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_constants_that_old_versions_saved_are_no_fault(sd3: Path, tiny_model: Path, component: str) -> None:
    name = "text_model.embeddings.position_ids"
    rewrite(sd3, component, lambda tensors: {**tensors, name: torch.arange(77)[None]})
    assert_same(policy(sd3), policy(tiny_model))


def test_attention_under_its_old_names_is_understood(sd: Path, tiny_sd: Path) -> None:
    # given a decoder as SD 1.5's repository has it
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name: str) -> str:
        for now, before in old.items():
            name = name.replace(f"attentions.0.{now}.", f"attentions.0.{before}.")
        return name

    rewrite(sd, "vae", lambda tensors: {renamed(name): value for name, value in tensors.items()})
    assert any(".query." in name for name in load_file(weights(sd, "vae")))
    assert_same(sd_policy(sd), sd_policy(tiny_sd))


@pytest.mark.parametrize("stored", ["shared.weight", "encoder.embed_tokens.weight"])
def test_a_tied_weight_may_be_stored_under_either_name(sd3: Path, stored: str) -> None:
    add_t5(sd3)
    own = policy(sd3, max_sequence_length=8)
    rewrite(sd3, "text_encoder_3", lambda t: {stored if n == "shared.weight" else n: v for n, v in t.items()})
    assert_same(policy(sd3, max_sequence_length=8), own)


@pytest.mark.parametrize("missing", ["shared.weight", "encoder.final_layer_norm.weight"])
def test_a_t5_with_a_hole_is_refused(sd3: Path, missing: str) -> None:
    add_t5(sd3)
    rewrite(sd3, "text_encoder_3", lambda tensors: {n: v for n, v in tensors.items() if n != missing})
    assert "component 'text_encoder_3'" in refusal(lambda: policy(sd3, max_sequence_length=8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_variant_alone_loads_with_its_own_values(sd3: Path, dtype: torch.dtype) -> None:
    as_variant(sd3, variant="half", dtype=dtype)
    stored = load_file(weights(sd3, "transformer"))
    loaded = policy(sd3)
    for name, weight in loaded.parameters():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, stored[name].float()), name


@pytest.mark.parametrize("component", SD3)
def test_the_variant_asked_for_is_the_one_read(sd3: Path, component: str) -> None:
    # given other values in the variant than in the plain files
    plain = weights(sd3, component)
    kept = plain.read_bytes()
    as_variant(sd3, component, variant="other", dtype=torch.bfloat16)
    plain.write_bytes(kept)
    assert_same(policy(sd3, variant="other"), policy(sd3, variant="other"))
    chosen, default = state(policy(sd3, variant="other")), state(policy(sd3))
    differing = {name.split("/")[0] for name in default if not torch.equal(default[name], chosen[name])}
    assert differing == {component}


@pytest.mark.parametrize("component", ["transformer", "text_encoder"])
def test_shards_load_as_the_whole(sd3: Path, tiny_model: Path, component: str) -> None:
    sharded(sd3, component)
    assert len(list((sd3 / component).glob("*-of-*.safetensors"))) > 1
    assert_same(policy(sd3), policy(tiny_model))


@pytest.mark.parametrize("component", ["transformer", "text_encoder"])
def test_a_shard_that_is_not_what_the_index_says_is_refused(sd3: Path, component: str) -> None:
    from safetensors.torch import save_file

    sharded(sd3, component)
    shard = next((sd3 / component).glob("*-00002-of-*"))
    save_file(without(load_file(shard)), shard, {"format": "pt"})
    said = refusal(lambda: policy(sd3))
    assert f"component {component!r}" in said and "index.json lists: it lacks" in said


@pytest.mark.parametrize("components", [(), ("vae",), ("text_encoder_2", "transformer")])
def test_torchs_own_files_load_as_safetensors(sd3: Path, tiny_model: Path, components: tuple[str, ...]) -> None:
    as_bin(sd3, *components)
    assert_same(policy(sd3), policy(tiny_model))


def test_the_old_format_of_torchs_files_loads_too(sd3: Path, tiny_model: Path) -> None:
    path = weights(sd3, "transformer")
    torch.save(load_file(path), path.with_suffix(".bin"), _use_new_zipfile_serialization=False)
    path.unlink()
    assert_same(policy(sd3), policy(tiny_model))


class Payload:
    """Something that a pickle would run."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("component", ["vae", "text_encoder"])
def test_objects_in_a_weights_file_are_not_made(sd3: Path, component: str) -> None:
    as_bin(sd3, component)
    (path,) = (sd3 / component).glob("*.bin")
    torch.save({"weight": Payload()}, path)
    said = refusal(lambda: policy(sd3))
    assert f"component {component!r}" in said and "only tensors are read" in said


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", pickle.dumps([1]), b"\0" * 99]
)
@pytest.mark.parametrize("component", ["transformer", "text_encoder"])
def test_a_file_that_is_no_weights_is_named(sd3: Path, component: str, content: bytes) -> None:
    path = weights(sd3, component)
    path.write_bytes(content)
    said = refusal(lambda: policy(sd3))
    assert f"component {component!r}" in said and path.name in said
    assert ("git lfs pull" in said) == content.startswith(b"version")


@pytest.mark.parametrize("component", ["text_encoder_3", "tokenizer_3"])
def test_a_t5_left_out_of_a_download_can_be_done_without(sd3: Path, component: str) -> None:
    add_t5(sd3)
    with_t5 = policy(sd3, max_sequence_length=8)
    assert with_t5.encode(["a"]).tensors["tokens"].shape[1] > policy(sd3).encode(["a"]).tensors["tokens"].shape[1]
    shutil.rmtree(sd3 / component)
    said = refusal(lambda: policy(sd3, max_sequence_length=8))
    assert f"lacks its component {component!r}" in said and "--set model.max_sequence_length=0" in said
    # and the way out that the sentence names is one
    assert policy(sd3, max_sequence_length=0)._pipeline.text_encoder_3 is None


@pytest.mark.parametrize("name", ["sd3_medium.safetensors", "v1-5.ckpt"])
def test_a_single_file_says_how_to_make_a_folder_of_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert "from_single_file" in refusal(lambda: policy(tmp_path / name))
    assert "StableDiffusionPipeline.from_single_file" in refusal(lambda: sd_policy(tmp_path / name))


@pytest.mark.parametrize("component", ["tokenizer", "tokenizer_2"])
def test_a_tokenizer_without_its_words_is_refused(sd3: Path, component: str) -> None:
    # transformers makes one of two words in silence
    (sd3 / component / "tokenizer.json").unlink()
    assert f"component {component!r}" in refusal(lambda: policy(sd3))


@pytest.mark.parametrize(
    ("component", "value", "expected"),
    [
        ("text_encoder", ["my_module", "MyEncoder"], "MyEncoder of my_module"),
        ("vae", ["diffusers", "NoSuchAutoencoder"], "NoSuchAutoencoder of diffusers"),
        ("transformer", ["diffusers", "FluxTransformer2DModel"], "a SD3Transformer2DModel is needed"),
        ("text_encoder", ["transformers", "CLIPTextModel"], "a CLIPTextModelWithProjection is needed"),
    ],
)
def test_a_component_of_another_class_is_refused(sd3: Path, component: str, value: list[str], expected: str) -> None:
    listed(sd3, **{component: value})
    said = refusal(lambda: policy(sd3))
    assert f"component {component!r}" in said and expected in said


@pytest.mark.parametrize("component", ["transformer", "text_encoder", "scheduler", "tokenizer"])
def test_a_damaged_config_is_named(sd3: Path, component: str) -> None:
    for path in (sd3 / component).glob("*.json"):
        path.write_text("{")
    assert component in refusal(lambda: policy(sd3))


@pytest.mark.parametrize("component", ["text_encoder"])
def test_an_adapter_beside_the_weights_is_not_mixed_in(sd3: Path, component: str) -> None:
    (sd3 / component / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "nobody/nothing"}))
    assert "adapter of peft" in refusal(lambda: policy(sd3))


@pytest.mark.parametrize("load", [policy, sd_policy], ids=["sd3", "sd"])
@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_bf16_rounds_what_is_frozen_only(sd3: Path, sd: Path, load: Callable[..., Policy], trainable: str) -> None:
    folder = sd3 if load is policy else sd
    exact, rounded = (load(folder, trainable="full", dtype=dtype) for dtype in ("fp32", "bf16"))
    if trainable == "lora":
        rounded = load(folder, trainable="lora", dtype="bf16")
    trained = exact.component
    for name, value in state(exact).items():
        component, _, key = name.partition("/")
        if trainable == "lora" and component == trained:
            continue  # its names are the adapter's; below
        ours = state(rounded)[name]
        if component in ("vae", trained):
            assert torch.equal(ours, value), f"{name} is not the file's own"
        elif value.is_floating_point():
            assert ours.dtype == torch.bfloat16, key
    frozen = [weight.dtype for weight in rounded.denoiser.parameters() if not weight.requires_grad]
    assert set(frozen) == ({torch.bfloat16} if trainable == "lora" else set())
    assert {weight.dtype for _, weight in rounded.parameters()} == {torch.float32}


@pytest.mark.parametrize("component", SD3)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64])
def test_whole_numbers_are_not_taken_for_real_ones(sd3: Path, component: str, dtype: torch.dtype) -> None:
    """Quantised weights stand for others, by a scale that is in no file of diffusers'."""
    name = last(load_file(weights(sd3, component)))
    rewrite(sd3, component, lambda tensors: {**tensors, name: (tensors[name] * 127).to(dtype)})

    said = refusal(lambda: policy(sd3))

    assert f"component {component!r}" in said and f"whole numbers in {name}" in said


def test_the_same_holds_for_torchs_own_files(sd3: Path) -> None:
    rewrite(sd3, "vae", lambda tensors: {name: (value * 127).to(torch.int8) for name, value in tensors.items()})
    as_bin(sd3, "vae")

    assert re.search(r"whole numbers in \S+ and \d+ more weights", refusal(lambda: policy(sd3)))


@pytest.mark.parametrize(
    ("key", "value"),
    [("scaling_factor", None), ("scaling_factor", "1.5"), ("shift_factor", "0"), ("shift_factor", [1])],
)
def test_a_config_with_something_else_for_a_number_is_named(sd3: Path, sd: Path, key: str, value: object) -> None:
    for model, load in ((sd3, policy), (sd, sd_policy)):
        file = model / "vae" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))

        said = refusal(lambda load=load, model=model: load(model))  # type: ignore[misc]

        assert f"{key} = {value!r}" in said and "vae/config.json" in said

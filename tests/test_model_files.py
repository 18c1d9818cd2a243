"""Which files of a pipeline's folder are the model: those that are read, whatever else lies beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import StableDiffusion3Pipeline
from layouts import as_bin, as_variant, listed, sharded
from tinysd import make_sd

from grpo_bench.errors import UserError
from grpo_bench.policies.files import model_files

WHOLE = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/tokenizer.json",
    "tokenizer_2/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


def names(folder: Path, variant: str = "") -> list[str]:
    """The files by their names in the folder."""
    return [path.relative_to(folder).as_posix() for path in model_files(folder, variant)]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline, to be changed."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_pipelines_files_are_its_index_settings_and_weights(tiny_model: Path) -> None:
    assert names(tiny_model) == WHOLE


@pytest.mark.parametrize(
    "beside",
    [
        "README.md",
        "sd3_medium.safetensors",
        ".git/config",
        ".cache/huggingface/download/transformer/config.json.metadata",
        "image_encoder/model.safetensors",
        "transformer/diffusion_pytorch_model.bin",
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "transformer/model.safetensors",
        "vae/.gitattributes",
        "text_encoder/flax_model.msgpack",
        "text_encoder/pytorch_model.bin",
        "text_encoder/diffusion_pytorch_model.safetensors",
        "text_encoder_2/model.safetensors.index.fp16.json",
    ],
)
def test_what_is_not_read_is_no_part_of_the_model(model: Path, beside: str) -> None:
    (model / beside).parent.mkdir(parents=True, exist_ok=True)
    (model / beside).write_text("{}")
    assert names(model) == WHOLE


def test_a_safety_checker_that_is_listed_is_not_read(tmp_path: Path) -> None:
    model = make_sd(tmp_path / "sd")
    before = names(model)
    listed(model, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    (model / "safety_checker").mkdir()
    (model / "safety_checker" / "config.json").write_text("{}")
    assert names(model) == before


@pytest.mark.parametrize(("component", "stem"), [("transformer", "diffusion_pytorch_model"), ("text_encoder", "model")])
def test_the_shards_that_the_index_names_are_read(model: Path, component: str, stem: str) -> None:
    sharded(model, component)
    (model / component / f"{stem}-00007-of-00009.safetensors").write_bytes(b"left from elsewhere")
    own = [name.removeprefix(f"{component}/") for name in names(model) if name.startswith(f"{component}/")]
    assert own[0] == "config.json"
    assert own[1:-1] == [f"{stem}-{i:05d}-of-{len(own) - 2:05d}.safetensors" for i in range(1, len(own) - 1)]
    assert own[-1] == f"{stem}.safetensors.index.json"


@pytest.mark.parametrize("component", ["transformer", "text_encoder_2"])
def test_a_missing_shard_is_named(model: Path, component: str) -> None:
    sharded(model, component)
    shard = next((model / component).glob("*-00002-of-*"))
    shard.unlink()
    with pytest.raises(UserError, match=f"names {shard.name!r}, which is not there"):
        model_files(model)


def fp16(name: str) -> str:
    """The name of a WHOLE file's variant."""
    return name.replace(".safetensors", ".fp16.safetensors")


def torchs(name: str) -> str:
    """The name of a WHOLE file in torch's own format."""
    return name.replace(".safetensors", ".bin").replace("/model.", "/pytorch_model.")


@pytest.mark.parametrize(("change", "renamed"), [(as_variant, fp16), (as_bin, torchs)], ids=["fp16", "bin"])
def test_the_only_weights_are_read_without_being_asked_for(
    model: Path, change: Callable[[Path], None], renamed: Callable[[str], str]
) -> None:
    change(model)
    assert names(model) == sorted(map(renamed, WHOLE))


def test_a_variant_that_is_asked_for_is_read_where_there_is_one(model: Path, tiny_model: Path) -> None:
    # given fp16 weights beside the transformer's own, as hubs have them, and of no other component
    as_variant(model, "transformer")
    (whole,) = (tiny_model / "transformer").glob("*.safetensors")
    shutil.copy(whole, model / "transformer")
    assert names(model) == WHOLE
    assert names(model, "fp16") == [fp16(name) if name.startswith("transformer/") else name for name in WHOLE]


def test_variants_in_shards_are_read_as_diffusers_writes_them(tiny_model: Path, tmp_path: Path) -> None:
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_model, text_encoder_3=None, tokenizer_3=None)
    pipeline.save_pretrained(tmp_path / "model", variant="fp16", max_shard_size="50KB")
    found = names(tmp_path / "model")
    assert "transformer/diffusion_pytorch_model.safetensors.index.fp16.json" in found
    assert "text_encoder/model.safetensors.index.fp16.json" in found
    everything = [path.relative_to(tmp_path / "model").as_posix() for path in (tmp_path / "model").rglob("*.*")]
    assert found == sorted(everything)


@pytest.mark.parametrize("variant", ["fp8", "bf16"])
def test_a_variant_that_no_component_has_is_refused(model: Path, variant: str) -> None:
    as_variant(model)
    with pytest.raises(UserError, match=f"model.variant = '{variant}'.* it has fp16"):
        model_files(model, variant)


def test_two_variants_and_nothing_else_must_be_chosen_from(model: Path) -> None:
    as_variant(model, "vae")
    shutil.copy(
        model / "vae" / "diffusion_pytorch_model.fp16.safetensors",
        model / "vae" / "diffusion_pytorch_model.ema.safetensors",
    )
    with pytest.raises(UserError, match=r"variants ema, fp16 only; choose one with --set model\.variant"):
        model_files(model)
    assert "vae/diffusion_pytorch_model.ema.safetensors" in names(model, "ema")


@pytest.mark.parametrize("content", ["[]", "{", '{"a":' * 100_000, "\ud800"])
def test_a_damaged_index_is_one_sentence(model: Path, content: str) -> None:
    (model / "model_index.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=r"model_index\.json.*copy the model again") as caught:
        model_files(model)
    assert len(str(caught.value)) < 400


def test_names_that_leave_the_folder_are_not_followed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "config.json").write_text("{}")
    listed(model, **{"../outside": ["diffusers", "AutoencoderKL"]})
    assert names(model) == WHOLE
    sharded(model, "transformer")
    index = next((model / "transformer").glob("*.index.json"))
    index.write_text(json.dumps({"weight_map": {"a": "../../outside/config.json"}}))
    with pytest.raises(UserError, match=r"'\.\./\.\./outside/config\.json', which is not there"):
        model_files(model)


def test_a_folder_of_another_layout_is_read_whole_but_for_bookkeeping(tmp_path: Path) -> None:
    for name in ("denoiser/config.json", "denoiser/weights.bin", "README.md", ".git/HEAD", "denoiser/.cache/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert names(tmp_path) == ["denoiser/config.json", "denoiser/weights.bin"]

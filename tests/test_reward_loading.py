"""Loading a reward is strict: its files are exactly the published model's, or one sentence says what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reward_checkpoints import RewardFiles
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo_bench.config import RewardSection
from grpo_bench.errors import UserError
from grpo_bench.evaluation.scoring import make_rewards, score
from grpo_bench.rewarding import read_tensors

CPU = torch.device("cpu")
NAMES = ("hps", "image-reward", "pickscore", "clip", "aesthetic")
Tensors = dict[str, Tensor]


def stored(files: RewardFiles, name: str) -> Tensors:
    """The tensors of a reward's own file under their names there."""
    path = Path(files.settings[name]["path"])
    if path.is_dir():
        return load_file(path / "model.safetensors")
    held = torch.load(path, weights_only=True)
    tensors: Tensors = held.get("state_dict", held)
    return tensors


def written(files: RewardFiles, name: str, folder: Path, tensors: Tensors) -> Path:
    """What to give as the reward's `path` so that it reads these tensors."""
    if name in ("clip", "pickscore"):
        shutil.copytree(files.clip, folder, dirs_exist_ok=True)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    torch.save(tensors, folder / "changed.pt")
    return folder / "changed.pt"


def load(files: RewardFiles, name: str, path: Path) -> None:
    """Load a reward from `path`."""
    table = files.settings[name] | {"path": str(path)}
    make_rewards([name], RewardSection.model_validate({name: table}))[name].load(CPU)


def refusal(files: RewardFiles, name: str, path: Path) -> str:
    """The sentence with which it is refused."""
    with pytest.raises(UserError) as caught:
        load(files, name, path)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 700, said
    for advice in ("trust_remote_code", "weights_only", "ignore_mismatched", "add_safe_globals"):
        assert advice not in said
    return said


def without(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name != max(tensors)}


def with_another(tensors: Tensors) -> Tensors:
    return {**tensors, "somebody.elses": torch.zeros(3)}


def reshaped(tensors: Tensors) -> Tensors:
    return {**tensors, max(tensors): torch.zeros(3, 2, 1)}


def partly_prefixed(tensors: Tensors) -> Tensors:
    return {(f"module.{name}" if i % 2 else name): value for i, (name, value) in enumerate(tensors.items())}


def first_reshaped(tensors: Tensors) -> Tensors:
    return {**tensors, min(tensors): torch.zeros(5)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [without, with_another, reshaped, partly_prefixed, first_reshaped])
def test_weights_that_do_not_fit_are_refused(
    reward_files: RewardFiles, tmp_path: Path, name: str, change: Callable[[Tensors], Tensors]
) -> None:
    path = written(reward_files, name, tmp_path, change(stored(reward_files, name)))
    said = refusal(reward_files, name, path)
    assert f"not the weights of reward {name!r}" in said


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
def test_what_a_wrapper_left_before_all_names_is_understood(
    reward_files: RewardFiles, tmp_path: Path, name: str, prefix: str
) -> None:
    own = stored(reward_files, name)
    path = written(reward_files, name, tmp_path, {prefix + key: value for key, value in own.items()})
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    scores = []
    for table in (reward_files.settings[name], reward_files.settings[name] | {"path": str(path)}):
        reward = make_rewards([name], RewardSection.model_validate({name: table}))[name]
        scores.append(score(reward, pixels, ["a cat"]))
    np.testing.assert_array_equal(scores[0], scores[1])


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights"])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_file_is_read_by_its_content(tmp_path: Path, name: str, kind: str) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    if kind == "safetensors":
        save_file(tensors, tmp_path / name)
    else:
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=kind == "zip")
    found = read_tensors(tmp_path / name)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], value) for key, value in tensors.items())


class Payload:
    """Something that a pickle would run."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("name", ["hps", "image-reward", "aesthetic"])
@pytest.mark.parametrize("zipped", [True, False])
def test_objects_in_a_file_are_not_made(reward_files: RewardFiles, tmp_path: Path, name: str, zipped: bool) -> None:
    torch.save({"a": Payload()}, tmp_path / "odd.pt", _use_new_zipfile_serialization=zipped)
    assert "only tensors are read" in refusal(reward_files, name, tmp_path / "odd.pt")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_for_a_file_and_a_file_for_a_folder_are_told(
    reward_files: RewardFiles, tmp_path: Path, name: str
) -> None:
    folder = name in ("clip", "pickscore")
    path = reward_files.clip / "model.safetensors" if folder else tmp_path
    expected = "is a file, not a folder" if folder else "is a folder, not a file"
    assert expected in refusal(reward_files, name, path)


@pytest.mark.parametrize(
    "config", ["{", "[]", '{"text_config": 3}', '{"vision_config": {"num_attention_heads": 7}}', "\ud800", "[" * 9999]
)
@pytest.mark.parametrize("name", ["clip", "pickscore"])
def test_a_damaged_config_is_named(reward_files: RewardFiles, tmp_path: Path, name: str, config: str) -> None:
    path = written(reward_files, name, tmp_path, stored(reward_files, name))
    (path / "config.json").write_bytes(config.encode(errors="surrogatepass"))
    assert "config.json is not a CLIP's" in refusal(reward_files, name, path)


def test_a_config_of_another_size_is_told(reward_files: RewardFiles, tmp_path: Path) -> None:
    path = written(reward_files, "clip", tmp_path, stored(reward_files, "clip"))
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (path / "config.json").write_text(json.dumps(config))
    assert "lacks text_model.encoder.layers.2" in refusal(reward_files, "clip", path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b""])
def test_a_vocabulary_that_is_none_is_told(reward_files: RewardFiles, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    table = reward_files.settings["image-reward"] | {"tokenizer": str(tmp_path)}
    reward = make_rewards(["image-reward"], RewardSection.model_validate({"image-reward": table}))["image-reward"]
    with pytest.raises(UserError, match=r"vocab\.txt"):
        reward.load(CPU)

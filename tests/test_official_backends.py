"""The official packages, really installed from the registry, score tiny checkpoints: takes minutes and gigabytes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from record_official_rewards import FIXTURE, make, record
from running import arguments, cli_here, sentence, settings, write_prompts

from grpo_bench.errors import UserError
from grpo_bench.isolated.environment import Environment, State, install, packages, state
from grpo_bench.registry import REWARDS
from grpo_bench.store.run import RunStore

if TYPE_CHECKING:
    from reward_checkpoints import RewardFiles

pytestmark = [pytest.mark.official, pytest.mark.timeout(1200)]
NAMES = ("hps", "image-reward")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where both environments are installed once; $GRPO_BENCH_TEST_DATA keeps them for the next time."""
    kept = os.environ.get("GRPO_BENCH_TEST_DATA")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_BENCH_DATA", str(folder))
        yield folder
    if not kept:
        shutil.rmtree(folder)  # pytest keeps the folders of three sessions


def environment(name: str) -> Environment:
    found = getattr(REWARDS.get(name), "environment", None)
    assert isinstance(found, Environment)
    return found


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest, data: Path) -> str:
    """A reward whose environment is installed."""
    chosen: str = request.param
    install(chosen, environment(chosen), print)
    return chosen


@pytest.fixture
def no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for anything beyond this machine is refused at once, when the environment of `name` is installed."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")


def test_the_environment_holds_what_is_pinned(name: str) -> None:
    assert state(name, environment(name)) is State.INSTALLED
    held = packages(name)
    pins = re.findall(r"^([\w.-]+)==([\w.]+)", environment(name).hashed[1].read_text(encoding="utf-8"), re.MULTILINE)
    assert pins
    for package, version in pins:
        found = {key.replace("_", "-"): value for key, value in held.items()}
        assert found[package] == version, package
    assert held["torch"].partition("+")[0] == "2.13.0"


@pytest.mark.usefixtures("no_network")
def test_the_recorded_scores_are_recorded_again(name: str) -> None:
    # given the environment and no network, when the fixture is recorded anew
    again = json.loads(json.dumps(record([name])))[name]["scores"]

    # then it holds the same scores; another processor may differ in the last bits
    kept = json.loads(FIXTURE.read_text(encoding="utf-8"))[name]["scores"]
    assert again.keys() == kept.keys()
    for image, row in kept.items():
        assert again[image] == pytest.approx(row, rel=3e-6, abs=3e-6), image  # recorded on another processor


@pytest.mark.usefixtures("no_network")
def test_a_run_on_the_official_backend_is_done(
    name: str, tmp_path: Path, tiny_model: Path, reward_files: RewardFiles
) -> None:
    # given the same small run on either backend
    rows = {}
    for backend in ("native", "official"):
        reward = {"name": name, name: {**reward_files.settings[name], "backend": backend}}
        table = settings(tiny_model, write_prompts(tmp_path), reward=reward, budget={"iterations": 2.0})
        done = cli_here("run", "--quiet", *arguments(table))
        assert done.returncode == 0, done.stderr
        rows[backend] = RunStore.open(json.loads(done.stdout)["run"], tmp_path / "results").rows()

    # then both stored the reward, and of the untrained model the same
    native, official = (rows[backend][0][f"reward/{name}"] for backend in ("native", "official"))
    assert official == pytest.approx(native, rel=1e-6, abs=1e-6)


def test_a_file_of_something_else_is_refused(
    tmp_path: Path, tiny_model: Path, reward_files: RewardFiles, data: Path
) -> None:
    # given HPS's file in the place of ImageReward's, which that package would load in silence
    install("image-reward", environment("image-reward"), print)
    tables = reward_files.settings
    wrong = {**tables["image-reward"], "path": tables["hps"]["path"], "backend": "official"}
    reward = {"name": "image-reward", "image-reward": wrong}

    said = sentence(
        cli_here("run", "--quiet", *arguments(settings(tiny_model, write_prompts(tmp_path), reward=reward)))
    )
    assert "could not be started: reported ValueError: these are not the weights of ImageReward" in said


def test_a_file_whose_hash_is_another_is_refused(data: Path, tmp_path: Path) -> None:
    # given HPS's pins with another hash for their first package, as if the registry sent another file
    text = environment("hps").hashed[1].read_text(encoding="utf-8")
    first, rest = re.split(r"(?<=\d)\n(?=args==)", text, maxsplit=1)
    pins = tmp_path / "hps.txt"
    pins.write_text(re.sub(r"sha256:\w{64}", "sha256:" + "0" * 64, first) + "\n" + rest, encoding="utf-8")
    forged = Environment(hashed=(pins,), script=environment("hps").script)

    # when it is installed, then it is refused, and nothing is left
    with pytest.raises(UserError, match=r"the hash of anyio==[\d.]+ is not the pinned one"):
        install("forged", forged, print)
    assert state("forged", forged) is State.MISSING


def test_the_official_backend_judges_as_the_native_one(name: str, reward_files: RewardFiles) -> None:
    # given 40 images in batches of 16
    import torch

    images_BCHW = torch.rand(40, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    prompts = [f"a photo of {i} cats" for i in range(40)]
    native, official = (make(name, backend, reward_files) for backend in ("native", "official"))
    for reward in (native, official):
        reward.config = reward.config.model_copy(update={"batch": 16})

    # then each image has its own score, in order
    difference = native.judge(images_BCHW, prompts)[name] - official.judge(images_BCHW, prompts)[name]
    assert difference.abs().max() < 3e-6  # 2.1e-6 on an AMD processor, whose kernels round otherwise

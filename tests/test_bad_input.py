"""What a person can get wrong: each is one sentence on stderr and exit code 2, and leaves no run behind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from running import arguments, cli, cli_here, sentence, settings, write_prompts

from grpo_bench.store.run import run_names


@pytest.fixture
def refused(tiny_model: Path, tmp_path: Path, results: Path) -> Callable[..., str]:
    """What `grpo-bench run` with the small run's settings and more flags says when it refuses."""
    (tmp_path / "base.toml").write_text(tomli_w.dumps(settings(tiny_model, write_prompts(tmp_path))), encoding="utf-8")
    base = ["--config", str(tmp_path / "base.toml")]

    def say(*flags: str) -> str:
        said = sentence(cli_here("run", *([] if "--config" in flags else base), *flags))
        assert run_names(results) == []
        return said

    return say


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "falt"], "no method is named 'falt'; did you mean 'flat'?"),
        (["--reward", "jpeg-compresibility"], "no reward is named 'jpeg-compresibility'; did you mean 'jpeg-comp"),
        (["--workload", "shape"], "no workload is named 'shape'; did you mean 'shapes'?"),
        (["--recipe", "flowgrpo"], "no recipe is named 'flowgrpo'; did you mean 'flow-grpo'?"),
        (["--set", "model.policy=sd33"], "no policy is named 'sd33'; did you mean 'sd3'?"),
        (["--set", "sampling.kernel=flow_sde"], "did you mean 'flow-sde'?"),
        (["--set", "training.promts=3"], "no setting is named 'training.promts'; did you mean 'training.prompts'?"),
        (["--set", "method.groop=3"], "no setting is named 'method.groop'; did you mean 'method.group'?"),
        (["--set", "reward.jpeg-compressibility.qualty=3"], "did you mean 'reward.jpeg-compressibility.quality'?"),
        (["--set", "reward.nmae=shapes"], "no setting is named 'reward.nmae'; did you mean 'name'?"),
        (["--set", "evaluation.split=held-out"], "did you mean 'heldout'?"),
        (["--set", "seed"], "--set takes KEY=VALUE"),
        (["--set", "recipe=No Such Name"], "no recipe is named 'No Such Name'"),
        (["--budget", "nef=5"], "no kind is named 'nef'; did you mean 'nfe'?"),
        (["--budget", "nfe=51"], "a budget of nfe=51 is too small: one iteration of 'flat' costs 52"),
        (["--budget", "updates=0.5"], "a budget of updates=0.5 is too small"),
        (["--set", "method.group=1"], "method.group = 1 is not allowed: input should be greater than or equal to 2"),
        (["--set", "training.updates=3"], "training.updates = 3 is more than training.prompts = 2"),
        (["--set", "sampling.kernel=ode"], "draws no noise to learn from"),
        (["--reward", "a:b"], "--reward takes NAME or NAME:WEIGHT"),
        (["--reward", ""], "--reward takes NAME or NAME:WEIGHT"),
        (["--prompts", "none.txt"], "prompt file 'none.txt' cannot be read: No such file or directory"),
        (["--config", "none.toml"], "config file 'none.toml' cannot be read"),
        (["--plugin", "none.py"], "plugin file 'none.py' does not exist"),
        (["--log", "tensorbord"], "--log knows no tracker named 'tensorbord'; did you mean 'tensorboard'?"),
        (["--set", "model.height=40", "--set", "model.width=33"], "model.height and model.width must be multiples of"),
        (
            ["--resume", "no-such-run"],
            "--resume goes on with the run's own settings, so --config cannot be given with it",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_flag_is_one_sentence(refused: Callable[..., str], flags: list[str], message: str) -> None:
    assert message in refused(*flags)


@pytest.mark.parametrize(("method", "steps"), [("mix", 4), ("tree", 4)])
def test_a_window_longer_than_the_steps(
    tiny_model: Path, tmp_path: Path, results: Path, method: str, steps: int
) -> None:
    table = settings(tiny_model, write_prompts(tmp_path), method={"name": method, "window": steps})

    said = sentence(cli_here("run", *arguments(table)))

    assert "window" in said and "fit" in said
    assert run_names(results) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; write one prompt a line"),
        ("one\n", "leaves the split 'train' empty"),
        ('{"a": 1}', "has no column named prompt"),
    ],
    ids=["empty", "one prompt", "JSON"],
)
def test_a_bad_prompt_file(refused: Callable[..., str], tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.txt").write_text(text, encoding="utf-8")

    assert message in refused("--prompts", str(tmp_path / "bad.txt"))


@pytest.fixture
def broken(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be broken."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    return folder


@pytest.mark.parametrize(
    "part", ["transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"]
)
def test_a_model_folder_without_a_component(refused: Callable[..., str], broken: Path, part: str) -> None:
    shutil.rmtree(broken / part)

    assert f"lacks its component '{part}'" in refused("--model", str(broken))


def test_a_model_whose_weights_are_missing_cut_or_no_weights(refused: Callable[..., str], broken: Path) -> None:
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    for data in (whole[:-1000], b"", b"not weights at all", None):
        if data is None:
            weights.unlink()
        else:
            weights.write_bytes(data)
        assert str(broken) in refused("--model", str(broken))


@pytest.mark.parametrize(
    "index", [None, "{", "[]", '{"_class_name": "FluxPipeline"}', '{"_class_name": "StableDiffusion3Pipeline"}'],
    ids=["missing", "no JSON", "list", "another kind", "names nothing"],
)  # fmt: skip
def test_a_model_index_that_does_not_fit(refused: Callable[..., str], broken: Path, index: str | None) -> None:
    (broken / "model_index.json").unlink()
    if index is not None:
        (broken / "model_index.json").write_text(index, encoding="utf-8")

    assert "model" in refused("--model", str(broken))


def test_a_model_that_is_nowhere(refused: Callable[..., str]) -> None:
    # offline, as the tests are, a hub id cannot be found either
    assert "model 'no/such-model' is no folder here" in refused("--model", "no/such-model")
    assert "model './no/such/folder' does not exist" in refused("--model", "./no/such/folder")


def test_a_model_without_prompts_or_prompts_without_a_model(tiny_model: Path, tmp_path: Path, results: Path) -> None:
    assert "give --prompts with a file" in sentence(cli_here("run", "--model", str(tiny_model)))
    assert "give --model" in sentence(
        cli_here("run", "--workload", "prompts", "--prompts", str(write_prompts(tmp_path)))
    )
    assert run_names(results) == []


@pytest.mark.parametrize("text", ["seed = = 1", "sed = 1", "[training]\nprompts = 0", "budget = 5", "workload = [1]"])
def test_a_bad_config_file(tmp_path: Path, results: Path, text: str) -> None:
    (tmp_path / "my.toml").write_text(text, encoding="utf-8")

    sentence(cli_here("run", "--config", str(tmp_path / "my.toml")))
    assert run_names(results) == []


@pytest.mark.parametrize("run", ["no-such-run", "/no/such/folder", ".", "..", "x" * 5000, "bad name", ""])
@pytest.mark.parametrize("command", [["run", "--resume"], ["sample", "--prompt", "a"]], ids=["resume", "sample"])
def test_a_run_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], run: str) -> None:
    monkeypatch.chdir(tmp_path)

    assert "run" in sentence(cli_here(*command, run))


def test_resume_offers_the_nearest_run(results: Path) -> None:
    (results / "shapes-tree-s0-0123456789").mkdir(parents=True)

    assert "did you mean 'shapes-tree-s0-0123456789'?" in sentence(cli_here("run", "--resume", "shapes-tree-s0-01234"))


HOSTILE = "\x1b[31m\x1b]0;owned\x07evil[bold]x[/bold]\r\nsecond line\u202e\x9b2J"


@pytest.mark.parametrize(
    "flags",
    [
        ["--method", HOSTILE],
        ["--reward", HOSTILE],
        ["--workload", HOSTILE],
        ["--recipe", HOSTILE],
        ["--budget", HOSTILE],
        ["--prompts", HOSTILE],
        ["--config", HOSTILE],
        ["--plugin", HOSTILE],
        ["--plugin", HOSTILE + ".py"],
        ["--model", HOSTILE],
        ["--set", HOSTILE],
        ["--set", HOSTILE + "=1"],
        ["--set", f"training.{HOSTILE}=1"],
        ["--set", f"method.{HOSTILE}=1"],
        ["--set", f"method.group={HOSTILE}"],
        ["--set", f"reward.{HOSTILE}.x=1"],
        ["--set", "prompts=" + json.dumps("\0" + HOSTILE)],
        ["--log", HOSTILE],
    ],
    ids=lambda flags: " ".join(flags)[:16].encode("ascii", "ignore").decode(),
)
def test_hostile_text_steers_no_terminal(refused: Callable[..., str], flags: list[str]) -> None:
    said = refused(*flags)

    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", said)


def test_hostile_text_in_a_plugin_or_a_prompt_file(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"raise ValueError({HOSTILE!r})", encoding="utf-8")
    (tmp_path / "evil.txt").write_text(
        "".join(f"{json.dumps({'prompt': HOSTILE, 'split': split})}\n" for split in ("train", "heldout")),
        encoding="utf-8",
    )

    for flags in (["--plugin", str(tmp_path / "evil.py")], ["--prompts", str(tmp_path / "evil.txt")]):
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", refused(*flags))


@pytest.mark.parametrize(
    "args",
    [
        ["plan", "falt"],
        ["plan", "tree", "--steps", "3"],
        ["plan", "flat", "--set", "method.group=1"],
        ["plan", "tree", "--baseline", "falt"],
        ["plan", "flat", "--png", "/no/such/folder/x.png"],
        ["pretrain", "shape"],
        ["list", "methods", "--plugin", "none.py"],
    ],
    ids=" ".join,
)
def test_other_commands_refuse_in_one_sentence_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert sentence(cli_here(*args))


def test_results_that_cannot_be_written(tiny_model: Path, tmp_path: Path) -> None:
    # given a file where the folder of results should be
    (tmp_path / "file").write_text("", encoding="utf-8")
    flags = arguments(settings(tiny_model, write_prompts(tmp_path)))

    said = sentence(cli_here("run", *flags, "--results", str(tmp_path / "file" / "runs")))

    assert "Could not write" in said


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_process_of_its_own_says_the_same(tiny_model: Path, tmp_path: Path) -> None:
    # given one of the above in a fresh interpreter, where every library can still speak
    (tmp_path / "model").mkdir()

    said = sentence(
        cli("run", "--model", str(tmp_path / "model"), "--prompts", str(write_prompts(tmp_path)), cwd=tmp_path)
    )

    assert "has no model_index.json" in said
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model", "prompts.txt", "results"]

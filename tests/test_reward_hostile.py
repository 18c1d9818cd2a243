"""Rewards that return what no reward should, fail, or end the program: converted where harmless, else one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from running import cli, cli_here, sentence
from torch import Tensor

from grpo_bench.errors import PluginFailed, UserError
from grpo_bench.evaluation.scoring import score, score_parts
from grpo_bench.reward import Reward, RewardConfig
from grpo_bench.store.run import RunStore

IMAGES, PROMPTS = torch.linspace(0, 1, 4).view(4, 1, 1, 1).expand(4, 3, 2, 2), ["a", "b", "c", "d"]
MEANS = [0.0, 1 / 3, 2 / 3, 1.0]
Made = Callable[[Tensor], object]


class Odd(Reward[RewardConfig]):
    """Returns what a function makes of the images' means."""

    name = "odd"
    range = (0.0, 1.0)

    def __init__(self, made: Made) -> None:
        super().__init__(RewardConfig(batch=3))  # four images: two batches
        self._made = made

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._made(images_BCHW.mean((1, 2, 3)))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "made",
    [
        lambda mean_B: mean_B.tolist(),
        tuple,
        lambda mean_B: list(mean_B.clone().requires_grad_()),
        lambda mean_B: mean_B.numpy(),
        lambda mean_B: [np.float32(one) for one in mean_B],
        lambda mean_B: mean_B.double(),
        lambda mean_B: pd.Series(mean_B.numpy()),
        lambda mean_B: mean_B.clone().requires_grad_(),
        torch.nn.Parameter,
    ],
    ids=[
        "list",
        "tuple of tensors",
        "with gradients",
        "numpy",
        "numpy scalars",
        "double",
        "pandas",
        "leaf",
        "parameter",
    ],
)
def test_what_plainly_means_one_number_an_image_is_taken(made: Made) -> None:
    values = score(Odd(made), IMAGES, PROMPTS)

    assert values.dtype == np.float64
    np.testing.assert_allclose(values, MEANS, rtol=1e-6)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda mean_B: mean_B > 0.5, [0, 0, 1, 1]),
        (lambda mean_B: (mean_B > 0.5).tolist(), [0, 0, 1, 1]),
        (lambda mean_B: (mean_B > 0.5).long(), [0, 0, 1, 1]),
        (lambda mean_B: (mean_B > 0.5).numpy().astype(np.uint16), [0, 0, 1, 1]),
        (lambda mean_B: mean_B.round().bfloat16(), [0, 0, 1, 1]),
        (lambda mean_B: mean_B.round().half(), [0, 0, 1, 1]),
    ],
    ids=["bool", "bools", "integer", "unsigned", "bfloat16", "half"],
)
def test_other_numbers_are_the_same_numbers(made: Made, expected: list[float]) -> None:
    assert score(Odd(made), IMAGES, PROMPTS).tolist() == expected


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda mean_B: None, "None"),
        (lambda mean_B: "high", "str"),
        (lambda mean_B: ["0.5"] * len(mean_B), "list"),
        (lambda mean_B: [None] * len(mean_B), "list"),
        (lambda mean_B: [[0.1], [0.1, 0.2], 0.3][: len(mean_B)], "list"),
        (lambda mean_B: {"score": mean_B}, "dict"),
        (lambda mean_B: (one for one in mean_B), "generator"),
        (lambda mean_B: mean_B.to("meta"), "Tensor"),
        (lambda mean_B: mean_B.to(torch.complex64), "complex"),
        (lambda mean_B: mean_B.numpy() + 0j, "complex"),
        (lambda mean_B: [complex(one) for one in mean_B], "complex"),
        (lambda mean_B: mean_B[:-1], "shape"),
        (lambda mean_B: mean_B[:, None], "shape"),
        (lambda mean_B: mean_B.numpy()[:, None], "shape"),
        (lambda mean_B: mean_B.mean(), "shape"),
        (lambda mean_B: 0.5, "shape"),
        (lambda mean_B: [], "shape"),
        (lambda mean_B: mean_B + 0.01, "1.01"),
        (lambda mean_B: mean_B - 2, "-2"),
    ],
)
def test_anything_else_is_one_sentence_that_names_the_reward_and_what_it_gave(made: Made, said: str) -> None:
    with pytest.raises(UserError, match="reward 'odd'") as caught:
        score(Odd(made), IMAGES, PROMPTS)

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_score_may_leave_its_range_by_rounding_alone() -> None:
    assert score(Odd(lambda mean_B: mean_B * 1.0005), IMAGES, PROMPTS).max() > 1


def test_components_are_taken_alike() -> None:
    class Parts(Odd):
        def components(self, images_BCHW: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
            return {"part": np.full(len(prompts), 5.0)}  # type: ignore[dict-item]

    assert score_parts(Parts(lambda mean_B: mean_B), IMAGES, PROMPTS)["part"].tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("deed", ["score", "components", "score_and_components"])
def test_an_exception_names_the_reward(deed: str) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("expected all tensors to be on the same device")

    kind = type("Failing", (Odd,), {deed: fail})

    with pytest.raises(PluginFailed, match="reward 'odd' failed: RuntimeError: expected all tensors"):
        score_parts(kind(lambda mean_B: mean_B), IMAGES, PROMPTS)


def test_a_reward_that_writes_into_its_images_and_prompts_changes_none_of_anybody_elses() -> None:
    class Painter(Odd):
        def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
            scores = images_BCHW.mean((1, 2, 3))
            images_BCHW.zero_()
            prompts.clear()  # type: ignore[attr-defined]
            return scores

    images, prompts = IMAGES.contiguous(), PROMPTS.copy()

    np.testing.assert_allclose(score(Painter(lambda mean_B: mean_B), images, prompts), MEANS, rtol=1e-6)
    assert prompts == PROMPTS
    assert torch.equal(images, IMAGES)


PLUGIN = """
import os, signal, sys, torch
from grpo_bench import Reward, RewardConfig
from grpo_bench_methods.flat import FlatGRPO

class Deed(Reward[RewardConfig]):
    '''Does something in its third batch, or where it is told to.'''
    name = "deed"
    range = (-1.0, 1.0)
    calls = 0

    def __init__(self, config):
        super().__init__(config)
        self.do("init")

    def do(self, where):
        if where == {where!r}:
            {deed}

    def load(self, device):
        self.do("load")

    def score(self, images_BCHW, prompts):
        Deed.calls += 1
        if Deed.calls == 2:
            self.do("score")
        return images_BCHW.mean((1, 2, 3)).tanh()

class Method(FlatGRPO):
    '''Flat that does the same in one of its hooks.'''
    name = "deeds"
"""
HOOK = """
    def {where}(self, *given):
        {deed}
"""
GAUSSIAN = ("--workload", "gaussian", "--budget", "iterations=1", "--results", "runs")


def run_plugin(folder: Path, where: str, deed: str, *, apart: bool = False) -> tuple[int, str, str]:
    """A small run whose reward, or method, does `deed` in that hook: exit code, output and errors."""
    hooks = ("plan", "credit", "weights", "edge_loss", "log_ratio", "state_dict")
    text = PLUGIN.format(where=where, deed=deed) + (HOOK.format(where=where, deed=deed) if where in hooks else "")
    (folder / "deeds.py").write_text(text, encoding="utf-8")
    words = ["run", "--plugin", str(folder / "deeds.py"), "--reward", "deed", "--method", "deeds", *GAUSSIAN[:-1]]
    done = cli(*words, str(folder / "runs"), cwd=folder) if apart else cli_here(*words, str(folder / "runs"))
    return done.returncode, " ".join(done.stdout.split()), done.stderr


@pytest.mark.parametrize("deed", ["sys.exit(0)", "raise RuntimeError('boom \\x1b[31m')"])
@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("score", "reward 'deed'"),
        ("load", "reward 'deed'"),
        ("credit", "method 'deeds'"),
        ("log_ratio", "method 'deeds'"),
        ("state_dict", "method 'deeds'"),
    ],
)
def test_a_run_that_a_plugin_fails_says_which_and_keeps_the_traceback(
    tmp_path: Path, where: str, named: str, deed: str
) -> None:
    code, out, err = run_plugin(tmp_path, where, deed)

    assert code == 1
    assert f"failed: {named} failed: " in out
    assert "Traceback" not in out + err
    assert "\x1b" not in out + err
    (folder,) = (tmp_path / "runs").iterdir()
    assert RunStore(folder).record.status == "failed"
    assert named in RunStore(folder).record.reason
    assert "deeds.py" in (folder / "run.log").read_text(encoding="utf-8").partition("Traceback")[2]


@pytest.mark.parametrize(("where", "named"), [("init", "reward 'deed'"), ("plan", "method 'deeds'")])
def test_a_plugin_that_fails_before_there_is_a_run_leaves_none(tmp_path: Path, where: str, named: str) -> None:
    code, out, err = run_plugin(tmp_path, where, "sys.exit(0)")

    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(f"grpo-bench: {named} failed: SystemExit: 0")
    assert not (tmp_path / "runs").exists()


def test_an_interrupt_that_a_reward_raises_is_told_where_it_came_from(tmp_path: Path) -> None:
    code, out, _ = run_plugin(tmp_path, "score", "raise KeyboardInterrupt")

    assert code == 130
    assert "interrupted: stopped by an interrupt in reward 'deed'" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "deed", "named"),
    [
        ("score", "os._exit(0)", "reward 'deed'"),
        ("score", "os.kill(os.getpid(), signal.SIGKILL)", "reward 'deed'"),
        ("plan", "os._exit(0)", "method 'deeds'"),
        ("edge_loss", "os._exit(0)", "method 'deeds'"),
    ],
)
def test_a_run_whose_process_a_plugin_ends_is_no_success(tmp_path: Path, where: str, deed: str, named: str) -> None:
    code, out, err = run_plugin(tmp_path, where, deed, apart=True)

    assert code in (1, 137)
    assert f"in {named}" in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("returned", ["None", "'words'", "images_BCHW", "images_BCHW[:1, 0, 0, 0]"])
def test_a_run_with_a_reward_of_no_numbers_is_refused_and_leaves_nothing(tmp_path: Path, returned: str) -> None:
    text = PLUGIN.format(where="", deed="pass").replace("images_BCHW.mean((1, 2, 3)).tanh()", returned)
    (tmp_path / "deeds.py").write_text(text, encoding="utf-8")

    plugin, results = str(tmp_path / "deeds.py"), str(tmp_path / "runs")
    done = cli_here("run", "--plugin", plugin, "--reward", "deed", *GAUSSIAN[:-1], results)

    assert "reward 'deed' returned" in sentence(done)
    assert not list(Path(results).iterdir())

"""Runs whose reward is computed in another process: the documentation's example, and a worker that dies on the way."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from running import ROOT, arguments, cli_here, sentence, settings, write_prompts
from thrift import thrifty

from grpo_bench import IsolatedReward, WorkerConfig
from grpo_bench.registry import REWARDS
from grpo_bench.store.run import RunStore

DOCUMENT = (ROOT / "docs" / "isolated-rewards.md").read_text(encoding="utf-8")
PLUGIN, SCORER = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
MORTAL = """
import os
from pathlib import Path

import numpy as np


def load(settings):
    calls = 0

    def score(images, prompts):
        nonlocal calls
        calls += 1
        flag = Path({flag!r})
        if calls > 3 and flag.exists():
            print("out of cheese")
            {death}
        return images.mean(axis=(1, 2, 3))

    return score
"""


def flags(folder: Path, tiny_model: Path, **reward: object) -> list[str]:
    """A small run on the reward `sharp` of the plugin in `folder`, which this very interpreter scores."""
    table = settings(tiny_model, write_prompts(folder), reward={"name": "sharp", "sharp": reward})
    return ["run", "--quiet", "--plugin", str(folder / "sharp.py"), *arguments(table)]


def write(folder: Path, scorer: str = SCORER) -> None:
    (folder / "sharp.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "sharp_scorer.py").write_text(scorer, encoding="utf-8")


def test_the_example_of_the_documentation_is_twenty_lines_and_runs(tmp_path: Path, tiny_model: Path) -> None:
    # given the two files as the document has them, and this interpreter as the other environment
    assert sum(bool(line.strip()) for line in (PLUGIN + SCORER).splitlines()) <= 20
    write(tmp_path)

    # when a run is trained on it
    done = cli_here(*flags(tmp_path, tiny_model, python=sys.executable, batch=3))

    # then it is done, and its scores are stored: of random pictures, so neither flat nor beyond 8 bits
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    rows = RunStore.open(row["run"], tmp_path / "results").rows()
    assert len(rows) > 1
    assert all(0 < row["reward/sharp"] < 255 for row in rows)


def test_without_an_interpreter_the_run_says_how_to_give_one(tmp_path: Path, tiny_model: Path) -> None:
    write(tmp_path)

    said = sentence(cli_here(*flags(tmp_path, tiny_model)))

    assert "give it with --set reward.sharp.python=FILE" in said
    assert not list((tmp_path / "results").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("death", "limit", "reason"),
    thrifty(
        [
            ("os.kill(os.getpid(), 9)", 30.0, "was killed by SIGKILL (it wrote last: out of cheese)"),
            ("import time; time.sleep(600)", 1.0, "did not score a batch within 1 s"),
            ("return [1.0]", 30.0, "gave 1 scores for 4 images"),
        ],
        0,
    ),
)
def test_a_run_whose_worker_fails_is_failed_and_can_be_finished(
    tmp_path: Path, tiny_model: Path, death: str, limit: float, reason: str
) -> None:
    # given a scorer that fails at its fourth batch, as long as a file is there
    flag = tmp_path / "flag"
    flag.touch()
    write(tmp_path, MORTAL.format(flag=str(flag), death=death))
    start = flags(tmp_path, tiny_model, python=sys.executable, batch_timeout=limit)

    # when it is run, then the run is failed, with the reason, and the exit code says so
    done = cli_here(*start)
    assert done.returncode == 1, done.stderr
    failed = json.loads(done.stdout)
    assert failed["status"] == "failed"
    assert reason in failed["reason"] and failed["reason"].startswith("the worker of reward 'sharp' ")

    # and when what made it fail is gone, resume finishes it
    flag.unlink()
    resumed = cli_here("run", "--quiet", "--plugin", str(tmp_path / "sharp.py"), "--resume", failed["run"])
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["status"] == "done"


def test_settings_reach_the_scorer_and_nothing_else_does(tmp_path: Path) -> None:
    # given a reward with a setting of its own
    class Weighted(WorkerConfig):
        factor: float = 1.0

    class Bright(IsolatedReward[Weighted]):
        name = "bright"
        range = (0.0, 255.0)
        Config = Weighted
        script = str(tmp_path / "scorer.py")

        def settings(self, device: str) -> dict[str, object]:
            return {"factor": self.config.factor, "device": device}

    (tmp_path / "scorer.py").write_text(
        "def load(settings):\n"
        "    assert settings == {'factor': 2.5, 'device': 'cpu'}, settings\n"
        "    return lambda images, prompts: images.mean(axis=(1, 2, 3)) * settings['factor']\n",
        encoding="utf-8",
    )
    reward = Bright(Weighted(python=sys.executable, factor=2.5, batch=2))

    # when it judges more images than a batch holds; 0.3 is 76.5 of 255, which rounds to the even 76
    images_BCHW = torch.tensor([0.0, 1.0, 0.3]).reshape(3, 1, 1, 1).expand(3, 3, 2, 2)
    scores = reward.judge(images_BCHW, ["a", "b", "c"])["bright"]

    # then every image has its score
    assert scores.tolist() == [0.0, 637.5, 190.0]
    assert "bright" not in REWARDS.names()

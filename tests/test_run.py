"""One run: its id, its folder, its stored result, and the ways in which it can end."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Make, Watcher, run, same_points
from safetensors.torch import load_file

from grpo_bench.config import RunConfig, validated
from grpo_bench.errors import UserError
from grpo_bench.evaluation.compare import compare
from grpo_bench.registry import METHODS, REWARDS, load_plugin
from grpo_bench.store.run import run_names
from grpo_bench.training.prepare import pick_device
from grpo_bench.training.run import resume, stored_config
from grpo_bench.training.session import load_policy
from grpo_bench.workloads.prompts import read_prompts

METHOD = '''
import numpy as np
from grpo_bench import Credit, Method, chains, leaf_credit


class Mine(Method):
    """A pair of chains whose credit is {change}."""

    name = "mine"

    def plan(self, iteration, rng, schedule):
        stochastic = np.arange(schedule.steps) < schedule.steps - 1
        return chains(schedule.sigmas, 2, stochastic)

    def credit(self, rollout):
        credit = leaf_credit(rollout, std="group", eps=0.0)
        return Credit({change}, credit.group_NP)
'''
REWARD = '''
import torch
from grpo_bench import Reward


class Mine(Reward):
    """Mean brightness, until it is called for the {calls}th time."""

    name = "mine"
    range = (0.0, 1.0)
    calls = 0

    def score(self, images_BCHW, prompts):
        self.calls += 1
        score = images_BCHW.mean(dim=(1, 2, 3))
        if self.calls >= {calls}:
            {then}
        return score
'''


@pytest.fixture(autouse=True)
def no_plugins_left() -> Iterator[None]:
    """Plugins of one test are unknown to the next."""
    yield
    METHODS._plugins.clear()
    REWARDS._plugins.clear()


def plugin(folder: Path, source: str) -> None:
    """Load a plugin written for this test, in place of an earlier one."""
    METHODS._plugins.clear()
    (folder / "mine.py").write_text(source, encoding="utf-8")
    load_plugin(str(folder / "mine.py"))


def test_a_run_is_one_folder(make: Make, results: Path) -> None:
    watcher = Watcher()
    done = run(make(), results, watcher)

    assert run_names(results) == [done.record.run] == watcher.runs
    folder = results / done.record.run
    assert {item.name for item in folder.iterdir()} - {"run.lock"} == {
        "config.toml", "run.json", "points.parquet", "prompt_scores.parquet", "run.log", "images", "checkpoint",
    }  # fmt: skip
    assert [row["iteration"] for row in watcher.rows] == [row["iteration"] for row in done.store.rows()]
    assert (folder / "run.log").read_text(encoding="utf-8").count("iteration ") >= 3


def test_a_record_says_what_was_run(make: Make, results: Path, tiny_model: Path) -> None:
    record = run(make(), results).record

    assert record.run.startswith("prompts-flat-s0-")
    assert (record.status, record.reason, record.method, record.workload) == ("done", "", "flat", "prompts")
    assert (record.reward, record.seed, record.gold_is_proxy) == ("jpeg-compressibility", 0, True)
    assert set(record.hashes) >= {"method", "prompts", "weights"} and record.versions
    assert record.finished is not None and record.started is not None and record.finished >= record.started


def test_the_stored_config_is_resolved_and_reproduces_the_run(make: Make, tmp_path: Path) -> None:
    # given a run, whose config is complete: the method's defaults are written out
    first = run(make(), tmp_path / "first")
    table = tomllib.loads(first.store.config_toml())
    assert {"group", "train_fraction", "std"} <= table["method"].keys()

    # when it is read back and run elsewhere
    second = run(validated(RunConfig, table), tmp_path / "second")

    # then it is the same run
    assert second.record.run == first.record.run
    same_points(first.store, second.store)


def test_a_finished_run_is_found_and_not_run_again(make: Make, results: Path) -> None:
    first = run(make(), results)
    watcher = Watcher()

    second = run(make(), results, watcher)

    assert (first.fresh, second.fresh) == (True, False)
    assert second.record == first.record and not watcher.iterations
    assert resume(first.store, watcher).fresh is False


@pytest.mark.slow
def test_again_runs_it_anew(make: Make, results: Path) -> None:
    first = run(make(), results)
    watcher = Watcher()

    second = run(make(), results, watcher, again=True)

    assert second.fresh and len(watcher.iterations) == 3
    assert second.record.run == first.record.run and second.record.started > first.record.started
    assert run_names(results) == [first.record.run]


def test_the_id_depends_on_all_that_matters(make: Make, results: Path, tmp_path: Path) -> None:
    # given the same run with one thing changed each time
    short = {"budget": {"iterations": 1.0}}
    ids = [
        run(make(**short), results).record.run,
        run(make(**short, seed=1), results).record.run,
        run(make(**short, training={"learning_rate": 2e-3}), results).record.run,
        run(make(**short, method={"name": "flat", "group": 3}), results).record.run,
        run(make(**short, method={"name": "flat", "group": 2, "std_eps": 1e-4}), results).record.run,
    ]

    # then no two share an id, while a default that is written out changes nothing
    assert len(set(ids)) == len(ids)
    explicit = run(make(**short, method={"name": "flat", "group": 2, "std_eps": 0.0}), results)
    assert (explicit.record.run, explicit.fresh) == (ids[0], False)


@pytest.mark.slow
def test_the_id_depends_on_prompts_and_weights(make: Make, results: Path, tmp_path: Path) -> None:
    from tiny import make as make_model

    # given a model and a prompt file, run before and after either is changed in place
    model = tmp_path / "model"
    make_model(model)
    chosen = make(model={"path": str(model)}, budget={"iterations": 1.0})
    before = run(chosen, results).record
    make_model(model, seed=1)
    other_weights = run(chosen, results).record
    file = Path(chosen.prompts.path)
    file.write_text(file.read_text(encoding="utf-8") + "one more\n", encoding="utf-8")
    other_prompts = run(chosen, results).record

    # then each is another run, and says what changed
    assert len({before.run, other_weights.run, other_prompts.run}) == 3
    assert before.hashes["weights"] != other_weights.hashes["weights"] == other_prompts.hashes["weights"]
    assert before.hashes["prompts"] == other_weights.hashes["prompts"] != other_prompts.hashes["prompts"]


def test_the_id_depends_on_the_methods_source_and_a_changed_one_is_not_resumed(
    make: Make, results: Path, tmp_path: Path
) -> None:
    # given a plugin's run, interrupted
    chosen = make(method={"name": "mine"})
    plugin(tmp_path, METHOD.format(change="credit.advantage_NP"))
    first = run(chosen, results, Watcher(stop_after=1))
    assert first.record.status == "interrupted"

    # when its source changes
    plugin(tmp_path, METHOD.format(change="credit.advantage_NP * 2"))

    # then going on is refused in one sentence, and running it starts another run
    with pytest.raises(UserError, match="cannot be resumed: the source of its method has changed"):
        resume(first.store, Watcher())
    assert run(chosen, results).record.run != first.record.run


def test_long_names_keep_the_whole_hash(make: Make, results: Path, tmp_path: Path) -> None:
    # given a method whose name fills a run's id
    name = "m" * 64
    plugin(tmp_path, METHOD.format(change="credit.advantage_NP").replace('"mine"', f'"{name}"'))

    ids = {
        run(make(method={"name": name}, budget={"iterations": 1.0}, seed=seed), results).record.run for seed in (0, 1)
    }

    assert len(ids) == 2 and all(len(run) <= 64 for run in ids)


@pytest.mark.parametrize(
    ("calls", "points"), [(1, 0), (4, 1)], ids=["at the first evaluation", "in the third iteration"]
)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_nan_out_of_the_reward_ends_the_run_as_diverged(
    make: Make, results: Path, tmp_path: Path, calls: int, points: int, value: str
) -> None:
    # given a reward whose call of that number (the base's evaluation is the first) has one bad score
    plugin(tmp_path, REWARD.format(calls=calls, then=f"score[1] = float('{value}')"))
    chosen = make(reward={"name": "mine"}, training={"checkpoint_every": 1}, budget={"iterations": 9.0})

    done = run(chosen, results)

    # then the run says so in a sentence, and keeps its points and the checkpoint of the last good iteration
    assert done.record.status == "diverged"
    assert done.record.reason.startswith(f"reward 'mine' gave {value} for image 1 of 4")
    assert "\n" not in done.record.reason
    assert len(done.store.rows()) == points
    kept = done.store.checkpoints.latest()
    assert (kept.iteration if kept else None) == (2 if points else None)
    # and the same run asked for again is the stored one: it would diverge again
    again = run(chosen, results)
    assert (again.fresh, again.record) == (False, done.record)


@pytest.mark.parametrize(
    "source",
    [
        METHOD.format(change="credit.advantage_NP * float('nan')"),
        METHOD.format(change="credit.advantage_NP") + "\n    def weights(self, forest, schedule):\n"
        "        return np.full(forest.nodes, np.inf)\n",
        METHOD.format(change="credit.advantage_NP") + "\n    def edge_loss(self, batch):\n"
        "        return batch.logp * float('nan')\n",
    ],
    ids=["credit", "weights", "loss"],
)
def test_a_nan_out_of_the_method_ends_the_run_as_diverged(
    make: Make, results: Path, tmp_path: Path, source: str
) -> None:
    plugin(tmp_path, source)

    done = run(make(method={"name": "mine"}), results)

    assert (done.record.status, len(done.store.rows())) == ("diverged", 1)
    assert "iteration" in done.record.reason or "credit" in done.record.reason


@pytest.mark.parametrize("learning_rate", [1e9, 1e30])
def test_a_policy_that_blows_up_ends_the_run_and_the_kept_one_still_draws(
    make: Make, results: Path, learning_rate: float
) -> None:
    # given a learning rate that no network survives, and a checkpoint after every iteration
    chosen = make(training={"learning_rate": learning_rate, "checkpoint_every": 1}, budget={"iterations": 20.0})

    done = run(chosen, results)

    assert done.record.status == "diverged" and "\n" not in done.record.reason
    kept = done.store.checkpoints.latest()
    assert kept is not None and kept.iteration == 0
    images = compare(done.store, chosen, load_policy(chosen, pick_device()), ("a",), images=1, seed=0)
    assert images[0].shape == images[1].shape == (1, 1, 32, 32, 3)
    for file in (kept.path / "transformer").glob("*.safetensors"):
        assert all(bool(weight.isfinite().all()) for weight in load_file(file).values())


def test_out_of_memory_ends_the_run_as_failed(make: Make, results: Path, tmp_path: Path) -> None:
    plugin(tmp_path, REWARD.format(calls=3, then="raise MemoryError"))

    done = run(make(reward={"name": "mine"}), results)

    assert done.record.status == "failed"
    assert done.record.reason.startswith("out of memory (MemoryError") and len(done.store.rows()) == 1


def test_a_bug_in_a_plugin_is_recorded_and_not_swallowed(make: Make, results: Path, tmp_path: Path) -> None:
    plugin(tmp_path, REWARD.format(calls=3, then="score = 1 / 0"))
    chosen = make(reward={"name": "mine"})

    outcome = run(chosen, results)

    assert outcome.record.status == "failed"
    assert outcome.record.reason.startswith("reward 'mine' failed: ZeroDivisionError: division by zero (")
    assert "Traceback" in outcome.store.run_log.read_text(encoding="utf-8")


def test_a_reward_of_the_wrong_shape_is_refused_and_leaves_no_run(make: Make, results: Path, tmp_path: Path) -> None:
    plugin(tmp_path, REWARD.format(calls=1, then="score = score[:1]"))

    with pytest.raises(UserError, match=r"returned scores of shape \(1,\) for 4 images; return \(4,\)"):
        run(make(reward={"name": "mine"}), results)
    assert run_names(results) == []


def test_credit_of_the_wrong_shape_is_refused(make: Make, results: Path, tmp_path: Path) -> None:
    plugin(tmp_path, METHOD.format(change="credit.advantage_NP[:, :1]"))

    with pytest.raises(UserError, match="the method's credit has the shape"):
        run(make(method={"name": "mine"}), results)


def test_what_is_drawn_is_kept_as_it_is_even_if_hostile(make: Make, results: Path) -> None:
    # given held-out prompts that would steer a terminal
    chosen = make(budget={"iterations": 1.0})
    hostile = ["\x1b[2Jgone", "[bold]loud[/bold]"]
    Path(chosen.prompts.path).write_text("".join(f"{i}\n" for i in range(18)) + "\n".join(hostile), encoding="utf-8")
    assert read_prompts(Path(chosen.prompts.path))["heldout"] == tuple(hostile)

    done = run(chosen, results)

    assert done.store.load_prompts() == hostile
    assert stored_config(done.store).prompts == chosen.prompts
    assert "\x1b" not in done.store.run_log.read_text(encoding="utf-8")

"""Several processes share a run, and it is the run that one of them makes: counts exactly, numbers up to rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from golden_runs import golden_config
from running import ROOT, Make, Watcher, environment, run
from safetensors.torch import load_file

from grpo_bench.config import RunConfig, build
from grpo_bench.errors import Diverged, UserError
from grpo_bench.metering.ledger import Ledger
from grpo_bench.store.run import RunStore
from grpo_bench.training.ranks import ALONE, Ranks
from grpo_bench.training.run import stored_config

TWO = [Ranks(0, 2), Ranks(1, 2)]


def changed(config: RunConfig, **over: object) -> RunConfig:
    return build([("golden", config.model_dump(exclude_none=True)), ("test", over)])


def by_two(configs: list[RunConfig], folder: Path) -> list[RunStore]:
    """Carried out by two processes over gloo."""
    paths = []
    for number, config in enumerate(configs):
        paths.append(folder / f"{number}.toml")
        paths[-1].write_text(config.to_toml(), encoding="utf-8")
    results = folder / "two"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(ROOT / "tests" / "take_part.py"), str(results), *map(str, paths)],
        env=environment(GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1", GRPO_BENCH_RESULTS=str(results)),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stores = [RunStore(item) for item in results.iterdir() if (item / "run.json").exists()]
    return sorted(stores, key=lambda store: store.record.run)


def weights(store: RunStore) -> dict[str, torch.Tensor]:
    checkpoint = store.checkpoints.latest()
    assert checkpoint is not None
    files = sorted(checkpoint.path.glob("*/*.safetensors"))
    return {f"{file.name}/{name}": value for file in files for name, value in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_make_the_run_that_one_makes(tmp_path: Path) -> None:
    """Three updates of tree (exact moments and pictures), branch (credit from log-probs) and nft (forward draws)."""
    names = ["gaussian/tree", "shapes/tree", "gaussian/branch", "gaussian/nft"]
    single = {"budget": {"iterations": 3.0}, "training": {"updates": 1, "prompts": 4}, "evaluation": {"prompts": 3}}
    configs = [changed(golden_config(name, tmp_path), **single) for name in names]
    alone = sorted((run(config, tmp_path / "one").store for config in configs), key=lambda store: store.record.run)
    together = by_two(configs, tmp_path)

    # one id, whatever the world
    assert [store.record.run for store in together] == [store.record.run for store in alone]
    assert [store.record.status for store in together] == ["done"] * len(names)
    for one, two in zip(alone, together, strict=True):
        left, right = one.points(), two.points()
        assert list(left) == list(right)
        counted = [name for name in left if pd.api.types.is_integer_dtype(left[name]) and name != "peak_memory_bytes"]
        assert {"nfe", "rollout_nfe", "train_nfe", "eval_nfe", "reward_calls", "updates", "images"} <= set(counted)
        for name in set(counted) - {"setup_nfe"}:  # what a rank warms up with is its own
            assert left[name].tolist() == right[name].tolist(), (one.record.run, name)
        for name in left:
            if name.startswith("reward/") or name in {"proxy", "gold", "base_distance", "credit_scale", "clipped"}:
                # before an update all is alike; after three, a picture's rounding to 8 bits may fall the other way
                np.testing.assert_allclose(right[name][:1], left[name][:1], rtol=1e-5, atol=1e-5, err_msg=name)
                close = 1e-5 if one.record.workload == "gaussian" else 1e-4
                np.testing.assert_allclose(right[name], left[name], rtol=close, atol=close, err_msg=name)
        off = torch.cat([(weights(two)[name] - value).abs().flatten() for name, value in weights(one).items()])
        whole = torch.cat([value.flatten() for value in weights(one).values()])
        assert float(off.norm() / whole.norm()) < 1e-6
        # AdamW magnifies rounding where a gradient is near its epsilon: single weights are off by a part of one step
        assert float((off > 1e-6).float().mean()) < 1e-3
        assert float(off.max()) < stored_config(one).training.learning_rate


def test_prompts_that_ranks_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="do not divide by them"):
        Ranks(0, 4).check(6, 2, 8)
    with pytest.raises(UserError, match=r"there are 2; raise evaluation\.prompts"):
        Ranks(0, 3).check(6, 2, 2)
    Ranks(1, 3).check(6, 2, 3)
    ALONE.check(5, 2, 1)


class Alike(Ranks):
    """A rank whose neighbour did and counted exactly the same."""

    def sum(self, counts: list[int]) -> list[int]:  # type: ignore[override]
        return [2 * count for count in counts]


def test_a_weight_that_no_rank_used_keeps_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW leaves a weight without gradient alone, and moves one whose gradient is zero."""
    monkeypatch.setattr("torch.distributed.all_reduce", lambda gradient: gradient.mul_(2))
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    used.sum().backward()
    Alike(0, 2).add_gradients([used, unused])
    assert used.grad is not None and used.grad.tolist() == [2.0, 2.0]
    assert unused.grad is None


def test_every_prompt_belongs_to_one_rank() -> None:
    place = np.arange(7)
    shares = [rank.share(place) for rank in TWO]
    assert sorted(np.concatenate(shares).tolist()) == place.tolist()
    assert [len(share) for share in shares] == [4, 3]


def test_alone_there_is_nobody_to_ask() -> None:
    table = np.arange(6.0).reshape(3, 2)
    assert ALONE.rows(table, np.arange(3), 3) is table
    assert ALONE.columns(table, np.arange(2), 2) is table
    assert (ALONE.sum([3, 4]), ALONE.most([1.5]), ALONE.total(2.5)) == ([3, 4], [1.5], 2.5)
    assert ALONE.any(True) and not ALONE.any(False) and ALONE.first


class Beside(Ranks):
    """A rank whose neighbour has counted ten of everything, and taken a second longer."""

    def sum(self, counts: list[int]) -> list[int]:  # type: ignore[override]
        return [count + 10 for count in counts]

    def most(self, values: list[float]) -> list[float]:  # type: ignore[override]
        return [value + 1 for value in values]


def test_a_ledger_is_the_whole_runs_after_each_iteration() -> None:
    ledger = Ledger()
    ledger.charge("rollout", 5)
    before = ledger.state_dict()
    ledger.charge("rollout", 7)
    ledger.charge("setup", 3)
    ledger.count("images", 2)
    ledger.count("updates")
    ledger.count_reward("gold", 2)
    ledger.merge(before, Beside(0, 2))
    assert ledger.evaluations("rollout") == 5 + 7 + 10
    assert ledger.evaluations("setup") == 3
    row = ledger.row()
    assert (row["images"], row["updates"], row["reward_calls"], row["train_nfe"]) == (12, 1, 12, 10)
    assert row["rollout_seconds"] == 1


class Failing(Ranks):
    """A rank whose neighbour has failed."""

    def sum(self, counts: list[int]) -> list[int]:  # type: ignore[override]
        return [1]


def test_a_rank_does_not_wait_for_one_that_failed() -> None:
    with pytest.raises(Diverged, match="another rank"), Failing(0, 2).together():
        pass


def test_the_environment_of_a_launcher_is_not_guessed(
    monkeypatch: pytest.MonkeyPatch, make: Make, results: Path
) -> None:
    """A cluster that sets WORLD_SIZE has not started ranks of this run."""
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "8")
    assert run(make(budget={"iterations": 1.0}), results, Watcher()).record.status == "done"

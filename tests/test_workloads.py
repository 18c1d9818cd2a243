"""The shipped picture workloads: their models are those of their cards, their prompts disjoint, and they learn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from running import Watcher

from grpo_bench.config import build
from grpo_bench.errors import UserError
from grpo_bench.registry import WORKLOADS
from grpo_bench.resolve import flags, resolve
from grpo_bench.training.planning import check_plan, make_method
from grpo_bench.training.prepare import judges
from grpo_bench.training.run import start
from grpo_bench.training.session import load_policy
from grpo_bench.workloads.pretraining.folder import load, save, weights_sha256
from grpo_bench.workloads.shapes_sd.workload import ShapesSDWorkload

NAMES = ("shapes", "count", "glyphs")


def folder(name: str) -> Path:
    return Path(WORKLOADS.get(name)().model(resolve(flags(workload=name), None, None, [])))


def card(name: str) -> dict[str, float]:
    read: dict[str, float] = json.loads((folder(name) / "card.json").read_text(encoding="utf-8"))
    return read


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_weights_are_those_of_the_card(name: str) -> None:
    assert weights_sha256(folder(name)) == card(name)["sha256"]
    readme = (folder(name) / "README.md").read_text(encoding="utf-8")
    assert str(card(name)["sha256"]) in readme
    assert f"| ceiling | {card(name)['ceiling']} |" in readme


@pytest.mark.parametrize("name", NAMES)
def test_no_shipped_model_says_where_it_was_made(name: str) -> None:
    configs = [path.read_text(encoding="utf-8") for path in folder(name).rglob("*.json")]
    assert configs and not any("_name_or_path" in config for config in configs)


def test_a_part_that_was_loaded_is_saved_without_its_place(tmp_path: Path) -> None:
    save(load(folder("shapes")), tmp_path / "model")

    for part in ("vae", "transformer", "text_encoder"):
        assert "_name_or_path" not in json.loads((tmp_path / "model" / part / "config.json").read_text("utf-8"))


def test_the_shipped_models_are_small_together() -> None:
    files = [path for name in NAMES for path in folder(name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20e6  # the wheel's 24 MB hold 2 MB of shapes-pref, and code


@pytest.mark.parametrize("name", NAMES)
def test_the_splits_share_no_prompt_and_give_64_and_30(name: str) -> None:
    parts = WORKLOADS.get(name)().prompts(resolve(flags(workload=name), None, None, []))
    prompts = [prompt for part in parts.values() for prompt in part]
    assert len(set(prompts)) == len(prompts)
    assert len(parts["heldout"]) + len(parts.get("tuning", ())) == 94


@pytest.mark.parametrize("name", NAMES)
def test_the_policy_tells_all_prompts_apart_and_draws_what_the_judge_takes(name: str) -> None:
    config = resolve(flags(workload=name), None, None, [])
    policy, rewards = load_policy(config, torch.device("cpu")), judges(config)
    parts = WORKLOADS.get(name)().prompts(config)
    prompts = [prompt for part in parts.values() for prompt in part]
    assert len({reading.tokens for reading in policy.read(prompts)}) == len(prompts)
    images = policy.decode(torch.zeros(2, *policy.latent_shape))
    assert images.shape == (2, 3, 32, 32)
    for reward in rewards.values():
        for score in reward.judge(images, prompts[:2]).values():
            assert score.shape == (2,)


def test_only_the_replication_replicates() -> None:
    assert {WORKLOADS.get(name).replicates for name in NAMES} == {""}
    assert ShapesSDWorkload.replicates == "shapes"


def test_a_method_on_the_forward_process_is_refused_where_the_model_predicts_noise() -> None:
    config = build([("workload", ShapesSDWorkload.defaults), ("method", {"method": {"name": "nft"}})])
    with pytest.raises(UserError, match="noises images along a flow"):
        check_plan(config, make_method(config))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_glyphs_learns(tmp_path: Path) -> None:
    config = resolve(
        flags(workload="glyphs", method="mix"),
        None,
        None,
        [
            "budget.nfe=16000",
            "evaluation.every=16000",
            "evaluation.prompts=32",
            "evaluation.images=4",
        ],
    )
    watcher = Watcher()
    start(config, tmp_path, watcher)
    gold = [row["gold"] for row in watcher.rows]
    assert gold[-1] > gold[0], gold

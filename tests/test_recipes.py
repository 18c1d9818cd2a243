"""The shipped recipes: every value has a source and is the released one, and forests cost what papers' do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import numpy as np
import pytest
from running import ROOT, cli_here, sentence

from grpo_bench.config import RunConfig, Table, read_toml, recipes
from grpo_bench.errors import UserError
from grpo_bench.forest.forest import Forest
from grpo_bench.registry import METHODS, WORKLOADS
from grpo_bench.resolve import flags, resolve
from grpo_bench.training.planning import check_plan, declared, drawn, draws_of, make_method, plan_forest, plan_schedule

FOLDER = ROOT / "suites" / "recipes"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
PAPERS = [name for name in NAMES if name != "controlled"]

# Hand counts a prompt at iteration 0: rollout evaluations, training evaluations, trained edges, images. A chain of T
# steps costs T evaluations; children share their parent's, so a shared root is one evaluation instead of a group.
COUNTS = {
    "flow-grpo": (24 * 10, 24 * 9, 24 * 9, 24),
    "flow-grpo-pickscore": (24 * 10, 24 * 9, 24 * 9, 24),
    "flow-grpo-fast": (24 * 10, 24 * 3, 24 * 3, 24),
    "dancegrpo": (1 + 12 * 15, None, 12 * 9, 12),  # which chains train the shared root is drawn
    "dancegrpo-sd": (1 + 16 * 49, 1 + 16 * 48, 16 * 49, 16),
    "mixgrpo": (1 + 12 * 24, 1 + 12 * 3, 12 * 4, 12),
    "mixgrpo-cps": (1 + 12 * 24, 1 + 12 * 3, 12 * 4, 12),
    "mixgrpo-sd35": (1 + 24 * 9, 1 + 24 * 3, 24 * 4, 24),
    "treegrpo": (None, 1 + 3 + 9, 3 + 9 + 27, 27),  # the window's start is drawn
    "treegrpo-code": (1 + 2 + 4 + 8 + 6 * 16, 1 + 2 + 4 + 8, 2 + 4 + 8 + 16, 16),
    # 1, 2 2 2, 4 4 4, 8 8 8, then 16 nodes at each of ten steps; the last step is ODE and not trained.
    "branchgrpo": (203, 203 - 16, 218 - 16, 16),
    "branchgrpo-width": (203, 203 - 16, 218 - 16, 16),  # width is pruned after the rewards
    "branchgrpo-extreme": (203, 203 - 16, 218 - 16, 16),
    "branchgrpo-depth": (203, 187 - 8 - 4 * 16, 202 - 5 * 16, 16),
    "branch-paper": (203, 203 - 8 - 4 * 16, 138, 16),
    "branchgrpo-mix": (203, 1 + 2 + 2 + 2 + 4 + 8, 2 + 2 + 2 + 4 + 8 + 16, 16),
    # A trunk: 9 steps of its own, and 6 children at each of steps 0 to 8, finished in 9, 8, ... 1 steps.
    "tempflow": (4 * (9 + 6 * 45), 4 * 9, 4 * 6 * 9, 4 * 6 * 9),
    "ddpo": (50, 50, 50, 1),
    "grpo-guard": (24 * 10, 24 * 9, 24 * 9, 24),
    "diffusion-nft": (24 * 10, 24 * 9, 0, 24),  # a forward draw is a training evaluation, and no edge
    "diffusion-nft-ocr": (24 * 10, 24 * 9, 0, 24),
}

# Recipes that are another one but for a few values, with those values' keys.
VARIANTS = {
    "flow-grpo-pickscore": ("flow-grpo", {"objective.beta"}),
    "mixgrpo-cps": ("mixgrpo", {"sampling.kernel", "sampling.noise", "objective.logprob_scale"}),
    "branchgrpo-width": ("branchgrpo", {"method.prune_width"}),
    "branchgrpo-extreme": ("branchgrpo", {"method.prune_width"}),
    "branchgrpo-depth": (
        "branchgrpo",
        {"method.prune_depth", "method.prune_every", "method.fusion", "method.fusion_beta"},
    ),
    "branch-paper": ("branchgrpo-depth", {"sampling.train_last"}),
    "diffusion-nft-ocr": (
        "diffusion-nft",
        {"method.beta", "method.behaviour_rate", "method.behaviour_cap", "method.behaviour_delay", "training.updates"},
    ),
}


RELEASED = read_toml(ROOT / "tests" / "fixtures" / "released.toml")
NUMBER = re.compile(r"(?<![\w.])\d+\.?\d*(?:e-?\d+)?", re.IGNORECASE)


def released(name: str) -> dict[str, list[object]]:
    """What `fixtures/released.toml` states of recipe `name`, the recipe that it is `like` included."""
    table = RELEASED[name]
    assert isinstance(table, Mapping)
    found = released(str(table["like"])) if "like" in table else {}
    for key, entry in table.items():
        if isinstance(entry, list):
            found[key] = entry
        elif entry is False:
            found.pop(key)
    return found


def written(value: object, said: str) -> bool:
    """Whether a released line states the value: its numbers, or True or False."""
    if isinstance(value, bool):
        return str(value) in said
    numbers = [float(number) for number in NUMBER.findall(said)]
    return all(number in numbers for number in (value if isinstance(value, list) else [value]))


def resolved(name: str, *sets: str, method: str | None = None, workload: str = "prompts") -> RunConfig:
    """Recipe `name` on a workload, with a budget that one iteration cannot exceed."""
    return resolve(flags(budget="iterations=1", workload=workload, method=method), name, None, list(sets))


def forest(config: RunConfig, iteration: int = 0) -> Forest:
    return plan_forest(make_method(config), config.seed, iteration, plan_schedule(config))


def flat(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """A nested table as dotted keys."""
    found: dict[str, object] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def settings(name: str) -> dict[str, object]:
    return {key: value for key, value in flat(recipes()[name]).items() if not key.startswith("about.")}


def paper(name: str) -> object:
    return flat(recipes()[name])["about.paper"]


def own_method(name: str) -> str:
    return str(settings(name)["method.name"])


def test_the_list_is_what_is_shipped_in_alphabetical_order() -> None:
    assert list(recipes()) == NAMES
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) for name in NAMES)
    assert set(COUNTS) == set(PAPERS)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_whose_it_is_and_what_it_follows(name: str) -> None:
    about = recipes()[name]["about"]
    assert isinstance(about, Mapping) and set(about) == {"summary", "paper", "follows"}
    assert 10 <= len(about["summary"]) <= 60  # one line of `grpo-bench list recipes` where there is room
    if name == "controlled":
        assert (about["paper"], about["follows"]) == ("", "RULES.md")
    else:
        assert re.fullmatch(r"\d{4}\.\d{5}", about["paper"]) and about["follows"] in {"paper", "code"}


@pytest.mark.parametrize("name", NAMES)
def test_every_value_names_its_source(name: str) -> None:
    # given the file's text below the table that describes it
    lines = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    section, bare = "", []
    for line in lines:
        if line.startswith("["):
            section = line
        elif "=" in line and not line.startswith("#") and section != "[about]":
            value, _, source = line.partition(" # ")
            if not source.strip() and not value.startswith(("name =", "protocol =")):
                bare.append(line)

    assert bare == []
    # and the first lines name the paper
    assert name == "controlled" or f"arXiv {paper(name)}" in "\n".join(lines[: lines.index("")])
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", PAPERS)
def test_its_values_are_the_released_ones(name: str) -> None:
    own = {key: value for key, value in settings(name).items() if key not in ("protocol", "method.name")}

    assert {key: entry[0] for key, entry in released(name).items()} == own


@pytest.mark.parametrize("name", PAPERS)
def test_a_released_value_can_be_looked_up(name: str) -> None:
    # given each value with what is written where
    table = RELEASED[name]
    assert isinstance(table, Mapping) and table["source"] and table["confirmed"]
    for key, entry in table.items():
        if not isinstance(entry, list):
            continue
        value, said, where, *how = entry

        # then the value itself is written there, or it is said how it follows
        assert how or written(value, said), key
        # and the place is a file of the source, a paper, or another recipe that has the value too
        if where in RELEASED:
            assert released(where)[key][0] == value, key
        else:
            assert where.split(":")[0] in table.get("file", {}) or re.search(r"arXiv|README|Flow-GRPO", where), key


def test_the_table_of_released_values_has_all_recipes() -> None:
    assert sorted(RELEASED) == PAPERS


@pytest.mark.parametrize("name", PAPERS)
def test_it_resolves_whole_and_can_be_trained(name: str) -> None:
    config = resolved(name)

    cost = check_plan(config, make_method(config))

    assert (config.recipe, config.protocol, config.method.name) == (name, "paper", own_method(name))
    assert cost.train_nfe > 0
    # nothing of it is silently lost on the way
    known = flat(config.model_dump())
    assert {key: known[key] for key in settings(name)} == settings(name)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_its_forest_has_the_counts_of_its_paper(name: str) -> None:
    config = resolved(name)
    grown, method = forest(config), make_method(config)

    schedule, one = plan_schedule(config), np.ones((grown.nodes, 1), dtype=bool)
    forward_nfe = drawn(draws_of(method, schedule), grown, 1)
    cost = declared(grown, method, one, evaluations_T=np.ones(schedule.steps, dtype=np.int64), forward_nfe=forward_nfe)
    found = (cost.rollout_nfe, cost.train_nfe, cost.trained_edges, cost.images)

    assert [seen for seen, count in zip(found, COUNTS[name], strict=True) if count is not None] == [
        count for count in COUNTS[name] if count is not None
    ]


def test_branch_paper_has_the_published_counts() -> None:
    # BranchGRPO's table 1: 8.625 trained a leaf is 138 of 218 edges; 219 nodes are its 13.68 a sample.
    whole, pruned = forest(resolved("branch-paper", "method.prune_depth=0")), resolved("branch-paper")

    assert (whole.nodes, whole.trained_edges, whole.train_nfe) == (219, 218, 203)
    assert forest(pruned).trained_edges / 16 == 8.625
    # once the window has left the last split's own edges, each pruned depth spares 16 evaluations
    assert [forest(pruned, iteration).train_nfe for iteration in (0, 29, 30, 10_000)] == [131, 131, 123, 123]


def test_windows_are_where_their_papers_put_them() -> None:
    def start(name: str, iteration: int) -> int:
        grown = forest(resolved(name), iteration)
        return int(grown.depth_N[grown.trained_edges_E].min()) - 1

    assert [start("mixgrpo", k) for k in (0, 24, 25, 299)] == [0, 0, 1, 11]
    assert [start("mixgrpo-sd35", k) for k in (149, 150)] == [0, 1]
    assert [start("treegrpo-code", k) for k in (49, 50, 299)] == [0, 1, 5]
    assert {start("flow-grpo-fast", k) for k in range(40)} == {0, 1, 2}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_variant_differs_in_the_named_values_only(name: str) -> None:
    base, keys = VARIANTS[name]
    mine, theirs = settings(name), settings(base)

    assert {key for key in mine | theirs if mine.get(key) != theirs.get(key)} == keys


@pytest.mark.parametrize("name", NAMES)
def test_only_models_that_predict_noise_are_sampled_by_ddim(name: str) -> None:
    config = resolved(name)
    assert (config.model.policy == "sd") == (config.sampling.kernel == "ddim")


@pytest.mark.parametrize("name", PAPERS)
def test_plan_draws_it(name: str) -> None:
    done = cli_here("plan", own_method(name), "--recipe", name, "--json")

    assert (done.returncode, done.stderr) == (0, "")
    rollout, train, edges, images = COUNTS[name]
    plan = json.loads(done.stdout)
    assert (plan["trained_edges"], plan["images"]) == (edges, images)
    assert rollout in (None, plan["rollout_nfe"]) and train in (None, plan["train_nfe"])


def test_a_recipe_is_not_laid_under_another_method() -> None:
    said = "recipe 'mixgrpo' is for method 'mix', not 'flat'; drop the recipe or the method"

    assert sentence(cli_here("run", "--method", "flat", "--recipe", "mixgrpo")) == said
    assert sentence(cli_here("plan", "flat", "--set", "recipe=mixgrpo")) == said
    # its own method may be named beside it, and settings of it changed
    assert resolved("mixgrpo", "method.window=2", method="mix").method.settings["window"] == 2


def test_a_recipe_without_a_method_goes_with_any() -> None:
    for method in METHODS.names():
        config = resolved("controlled", method=method, workload="shapes")
        assert (config.method.name, config.method.settings, config.recipe) == (method, {}, "controlled")
        check_plan(config, make_method(config))


@pytest.mark.parametrize("workload", ["shapes", "prompts"])
def test_controlled_leaves_model_and_data_to_the_workload(workload: str) -> None:
    # given a workload with and without the recipe
    plain, controlled = resolved("", workload=workload), resolved("controlled", workload=workload)

    # then prompts, learning rate, guidance, model, budget and evaluation are the workload's
    assert controlled.model == plain.model and controlled.evaluation == plain.evaluation
    assert controlled.sampling.guidance == plain.sampling.guidance
    assert (controlled.training.prompts, controlled.training.learning_rate) == (
        plain.training.prompts,
        plain.training.learning_rate,
    )
    assert controlled.objective.clip is None
    assert {key for key in settings("controlled") if key in flat(WORKLOADS.get(workload).defaults)} == set()
    # and RULES.md's list of what is shared is set
    assert (controlled.protocol, controlled.training.updates, controlled.training.ema_decay) == ("controlled", 2, 0.0)
    assert (controlled.sampling.kernel, controlled.sampling.noise, controlled.sampling.steps) == ("flow-sde", 0.7, 10)


def test_controlled_changes_no_result_of_the_unnamed_rest() -> None:
    # given two methods under it: only their names differ
    one, other = (flat(resolved("controlled", method=method).model_dump()) for method in ("flat", "tree"))
    assert {key for key in one | other if one.get(key) != other.get(key)} == {"method.name"}


def test_an_override_wins_over_a_recipe_without_losing_the_rest() -> None:
    table: Table = flat(resolved("flow-grpo-fast", "objective.clip=2e-5").model_dump())
    assert (table["objective.clip"], table["objective.logprob_scale"]) == (2e-5, "raw")
    with pytest.raises(UserError, match=r"method\.windw"):
        make_method(resolved("flow-grpo-fast", "method.windw=2"))

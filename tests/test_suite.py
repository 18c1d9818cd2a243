"""A suite's file: what it asks for comes out as the command line's runs, and what is wrong with it is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from running import ROOT, cli_here, sentence

from grpo_bench.config import RunConfig
from grpo_bench.resolve import flags, resolve
from grpo_bench.store.run import run_names
from grpo_bench.sweeping.cells import Cell, suite_cells
from grpo_bench.sweeping.suite import MethodEntry, Override, Suite, Tuning, find_suite, load_suite, parse_suite, shipped
from grpo_bench.training.prepare import identify

GOOD = """
name = "mine"
workloads = ["gaussian"]
rewards = ["gaussian"]
seeds = 2
baseline = "flat"
contrasts = ["tree"]
contrast_seeds = 3
[budget]
nfe = 4000
[methods.flat]
[methods.tree]
[methods.pairs]
name = "flat"
set.method = { group = 4 }
"""


def cells(text: str) -> tuple[Cell, ...]:
    return suite_cells(parse_suite(text))


def of(found: tuple[Cell, ...], label: str) -> list[RunConfig]:
    return [cell.config for cell in found if cell.record.label == label]


def test_cells_come_seed_by_seed_and_contrasts_have_seeds_of_their_own() -> None:
    """Given two seeds for all and three for the contrasts, then a sweep cut off after a seed has all labels."""
    found = [(cell.record.label, cell.record.seed) for cell in cells(GOOD)]
    assert found == [
        ("flat", 0), ("tree", 0), ("pairs", 0), ("flat", 1), ("tree", 1), ("pairs", 1), ("flat", 2), ("tree", 2),
    ]  # fmt: skip


def test_a_label_may_have_its_own_seeds() -> None:
    found = cells(GOOD + "seeds = [7, 9]\n")
    assert [config.seed for config in of(found, "pairs")] == [7, 9]


def test_later_tables_win() -> None:
    """Settings, then the label's own, then the overrides that match; and the suite's names over all."""
    found = cells(
        GOOD
        + """
[settings.training]
updates = 2
learning_rate = 0.5
[[overrides]]
labels = ["pairs"]
set.training.learning_rate = 0.25
[[overrides]]
workloads = ["gaussian"]
rewards = ["gaussian"]
set.evaluation.images = 3
"""
    )
    assert {config.training.updates for config in of(found, "flat")} == {2}
    assert {config.training.learning_rate for config in of(found, "flat")} == {0.5}
    assert {config.training.learning_rate for config in of(found, "pairs")} == {0.25}
    assert {config.evaluation.images for cell in found for config in [cell.config]} == {3}
    assert {config.method.settings["group"] for config in of(found, "pairs")} == {4}


def test_a_recipe_names_its_method_and_its_protocol() -> None:
    found = cells(
        GOOD + 'seeds = 1\n[settings]\nrecipe = "controlled"\n[methods.dance]\nrecipe = "dancegrpo"\nseeds = 1\n'
    )
    records = {cell.record.label: cell.record for cell in found}
    dance, flat = records["dance"], records["flat"]
    assert (dance.method, dance.recipe, dance.protocol) == ("flat", "dancegrpo", "paper")
    assert (flat.method, flat.recipe, flat.protocol) == ("flat", "controlled", "controlled")


def test_tuning_is_of_the_primary_labels_at_multiples_of_their_own_rate() -> None:
    """Three times 1e-4 is 3e-4, not the float beside it that a product gives."""
    text = (
        GOOD + "set.training.learning_rate = 0.7\n[settings.training]\nlearning_rate = 1e-4\n[tuning]\nseeds = [50]\n"
    )
    tuned = [cell for cell in cells(text) if cell.record.part == "tuning"]
    assert [(cell.record.label, cell.record.factor) for cell in tuned] == [
        (label, factor) for label in ("flat", "tree") for factor in (0.333333, 1.0, 3.0)
    ]
    assert [cell.config.training.learning_rate for cell in tuned] == 2 * [3.3333e-5, 1e-4, 3e-4]
    assert {cell.record.seed for cell in tuned} == {50}


def test_the_base_is_evaluated_under_other_noise() -> None:
    base = [cell for cell in cells(GOOD + "[base]\nevaluations = 3\n") if cell.record.part == "base"]
    assert [cell.config.evaluation.seed for cell in base] == [0, 1, 2]
    assert {cell.config.budget_kind for cell in base} == {"iterations"}
    assert {(cell.config.budget_amount, cell.record.method, cell.record.seed) for cell in base} == {(0.0, "flat", 0)}
    assert len({cell.run for cell in base}) == 3


COMMANDS: dict[str, tuple[str, str | None, list[str]]] = {
    "flat": ("controlled", "flat", []),
    "tree": ("controlled", "tree", []),
    "branch": ("controlled", "branch", []),
    "tempflow": ("controlled", "tempflow", []),
    "flat-window": ("controlled", "mix", ["method.window=2", "method.schedule=random", "method.window_stop=5"]),
    "flat-matched-updates": ("controlled", "flat", ["training.updates=8"]),
    "mix": ("controlled", "mix", []),
    "branch-top1": ("controlled", "branch", ["method.prune_width=parent-top1"]),
    "branch-mix": ("controlled", "branch-mix", []),
    "guard": ("controlled", "guard", []),
    "nft": ("controlled", "nft", []),
    "ddpo": ("controlled", "ddpo", []),
    "flow-grpo": ("flow-grpo", None, []),
    "dancegrpo": ("dancegrpo", None, []),
}
PRIMARY = ("flat", "tree", "branch", "tempflow", "flat-window")


def typed(label: str, seed: int, *more: str) -> tuple[str, RunConfig]:
    """The run that `grpo-bench run` would make of the reference suite's label."""
    recipe, method, sets = COMMANDS[label]
    over = flags(method=method, reward="shapes-pref", seed=seed, budget="nfe=64000")
    identity = identify(resolve(over, recipe, None, [*sets, "evaluation.every=8000", *more]))
    return identity.run, identity.config


@pytest.fixture(scope="module")
def reference() -> tuple[Cell, ...]:
    return suite_cells(load_suite(find_suite("shapes")))


@pytest.mark.parametrize("label", COMMANDS)
def test_the_reference_suite_is_what_these_commands_make(label: str, reference: tuple[Cell, ...]) -> None:
    """The same id and the same config.toml, byte for byte, so that its runs are found however they were started."""
    mine = [cell for cell in reference if cell.record.label == label and cell.record.part == "main"]
    assert [cell.record.seed for cell in mine] == list(range(10 if label in PRIMARY else 5))
    run, config = typed(label, 3)
    assert (mine[3].run, mine[3].config.to_toml()) == (run, config.to_toml())


def test_the_reference_suite_tunes_as_these_commands_do(reference: tuple[Cell, ...]) -> None:
    tuned = [cell for cell in reference if cell.record.part == "tuning"]
    assert [cell.record.label for cell in tuned] == [label for _ in (100, 101) for label in PRIMARY for _ in range(2)]
    rates = ("training.learning_rate=3.3333e-5", "training.learning_rate=3e-4")
    assert [cell.run for cell in tuned[2:4]] == [typed("tree", 100, rate)[0] for rate in rates]
    assert len(reference) == 5 * 10 + 9 * 5 + 2 * 5 * 2 + 5


def test_the_timed_suite_is_the_primary_part_of_the_reference(reference: tuple[Cell, ...]) -> None:
    timed = suite_cells(load_suite(shipped()["shapes-timed"]))
    primary = {(cell.record.label, cell.record.seed): cell.config for cell in reference if cell.record.part == "main"}
    for cell in timed:  # the same settings but for the budget
        config = primary[cell.record.label, cell.record.seed]
        assert cell.config == config.model_copy(update={"budget": {"nfe": 40_000.0}})
    assert sorted({(cell.record.label, cell.record.seed) for cell in timed}) == sorted(
        (label, seed) for label in PRIMARY for seed in range(3)
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[methods.tree]", "[methods.trees]", "contrast 'tree' is no label beside the baseline; did you mean 'trees'?"),
        ("[methods.pairs]", "[methods.falt]\n[methods.pairs]", "methods.falt: no method is named 'falt'; did you mean"),
        ('name = "flat"', "", "methods.pairs: no method is named 'pairs'"),
        ("set.method = { group = 4 }", "", "'flat' with seed 0 and 'pairs' with seed 0 are the same run"),
        ("group = 4", "groop = 4", "methods.pairs: no setting is named 'method.groop'; did you mean 'method.group'?"),
        ("seeds = 2", "seed = 2", "no key is named 'seed'; did you mean 'seeds'?"),
        ("seeds = 2", "seeds = 0", "seeds = 0 is not allowed: must be at least one seed"),
        ("seeds = 2", "seeds = []", "seeds = [] is not allowed: must be at least one seed"),
        ("seeds = 2", "seeds = [1, 1]", "each only once"),
        ("seeds = 2", "seeds = 2.5", "must be a number of seeds, such as 5, or a list"),
        ("seeds = 2", "seeds = [[1], [2]]", "must be whole numbers, such as [0, 1, 2]"),
        ("seeds = 2", "seeds = [true]", "true and false are no value"),
        ("seeds = 2", "seeds = [9223372036854775808]", "should be less than 9223372036854775808"),
        ("seeds = 2", "seeds = 20261121", "at most 1000; a seed itself goes into a list, such as [7]"),
        ("[methods.flat]", "[base]\nevaluations = 1001\n[methods.flat]", "should be less than or equal to 1000"),
        ("[methods.flat]", "[tuning]\nfactors = [inf]\n[methods.flat]", "should be a finite number"),
        ("seeds = 2", "", "seeds is missing; add one, such as seeds = 5"),
        ('baseline = "flat"', "", "baseline is missing"),
        ('baseline = "flat"', 'baseline = "flt"', "baseline = 'flt' is no label of [methods]; did you mean 'flat'?"),
        ('contrasts = ["tree"]', 'contrasts = ["flat"]', "contrast 'flat' is no label beside the baseline"),
        ('contrasts = ["tree"]', 'contrasts = ["a", "b", "c", "d", "e"]', "at most 4 may decide"),
        ('contrasts = ["tree"]', 'contrasts = ["tree", "tree"]', "contrasts names 'tree' twice"),
        ("nfe = 4000", "nef = 4000", "no budget is named 'nef'; did you mean 'nfe'?"),
        ("nfe = 4000", "nfe = 0", "budget.nfe must be a positive number, not 0"),
        ("nfe = 4000", "nfe = 4000\nupdates = 3", "[budget] must hold exactly one amount"),
        ("nfe = 4000", "nfe = 10", "methods.flat: a budget of nfe=10 is too small"),
        ("[methods.flat]", "[methods.flat]\nnme = 3", "no setting is named 'methods.flat.nme'; did you mean 'methods."),
        ("[methods.flat]", "[methods.base]\n[methods.flat]", "the label 'base' is kept for the untrained base"),
        ("[methods.flat]", '[methods."F L"]\n[methods.flat]', "The label 'F L' is not a valid name"),
        ("[methods.flat]", "[settings]\nseed = 3\n[methods.flat]", "settings.seed cannot be set for cells; a suite sa"),
        ("[methods.flat]", "[settings.method]\nname = 'a'\n[methods.flat]", "settings.method.name cannot be set for c"),
        ("[methods.flat]", "[settings.trainig]\n[methods.flat]", "no setting is named 'trainig'; did you mean 'traini"),
        ("[methods.flat]", '[[overrides]]\nlabels = ["x"]\nset = {}\n[methods.flat]', "overrides.0.labels: the suite"),
        ("[methods.flat]", '[[overrides]]\nlabels = ["tree"]\n[methods.flat]', "overrides.0 sets nothing"),
        ("[methods.flat]", "[tuning]\nseeds = [2]\n[methods.flat]", "tuning.seeds has 2, which is reported too"),
        ("[methods.flat]", "[tuning]\nfactors = [1, 1]\n[methods.flat]", "each only once"),
        ("[methods.flat]", "[base]\nevaluations = 0\n[methods.flat]", "base.evaluations = 0 is not allowed"),
        ("[methods.flat]", '[references."a/b"]\nbase=0\nbest=1\n[methods.flat]', "references of 'a/b': the suite has"),
        ("[methods.flat]", '[methods.flat]\nrecipe = "dancegrp"', "methods.flat: no recipe is named 'dancegrp'; did y"),
        ("[methods.tree]", '[methods.tree]\nrecipe = "treegrpo"', "contrast 'tree' has the paper protocol and the bas"),
        ("group = 4 }", "group = 4 }\nset.evaluation = { steps = 3 }", "'pairs' sets evaluation.steps = 3 and 'flat'"),
        ('rewards = ["gaussian"]', 'rewards = ["gausian"]', "no reward is named 'gausian'; did you mean 'gaussian'?"),
        ('workloads = ["gaussian"]', 'workloads = ["gausian"]', "no workload is named 'gausian'; did you mean 'gaussi"),
        ('name = "mine"', "name = 3", "name = 3 is not allowed"),
        ("seeds = 2", "seeds = = 2", "cannot be read"),
    ],
)  # fmt: skip
def test_bad_suites_are_refused_in_one_sentence(
    old: str, new: str, message: str, tmp_path: Path, results: Path
) -> None:
    assert old in GOOD
    path = tmp_path / "bad.toml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    said = sentence(cli_here("sweep", str(path)))
    assert message in said
    assert not results.exists() or run_names(results) == []


def test_a_suite_that_is_not_there_offers_the_nearest() -> None:
    said = sentence(cli_here("sweep", "shape", "--dry-run"))
    assert "no suite file 'shape', and none is shipped of that name; did you mean 'shapes'?" in said


METHOD = '''
import numpy as np
from grpo_bench import Method, chains


class {title}(Method):
    """A pair of chains."""

    name = "{name}"

    def plan(self, iteration, rng, schedule):
        stochastic = np.arange(schedule.steps) < schedule.steps - 1
        return chains(schedule.sigmas, 2, stochastic)
'''


def test_editing_one_methods_file_invalidates_its_cells_only(tmp_path: Path) -> None:
    """Given two plugin methods, when one's file is edited, then its runs have other ids and all others the same."""
    one, two, suite = tmp_path / "one.py", tmp_path / "two.py", tmp_path / "suite.toml"
    one.write_text(METHOD.format(title="One", name="one"), encoding="utf-8")
    two.write_text(METHOD.format(title="Two", name="two"), encoding="utf-8")
    suite.write_text(GOOD + "[methods.one]\n[methods.two]\n", encoding="utf-8")

    def ids() -> dict[str, set[str]]:
        done = cli_here("sweep", str(suite), "--dry-run", "--json", "--plugin", str(one), "--plugin", str(two))
        found: dict[str, set[str]] = {}
        for cell in json.loads(done.stdout)["cells"]:
            found.setdefault(cell["label"], set()).add(cell["run"])
        return found

    before = ids()
    one.write_text(one.read_text(encoding="utf-8") + "\n# another thought\n", encoding="utf-8")
    after = ids()
    assert {label for label in before if before[label] != after[label]} == {"one"}
    assert not before["one"] & after["one"]


def test_the_docs_name_every_key_and_their_example_is_a_suite() -> None:
    """Given docs/suites.md, then its table has all keys, and its example parses and resolves."""
    text = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
    keys = {*Suite.model_fields, *MethodEntry.model_fields, *Override.model_fields, *Tuning.model_fields} - {"digest"}
    named = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", text))))
    assert keys - named == set()
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    assert len(cells(example[1].replace("my-method", "tree"))) == 10 + 10 + 5 + 5

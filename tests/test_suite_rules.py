"""A suite's rules one by one, without a command line: what is refused, what is just allowed, and what matches what."""

from __future__ import annotations

import hashlib

import pytest
from small_suite import small_suite

from grpo_bench.errors import UserError
from grpo_bench.sweeping.cells import Cell, lines_of, suite_cells, suite_record
from grpo_bench.sweeping.suite import Suite, find_suite, load_suite, parse_suite, shipped
from grpo_bench.training.planning import check_plan, make_method

GOOD = small_suite("mine", seeds=2)


THREE = (("shapes", "shapes-pref"), ("count", "count"), ("glyphs", "glyphs"))


def changed(old: str, new: str) -> Suite:
    assert GOOD.count(old) == 1
    return parse_suite(GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 2", "seeds = [-1, 0]", "seeds.0 = -1 is not allowed"),
        ("seeds = 2", "seeds = true", "seeds = True is not allowed: true and false"),
        ("nfe = 4000", "nfe = inf", "budget.nfe must be a positive number, not inf"),
        ("nfe = 4000", "nfe = true", "budget.nfe must be a positive number, not True"),
        ("nfe = 4000", "nfe = -1", "budget.nfe must be a positive number, not -1"),
        ('name = "mine"', 'name = "mine"\ndigest = "0"', "no key is named 'digest'"),
        ('["gaussian"]\nrewards', '["gaussian", "gaussian"]\nrewards', "workloads names 'gaussian' twice"),
        ('rewards = ["gaussian"]', 'rewards = ["gaussian", "gaussian"]', "rewards names 'gaussian' twice"),
        ('rewards = ["gaussian"]', "rewards = 5", "rewards = 5 is not allowed"),
        ('rewards = ["gaussian"]', "rewards = []", "rewards = [] is not allowed"),
        ('rewards = ["gaussian"]', "rewards = { gaussian = 5 }", "is not allowed: must be a list"),
        (
            'rewards = ["gaussian"]',
            'rewards = { shapes = "gaussian" }',
            "rewards.shapes: the suite has no such workload",
        ),
        (
            '["gaussian"]\nrewards = ["gaussian"]',
            '["gaussian", "count"]\nrewards = { gaussian = "gaussian" }',
            "'count'",
        ),
        ("[methods.tree]", '[methods.tree]\nset.recipe = "dancegrpo"', "methods.tree.set.recipe is not a setting"),
        ("[methods.tree]", "[methods.tree]\nset.seed = 3", "methods.tree.set.seed cannot be set for cells"),
        ("[methods.tree]", "[methods.tree]\nset.budget.nfe = 3", "methods.tree.set.budget cannot be set for cells"),
        ("[methods.tree]", '[methods.tree]\nset.method.name = "mix"', "methods.tree.set.method.name cannot be set"),
        ("[methods.tree]", '[methods.tree]\n[[overrides]]\nset.workload = "a"', "overrides.0.set.workload cannot be"),
        (
            "[methods.tree]",
            '[methods.tree]\n[[overrides]]\nset.reward.name = "a"',
            "overrides.0.set.reward.name cannot",
        ),
        ("[methods.tree]", '[methods.tree]\n[[overrides]]\nworkloads = ["x"]\nset = {}', "overrides.0.workloads: the"),
        (
            "[methods.tree]",
            '[methods.tree]\n[[overrides]]\nrewards = ["x"]\nset = {}',
            "overrides.0.rewards: the",
        ),
        ("[methods.tree]", "[methods.tree]\n[tuning]\nfactors = [0.0, 1.0]", "tuning.factors.0 = 0.0 is not allowed"),
        (
            "[methods.tree]",
            "[methods.tree]\nseeds = [5]\n[tuning]\nseeds = [5]",
            "tuning.seeds has 5, which is",
        ),
        ("[methods.tree]", "[methods.tree]\n[tuning]\nfactors = []", "at least one factor"),
    ],
)
def test_a_broken_rule_is_one_sentence(old: str, new: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        changed(old, new)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_four_contrasts_may_decide() -> None:
    methods = "".join(f"[methods.m{number}]\n" for number in range(3))

    suite = parse_suite(GOOD.replace('["tree"]', '["tree", "m0", "m1", "m2"]') + methods)

    assert suite.primary == ("flat", "tree", "m0", "m1", "m2")


def test_seeds_for_the_contrasts_are_theirs_and_the_baselines_only() -> None:
    suite = parse_suite(GOOD.replace("seeds = 2", "seeds = 2\ncontrast_seeds = 4") + "[methods.mix]\n")

    assert {label: len(suite.seeds_of(label)) for label in suite.methods} == {"flat": 4, "tree": 4, "mix": 2}
    own = parse_suite(GOOD.replace("seeds = 2", "seeds = 2\ncontrast_seeds = 4") + "seeds = [7]\n")
    assert own.seeds_of("tree") == (7,)


def test_a_seed_of_a_label_that_is_not_tuned_may_be_a_tuning_seed() -> None:
    suite = parse_suite(GOOD + "[methods.mix]\nseeds = [100]\n[tuning]\nseeds = [100]\n")

    assert suite.seeds_of("mix") == (100,) and suite.tuning is not None and suite.tuning.seeds == (100,)


def wide(workloads: str, rewards: str) -> str:
    """The suite over other workloads and rewards, with a budget that they all can spend."""
    text = GOOD.replace('workloads = ["gaussian"]', f"workloads = {workloads}").replace("nfe = 4000", "nfe = 64000")
    return text.replace('rewards = ["gaussian"]', f"rewards = {rewards}")


def rates(cells: tuple[Cell, ...]) -> dict[tuple[str, str, str], float]:
    return {
        (cell.record.workload, cell.record.reward, cell.record.label): cell.config.training.learning_rate
        for cell in cells
    }


def test_an_override_holds_where_all_that_it_names_match() -> None:
    """Given two rewards and two methods, then an override of one of each is for a single one of the four."""
    text = wide('["shapes"]', '["shapes", "shapes-appeal"]')
    text += """
[settings.training]
learning_rate = 0.5
[[overrides]]
workloads = ["shapes"]
labels = ["tree"]
rewards = ["shapes-appeal"]
set.training.learning_rate = 0.25
"""
    assert rates(suite_cells(parse_suite(text))) == {
        ("shapes", "shapes", "flat"): 0.5,
        ("shapes", "shapes", "tree"): 0.5,
        ("shapes", "shapes-appeal", "flat"): 0.5,
        ("shapes", "shapes-appeal", "tree"): 0.25,
    }


def test_a_table_of_rewards_gives_each_workload_its_own() -> None:
    """Given three workloads with a reward each, then no workload is trained on another's."""
    text = wide('["shapes", "count", "glyphs"]', '{ shapes = "shapes-pref", count = "count", glyphs = "glyphs" }')

    scenes = [(cell.record.workload, cell.record.reward) for cell in suite_cells(parse_suite(text))]

    assert scenes == 2 * [(*scene,) for scene in THREE for _ in ("flat", "tree")]


def test_an_override_of_a_workload_is_for_that_workload() -> None:
    text = wide('["gaussian", "shapes"]', '["jpeg-compressibility"]')
    text += '[[overrides]]\nworkloads = ["shapes"]\nset.training.learning_rate = 0.25\n'

    found = rates(suite_cells(parse_suite(text)))

    assert {workload for (workload, _, _), rate in found.items() if rate == 0.25} == {"shapes"}
    assert len(found) == 4


def test_a_labels_own_tables_win_over_the_settings_of_all() -> None:
    text = GOOD + "set.training.learning_rate = 0.25\n[settings.training]\nlearning_rate = 0.5\n"

    assert list(rates(suite_cells(parse_suite(text))).values()) == [0.5, 0.25]


def test_a_rate_at_the_shared_factor_is_not_rounded() -> None:
    text = GOOD + "[settings.training]\nlearning_rate = 1.2345678e-4\n[tuning]\nseeds = [50]\n"

    tuned = [cell for cell in suite_cells(parse_suite(text)) if cell.record.part == "tuning"]

    assert [cell.config.training.learning_rate for cell in tuned][:3] == [4.1152e-5, 1.2345678e-4, 3.7037e-4]


def test_a_paper_protocol_beside_the_controlled_one_is_no_contrast_and_allowed() -> None:
    found = suite_cells(
        parse_suite(GOOD + '[settings]\nrecipe = "controlled"\n[methods.dance]\nrecipe = "dancegrpo"\n')
    )

    assert {cell.record.label: cell.record.protocol for cell in found} == {
        "flat": "controlled",
        "tree": "controlled",
        "dance": "paper",
    }


def test_what_a_results_folder_keeps_of_a_suite_is_all_that_its_analysis_needs() -> None:
    text = (
        GOOD
        + '[references."gaussian/gaussian"]\nbase = 0.5\nbest = 0.75\ntargets = { 50 = 0.6 }\n[tuning]\nseeds = [9]\n'
    )
    suite = parse_suite(text)
    cells = suite_cells(suite)

    record = suite_record(suite, cells)

    assert (record.suite, record.baseline, record.contrasts) == ("mine", "flat", ("tree",))
    assert record.budget == {"nfe": 4000}
    assert record.digest == hashlib.sha256(text.encode()).hexdigest()
    assert record.references["gaussian/gaussian"].targets == {"50": 0.6}
    assert record.cells == tuple(cell.record for cell in cells)
    assert [(one.label, one.seed, one.part, one.factor) for one in record.cells if one.seed in (1, 9)] == [
        ("flat", 1, "main", 1.0),
        ("tree", 1, "main", 1.0),
        *[(label, 9, "tuning", factor) for label in ("flat", "tree") for factor in (0.333333, 1.0, 3.0)],
    ]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_label_of_a_shipped_suite_is_a_run_that_can_be(name: str) -> None:
    suite = load_suite(find_suite(name))

    lines = lines_of(suite)
    assert {label for _, _, label in lines} == set(suite.methods)
    for config in lines.values():
        check_plan(config, make_method(config))

"""The run's configuration: which layer wins, what is refused and how, and that its file reproduces it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from grpo_bench.config import (
    BUDGET_KINDS,
    MethodSection,
    RewardSection,
    RunConfig,
    Table,
    build,
    merge,
    parse_budget,
    parse_rewards,
    parse_set,
    read_toml,
    recipe,
    recipes,
    validated,
)
from grpo_bench.errors import UserError
from grpo_bench.evaluation.scoring import make_rewards
from grpo_bench.method import MethodConfig
from grpo_bench.registry import WORKLOADS
from grpo_bench.resolve import flags, resolve
from grpo_bench.training.planning import check_plan, make_method


def refusal(table: Table) -> str:
    """What building a config from `table` says."""
    with pytest.raises(UserError) as caught:
        build([("--set", table)])
    return str(caught.value)


def test_defaults_are_those_of_the_main_job() -> None:
    config = build([])

    assert (config.workload, config.method.name, config.reward.name) == ("shapes", "tree", "shapes")
    assert (config.budget_kind, config.budget_amount) == ("nfe", 60000.0)


def test_later_layers_win_one_key_at_a_time(tmp_path: Path) -> None:
    # given a learning rate in the workload (1e-4), the recipe (1e-5), the file and --set, each layer with a key of its
    # own that no later one touches
    file = tmp_path / "my.toml"
    file.write_text("seed = 3\n[training]\nlearning_rate = 5e-5\nprompts = 7\n", encoding="utf-8")
    workload_only = resolve({}, None, None, None)
    with_recipe = resolve({}, "dancegrpo", None, None)
    with_file = resolve({}, "dancegrpo", file, None)
    with_set = resolve({}, "dancegrpo", file, ["training.learning_rate=2e-5"])

    # then each in turn decides it
    rates = [config.training.learning_rate for config in (workload_only, with_recipe, with_file, with_set)]
    assert rates == [1e-4, 1e-5, 5e-5, 2e-5]

    # and what no later layer names is kept
    assert (with_set.model.height, with_set.sampling.steps, with_set.training.prompts, with_set.seed) == (32, 16, 7, 3)
    assert with_set.training.weight_decay == 1e-4


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('seed = 3\nbudget = {updates = 5}\n[method]\nname = "mix"\n', encoding="utf-8")

    config = resolve(flags(method="flat", seed=9, budget="iterations=2", steps=6), None, file, None)

    assert (config.method.name, config.seed, config.budget, config.sampling.steps) == ("flat", 9, {"iterations": 2}, 6)


def test_a_model_flag_means_the_prompts_workload() -> None:
    config = resolve(flags(model="some/model"), None, None, None)

    assert (config.workload, config.model.path) == ("prompts", "some/model")
    assert config.model.trainable == "lora"  # the workload's default


def test_a_recipe_may_be_named_in_any_layer(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('recipe = "dancegrpo"\n', encoding="utf-8")

    by_flag = resolve({}, "dancegrpo", None, None)

    assert by_flag == resolve({}, None, file, None) == resolve({}, None, None, ["recipe=dancegrpo"])


def test_no_file_is_read_that_was_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config.toml", "grpo-bench.toml", "pyproject.toml", ".grpo_bench.toml"):
        (tmp_path / name).write_text("seed = 77\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    assert resolve({}, None, None, None).seed == 0


def test_a_budget_replaces_the_budget_below_it() -> None:
    config = build([("workload", {"budget": {"nfe": 60000.0}}), ("--set", {"budget": {"seconds": 5}})])

    assert config.budget == {"seconds": 5}


def test_merging_leaves_its_arguments_alone() -> None:
    below: Table = {"training": {"prompts": 4}}
    merge(below, {"training": {"prompts": 5}})

    assert below == {"training": {"prompts": 4}}


@pytest.mark.parametrize(
    ("table", "key", "near"),
    [
        ({"sed": 1}, "sed", "seed"),
        ({"trainig": {"prompts": 1}}, "trainig", "training"),
        ({"training": {"learnin_rate": 1.0}}, "training.learnin_rate", "training.learning_rate"),
        ({"sampling": {"stepz": 4}}, "sampling.stepz", "sampling.steps"),
        ({"evaluation": {"image": 4}}, "evaluation.image", "evaluation.images"),
        ({"budget": {"nfes": 4}}, "nfes", "nfe"),
        ({"budget": {"reward_calls": 4}}, "reward_calls", "reward-calls"),
    ],
)
def test_unknown_key_offers_the_nearest(table: Table, key: str, near: str) -> None:
    said = refusal(table)

    assert f"named {key!r}" in said and f"did you mean {near!r}?" in said
    assert "\n" not in said


def test_unknown_method_key_offers_the_nearest() -> None:
    config = build([("--set", {"method": {"name": "flat", "groop": 16}})])

    with pytest.raises(UserError, match=r"no setting is named 'method\.groop'; did you mean 'method\.group'\?"):
        make_method(config)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"jpeg-compressibility": {"qualty": 50}}, r"'reward\.jpeg-compressibility\.qualty'; did you mean .*quality'"),
        ({"nmae": "shapes"}, r"'reward\.nmae'; did you mean 'name'"),
        ({"jpeg-compresibility": {"quality": 50}}, r"did you mean 'jpeg-compressibility'"),
        ({"jpeg-incompressibility": {"quality": 50}}, "no setting is named"),
        ({"jpeg-compressibility": 5}, "must be a table"),
    ],
)
def test_unknown_reward_key_is_refused(section: Table, message: str) -> None:
    chosen = RewardSection.model_validate({"name": "jpeg-compressibility", **section})

    with pytest.raises(UserError, match=message):
        make_rewards(["jpeg-compressibility"], chosen)


def test_reward_settings_reach_the_reward() -> None:
    config = build(
        [
            (
                "--set",
                merge(
                    {"reward": {"name": "jpeg-compressibility"}}, parse_set("reward.jpeg-compressibility.quality=50")
                ),
            )
        ]
    )

    made = make_rewards(["jpeg-compressibility"], config.reward)["jpeg-compressibility"]

    assert made.config.model_dump(exclude_unset=True) == {"quality": 50}


class Inner(BaseModel, extra="forbid"):
    depth: int = 1


class Nested(MethodConfig):
    """A plugin's config with every shape of nesting that pydantic reports differently."""

    one: Inner = Inner()
    maybe: Inner | None = None
    several: tuple[Inner, ...] = ()
    mapped: Mapping[str, Inner] = Field(default_factory=dict)
    either: Inner | int = 1


@pytest.mark.parametrize(
    "table",
    [
        {"one": {"dept": 2}},
        {"maybe": {"dept": 2}},
        {"several": ({"depth": 1}, {"dept": 2})},
        {"mapped": {"a": {"dept": 2}}},
        {"either": {"dept": 2}},
        {"either": "x"},
        {"one": 5},
        {"several": 5},
    ],
)
def test_a_broken_rule_at_any_depth_is_one_sentence(table: Table) -> None:
    with pytest.raises(UserError) as caught:
        validated(Nested, table, "method")

    assert str(caught.value).count("\n") == 0 and "method." in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"training": {"prompts": 0}}, "training.prompts = 0 is not allowed: input should be greater"),
        ({"training": {"prompts": "many"}}, "training.prompts = 'many' is not allowed"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate = nan is not allowed"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate = inf is not allowed"),
        ({"seed": 2**63}, "seed = 9223372036854775808 is not allowed: input should be less than"),
        ({"training": 5}, "training = 5 is not allowed"),
        ({"method": "flat"}, "method = 'flat' is not allowed"),
        ({"method": {"name": 5}}, "method.name = 5 is not allowed"),
        ({"seed": {"x": 1}}, "seed = {'x': 1} is not allowed"),
        ({"model": {"dtype": "fp16"}}, "model.dtype = 'fp16' is not allowed"),
        ({"budget": {"nfe": -1}}, "must hold exactly one amount"),
        ({"budget": {"nfe": float("nan")}}, "budget.nfe = nan is not allowed"),
        ({"budget": {"nfe": float("inf")}}, "budget.nfe = inf is not allowed"),
        ({"budget": {"nfe": 1, "updates": 1}}, "must hold exactly one amount"),
        ({"budget": {}}, "must hold exactly one amount"),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_key_and_rule(table: Table, message: str) -> None:
    said = refusal(table)

    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("method.group=16", {"method": {"group": 16}}),
        ("training.learning_rate=1e-4", {"training": {"learning_rate": 1e-4}}),
        ("method.shared_noise=true", {"method": {"shared_noise": True}}),
        ("method.splits=[0, 3]", {"method": {"splits": [0, 3]}}),
        ("budget={updates = 3}", {"budget": {"updates": 3}}),
        ("method.name=flat", {"method": {"name": "flat"}}),
        ('method.name="flat"', {"method": {"name": "flat"}}),
        ("prompts=a=b.txt", {"prompts": "a=b.txt"}),
        ("prompts=/tmp/a b.txt", {"prompts": "/tmp/a b.txt"}),
        ("prompts=", {"prompts": ""}),
        ("prompts=1\nseed=5", {"prompts": "1\nseed=5"}),  # a second assignment is neither obeyed nor lost
    ],
)
def test_set_takes_toml_values_and_plain_text(text: str, table: Table) -> None:
    assert parse_set(text) == table


@pytest.mark.parametrize("text", ["seed", "=3", " =3", ""])
def test_set_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--set takes KEY=VALUE"):
        parse_set(text)


@pytest.mark.parametrize("kind", BUDGET_KINDS)
def test_every_budget_kind_is_accepted(kind: str) -> None:
    config = build([("--set", parse_budget(f"{kind}=1234.5"))])

    assert (config.budget_kind, config.budget_amount) == (kind, 1234.5)


@pytest.mark.parametrize("text", ["nfe", "nfe=", "nfe=-3", "nfe=nan", "nfe=inf", "nfe=lots", "60000", "=5", "nef=5"])
def test_bad_budget_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--budget"):
        parse_budget(text)


def test_rewards_and_weights() -> None:
    assert parse_rewards("a") == {"a": 1.0}
    assert parse_rewards("a:0.8, b:0.2,c") == {"a": 0.8, "b": 0.2, "c": 1.0}


@pytest.mark.parametrize("text", ["", ",", "a,", "a:b", "a:0", "a:-1", "a:nan", "a:inf", "a,a", ":1", "a:1:2"])
def test_bad_reward_spec_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--reward takes"):
        parse_rewards(text)


def test_toml_reads_back_equal() -> None:
    # given values that lose something when written carelessly: a float, a key with a dash, a tuple, a text with quotes
    chosen: Table = {
        "prompts": 'a "quoted"\\file\n.txt',
        "budget": {"reward-calls": 12.0},
        "training": {"learning_rate": 1 / 3},
        "sampling": {"noise": 0.1 + 0.2},
        "method": {"name": "flat", "group": 3, "train_fraction": 0.6},
        "reward": {"name": "a:0.5,b:0.5", "a": {"quality": 3}},
    }
    config = build([("--set", chosen)])

    assert validated(RunConfig, tomllib.loads(config.to_toml())) == config


def test_config_file_faults_are_one_sentence(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("seed = = 3\n", encoding="utf-8")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")

    for path in (bad, binary, tmp_path / "missing.toml", tmp_path):
        with pytest.raises(UserError) as caught:
            read_toml(path)
        assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="no recipe is named 'flow_grpo'; did you mean 'flow-grpo'"):
        recipe("flow_grpo")


@pytest.mark.parametrize("name", ["flow-grpo", "dancegrpo"])
def test_recipe_is_whole_and_plans_on_the_built_in_workload(name: str) -> None:
    # given a shipped recipe
    about = recipes()[name]["about"]
    assert isinstance(about, dict)

    # when it is resolved with enough budget
    config = resolve(flags(budget="iterations=1"), name, None, None)

    # then it says what it is, keeps its own protocol, and its forest can be trained
    assert set(about) == {"summary", "paper", "follows"} and about["follows"] in {"code", "paper"}
    assert (config.recipe, config.protocol) == (name, "paper")
    assert check_plan(config, make_method(config)).trained_edges > 0


def test_every_recipe_names_a_paper_and_loads() -> None:
    assert {"flow-grpo", "dancegrpo"} <= recipes().keys()
    for name in recipes():
        make_method(resolve({}, name, None, None))


@pytest.mark.parametrize("workload", ["shapes", "prompts"])
def test_workload_defaults_validate(workload: str) -> None:
    defaults = WORKLOADS.get(workload).defaults
    assert build([("workload", defaults)]).budget == defaults["budget"]


def test_a_negative_prompt_needs_guidance() -> None:
    """Unset, it is in no stored config, whose ids it would change."""
    plain, guided = {"model": {"negative_prompt": "dull"}}, {"evaluation": {"guidance": 2.0}}
    config = build([("--set", plain)])

    with pytest.raises(UserError, match=r"model\.negative_prompt = 'dull'"):
        check_plan(config, make_method(config))
    assert check_plan(build([("--set", plain), ("more", guided)]), make_method(config)).trained_edges > 0
    assert "negative_prompt" not in RunConfig().to_toml()


def test_the_grid_of_an_nfe_budget_defaults_to_a_tenth() -> None:
    assert build([("--set", {"budget": {"nfe": 500.0}})]).evaluation_every == 50
    assert build([("--set", {"budget": {"seconds": 500.0}})]).evaluation_every == 0
    assert build([("--set", {"budget": {"seconds": 500.0}, "evaluation": {"every": 7}})]).evaluation_every == 7


def test_method_settings_are_the_keys_beside_its_name() -> None:
    assert MethodSection.model_validate({"name": "flat", "group": 3}).settings == {"group": 3}


def test_a_budget_of_nothing_evaluates_the_base() -> None:
    assert build([("--set", parse_budget("iterations=0"))]).budget_amount == 0


@pytest.mark.parametrize(
    ("layers", "path", "column"),
    [
        ([], "", ""),
        ([{"prompts": "a.txt"}], "a.txt", ""),
        ([{"prompts": {"path": "a.csv"}}], "a.csv", ""),
        ([{"prompts": "a.csv"}, {"prompts": {"column": "words"}}], "a.csv", "words"),
        ([{"prompts": {"column": "words"}}, {"prompts": "a.csv"}], "a.csv", "words"),
        ([{"prompts": {"path": "a.csv", "column": "words"}}, {"prompts": {"column": ""}}], "a.csv", ""),
    ],
)
def test_prompts_are_a_file_or_a_table_and_come_back_from_toml(layers: list[Table], path: str, column: str) -> None:
    config = build([("layer", layer) for layer in layers])

    assert (config.prompts.path, config.prompts.column) == (path, column)
    stored = tomllib.loads(config.to_toml())
    assert stored["prompts"] == ({"path": path, "column": column} if column else path)
    assert validated(RunConfig, stored) == config


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (1, "prompts = 1 is not allowed: it must be a file's name"),
        (["a.txt"], "prompts = ['a.txt'] is not allowed: it must be a file's name"),
        ({"path": 3}, "prompts.path = 3 is not allowed"),
        ({"path": "a.csv", "colum": "x"}, "no setting is named 'prompts.colum'; did you mean 'prompts.column'?"),
        ({"column": "x"}, "names a column of a prompt file"),
    ],
)
def test_prompts_of_another_form_are_refused(prompts: object, message: str) -> None:
    assert message in refusal({"prompts": prompts})

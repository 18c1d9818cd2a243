"""What no setting takes, wherever it is given: truth for a number, an option twice, digits of another script."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import cli_here, sentence

from grpo_bench.config import RunConfig, parse_rewards, read_toml, validated
from grpo_bench.errors import UserError
from grpo_bench.method import MethodConfig
from grpo_bench.reward import RewardConfig


@pytest.mark.parametrize(
    "table",
    [
        {"seed": True},
        {"training": {"learning_rate": True}},
        {"training": {"weight_decay": False}},
        {"evaluation": {"images": True}},
        {"budget": {"iterations": True}},
    ],
)
def test_true_is_no_number_in_any_section(table: dict[str, object]) -> None:
    with pytest.raises(UserError, match="true and false are no value of this setting"):
        validated(RunConfig, table)


def test_true_is_no_number_of_a_plugin_and_stays_what_it_is_where_it_is_meant() -> None:
    class Own(MethodConfig):
        window: int = 2
        shared: bool = False
        maybe: bool | None = None
        weights: dict[str, float] | None = None

    with pytest.raises(UserError, match="window = True is not allowed"):
        validated(Own, {"window": True})
    with pytest.raises(UserError, match="weights"):
        validated(Own, {"weights": {"a": True}})
    with pytest.raises(UserError, match="batch = True is not allowed"):
        validated(RewardConfig, {"batch": True})
    own = validated(Own, {"shared": True, "maybe": True, "window": 3.0})
    assert (own.shared, own.maybe, own.window) == (True, True, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "4", "--steps", "5"], "--steps is given 2 times; the last stands: 5"),
        (
            ["--steps", "5", "--set", "seed=1", "--set", "seed=2"],
            "--set seed is given 2 times; the last stands: 2",
        ),
        (["--steps", "4", "--set", "sampling.steps=5"], "--set sampling.steps=5 stands over --steps"),
        (
            ["--steps=4", "--json", "--recipe", "controlled", "--steps", "5"],
            "--steps is given 2 times; the last stands: 5",
        ),
        (
            ["--steps=5", "--recipe", "grpo", "--recipe=controlled"],
            "--recipe is given 2 times; the last stands: controlled",
        ),
    ],
)
def test_of_an_option_given_twice_the_last_stands_and_a_line_says_so(words: list[str], said: str) -> None:
    done, once = cli_here("plan", "flat", *words, "--json"), cli_here("plan", "flat", "--steps", "5", "--json")

    assert done.returncode == 0 and done.stderr.splitlines() == [f"grpo-bench: {said}"]
    assert done.stdout == once.stdout


def test_options_that_may_be_repeated_and_flags_are_left_alone(tmp_path: Path) -> None:
    done = cli_here("plan", "flat", "--set", "method.group=4", "--set", "method.group=6", "--json")

    assert done.returncode == 0, done.stderr
    assert '"images": 6' in done.stdout


def test_weights_have_digits_that_every_file_can_hold() -> None:
    with pytest.raises(UserError, match="positive weights"):
        parse_rewards("gaussian:\uff11")


def test_a_byte_order_mark_begins_a_file_of_settings_as_editors_write_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 3\r\n")

    assert read_toml(path) == {"seed": 3}


def test_a_config_file_that_is_not_there_is_named() -> None:
    assert sentence(cli_here("run", "--config", "none.toml")).startswith("config file 'none.toml' cannot be read")


def test_a_baseline_that_is_no_method_is_refused_however_the_plan_is_shown() -> None:
    for more in ([], ["--json"]):
        assert "no method is named 'nosuch'" in sentence(cli_here("plan", "flat", "--baseline", "nosuch", *more))


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("method.std_eps=inf", "method.std_eps = inf is not allowed"),
        ("training.learning_rate=1e39", "training.learning_rate = 1e+39 is not allowed"),
        ("training.decode_batch=9223372036854775808", "training.decode_batch = 9223372036854775808 is not allowed"),
        ("sampling.noise=1e300", "sampling.noise = 1e+300 is not allowed"),
    ],
)
def test_numbers_that_no_computation_can_hold_are_refused(assignment: str, said: str) -> None:
    words = ("run", "--workload", "gaussian", "--method", "flat", "--budget", "iterations=1", "--set", assignment)
    assert sentence(cli_here(*words)).startswith(said)

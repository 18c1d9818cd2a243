"""`grpo-bench score`: held-out rewards judge stored images later, add columns, and never overwrite or lose one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reward_checkpoints import make_hps
from run_folder import point, save_images, stored
from running import Make, Watcher, cli_here, run, sentence

from grpo_bench.config import RewardSection, RunConfig, merge, parse_set
from grpo_bench.errors import UserError
from grpo_bench.evaluation.evaluator import to_images
from grpo_bench.evaluation.rescore import Report, rescore, score_section
from grpo_bench.evaluation.scoring import make_rewards
from grpo_bench.registry import REWARDS
from grpo_bench.store.reader import read_runs
from grpo_bench.store.run import SCORES, RunStore
from grpo_bench.training.run import resume, stored_config

PROMPTS = ["a red circle", "a blue square"]
RUN = "shapes-tree-s0-0123456789"
LEVEL = """
import torch

from grpo_bench import Reward, RewardConfig


class LevelConfig(RewardConfig):
    level: float


class Level(Reward[LevelConfig]):
    '''One score for all, which has no default.'''

    name = "level"
    Config = LevelConfig
    range = (0.0, 1.0)

    def score(self, images_BCHW, prompts):
        return torch.full((len(prompts),), self.config.level)
"""
BRIGHT = """
from pathlib import Path

from grpo_bench import Reward, RewardConfig


class BrightConfig(RewardConfig):
    scale: float = 1.0
    stop_at: int = 0
    file: str = ""


class Bright(Reward[BrightConfig]):
    '''Mean of all pixels, times a scale.'''

    name = "bright"
    Config = BrightConfig
    range = (0.0, 1.0)
    seen = 0

    def files(self):
        return (Path(self.config.file),) if self.config.file else ()

    def score(self, images_BCHW, prompts):
        Bright.seen += len(prompts)
        if self.config.stop_at and Bright.seen >= self.config.stop_at:
            {stop}
        return self.config.scale * images_BCHW.mean(dim=(1, 2, 3))

    def components(self, images_BCHW, prompts):
        return {{"bright-red": images_BCHW[:, 0].mean(dim=(1, 2))}}
"""


@pytest.fixture
def bright(tmp_path: Path) -> str:
    return plugin(tmp_path, "raise KeyboardInterrupt")


def plugin(folder: Path, stop: str) -> str:
    file = folder / "bright.py"
    file.write_text(BRIGHT.format(stop=stop))
    return str(file)


@pytest.fixture
def store(results: Path) -> RunStore:
    """Two points of 2 prompts x 2 images: prompt p's image i is grey 10 p + i, plus 100 at the second point."""
    made = stored(results, [point(0, 0.5), point(5, 0.6)])
    save_images(made, PROMPTS)
    return made


BASE = (0 + 1 + 10 + 11) / 4 / 255
FINAL = BASE + 100 / 255


def held_out(store: RunStore, column: str = "heldout/bright") -> list[float | None]:
    rows = RunStore(store.folder).held_out([0, 5])
    return [row.get(column) for row in rows]


def scored(store: RunStore, *names: str, **settings: str) -> Report:
    """`score` without the command line."""
    section = RewardSection.model_validate({"name": ",".join(names), **({names[0]: settings} if settings else {})})
    again = RunStore(store.folder)
    return rescore(again, stored_config(again), list(names), section, torch.device("cpu"))


def test_a_column_is_the_mean_over_each_points_stored_images(store: RunStore, bright: str) -> None:
    done = cli_here("score", RUN, "--reward", "bright", "--plugin", bright, "--json")

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["run"], said["points"], said["prompts"], said["images"]) == (RUN, 2, 2, 4)
    assert said["added"] == {"bright": 2} and said["kept"] == {}
    assert said["scores"]["heldout/bright"] == pytest.approx({"base": BASE, "final": FINAL})
    # the reader has it beside the points, and the points' own file is as it was
    points = read_runs(store.folder.parent).points
    assert points["heldout/bright"].tolist() == pytest.approx([BASE, FINAL])
    assert points["heldout/bright-red"].tolist() == pytest.approx([BASE, FINAL])
    assert "heldout/bright" not in RunStore(store.folder).points()


def test_the_table_says_what_was_scored_of_how_many_images(store: RunStore, bright: str) -> None:
    done = cli_here("score", RUN, "--reward", "bright,jpeg-compressibility", "--plugin", bright)

    assert "2 held-out prompts x 2 images at each of 2 points, 8 images" in done.stdout
    assert "scored: bright at 2 points, jpeg-compressibility at 2 points" in done.stdout
    line = next(line for line in done.stdout.splitlines() if "heldout/bright " in line)
    assert f"{BASE:.4f}" in line and f"{FINAL:.4f}" in line and f"{FINAL - BASE:+.4f}" in line


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits(store: RunStore, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    done = cli_here("score", RUN, "--reward", "jpeg-compressibility,jpeg-incompressibility,shapes-appeal")
    assert done.returncode == 0
    assert max(len(line) for line in done.stdout.splitlines() if "scores.parquet" not in line) <= width


def test_batches_give_the_same_means(store: RunStore, bright: str) -> None:
    cli_here("score", RUN, "--reward", "bright", "--plugin", bright, "--set", "reward.bright.batch=3")
    assert held_out(store) == pytest.approx([BASE, FINAL])


def test_a_second_time_the_column_is_kept_to_the_byte(store: RunStore, bright: str) -> None:
    cli_here("score", RUN, "--reward", "bright", "--plugin", bright)
    before = (store.folder / SCORES).read_bytes()

    again = cli_here("score", RUN, "--reward", "bright", "--plugin", bright)

    assert "kept: bright: the column exists, and is kept" in again.stdout
    assert (store.folder / SCORES).read_bytes() == before


def test_a_column_of_an_edited_reward_is_not_taken_for_its_own(store: RunStore, bright: str) -> None:
    cli_here("score", RUN, "--reward", "bright", "--plugin", bright)
    before = (store.folder / SCORES).read_bytes()
    Path(bright).write_text(Path(bright).read_text() + "# edited\n")

    said = sentence(cli_here("score", RUN, "--reward", "bright", "--plugin", bright))

    assert "with another source of the plugin" in said
    assert (store.folder / SCORES).read_bytes() == before


def test_other_settings_never_overwrite(store: RunStore, bright: str) -> None:
    cli_here("score", RUN, "--reward", "bright", "--plugin", bright)
    before = (store.folder / SCORES).read_bytes()

    other = ["--plugin", bright, "--set", "reward.bright.scale=2"]
    said = sentence(cli_here("score", RUN, "--reward", "jpeg-compressibility,bright", *other))

    assert said.startswith(
        f"heldout/bright exists in {RUN} with scale = 1.0, not 2.0, and a column is never overwritten"
    )
    # nothing else was scored on the way
    assert (store.folder / SCORES).read_bytes() == before
    # how many at once is no other score
    assert cli_here("score", RUN, "--reward", "bright", "--plugin", bright, "--set", "reward.bright.batch=1").stdout


def test_another_reward_adds_columns_beside_the_first(store: RunStore, bright: str) -> None:
    cli_here("score", RUN, "--reward", "bright", "--plugin", bright)
    scored(store, "jpeg-compressibility")
    assert held_out(store) == pytest.approx([BASE, FINAL])
    assert all(isinstance(value, float) for value in held_out(store, "heldout/jpeg-compressibility"))
    assert [one.reward for one in RunStore(store.folder).scores().passes] == ["bright", "jpeg-compressibility"]


def test_a_component_leaves_the_column_of_another_reward_alone(results: Path) -> None:
    # given a run on another reward, scored with one half of shapes, which whole shapes has too
    store = stored(results, [point(0, 0.5), point(5, 0.6)], reward="jpeg-compressibility")
    config = 'workload = "prompts"\n[reward]\nname = "jpeg-compressibility"\n'
    (store.folder / "config.toml").write_text(config)
    rows = [{name: value for name, value in row.items() if name != "reward/shapes"} for row in store.rows()]
    store._replace_rows(rows)
    save_images(store, PROMPTS)
    scored(store, "shapes-appeal")
    before = held_out(store, "heldout/shapes-appeal")

    report = scored(store, "shapes", "shapes-appeal", "shapes-correctness")

    assert [(one.reward, one.added) for one in report.rewards] == [
        ("shapes", 2), ("shapes-appeal", 0), ("shapes-correctness", 0),
    ]  # fmt: skip
    assert report.rewards[0].columns == ("heldout/shapes", "heldout/shapes-correctness")
    assert report.rewards[2].kept == "the column exists, as a part of shapes"
    assert held_out(store, "heldout/shapes-appeal") == before
    mean = (np.array(before) + np.array(held_out(store, "heldout/shapes-correctness"))) / 2
    assert held_out(store, "heldout/shapes") == pytest.approx(mean.tolist())


def test_a_reward_that_was_trained_on_is_refused(store: RunStore, bright: str) -> None:
    said = sentence(cli_here("score", RUN, "--reward", "bright,shapes", "--plugin", bright))
    assert said.startswith(f"{RUN} trained on 'shapes', so that it is not held out")
    assert not (store.folder / SCORES).exists()


def test_what_the_run_scored_by_itself_is_not_scored_again(results: Path) -> None:
    # given the gold, which the run did not train on, among the points
    store = stored(results, [point(0, 0.5, **{"reward/shapes-appeal": 0.25})])
    save_images(store, PROMPTS)
    report = scored(store, "shapes-appeal")
    assert report.rewards[0].columns == ("reward/shapes-appeal",)
    assert report.rewards[0].kept == "the run itself scored it at every point"
    assert not (store.folder / SCORES).exists()


def test_where_a_score_comes_from_is_recorded(store: RunStore, bright: str, tmp_path: Path) -> None:
    weights = tmp_path / "head.bin"
    weights.write_bytes(b"abc")
    file = f"reward.bright.file={weights}"
    assert cli_here("score", RUN, "--reward", "bright", "--plugin", bright, "--set", file).returncode == 0
    (one,) = RunStore(store.folder).scores().passes
    assert (one.reward, one.columns) == ("bright", ("heldout/bright", "heldout/bright-red"))
    assert one.settings == {"batch": 64, "frames": 4, "scale": 1.0, "stop_at": 0, "file": str(weights)}
    # sha256 of "abc" (FIPS 180-2, appendix B.1)
    assert one.weights == {"head.bin": "unverified:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert (one.prompts, one.images, one.iterations) == (2, 4, (0, 5))
    assert len(one.source) == 64 and one.versions["packages"]

    # then another file under that name cannot complete the column of a run that has gone on
    RunStore(store.folder).append_point(point(10, 0.7))
    store.save_images("point-000010", np.zeros((4, 32, 32, 3), np.uint8), 2)
    weights.write_bytes(b"abd")
    said = sentence(cli_here("score", RUN, "--reward", "bright", "--plugin", bright, "--set", file))
    assert "heldout/bright exists" in said and "with other weights" in said


def test_a_reward_that_must_be_told_a_setting_scores_too(store: RunStore, tmp_path: Path) -> None:
    plugin = tmp_path / "level.py"
    plugin.write_text(LEVEL, encoding="utf-8")
    words = ["score", RUN, "--reward", "level", "--plugin", str(plugin), "--set", "reward.level.level=0.25"]

    assert cli_here(*words).returncode == 0
    assert held_out(store, "heldout/level") == [0.25, 0.25]


def test_a_column_of_before_a_setting_existed_has_its_default(store: RunStore) -> None:
    scored(store, "jpeg-compressibility")
    scores = store.scores()
    (one,) = scores.passes
    older = one.model_copy(
        update={"settings": {name: value for name, value in one.settings.items() if name != "frames"}}
    )
    store.save_scores(replace(scores, passes=(older,)))

    (report,) = scored(store, "jpeg-compressibility").rewards

    assert (report.added, report.kept) == (0, "the column exists, and is kept")


def test_an_interrupted_scoring_keeps_its_points_and_is_completed(store: RunStore, bright: str) -> None:
    # given a reward that is interrupted at its seventh image, in the second point
    stop = ["--set", "reward.bright.stop_at=7", "--set", "reward.bright.batch=2"]
    done = cli_here("score", RUN, "--reward", "bright", "--plugin", bright, *stop)
    assert done.returncode == 130
    assert held_out(store) == [pytest.approx(BASE), None]

    # then the same command scores the other point only
    again = cli_here("score", RUN, "--reward", "bright", "--plugin", bright, *stop, "--json")

    assert json.loads(again.stdout)["added"] == {"bright": 1}
    assert held_out(store) == pytest.approx([BASE, FINAL])
    assert [one.iterations for one in RunStore(store.folder).scores().passes] == [(0,), (5,)]


def test_a_run_that_is_being_written_is_not_scored(store: RunStore, bright: str) -> None:
    with RunStore(store.folder).lock():
        said = sentence(cli_here("score", RUN, "--reward", "bright", "--plugin", bright))
    assert said.startswith(f"The run {RUN} is being written by process")


def test_a_rewind_neither_loses_a_score_nor_lends_it_to_other_images(store: RunStore) -> None:
    scored(store, "jpeg-compressibility")
    column, images = "heldout/jpeg-compressibility", store.load_images("point-000005")
    before = held_out(store, column)

    # when the run goes back to its beginning, and comes to its second point with other images
    again = RunStore(store.folder)
    again.truncate_points(0)
    again.append_point(point(5, 0.61))
    again.save_images("point-000005", 255 - images, 2)

    # then that point has no score until it is scored, and the old images' score is not lost
    assert held_out(store, column) == [before[0], None]
    assert scored(store, "jpeg-compressibility").rewards[0].added == 1
    other = held_out(store, column)
    assert other[0] == before[0] and other[1] is not None
    again.save_images("point-000005", images, 2)
    assert held_out(store, column) == before


def test_scores_outlive_the_images(store: RunStore) -> None:
    scored(store, "jpeg-compressibility")
    before = held_out(store, "heldout/jpeg-compressibility")
    for sheet in store.images.rglob("*.*"):
        sheet.unlink()
    assert held_out(store, "heldout/jpeg-compressibility") == before


def test_images_from_before_their_index_had_a_digest_are_scored(store: RunStore) -> None:
    for index in store.images.glob("*/index.json"):
        known = json.loads(index.read_text())
        index.write_text(json.dumps({key: value for key, value in known.items() if key != "sha256"}))
    assert scored(store, "jpeg-compressibility").rewards[0].added == 2
    assert None not in held_out(store, "heldout/jpeg-compressibility")


def test_images_that_were_changed_are_not_scored(store: RunStore) -> None:
    (store.images / "point-000005" / "000.png").write_bytes((store.images / "point-000000" / "000.png").read_bytes())
    with pytest.raises(UserError, match="they are not those that were stored"):
        scored(store, "jpeg-compressibility")


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (
            "return images_BCHW[:, 0, 0, 0] * float('nan')",
            "reward 'bright' gave nan for image 0 of 4, which is",
        ),
        ("return images_BCHW.mean()", "reward 'bright' returned scores of shape () for 4 images"),
    ],
)
def test_a_reward_that_fails_is_named_in_one_sentence(store: RunStore, tmp_path: Path, stop: str, said: str) -> None:
    args = ["--plugin", plugin(tmp_path, stop), "--set", "reward.bright.stop_at=1"]
    assert sentence(cli_here("score", RUN, "--reward", "bright", *args)).startswith(said)
    assert not (store.folder / SCORES).exists()


def test_a_reward_that_raises_is_named_in_one_sentence(store: RunStore, tmp_path: Path) -> None:
    args = ["--plugin", plugin(tmp_path, "raise RuntimeError('no such token')"), "--set", "reward.bright.stop_at=1"]

    done = cli_here("score", RUN, "--reward", "bright", *args)

    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("grpo-bench: reward 'bright' failed: RuntimeError: no such token (")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--reward", "shapez"], "no reward is named 'shapez'; did you mean 'shapes'?"),
        (["--reward", "jpeg-compressibility:2"], "score takes --reward NAME,NAME without weights"),
        (["--reward", ","], "score takes --reward NAME,NAME without weights"),
        (["--reward", "jpeg-compressibility", "--set", "seed=1"], "score takes --set reward.NAME.KEY=VALUE only"),
        (["--reward", "jpeg-compressibility", "--set", "reward.combine=raw"], "score takes --set reward.NAME"),
        (["--reward", "jpeg-compressibility", "--set", "reward.shapes.batch=1"], "no setting is named 'reward.shapes'"),
        (["--reward", "jpeg-compressibility", "--set", "reward.jpeg-compressibility.quality=0"],
         "reward.jpeg-compressibility.quality = 0 is not allowed"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(store: RunStore, args: list[str], said: str) -> None:
    assert sentence(cli_here("score", RUN, *args)).startswith(said)


def test_a_run_without_points_has_nothing_to_score(results: Path) -> None:
    stored(results, [], status="failed")
    assert "has no point yet" in sentence(cli_here("score", RUN, "--reward", "jpeg-compressibility"))


def test_damaged_scores_are_named_and_hide_no_point(store: RunStore) -> None:
    (store.folder / SCORES).write_bytes(b"PAR1")
    runs = read_runs(store.folder.parent)
    assert len(runs.points) == 2
    assert len(runs.skipped) == 1 and "scores.parquet is damaged" in runs.skipped[0]
    said = sentence(cli_here("score", RUN, "--reward", "jpeg-compressibility"))
    assert "move it away and score the run again" in said


def test_the_training_process_cannot_name_a_held_out_reward(make: Make, results: Path) -> None:
    # given an installed reward that no process may load, and a run that knows its own reward only
    def loaded() -> type:
        raise AssertionError("a held-out reward was loaded by a training process")

    # no setting of a run holds another reward's name: [reward] has its own keys, and tables of rewards in use
    assert set(RewardSection.model_fields) == {"name", "combine"}
    assert not [key for key in RunConfig.model_fields if "held" in key or "score" in key]
    REWARDS._plugins.clear()
    try:
        REWARDS.add("secret", loaded, origin="a test")
        outcome = run(make(), results)
        assert outcome.record.status == "done"
        table = merge({"reward": {"name": "jpeg-compressibility"}}, parse_set("reward.secret.batch=3"))
        with pytest.raises(UserError, match=r"no setting is named 'reward\.secret'"):
            run(make(**table), results)
    finally:
        REWARDS._plugins.clear()


@pytest.mark.slow
def test_a_scored_run_resumes_to_the_same_end_and_keeps_its_scores(make: Make, results: Path) -> None:
    # given a run that was stopped after its first iteration, and scored then
    whole = run(make(), results / "whole")
    stopped = run(make(), results, Watcher(stop_after=1))
    scored(stopped.store, "jpeg-incompressibility")
    before = stopped.store.scores().values

    again = resume(RunStore(stopped.store.folder), Watcher())

    assert again.record.status == "done"
    assert [row["gold"] for row in again.store.rows()] == [row["gold"] for row in whole.store.rows()]
    assert again.store.scores().values == before
    # then the points that it made since are added; jpeg-incompressibility is minus what it trained on
    scored(stopped.store, "jpeg-incompressibility")
    points = read_runs(results).points
    column = points["heldout/jpeg-incompressibility"]
    assert column.tolist() == pytest.approx((-points["reward/jpeg-compressibility"]).tolist())


def test_score_section_takes_each_name_once() -> None:
    names, section = score_section("a, b,a", {"reward": {"b": {"batch": 2}}})
    assert names == ["a", "b"]
    assert section.settings("b") == {"batch": 2}


def test_a_learned_reward_scores_from_its_published_file(store: RunStore, tmp_path: Path) -> None:
    # given weights in the published format, and the same reward asked directly
    weights = make_hps(tmp_path / "hps.pt")
    section = RewardSection.model_validate({"name": "hps", "hps": {"path": str(weights)}})
    reward = make_rewards(["hps"], section)["hps"]
    images = to_images(store.load_images("point-000005"), torch.device("cpu"))
    expected = float(reward.judge(images, [prompt for prompt in PROMPTS for _ in range(2)])["hps"].double().mean())

    done = cli_here("score", RUN, "--reward", "hps", "--set", f"reward.hps.path={weights}", "--json")

    assert json.loads(done.stdout)["scores"]["heldout/hps"]["final"] == pytest.approx(expected, abs=1e-6)
    (one,) = RunStore(store.folder).scores().passes
    assert one.weights == {"hps.pt": f"unverified:{hashlib.sha256(weights.read_bytes()).hexdigest()}"}
    # without network and file, one sentence says what is missing, and what there was stays
    other = stored(store.folder.parent, [point(0, 0.5)], run="shapes-tree-s1-0123456789")
    save_images(other, PROMPTS)
    assert "HPS_v2.1_compressed.pt" in sentence(cli_here("score", other.folder.name, "--reward", "hps"))
    assert not (other.folder / SCORES).exists()

"""A run's id: everything that determines its outcome is in it, and nothing else; what is stored can be found again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import ROOT, Make, Watcher, cli_here, run, sentence
from test_run import METHOD, REWARD

from grpo_bench import sources
from grpo_bench.bundles.verify import verify_bundle
from grpo_bench.bundles.write import write_bundle
from grpo_bench.config import RewardSection, RunConfig, validated
from grpo_bench.errors import UserError
from grpo_bench.identity import _prompts_digest as outcome_prompts
from grpo_bench.registry import METHODS, REWARDS, load_plugin
from grpo_bench.resolve import flags, resolve
from grpo_bench.store.names import parse_toml
from grpo_bench.store.run import RunStore
from grpo_bench.training.prepare import Ingredients, Prepared, identify
from grpo_bench.training.run import resume, stored_config

COMMIT, LATER = "0" * 40, "1" * 40

Publish = Callable[[Path, str], None]


@pytest.fixture(autouse=True)
def no_plugins_left() -> Iterator[None]:
    """Plugins of one test are unknown to the next."""
    yield
    METHODS._plugins.clear()
    REWARDS._plugins.clear()


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Puts a model's folder into a hub cache, as the newest commit of `tiny/sd3`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def publish(model: Path, commit: str) -> None:
        repository = tmp_path / "hub" / "models--tiny--sd3"
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        shutil.copytree(model, repository / "snapshots" / commit)

    return publish


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline that a test may change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def named(config: RunConfig, path: object, **more: str) -> RunConfig:
    """The config with another model."""
    return config.model_copy(update={"model": config.model.model_copy(update={"path": str(path), **more})})


def damage(model: Path) -> None:
    """One weight of the denoiser is another."""
    from safetensors.torch import load_file, save_file

    file = next((model / "transformer").glob("*.safetensors"))
    weights = load_file(file)
    next(iter(weights.values())).add_(1)
    save_file(weights, file, {"format": "pt"})


def test_one_content_has_one_id_whatever_road_it_came_by(
    make: Make, tiny_model: Path, tmp_path: Path, publish: Publish
) -> None:
    # given the same pipeline on the hub, in a folder, and in a folder with what tools leave there
    publish(tiny_model, COMMIT)
    kept = shutil.copytree(tiny_model, tmp_path / "elsewhere" / "kept")
    for name in (".cache/huggingface/download/a.metadata", ".git/HEAD", "README.md", "unlisted/model.safetensors"):
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        (kept / name).write_text("bookkeeping")
    shutil.copy(next((kept / "vae").glob("*.safetensors")), kept / "vae" / "diffusion_pytorch_model.fp16.safetensors")

    # when each is identified
    found = [identify(named(make(), path)) for path in ("tiny/sd3", tiny_model, kept)]

    # then they are one base and one run
    assert len({one.hashes["weights"] for one in found}) == len({one.run for one in found}) == 1
    assert [one.config.model.revision for one in found] == [COMMIT, "", ""]


def test_a_hub_id_stands_for_the_commit_that_it_points_to(
    make: Make, model: Path, results: Path, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a run on a hub id
    config = named(make(budget={"iterations": 0.0}), "tiny/sd3")
    publish(model, COMMIT)
    first = run(config, results)

    # when the repository moves on
    damage(model)
    publish(model, LATER)
    second = run(config, results)

    # then the same command is another run, on another base; the old commit is still the old run
    assert second.fresh and first.record.run != second.record.run
    assert first.record.hashes["weights"] != second.record.hashes["weights"]
    assert [stored_config(one.store).model.revision for one in (first, second)] == [COMMIT, LATER]
    (tmp_path / "tiny" / "sd3").mkdir(parents=True)  # a folder of that name is another thing
    monkeypatch.chdir(tmp_path)
    pinned = run(named(make(budget={"iterations": 0.0}), "tiny/sd3", revision=COMMIT), results)
    assert (pinned.record.run, pinned.fresh) == (first.record.run, False)


@pytest.mark.parametrize(
    ("path", "revision", "said"),
    [("tiny/sd3", "no-such-branch", "no-such-branch"), ("tiny/absent", "", "tiny/absent"), ("a/b/c", "", "a/b/c")],
)
def test_a_hub_id_that_cannot_be_had_is_one_sentence(
    make: Make, tiny_model: Path, publish: Publish, path: str, revision: str, said: str
) -> None:
    publish(tiny_model, COMMIT)

    with pytest.raises(UserError, match=said) as refused:
        identify(named(make(), path, revision=revision))

    assert "local_files_only" not in str(refused.value)


def test_a_revision_of_a_folder_is_refused(make: Make, tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"model\.revision = 'main' is for a hub id"):
        identify(named(make(), tiny_model, revision="main"))


@pytest.mark.parametrize(
    "file",
    ["transformer/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "vae/*.safetensors"],
)
def test_changed_content_of_any_component_is_another_run(make: Make, model: Path, file: str) -> None:
    config = named(make(), model)
    before = identify(config)
    path = next(model.glob(file), None) or next((model / file.partition("/")[0]).iterdir())

    if path.suffix == ".json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "another": 1}))
    else:
        path.write_bytes(path.read_bytes() + b"\n")

    assert identify(config).run != before.run


@pytest.mark.parametrize("file", ["model_index.json", "transformer/config.json", "scheduler/scheduler_config.json"])
def test_where_a_config_was_loaded_from_and_how_it_is_laid_out_is_no_content(
    make: Make, model: Path, file: str
) -> None:
    config, path = named(make(), model), model / file
    before = identify(config)
    said = json.loads(path.read_text())

    path.write_text(json.dumps({"_name_or_path": "/elsewhere", **dict(reversed(said.items()))}))

    assert identify(config).run == before.run


def test_an_edited_plugin_is_another_run_whatever_its_kind(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a method and a reward in files of one folder, which import a helper each
    helpers = tmp_path / "method_helper.py", tmp_path / "reward_helper.py"
    for helper in helpers:
        helper.write_text("SCALE = 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    method = METHOD.format(change="credit.advantage_NP * SCALE")
    (tmp_path / "judge.py").write_text("from reward_helper import SCALE\n" + REWARD.format(calls=0, then="pass"))
    (tmp_path / "method.py").write_text("from method_helper import SCALE\n" + method)
    load_plugin(str(tmp_path / "judge.py"))
    load_plugin(str(tmp_path / "method.py"))
    config = make(method={"name": "mine"}, reward={"name": "mine"})
    runs = [identify(config).run]

    # when a helper or a plugin is edited
    for path in (*helpers, tmp_path / "judge.py", tmp_path / "method.py"):
        path.write_text(path.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
        runs.append(identify(config).run)
    (tmp_path / "unrelated.py").write_text("SCALE = 2.0\n")

    # then each edit is a run of its own, and another file in the folder none
    assert len(set(runs)) == 5
    assert identify(config).run == runs[-1]


def test_another_version_of_a_library_under_a_plugin_is_another_run(
    make: Make, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a run of a plugin that imports numpy, and one of a shipped method
    (tmp_path / "method.py").write_text(METHOD.format(change="credit.advantage_NP"))
    load_plugin(str(tmp_path / "method.py"))
    config = make(method={"name": "mine"})
    stopped, shipped = run(config, results, Watcher(stop_after=1)), identify(make()).run

    # when numpy is another
    own = sources._version
    monkeypatch.setattr(sources, "_version", lambda name, path: "0.0.1" if name == "numpy" else own(name, path))

    # then the plugin's run is another; the engine's own libraries stand behind NUMERICS_VERSION
    with pytest.raises(UserError, match=r"libraries of its method have changed since \(numpy .* then, numpy 0\.0\.1"):
        resume(stopped.store, Watcher())
    assert identify(config).run != stopped.record.run
    assert identify(make()).run == shipped


def test_the_device_is_a_setting_and_no_property_of_the_machine_that_plans(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, planned = identify(make()), identify(make(device="cuda"))

    # when the same is asked on a machine with a GPU
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)

    # then `auto` means that, a device that was named means the same, and both are in the config as stored
    assert [one.config.device for one in (here, planned, identify(make()))] == ["cpu", "cuda", "cuda"]
    assert identify(make()).run == identify(make(device="cuda")).run == planned.run
    assert identify(make(device="cpu")).run == here.run != planned.run


def test_a_run_planned_for_a_gpu_is_refused_where_there_is_none(make: Make, results: Path) -> None:
    with pytest.raises(UserError, match="device = 'cuda', but torch sees no CUDA device here"):
        run(make(device="cuda"), results)

    assert not list(results.glob("*/run.json"))


def test_paths_are_found_again_from_anywhere_and_are_not_in_the_id(
    make: Make, model: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a run whose model and prompts were given by relative paths
    monkeypatch.chdir(tmp_path)
    absolute = identify(named(make(), model)).run
    prompts = Path(make().prompts.path).name
    config = named(make(prompts=prompts, budget={"iterations": 1.0}), "model")
    done = run(config, results)
    assert identify(named(make(prompts=prompts), "model")).run == absolute

    # when it is asked for from a folder in which other things have those names
    elsewhere = tmp_path / "elsewhere"
    damage(shutil.copytree(model, elsewhere / "model"))
    (elsewhere / prompts).write_text("other\nprompts\n")
    monkeypatch.chdir(elsewhere)
    drawn = cli_here("sample", done.record.run, "--prompt", "a", "--images", "1")

    # then it is drawn from its own
    assert drawn.returncode == 0, drawn.stderr
    stored = stored_config(done.store)
    assert (stored.model.path, stored.prompts.path) == (str(model), str(tmp_path / prompts))


@pytest.mark.parametrize("asked", ["sample", "run --resume"])
def test_a_model_that_has_changed_is_not_taken_for_the_runs_own(
    make: Make, model: Path, results: Path, asked: str
) -> None:
    # given a run, and other weights under its model's path
    stopped = run(named(make(), model), results, Watcher(stop_after=1))
    damage(model)

    # when it is drawn from, or gone on with
    options = ["--prompt", "a"] if asked == "sample" else []
    refused = cli_here(*asked.split(), stopped.record.run, *options)

    assert "its base weights have changed since" in sentence(refused)


def test_a_folder_that_holds_another_run_is_not_taken_for_this_one(make: Make, results: Path) -> None:
    """Given two runs of which one's folder lies under the other's name, then no result of the wrong one is given."""
    one, other = (run(make().model_copy(update={"seed": seed}), results).store for seed in (1, 2))
    shutil.rmtree(other.folder)
    shutil.copytree(one.folder, other.folder)

    with pytest.raises(UserError, match=f"holds another run, {one.record.run}"):
        run(make().model_copy(update={"seed": 2}), results)


@pytest.mark.parametrize("status", ["done", "interrupted"])
def test_settings_that_were_changed_in_a_stored_run_are_found(make: Make, results: Path, status: str) -> None:
    """Given a stored run whose learning rate was edited, then it is neither reported nor gone on with."""
    store = run(make(), results).store
    text = store.config_toml()
    line = next(line for line in text.splitlines() if line.startswith("learning_rate"))
    (store.folder / "config.toml").write_text(text.replace(line, "learning_rate = 0.77"))
    store.save_record(store.record.model_copy(update={"status": status}))

    with pytest.raises(UserError, match=r"config\.toml was changed since"):
        run(make(), results)
    assert run(make(), results, again=True).fresh


@pytest.mark.parametrize(("was", "now"), [("learning_rate = 0.001", "learning_rate = 0.5"), ("flat", "tree")])
def test_settings_that_were_changed_in_a_stored_run_make_no_intact_bundle(
    make: Make, results: Path, tmp_path: Path, was: str, now: str
) -> None:
    store = run(make(), results).store
    write_bundle(results, tmp_path / "sound.zip", "none")
    assert verify_bundle(tmp_path / "sound.zip").problems == ()
    path = store.folder / "config.toml"
    assert was in path.read_text()
    path.write_text(path.read_text().replace(was, now))

    write_bundle(results, tmp_path / "edited.zip", "none")
    (problem,) = verify_bundle(tmp_path / "edited.zip").problems

    assert (problem.kind, store.record.run in problem.said) == ("impossible", True)


FILES = """
from pathlib import Path
from grpo_bench import Reward, RewardConfig

class Settings(RewardConfig):
    lexicon: str = ""
    python: float = 1.0

class Reader(Reward[Settings]):
    "Reads files."
    name = "reader"
    Config = Settings
    def files(self):
        return [Path(__file__).parent / place / "words.txt" for place in ("one", "two")]
    def score(self, images, prompts):
        print("a word on standard output")
        return [0.5] * len(prompts)
"""


def test_every_file_that_a_reward_is_told_of_or_reads_is_in_the_id(make: Make, tmp_path: Path) -> None:
    """Given two weight files of one name, a setting that names a file, and one that is called as a place is."""
    (tmp_path / "reader.py").write_text(FILES)
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "words.txt").write_text("1")
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("1")
    load_plugin(str(tmp_path / "reader.py"))

    def name(**settings: object) -> str:
        reward = {"name": "reader", "reader": {"lexicon": str(lexicon), **settings}}
        return identify(make().model_copy(update={"reward": type(make().reward).model_validate(reward)})).run

    first = name()
    assert name(python=2.0) != first
    for path in (lexicon, tmp_path / "one" / "words.txt", tmp_path / "two" / "words.txt"):
        path.write_text("another")
        assert name() != first
        path.write_text("1")
    assert name() == first


def test_prompts_with_line_ends_are_not_taken_for_other_prompts() -> None:
    digests = {
        outcome_prompts({"train": ["a cat\ntrain\ta dog"]}),
        outcome_prompts({"train": ["a cat", "a dog"]}),
        outcome_prompts({"train": ["a cat\ta dog"]}),
    }
    assert len(digests) == 3


@pytest.mark.parametrize("method", METHODS.names())
def test_a_stored_config_names_the_run_that_it_was_stored_with(method: str) -> None:
    """Also where a default is a whole number for a setting with decimals, which is stored as it is read."""
    made = identify(resolve(flags(method=method, workload="gaussian"), None, None, None))

    assert identify(validated(RunConfig, parse_toml(made.config.to_toml()))).run == made.run


def test_a_model_that_is_gone_is_one_sentence(make: Make, model: Path, results: Path) -> None:
    stopped = run(named(make(), model), results, Watcher(stop_after=1))
    shutil.rmtree(model)

    assert str(model) in sentence(cli_here("sample", stopped.record.run, "--prompt", "a"))
    assert str(model) in sentence(cli_here("run", "--resume", stopped.record.run))


def test_quiet_says_whether_the_result_was_stored_or_fresh() -> None:
    asked = ("run", "--quiet", "--workload", "gaussian", "--method", "flat", "--budget", "iterations=0")

    first, second, third = (json.loads(cli_here(*asked, *more).stdout) for more in ((), (), ("--again",)))

    assert [one["fresh"] for one in (first, second, third)] == [True, False, True]
    assert first["run"] == second["run"] == third["run"]


def test_a_run_of_another_numerics_version_is_not_gone_on_with(make: Make, results: Path) -> None:
    stopped = run(make(), results, Watcher(stop_after=1))
    stopped.store.save_record(stopped.record.model_copy(update={"numerics_version": 1}))

    with pytest.raises(UserError, match="made under numerics version 1"):
        resume(stopped.store, Watcher())


def test_runs_of_older_ids_are_read_and_never_matched(tmp_path: Path) -> None:
    # given a reference run whose hashes cover less, and the same one as if it had been interrupted
    folder = next((ROOT / "results" / "archive" / "shapes").glob("shapes-flat-s*"))
    store = RunStore(shutil.copytree(folder, tmp_path / folder.name))
    assert store.rows() and "policy" not in store.record.hashes
    store.save_record(store.record.model_copy(update={"status": "interrupted"}))

    # then its config names another run today, and nothing goes on from it
    assert identify(stored_config(store)).run != store.record.run
    with pytest.raises(UserError, match="an older grpo-bench made it"):
        resume(store, Watcher())


def test_what_is_shared_between_configs_knows_how_many_prompts_are_reported(make: Make, tmp_path: Path) -> None:
    # given a file of which the last six of sixty prompts are held out, and trials on those that reports leave
    many = tmp_path / "many.txt"
    many.write_text("".join(f"shape {number}\n" for number in range(60)), encoding="utf-8")

    def trial(reported: int, seed: int) -> Prepared:
        evaluation = {"split": "tuning", "prompts": reported}
        return identify(make(prompts=str(many), evaluation=evaluation, seed=seed), known)

    known: dict[str, Ingredients] = {}
    few, more = trial(2, 0), trial(3, 0)

    assert [len(found.ingredients.prompts["tuning"]) for found in (few, more)] == [4, 3]
    assert few.hashes["prompts"] != more.hashes["prompts"]
    assert trial(2, 5).ingredients is few.ingredients


READING = """
from pathlib import Path
from grpo_bench import Reward, RewardConfig

class Config(RewardConfig):
    table: str = "a"

class Reading(Reward[Config]):
    '''Reads all tables of a folder when it is made.'''
    name = "reading"
    Config = Config
    range = (0.0, 1.0)

    def __init__(self, config):
        super().__init__(config)
        folder = Path(__file__).parent / ("tables-" + config.table)
        self.weight = sum(float(file.read_text()) for file in sorted(folder.iterdir()))

    def score(self, images_BCHW, prompts):
        return self.weight * images_BCHW.mean(dim=(1, 2, 3))
"""


def test_what_a_plugin_reads_when_it_is_made_is_in_the_id(make: Make, tmp_path: Path) -> None:
    (tmp_path / "reading.py").write_text(READING)
    for table in "ab":
        (tmp_path / f"tables-{table}").mkdir()
        (tmp_path / f"tables-{table}" / "one.txt").write_text("0.5")
    load_plugin(str(tmp_path / "reading.py"))

    def run_with(table: str) -> str:
        reward = {"name": "reading", "reading": {"table": table}}
        return identify(make().model_copy(update={"reward": validated(RewardSection, reward)})).run

    first, other = run_with("a"), run_with("b")
    assert run_with("a") == first != other

    # when a file is edited, and when one is added
    (tmp_path / "tables-a" / "one.txt").write_text("-0.5")
    edited = run_with("a")
    (tmp_path / "tables-a" / "two.txt").write_text("0.25")

    # then it is another reward where it is read, and no other where it is not
    assert len({first, edited, run_with("a")}) == 3
    assert run_with("b") == other

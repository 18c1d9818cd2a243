"""`grpo-bench diagnose` on the analytic workload: gradients against finite differences, what is refused, resuming."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Watcher
from torch import Tensor
from typer.testing import CliRunner

import grpo_bench.gradients.diagnose as diagnosing
from grpo_bench.analysis.diagnosis import label_figures, potential_shares
from grpo_bench.cli import app
from grpo_bench.commands.diagnose import label_configs
from grpo_bench.config import RunConfig
from grpo_bench.errors import UserError
from grpo_bench.evaluation.scoring import make_rewards
from grpo_bench.forest.builders import chains
from grpo_bench.gradients.deployed import check_differentiable, decoded, deployed_gradient, drawn, targets
from grpo_bench.gradients.diagnose import diagnose
from grpo_bench.gradients.estimates import estimates, reached
from grpo_bench.gradients.place import of_run
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise, Purpose
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.store.diagnosis import Diagnosis, PolicyRecord, read_diagnosis
from grpo_bench.training.prepare import identify
from grpo_bench.training.run import start
from grpo_bench.training.session import Session, open_session
from grpo_bench.workloads.gaussian import cloud
from grpo_bench.workloads.gaussian.clouds import NUMBERS, QUALITY
from grpo_bench.workloads.gaussian.exact import exact_gradient

STEPS = 4
SMALL = [f"sampling.steps={STEPS}", f"evaluation.steps={STEPS}", "training.prompts=2", "budget.nfe=2000"]


def configs(*methods: str, sets: tuple[str, ...] = ()) -> Mapping[str, RunConfig]:
    names = ",".join(methods)
    return label_configs("gaussian", names, None, None, [*SMALL, *sets], seed=0, device="cpu")


def session(method: str = "flat", spread: float = 0.1) -> Session:
    """A small session whose policy is off the closed form by residual weights of that standard deviation."""
    opened = open_session(identify(configs(method)[method]))
    stream = np.random.default_rng(0)
    for _, weight in opened.policy.parameters():
        weight.data = torch.tensor(spread * stream.standard_normal(weight.shape), dtype=torch.float32)
    return opened


@pytest.fixture(autouse=True, scope="module")
def _hasty() -> Iterator[None]:
    """Eight iterations a label will do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosing, "enough", lambda found: found.iterations >= 8)
        yield


def test_the_differentiable_sampler_is_the_engines() -> None:
    given = session()
    index_P = np.arange(3)
    prompts = [given.prompts[index] for index in index_P]
    schedule = make_schedule(given.policy.grid(STEPS), "ode")
    forest = chains(schedule.sigmas, 1, np.zeros(STEPS, dtype=bool))
    noise = Noise(0, 5, prompts, given.policy.latent_shape)

    grown = grow(forest, schedule, given.handle, given.encoded.rows(index_P), noise).leaf_LPZ[0]
    start = noise.draw(Purpose.ROOT, forest.key_N[:1], torch.device("cpu"))[0]

    assert torch.equal(drawn(given, given.encoded.rows(index_P), start), grown)


def test_the_deployed_gradient_is_that_of_finite_differences_in_float64() -> None:
    # given the same sampler and reward in numpy and float64, and central differences along ten directions
    given = session()
    prompts = list(given.prompts[:3])
    x_PCHW = torch.from_numpy(np.random.default_rng(1).standard_normal((3, *given.policy.latent_shape))).float()
    found = deployed_gradient(given, given.encoded.rows(np.arange(3)), prompts, x_PCHW).double().numpy()
    weights = {name: weight.detach().double().numpy() for name, weight in given.policy.parameters()}
    row_T = given.policy.denoiser.rows(torch.tensor(shifted_grid(STEPS)[:-1], dtype=torch.float32)).numpy()  # type: ignore[operator]
    stream = np.random.default_rng(2)

    for _ in range(10):
        step = {name: stream.standard_normal(value.shape) for name, value in weights.items()}
        ends = [
            _objective({name: value + size * step[name] for name, value in weights.items()}, row_T, prompts, x_PCHW)
            for size in (1e-5, -1e-5)
        ]
        slope = (ends[0] - ends[1]) / 2e-5
        assert float(found @ np.concatenate([step[name].ravel() for name in weights])) == pytest.approx(
            slope, rel=1e-3, abs=1e-4
        )


def _objective(weights: Mapping[str, np.ndarray], row_T: np.ndarray, prompts: list[str], x_PCHW: Tensor) -> float:
    """The mean reward of the ODE's images, from the closed-form velocity, in float64."""
    sigmas, scores = shifted_grid(STEPS), []
    for prompt, noise in zip(prompts, x_PCHW.double().numpy(), strict=True):
        own, x = cloud(prompt), noise.ravel()
        for step in range(STEPS):
            s, row = sigmas[step], row_T[step]
            gain = (s - (1 - s) * own.spectrum) / ((1 - s) ** 2 * own.spectrum + s**2)
            flow = own.basis @ (gain * (own.basis.T @ (x - (1 - s) * own.mean))) - own.mean
            x = x + (sigmas[step + 1] - s) * (flow + weights["weight"][row] @ x + weights["bias"][row])
        scores.append(-(x - own.target) @ QUALITY @ (x - own.target) / NUMBERS)
    return float(np.mean(scores))


def test_the_deployed_gradients_mean_over_noise_is_the_exact_one() -> None:
    # given many images of all sixteen prompts, whose batches are the same prompts with other noise
    given = session()
    h_JW = torch.stack(targets(given, 60)).double()
    schedule = make_schedule(given.policy.grid(STEPS), "ode")
    forest = chains(schedule.sigmas, 1, np.zeros(STEPS, dtype=bool))
    exact = exact_gradient(forest, schedule, given.policy, given.prompts)  # type: ignore[arg-type]
    true_W = torch.cat([exact[name].flatten() for name, _ in given.policy.parameters()])

    # then each weight's mean lies within five standard errors of it
    error_W = h_JW.std(0) / 60**0.5
    assert ((h_JW.mean(0) - true_W).abs() < 5 * error_W + 1e-4).all()


def test_an_estimate_costs_what_the_ledger_says_and_changes_no_weight() -> None:
    given = session("tempflow")
    before = [weight.detach().clone() for _, weight in given.policy.parameters()]
    stream = estimates(given)

    first, second = next(stream), next(stream)

    # two prompts, four trunks, six children at each of three steps: the ledger's own sum, counted by hand
    trunks = 4 * 3  # parents of branches; the trunk ends at the last of them
    suffix = 4 * 6 * (3 + 2 + 1)
    assert first.nfe == second.nfe == 2 * (trunks + suffix + 3 * trunks)
    assert all(torch.equal(weight, old) for (_, weight), old in zip(given.policy.parameters(), before, strict=True))
    assert all(weight.grad is None for _, weight in given.policy.parameters())
    assert not torch.equal(first.gradient, second.gradient)

    # and what it trains: each of the first three steps alike, weighted by their noise
    std_T = given.schedule.std_T[: STEPS - 1]
    assert first.share_T == pytest.approx([1 / 3] * 3 + [0])
    assert first.weight_T[:3] == pytest.approx(std_T / std_T.mean())


def test_a_sliding_window_is_met_at_every_place_that_its_budget_reaches() -> None:
    # given a window of one step that moves on every twelve iterations
    config = configs("mix", sets=("method.window=1", "method.tau=12", "method.group=4"))["mix"]
    opened = open_session(identify(config))

    assert reached(config, opened.method, opened.schedule) > 30
    stream = estimates(opened)
    places = {int(np.argmax(next(stream).share_T)) for _ in range(40)}
    assert places == {0, 1, 2}


def test_forward_methods_and_methods_with_a_reference_are_measured_too(tmp_path: Path) -> None:
    _, policy = diagnose(configs("nft"), tmp_path / "d.json", None, potential=False, told=lambda _: None)

    (found,) = label_figures(policy)
    assert found.whole.q.value > 0.2
    assert sum(found.share_T) == pytest.approx(1) and found.weight_T[0] == 1


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Diagnosis, PolicyRecord]:
    path = tmp_path_factory.mktemp("diagnosis") / "d.json"
    diagnosis, policy = diagnose(configs("flat", "tree"), path, None, potential=True, told=lambda _: None)
    return path, diagnosis, policy


def test_what_is_stored_is_what_is_returned_and_points_up(measured: tuple[Path, Diagnosis, PolicyRecord]) -> None:
    path, diagnosis, policy = measured
    assert read_diagnosis(path) == diagnosis

    for one in label_figures(policy):
        assert one.whole.iterations >= 8
        assert one.whole.q.value > 3 * one.whole.q.error
        assert one.own_snr.value > one.own_snr.error
        assert sum(one.share_T) == pytest.approx(1) and one.share_T[-1] == 0
    assert policy.potential is not None
    shares = [each.by_reward["gaussian"].value for each in potential_shares(policy.potential)]
    assert shares == sorted(shares, reverse=True) and 0 < shares[-1] < shares[0] < 1.2


def test_what_is_done_is_not_done_again(
    measured: tuple[Path, Diagnosis, PolicyRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, diagnosis, _ = measured
    monkeypatch.setattr(diagnosing, "open_at", lambda *_: pytest.fail("a model was loaded"))

    again, _ = diagnose(configs("flat", "tree"), path, None, potential=True, told=lambda _: None)

    assert again == diagnosis


def test_an_interrupted_diagnosis_goes_on_to_the_same_data(
    measured: tuple[Path, Diagnosis, PolicyRecord], tmp_path: Path
) -> None:
    # given one that was stopped in its second label
    def stop(text: str) -> None:
        if text.startswith("tree: 8 iterations"):
            raise KeyboardInterrupt

    path = tmp_path / "d.json"
    with pytest.raises(KeyboardInterrupt):
        diagnose(configs("flat", "tree"), path, None, potential=True, told=stop)
    assert [one.label for one in read_diagnosis(path).policies[0].labels] == ["flat"]

    # when it goes on
    told: list[str] = []
    _, policy = diagnose(configs("flat", "tree"), path, None, potential=True, told=told.append)

    # then the first label is left alone, and all numbers are those of one that was not stopped
    assert not any(text.startswith("flat") for text in told)
    assert _timeless(policy) == _timeless(measured[2])


def _timeless(policy: PolicyRecord) -> PolicyRecord:
    labels = tuple(one.model_copy(update={"seconds": 0.0}) for one in policy.labels)
    return policy.model_copy(update={"labels": labels})


def test_other_settings_of_a_method_measure_its_label_anew(
    measured: tuple[Path, Diagnosis, PolicyRecord], tmp_path: Path
) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(measured[0].read_bytes())
    changed = configs("flat", sets=("method.group=6",))

    _, policy = diagnose(changed, path, None, potential=True, told=lambda _: None)

    was, now = (next(one for one in each.labels if one.label == "flat") for each in (measured[2], policy))
    assert was.id != now.id and max(was.nfe_K) > max(now.nfe_K)
    assert [one.label for one in policy.labels] == ["tree", "flat"]


def test_a_runs_last_policy_is_another_policy_of_the_file(tmp_path: Path) -> None:
    # given a short run
    config = configs("flat", sets=("training.learning_rate=0.05",))["flat"]
    store = start(config, tmp_path / "runs", Watcher()).store
    path = tmp_path / "d.json"
    diagnose(configs("flat"), path, None, potential=False, told=lambda _: None)

    diagnosis, policy = diagnose(configs("flat"), path, store, potential=False, told=lambda _: None)

    assert [one.name for one in diagnosis.policies] == ["base", store.record.run]
    base, after = (np.array(one.hh_JJ[0][0]) for one in diagnosis.policies)
    assert after < base  # the gradient is smaller nearer to the best
    assert policy.nfe == store.rows()[-1]["nfe"]


def test_a_run_of_another_model_is_refused(tmp_path: Path) -> None:
    config = configs("flat")["flat"]
    store = start(config.model_copy(update={"budget": {"iterations": 1.0}}), tmp_path, Watcher()).store

    like = identify(config)
    other = replace(like, ingredients=replace(like.ingredients, hashes={**like.hashes, "weights": "others"}))
    with pytest.raises(UserError, match="another model"):
        of_run(store, other)


def test_a_reward_without_a_derivative_is_refused() -> None:
    given = session()
    rewards = make_rewards(["jpeg-compressibility"], type(given.config.reward)(name="jpeg-compressibility"))

    with pytest.raises(UserError, match=r"jpeg-compressibility.*derivative"):
        check_differentiable(replace(given, rewards=rewards))


def test_a_policy_without_a_derivative_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = session()
    whole = type(given.policy).decode
    monkeypatch.setattr(type(given.policy), "decode", lambda self, latent: whole(self, latent.detach()))

    with pytest.raises(UserError, match=r"policy 'gaussian'.*derivative"):
        check_differentiable(given)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["gaussian", "--methods", "flat,flat"], "2 times"),
        (["gaussian", "--methods", "flatt"], "flat"),
        (["gaussian", "--methods", ""], "known"),
        (["nowhere", "--methods", "flat"], "nowhere"),
        (["gaussian", "--methods", "flat", "--suite", "shapes"], "workload"),
        (["gaussian", "--methods", "flat", "--policy", "no-such-run"], "no-such-run"),
        (["gaussian", "--methods", "flat", "--set", "budget.seconds=5"], "seconds"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:3]),
)
def test_bad_input_is_one_sentence(
    arguments: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    done = CliRunner().invoke(app, ["diagnose", *arguments])

    assert isinstance(done.exception, UserError)
    assert word in str(done.exception) and "\n" not in str(done.exception)


@pytest.mark.slow
def test_the_judge_of_shapes_has_no_derivative(tmp_path: Path) -> None:
    command = ["diagnose", "shapes", "--methods", "flat", "--reward", "shapes", "--out", str(tmp_path / "d.json")]

    done = CliRunner().invoke(app, command)

    assert isinstance(done.exception, UserError) and "derivative" in str(done.exception)
    assert not (tmp_path / "d.json").exists()


def test_a_damaged_file_and_another_workloads_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    for text in ("{", '{"schema_version": 1}', '{"schema_version": 99}'):
        path.write_text(text)
        with pytest.raises(UserError):
            diagnose(configs("flat"), path, None, potential=False, told=lambda _: None)
    other = Diagnosis(workload="shapes", reward="shapes-pref", numerics_version=1)
    path.write_text(other.model_dump_json())
    with pytest.raises(UserError, match="--out"):
        diagnose(configs("flat"), path, None, potential=False, told=lambda _: None)


def test_a_folder_a_device_and_a_runs_own_files_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")

    for path in (tmp_path, Path("/dev/null"), tmp_path / "config.toml"):
        with pytest.raises(UserError, match=str(path)):
            diagnose(configs("flat"), path, None, potential=False, told=lambda _: None)


def test_the_command_prints_a_table_of_80_columns_and_json(
    measured: tuple[Path, Diagnosis, PolicyRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    sets = [word for value in SMALL for word in ("--set", value)]
    command = ["diagnose", "gaussian", "--methods", "flat,tree", "--device", "cpu", "--out", str(measured[0]), *sets]

    table = CliRunner().invoke(app, command)
    line = CliRunner().invoke(app, [*command, "--json"])

    assert table.exit_code == line.exit_code == 0, (table.exception, line.exception)
    assert max(map(len, table.output.replace(str(measured[0]), "").splitlines())) <= 80
    found = json.loads(line.output)
    flat = next(one for one in label_figures(measured[2]) if one.label == "flat")
    assert found["labels"]["flat"]["whole"]["q"]["value"] == pytest.approx(flat.whole.q.value)
    assert len(found["potential"]) == STEPS - 2


@pytest.mark.slow
def test_a_step_along_the_deployed_gradient_of_shapes_raises_the_proxy_by_its_square() -> None:
    # given eight images of the tiny model, and the gradient through its sampler, decoder and learned proxy
    given = open_session(identify(label_configs("shapes", "flat", None, None, [], seed=0, device="cpu")["flat"]))
    index_P = np.arange(8)
    prompts = [given.prompts[index] for index in index_P]
    x_PCHW = Noise(0, 1, prompts, given.policy.latent_shape).draw(Purpose.ROOT, np.array([0]), torch.device("cpu"))[0]
    conditioning = given.encoded.rows(index_P)
    slope = deployed_gradient(given, conditioning, prompts, x_PCHW).double()

    # when the weights go a little way along it, and back
    size = 1e-3 / float(slope.norm())
    weights = [weight for _, weight in given.policy.parameters()]
    parts = [
        part.view_as(own) for part, own in zip(slope.split([own.numel() for own in weights]), weights, strict=True)
    ]
    scores = []
    for sign in (1, -2):
        with torch.no_grad():
            for weight, part in zip(weights, parts, strict=True):
                weight += (sign * size * part).float()
            images_BCHW = decoded(given.policy, drawn(given, conditioning, x_PCHW)).requires_grad_()  # unrounded
        scores.append(float(given.rewards["shapes-pref"].score(images_BCHW, prompts).detach().double().mean()))

    # then the proxy moves by twice the step's length times the gradient's
    assert scores[0] - scores[1] == pytest.approx(2 * size * float(slope.square().sum()), rel=0.05)

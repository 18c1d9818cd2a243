"""Diffusion models go through the same engine: whole runs on a U-Net, and what rollout and training must agree on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Make, Watcher, cli_here, config, run, same_images, same_points, write_prompts
from scipy.stats import kstest, norm
from thrift import thrifty
from tiny import CPU, Recording, accumulate, batch, method
from tinysd import make_sd, sd_policy

from grpo_bench.config import Table
from grpo_bench.errors import UserError
from grpo_bench.evaluation.compare import compare
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Ledger
from grpo_bench.policies.sd import SDPolicy
from grpo_bench.sampling.engine import Trajectories, grow
from grpo_bench.sampling.gaussian import Likelihood
from grpo_bench.sampling.handle import Conditioning, Metered, Regime
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise, Purpose
from grpo_bench.training.losses.edges import Diagnostics
from grpo_bench.training.session import load_policy

PROMPTS = ["a red circle", "a blue square", "a star"]
T = 4
METHODS: dict[str, Table] = {
    "flat": {"name": "flat", "group": 2},
    "tree": {"name": "tree", "branching": 2, "window": 2, "window_law": "fixed", "window_start": 1},
    "tempflow": {"name": "tempflow", "branching": 2, "roots": 1},
    "ddpo": {"name": "ddpo", "group": 2, "buffer": 2, "min_count": 2},
}
# rollout evaluations, training evaluations, trained edges and images of one prompt, counted by hand at T = 4:
# a tree from step 1 has 1 ODE parent, 1 and 2 in the window, 4 after it; tempflow a trunk of 3, 2 (3 + 2 + 1) beside it
COSTS = {"flat": (8, 6, 6, 2), "tree": (8, 3, 6, 4), "tempflow": (15, 3, 6, 6), "ddpo": (8, 6, 6, 2)}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sd(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture
def make_run(pipeline: Path, tmp_path: Path) -> Make:
    """A config of a small run on the U-Net, with changes by section."""
    diffusion: Table = {"model": {"policy": "sd"}, "sampling": {"kernel": "ddim"}}

    def chosen(**over: object) -> object:
        both = {name: {**diffusion.get(name, {}), **over.pop(name, {})} for name in diffusion}  # type: ignore[dict-item]
        return config(pipeline, write_prompts(tmp_path), **both, **over)

    return chosen  # type: ignore[return-value]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_runs_and_costs_what_its_forest_declares(
    make_run: Make, results: Path, name: str, guidance: float
) -> None:
    chosen = make_run(method=METHODS[name], budget={"iterations": 2.0}, sampling={"guidance": guidance})
    done = run(chosen, results)

    assert done.record.status == "done", done.record.reason
    last = done.store.rows()[-1]
    spent = [last[counter] for counter in ("rollout_nfe", "train_nfe", "trained_edges", "images")]
    each = np.array(COSTS[name]) * ([2, 2, 1, 1] if guidance > 1 else 1)
    assert spent == (2 * 2 * each).tolist()
    assert last["base_distance"] > 0
    # and the log-prob that training replays is the rollout's, up to rounding
    text = done.store.run_log.read_text(encoding="utf-8")
    ratios = [float(value) for value in re.findall(r"first ratio off by (\S+),", text)]
    assert len(ratios) == 2
    assert max(ratios) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        {"name": "mix", "group": 2, "window": 1},
        {"name": "branch", "branching": 2, "splits": [0, 1]},
        {"name": "branch-mix", "branching": 2, "splits": [0], "window": 1},
        {"name": "guard", "group": 2},
    ],
    ids=lambda table: str(table["name"]),
)
def test_the_other_methods_run_too(make_run: Make, results: Path, other: Table) -> None:
    done = run(make_run(method=other, budget={"iterations": 1.0}), results)

    assert done.record.status == "done", done.record.reason
    assert done.store.rows()[-1]["base_distance"] > 0


def test_training_along_a_flow_is_refused(make_run: Make, results: Path) -> None:
    for kernel, reason in (("ddim", "kernel 'ddim' is for models that"), ("ode", "policy 'sd' predicts epsilon")):
        with pytest.raises(UserError, match=f"'nft' noises images along a flow, and {reason}"):
            run(make_run(method={"name": "nft", "group": 2}, sampling={"kernel": kernel}), results)


@pytest.mark.slow
@pytest.mark.parametrize("name", thrifty(METHODS, 1))
def test_the_same_seed_gives_the_same_points_and_images(make_run: Make, tmp_path: Path, name: str) -> None:
    chosen = make_run(method=METHODS[name], budget={"iterations": 2.0}, training={"updates": 2})

    first, second = run(chosen, tmp_path / "first"), run(chosen, tmp_path / "second")

    assert first.store.rows()[-1]["base_distance"] > 0
    same_points(first.store, second.store)
    same_images(first.store, second.store)


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(make_run: Make, tmp_path: Path) -> None:
    # given ddpo, whose buffer must survive too
    chosen = make_run(method=METHODS["ddpo"], training={"checkpoint_every": 1})
    whole = run(chosen, tmp_path / "whole")
    assert run(chosen, tmp_path / "cut", Watcher(stop_after=1)).record.status == "interrupted"

    same_points(run(chosen, tmp_path / "cut").store, whole.store)


@pytest.mark.slow
def test_low_rank_training_with_a_kl_asks_the_reference_once_a_parent(make_run: Make, results: Path) -> None:
    chosen = make_run(budget={"iterations": 1.0}, model={"trainable": "lora", "lora_rank": 2}, objective={"beta": 0.01})
    last = run(chosen, results).store.rows()[-1]

    assert last["reference_nfe"] == last["train_nfe"] == 2 * 6
    assert last["base_distance"] > 0


@pytest.mark.slow
def test_the_last_step_can_be_trained_as_ddpo_does(make_run: Make, results: Path) -> None:
    chosen = make_run(method=METHODS["ddpo"], budget={"iterations": 1.0}, sampling={"train_last": True})

    assert run(chosen, results).store.rows()[-1]["trained_edges"] == 2 * 2 * T


@pytest.mark.slow
def test_a_finished_runs_base_and_policy_can_be_compared(make_run: Make, results: Path) -> None:
    chosen = make_run(budget={"iterations": 2.0}, training={"learning_rate": 0.01})
    done = run(chosen, results)
    base, trained = compare(done.store, chosen, load_policy(chosen, CPU), ("a star",), images=2, seed=1)

    assert base.shape == trained.shape == (1, 2, 32, 32, 3)
    assert (base != trained).any()


@pytest.mark.parametrize("kernel", ["flow-sde", "dance-sde", "cps"])
def test_a_flow_kernel_is_refused_before_anything_is_loaded(make_run: Make, results: Path, kernel: str) -> None:
    with pytest.raises(UserError, match=r"this one predicts epsilon: use sampling\.kernel=ddim$"):
        run(make_run(sampling={"kernel": kernel}), results)
    assert list(results.glob("prompts-*")) == []


def test_ddim_is_refused_for_a_flow_model(make: Make, results: Path) -> None:
    with pytest.raises(UserError, match=r"this one predicts velocity: use sampling\.kernel=flow-sde or"):
        run(make(sampling={"kernel": "ddim"}), results)


def test_a_plan_with_ddim_needs_no_model() -> None:
    done = cli_here("plan", "flat", "--set", "sampling.kernel=ddim", "--steps", "10")

    assert done.returncode == 0, done.stderr
    # 24 chains of 10 steps, of which 9 are trained
    assert re.search(r"rollout evaluations\s+240", done.stdout)
    assert re.search(r"training evaluations\s+216", done.stdout)


def planned(name: str, schedule: Schedule) -> Forest:
    return method(name, **{key: value for key, value in METHODS[name].items() if key != "name"}).plan(
        0, np.random.default_rng(0), schedule
    )


def rolled(
    sd: SDPolicy, forest: Forest, schedule: Schedule, likelihood: Likelihood, guidance: float = 1.0
) -> tuple[Trajectories, Conditioning]:
    conditioning = sd.encode(PROMPTS)
    handle = Metered(sd, Ledger(), guidance=guidance, batch=5)
    noise = Noise(0, 0, PROMPTS, sd.latent_shape)
    return grow(forest, schedule, handle, conditioning, noise, likelihood=likelihood), conditioning


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", METHODS)
def test_recorded_noise_and_log_probs_are_those_of_a_float64_reference(
    pipeline: Path, name: str, reduction: str
) -> None:
    # given ddim's mean written out as the DDIM paper has it, in float64, from the kept latents
    sd = sd_policy(pipeline)
    schedule = make_schedule(sd.grid(T), "ddim")
    forest = planned(name, schedule)
    out, conditioning = rolled(sd, forest, schedule, Likelihood(reduction=reduction))  # type: ignore[arg-type]
    assert schedule.grid.alpha is not None
    drawn = Noise(0, 0, PROMPTS, sd.latent_shape).draw(Purpose.EDGE, forest.key_N[forest.trained_edges_E], CPU)
    noises = []
    for edge, node in enumerate(forest.trained_edges_E):
        parent = int(forest.parent_N[node])
        now, after = schedule.grid.alpha[forest.depth_N[parent]], schedule.grid.alpha[forest.depth_N[node]]
        std = ((1 - after) / (1 - now) * (1 - now / after)) ** 0.5
        x_PCHW = out.parent_KPZ[np.searchsorted(forest.trained_parents, parent)]
        sigma_P = torch.full((len(PROMPTS),), float(schedule.sigmas[forest.depth_N[parent]]))
        with torch.no_grad():
            eps = sd.predict(x_PCHW, sigma_P, conditioning, Regime("unet")).double().numpy()
        x0hat = (x_PCHW.double().numpy() - (1 - now) ** 0.5 * eps) / now**0.5
        mean = after**0.5 * x0hat + (1 - after - std**2) ** 0.5 * eps
        child = out.child_EPZ[edge].double().numpy()
        density = norm.logpdf(child, mean, std).reshape(len(PROMPTS), -1)
        tolerance = 1e-5 if reduction == "mean" else 5e-3
        np.testing.assert_allclose(out.logp_EP[edge], getattr(density, reduction)(1), rtol=0, atol=tolerance)
        noises.append((child - mean) / std)
    # then the noise is what was drawn for the edge, and standard normal over all of them
    np.testing.assert_allclose(np.array(noises), drawn.numpy(), rtol=0, atol=5e-5)
    assert kstest(np.array(noises).ravel(), "norm").pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("reduction", "tolerance"), [("mean", 1e-6), ("sum", 1e-3)])
@pytest.mark.parametrize("name", METHODS)
def test_before_the_first_update_the_ratio_is_one(pipeline: Path, name: str, reduction: str, tolerance: float) -> None:
    # given rollout and training in batches of different sizes
    sd = sd_policy(pipeline)
    schedule = make_schedule(sd.grid(T), "ddim")
    forest, likelihood = planned(name, schedule), Likelihood(reduction=reduction)  # type: ignore[arg-type]
    grown, conditioning = rolled(sd, forest, schedule, likelihood)
    diagnostics, seen = Diagnostics.empty(T), Recording()
    advantage_EP = np.random.default_rng(0).standard_normal((forest.trained_edges, len(PROMPTS)))
    data = batch(forest, schedule, grown, conditioning, advantage_EP)
    accumulate(sd, data, chosen=seen, likelihood=likelihood, train_batch=4, diagnostics=diagnostics)
    ratio = torch.cat([(b.logp.detach() - b.logp_old).exp() for b in seen.seen])
    assert len(ratio) == forest.trained_edges * len(PROMPTS)
    assert float((ratio - 1).abs().max()) <= tolerance


@pytest.mark.slow
def test_another_eta_than_the_one_drawn_at_would_be_noticed(pipeline: Path) -> None:
    # the mutant: noise drawn at eta 1, scored in training at 0.98
    sd = sd_policy(pipeline)
    drawn, scored = (make_schedule(sd.grid(T), "ddim", eta) for eta in (1.0, 0.98))
    forest = planned("flat", drawn)
    grown, conditioning = rolled(sd, forest, drawn, Likelihood())
    diagnostics = Diagnostics.empty(T)
    advantage_EP = np.ones((forest.trained_edges, len(PROMPTS)))
    accumulate(sd, batch(forest, scored, grown, conditioning, advantage_EP), diagnostics=diagnostics)
    assert diagnostics.ratio_deviation > 1e-3


@pytest.mark.slow
def test_a_chains_suffix_is_ddim_without_noise(pipeline: Path) -> None:
    # given a tree whose window ends at step 3: diffusers' own DDIM takes its leaves from there
    sd = sd_policy(pipeline)
    schedule = make_schedule(sd.grid(T), "ddim")
    forest = planned("tree", schedule)
    out, conditioning = rolled(sd, forest, schedule, Likelihood())
    scheduler = sd._scheduler
    scheduler.set_timesteps(T)
    last = out.child_EPZ[forest.depth_N[forest.trained_edges_E] == 3]
    for leaf, x_PCHW in zip(out.leaf_LPZ, last, strict=True):
        timestep = int(scheduler.timesteps[3])
        with torch.no_grad():
            eps = sd.predict(x_PCHW, torch.full((3,), timestep / 1000), conditioning, Regime("unet"))
        torch.testing.assert_close(leaf, scheduler.step(eps, timestep, x_PCHW).prev_sample, rtol=1e-5, atol=1e-5)

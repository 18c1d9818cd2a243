"""What serves a state depends on its noise level: networks of their own, and guidance that costs twice at some."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from golden_runs import golden_config
from running import Watcher, run
from safetensors.torch import load_file
from tiny import LinearDenoiser, batch
from torch import Tensor, nn

from grpo_bench.config import ModelSection, RunConfig, build
from grpo_bench.forest.builders import branching
from grpo_bench.forest.schedule import Grid
from grpo_bench.metering.ledger import Counts, Ledger, check
from grpo_bench.registry import METHODS, POLICIES
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.gaussian import Likelihood
from grpo_bench.sampling.handle import Conditioning, Metered, Regime
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise
from grpo_bench.sampling.schedule import linear_grid, shifted_grid
from grpo_bench.store.run import RunStore
from grpo_bench.training.losses.edges import Diagnostics, Objective
from grpo_bench.training.planning import declared
from grpo_bench.workloads.gaussian.policy import GaussianDenoiser, GaussianPolicy

KNOT_K = shifted_grid(10)[:-1]
BOUNDARY = float(KNOT_K[3] + KNOT_K[4]) / 2
"""Noise levels from here on belong to the first network: halfway between two of the analytic policy's rows."""
STEPS = 6
PROMPTS = ["one", "two"]
NOISY = [True] * (STEPS - 1) + [False]
SCHEDULE = make_schedule(Grid(linear_grid(STEPS)), "flow-sde")
FLAT = METHODS.get("flat")(METHODS.get("flat").Config())


class Pair(LinearDenoiser):
    """Two linear denoisers: one for high noise, one below `BOUNDARY`, which is guided; they count for themselves."""

    def __init__(self) -> None:
        super().__init__(gain=0.3, push=0.1)
        self.low = nn.Parameter(torch.tensor(-0.2))

    def regime(self, sigma: float, guidance: float) -> Regime:
        return Regime("high") if sigma >= BOUNDARY else Regime("low", guidance, 2)

    def predict(self, x_BZ: Tensor, sigma_B: Tensor, conditioning: Conditioning, regime: Regime) -> Tensor:
        assert {self.regime(float(sigma), 3.0) for sigma in sigma_B} == {regime}
        v_BZ = super().predict(x_BZ, sigma_B, conditioning, regime)
        return v_BZ if regime.network == "high" else v_BZ + (self.low - self.gain) * x_BZ


class TestCosts:
    """Sums over parents of what their regimes take; the ledger, the forest and the network agree."""

    def test_by_hand(self) -> None:
        # Grid 1, 5/6, 4/6, ...: the first two points are unguided, the other four guided. One root, three children at
        # the first point, their chains to the end: parents 1 + 3 + 4 x 3; the last step is not trained.
        forest = branching(SCHEDULE.sigmas, {0: 3}, NOISY)
        keep_NP = np.ones((forest.nodes, len(PROMPTS)), dtype=bool)
        cost = declared(forest, FLAT, keep_NP, evaluations_T=np.array([1, 1, 2, 2, 2, 2]), beta=1.0)
        trained = 1 + 3 + 3 * 3 * 2
        assert cost == Counts(2 * (1 + 3 + 4 * 3 * 2), 2 * trained, 2 * trained, 2 * 3 * 5, 2 * 3)

    def test_the_ledger_counts_them(self) -> None:
        forest, pair, ledger = branching(SCHEDULE.sigmas, {0: 3, 2: 2}, NOISY), Pair(), Ledger()
        handle = Metered(pair, ledger, guidance=3.0, batch=5)
        conditioning = pair.conditioning(len(PROMPTS))
        grown = grow(forest, SCHEDULE, handle, conditioning, Noise(0, 0, PROMPTS, pair.latent_shape))
        keep_EP = np.random.default_rng(0).random((forest.trained_edges, len(PROMPTS))) < 0.6
        data = batch(forest, SCHEDULE, grown, conditioning, np.ones(keep_EP.shape), keep_EP)
        objective = Objective(FLAT, handle, Likelihood(), clip=1e-3, beta=0.5, train_batch=4)
        _, edges = objective.accumulate(data, np.arange(len(PROMPTS)), Diagnostics.empty(STEPS))
        ledger.count("trained_edges", edges)
        ledger.count("images", forest.images * len(PROMPTS))
        keep_NP = np.zeros((forest.nodes, len(PROMPTS)), dtype=bool)
        keep_NP[forest.trained_edges_E] = keep_EP
        evaluations_T = handle.evaluations(SCHEDULE.sigmas[:-1])
        assert evaluations_T.tolist() == [1, 1, 2, 2, 2, 2]
        check(declared(forest, FLAT, keep_NP, evaluations_T=evaluations_T, beta=0.5), ledger.counts())
        assert pair.evaluations == sum(ledger.evaluations(role) for role in ("rollout", "train", "reference"))

    def test_a_network_without_kept_rows_has_no_gradient(self) -> None:
        forest, pair = branching(SCHEDULE.sigmas, {0: 3}, NOISY), Pair()
        handle = Metered(pair, Ledger(), guidance=3.0, batch=5)
        conditioning = pair.conditioning(len(PROMPTS))
        grown = grow(forest, SCHEDULE, handle, conditioning, Noise(0, 0, PROMPTS, pair.latent_shape))
        early_E = SCHEDULE.sigmas[forest.start_N[forest.trained_edges_E]] >= BOUNDARY
        keep_EP = np.repeat(early_E[:, None], len(PROMPTS), axis=1)
        data = batch(forest, SCHEDULE, grown, conditioning, np.ones(keep_EP.shape), keep_EP)
        objective = Objective(FLAT, handle, Likelihood(), clip=1e-3, beta=0.0, train_batch=4)
        objective.accumulate(data, np.arange(len(PROMPTS)), Diagnostics.empty(STEPS))
        assert pair.gain.grad is not None and pair.low.grad is None


class Shared(GaussianPolicy):
    """The analytic workload's policy, its rows of weights shared out over two networks."""

    name = "shared-out"

    def __init__(self, denoiser: GaussianDenoiser, settings: ModelSection, device: torch.device) -> None:
        super().__init__(denoiser, settings, device)
        self._adopt(denoiser, low=copy.deepcopy(denoiser))

    def regime(self, sigma: float, guidance: float) -> Regime:
        return replace(super().regime(sigma, guidance), network="denoiser" if sigma >= BOUNDARY else "low")


class Sometimes(GaussianPolicy):
    """Guided below `BOUNDARY` only."""

    name = "sometimes"

    def regime(self, sigma: float, guidance: float) -> Regime:
        return super().regime(sigma, 1.0 if sigma >= BOUNDARY else guidance)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both can be chosen by name."""
    monkeypatch.setattr(POLICIES, "_plugins", {})
    for kind in (Shared, Sometimes):
        POLICIES.add(kind.name, lambda kind=kind: kind, origin=__file__)  # type: ignore[misc]
    yield


def config(method: str, scratch: Path, policy: str, **over: object) -> RunConfig:
    golden = golden_config(f"gaussian/{method}", scratch).model_dump(exclude_none=True)
    return build([("golden", golden), ("policy", {"model": {"policy": policy}, "seed": 3}), ("over", over)])


def last(store: RunStore) -> tuple[pd.Series, dict[str, Tensor]]:
    """The last point and the weights of a run."""
    checkpoint = store.checkpoints.latest()
    assert checkpoint is not None
    folders = {file.parent.name: file for file in checkpoint.path.glob("*/*.safetensors")}
    weights = {f"{name}/{key}": value for name, file in folders.items() for key, value in load_file(file).items()}
    return pd.read_parquet(store.folder / "points.parquet").iloc[-1], weights


@pytest.mark.parametrize("method", ["flat", "branch", "nft"])
def test_two_networks_that_share_the_rows_out_are_the_one_network(method: str, tmp_path: Path) -> None:
    """Each row of weights belongs to a noise level, so that two networks learn what one does, each its own rows.

    These methods train at every noise level in every update; where a network is left out of one, it takes no step,
    while AdamW moves all rows of a single network.
    """
    one, single = last(run(config(method, tmp_path, "gaussian"), tmp_path / "one").store)
    two, double = last(run(config(method, tmp_path, "shared-out"), tmp_path / "two").store)
    counted = ["nfe", "rollout_nfe", "train_nfe", "reference_nfe", "eval_nfe", "images", "updates", "trained_edges"]
    assert one[counted].equals(two[counted])
    assert two["gold"] == pytest.approx(one["gold"], abs=1e-5)
    high_K = KNOT_K >= BOUNDARY
    for part in ("weight", "bias"):
        whole = single[f"denoiser/{part}"]
        torch.testing.assert_close(double[f"denoiser/{part}"][high_K], whole[high_K], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(double[f"low/{part}"][~high_K], whole[~high_K], rtol=1e-4, atol=1e-6)
        assert not double[f"denoiser/{part}"][~high_K].any() and not double[f"low/{part}"][high_K].any()
    assert single["denoiser/bias"].any()


def test_a_resumed_run_of_two_networks_is_the_uninterrupted_one(tmp_path: Path) -> None:
    wanted = config("tree", tmp_path, "shared-out", training={"ema_decay": 0.9}, objective={"beta": 0.01})
    whole = run(wanted, tmp_path / "whole").store
    run(wanted, tmp_path / "parts", Watcher(stop_after=1))
    again = run(wanted, tmp_path / "parts").store
    (one, first), (two, second) = last(whole), last(again)
    assert first.keys() == second.keys() == {f"{n}/{part}" for n in ("denoiser", "low") for part in ("weight", "bias")}
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (one["gold"], one["nfe"], one["reference_nfe"]) == (two["gold"], two["nfe"], two["reference_nfe"])


def test_guidance_at_some_noise_levels_costs_twice_there(tmp_path: Path) -> None:
    """Groups of four chains of six steps, the last one ODE, two prompts in two iterations."""
    guided = {"sampling": {"guidance": 2.0}}
    row, _ = last(run(config("flat", tmp_path, "sometimes", **guided), tmp_path / "runs").store)
    high = int((shifted_grid(6)[:-1] >= BOUNDARY).sum())
    assert 0 < high < 5
    assert row["rollout_nfe"] == 2 * 2 * 4 * (high + 2 * (6 - high))
    assert row["train_nfe"] == 2 * 2 * 4 * (high + 2 * (5 - high))


def test_a_forward_draw_costs_what_its_own_time_does(tmp_path: Path) -> None:
    """Draws may lie between the grid's points."""
    row, _ = last(run(config("nft", tmp_path, "sometimes", sampling={"guidance": 2.0}), tmp_path / "runs").store)
    plain, _ = last(run(config("nft", tmp_path, "sometimes"), tmp_path / "plain").store)
    assert plain["train_nfe"] < row["train_nfe"] < 2 * plain["train_nfe"]
    assert row["reference_nfe"] == row["train_nfe"] * plain["reference_nfe"] // plain["train_nfe"]

"""What must be equal, on a real transformer: ratio 1 on policy, equal forests, one evaluation a parent or an edge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Recording, accumulate, batch, make, method, policy

from grpo_bench.forest.builders import branching, chains
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Rollout
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Ledger
from grpo_bench.method import Method, MethodConfig
from grpo_bench.policies.sd3 import SD3Policy
from grpo_bench.sampling.engine import Trajectories, grow
from grpo_bench.sampling.gaussian import Likelihood, log_prob
from grpo_bench.sampling.handle import Conditioning, Metered, Regime
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.training.losses.edges import Diagnostics

PROMPTS = ["a red circle", "a blue square", "a star"]
T = 10
SCHEDULE = make_schedule(shifted_grid(T), "flow-sde")

SMALL: dict[str, dict[str, object]] = {
    "flat": {"group": 4},
    "mix": {"group": 4},
    "tree": {"branching": 2},
    "branch": {"splits": (0, 4)},
    "branch-mix": {"splits": (0, 4), "window": 2},
    "tempflow": {"roots": 1, "branching": 3, "steps": (0, 3, 8)},
}


def planned(name: str, **settings: object) -> Forest:
    return method(name, **settings).plan(0, np.random.default_rng(0), SCHEDULE)


def advantages(forest: Forest, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((forest.trained_edges, len(PROMPTS)))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("objective") / "model")


def rolled(
    sd3: SD3Policy, forest: Forest, schedule: Schedule, likelihood: Likelihood | None = None, rollout_batch: int = 64
) -> tuple[Trajectories, Conditioning]:
    conditioning = sd3.encode(PROMPTS)
    handle = Metered(sd3, Ledger(), guidance=1.0, batch=rollout_batch)
    noise = Noise(0, 0, PROMPTS, sd3.latent_shape)
    return grow(forest, schedule, handle, conditioning, noise, likelihood=likelihood or Likelihood()), conditioning


@pytest.mark.parametrize(("reduction", "tolerance"), [("mean", 1e-6), ("sum", 1e-3)])
@pytest.mark.parametrize("kernel", ["flow-sde", "dance-sde", "cps"])
@pytest.mark.parametrize("name", SMALL)
def test_before_the_first_update_the_ratio_is_one(
    pipeline: Path, name: str, kernel: str, reduction: str, tolerance: float
) -> None:
    # check item 1, with rollout and training in batches of different sizes
    schedule = make_schedule(shifted_grid(T), kernel)
    forest = planned(name, **SMALL[name])
    likelihood = Likelihood(reduction=reduction)  # type: ignore[arg-type]
    sd3 = policy(pipeline)
    grown, conditioning = rolled(sd3, forest, schedule, likelihood)
    diagnostics, seen = Diagnostics.empty(T), Recording()
    data = batch(forest, schedule, grown, conditioning, advantages(forest))
    accumulate(sd3, data, chosen=seen, likelihood=likelihood, train_batch=16, diagnostics=diagnostics)
    ratio = torch.cat([(b.logp.detach() - b.logp_old).exp() for b in seen.seen])
    assert len(ratio) == forest.trained_edges * len(PROMPTS)
    assert float((ratio - 1).abs().max()) <= tolerance
    assert diagnostics.ratio_deviation == float((ratio - 1).abs().max())


@pytest.mark.parametrize("kernel", ["flow-sde", "cps"])
def test_a_policy_that_scored_with_another_std_would_be_noticed(pipeline: Path, kernel: str) -> None:
    # the mutant: noise drawn at one level, scored in training at another (2% off)
    forest = planned("mix", group=4)
    drawn, scored = (make_schedule(shifted_grid(T), kernel, level) for level in (0.7, 0.714))
    sd3 = policy(pipeline)
    grown, conditioning = rolled(sd3, forest, drawn)
    diagnostics = Diagnostics.empty(T)
    accumulate(sd3, batch(forest, scored, grown, conditioning, advantages(forest)), diagnostics=diagnostics)
    assert diagnostics.ratio_deviation > 1e-3


def gradients(sd3: SD3Policy) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in sd3.parameters() if weight.grad is not None}


@pytest.mark.parametrize("name", ["tree", "mix", "branch-mix", "tempflow"])
def test_one_evaluation_a_parent_gives_the_gradient_of_one_an_edge(pipeline: Path, name: str) -> None:
    # check item 5: the other way round, as released code does it, written out as a loop over edges and prompts
    forest = planned(name, **SMALL[name])
    sd3 = policy(pipeline)
    grown, conditioning = rolled(sd3, forest, SCHEDULE)
    advantage_EP = advantages(forest)
    accumulate(sd3, batch(forest, SCHEDULE, grown, conditioning, advantage_EP), train_batch=5)
    shared = {key: value.clone() for key, value in gradients(sd3).items()}
    sd3.denoiser.zero_grad()
    for e, node in enumerate(forest.trained_edges_E):
        parent = int(forest.parent_N[node])
        i = int(forest.depth_N[parent])
        for p in range(len(PROMPTS)):
            x = grown.parent_KPZ[forest.trained_parents.tolist().index(parent), p][None]
            sigma_B, own = torch.tensor([SCHEDULE.sigmas[i]]).float(), conditioning.select(torch.tensor([p]))
            v = sd3.predict(x, sigma_B, own, Regime("transformer"))
            mean = float(SCHEDULE.x_T[i]) * x + float(SCHEDULE.v_T[i]) * v
            std = torch.tensor([SCHEDULE.std_T[i]]).float()
            logp = log_prob(grown.child_EPZ[e, p][None], mean, std, Likelihood())
            loss = -float(advantage_EP[e, p]) * (logp - grown.logp_EP[e, p]).exp() / advantage_EP.size
            loss.sum().backward()
    apart = gradients(sd3)
    assert shared.keys() == apart.keys()
    error = sum(float((shared[key] - apart[key]).square().sum()) for key in apart) ** 0.5
    size = sum(float(apart[key].square().sum()) for key in apart) ** 0.5
    assert error <= 1e-5 * size


def updated(pipeline: Path, chosen: Method[MethodConfig]) -> tuple[Forest, dict[str, torch.Tensor]]:
    """The weights after one iteration of a method: roll out, a reward of the leaves' own numbers, one AdamW step."""
    sd3 = policy(pipeline)
    forest = chosen.plan(0, np.random.default_rng(0), SCHEDULE)
    grown, conditioning = rolled(sd3, forest, SCHEDULE)
    reward_LP = grown.leaf_LPZ.flatten(2).mean(2).double().numpy()
    logp_NP = np.zeros((forest.nodes, len(PROMPTS)))
    advantage_NP = chosen.credit(Rollout(forest, {"r": reward_LP}, logp_NP)).advantage_NP
    optimiser = torch.optim.AdamW([weight for _, weight in sd3.parameters()], lr=1e-3)
    accumulate(sd3, batch(forest, SCHEDULE, grown, conditioning, advantage_NP[forest.trained_edges_E]), chosen=chosen)
    optimiser.step()
    return forest, {name: weight.detach().clone() for name, weight in sd3.parameters()}


def assert_same_run(pipeline: Path, ours: Method[MethodConfig], theirs: Method[MethodConfig]) -> None:
    """Two methods plan equal forests and leave equal weights, which are not those they began with."""
    first, second = updated(pipeline, ours), updated(pipeline, theirs)
    assert first[0].same_as(second[0])
    before = dict(policy(pipeline).parameters())
    assert any(not torch.equal(first[1][name], before[name]) for name in before)
    for name, weight in first[1].items():
        assert torch.equal(weight, second[1][name]), name


@pytest.mark.parametrize("start", [0, 4, 8])
def test_a_tree_of_one_level_is_a_mix_of_one_step_bit_for_bit(pipeline: Path, start: int) -> None:
    # check item 3: tree(w = 1, start i, b = G) = mix(w = 1, start i, shared, G)
    mix = method("mix", group=5, window=1, schedule="fixed", window_start=start)
    assert_same_run(pipeline, method("tree", branching=5, window=1, window_start=start), mix)


@pytest.mark.parametrize("start", [0, 4, 8])
def test_tempflow_at_one_step_is_a_mix_of_one_step_bit_for_bit(pipeline: Path, start: int) -> None:
    # check item 3: tempflow(roots = 1, steps = (i,), K = G, unit weights) = mix(w = 1, start i, shared, G)
    mix = method("mix", group=5, window=1, schedule="fixed", window_start=start)
    assert_same_run(pipeline, method("tempflow", roots=1, steps=(start,), branching=5, weighting="none"), mix)
    # whose noise weights, too, are 1
    weight_N = method("tempflow").weights(planned("mix", group=5, window=1, window_start=start), SCHEDULE)
    np.testing.assert_array_equal(weight_N, 1)


def test_a_branch_of_one_split_is_flat_from_one_root_bit_for_bit(pipeline: Path) -> None:
    # check item 3: branch(splits (0,), K = G, independent siblings, ddof 0) = flat(shared, G)
    branch = method("branch", splits=(0,), branching=5, sibling_noise="none", ddof=0)
    assert_same_run(pipeline, branch, method("flat", group=5, shared_noise=True))


def test_chains_from_one_root_are_a_tree_that_splits_once_bit_for_bit(pipeline: Path) -> None:
    # flat(shared, G) = branching at step 0 into G, every later step a single stochastic child
    flat = method("flat", group=3, shared_noise=True)
    same = branching(SCHEDULE.sigmas, {0: 3}, np.arange(T) < T - 1)
    assert flat.plan(0, np.random.default_rng(0), SCHEDULE).same_as(same)
    assert same.same_as(chains(SCHEDULE.sigmas, 3, np.arange(T) < T - 1, shared_noise=True))


@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_the_kl_to_a_real_reference(pipeline: Path, trainable: str) -> None:
    # given a policy whose weights have moved since the reference was kept
    sd3 = policy(pipeline, trainable=trainable)
    sd3.keep_reference()
    forest = planned("mix", group=2, window=1)
    grown, conditioning = rolled(sd3, forest, SCHEDULE)
    none = np.zeros((forest.trained_edges, len(PROMPTS)))
    data = batch(forest, SCHEDULE, grown, conditioning, none)
    assert accumulate(sd3, data, beta=1.0)[0] == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        for _, weight in sd3.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    moved = {name: weight.detach().clone() for name, weight in sd3.parameters()}
    sd3.denoiser.zero_grad()
    first, _ = accumulate(sd3, data, beta=1.0)
    assert first > 1e-6
    # then a gradient step that should gain a twentieth brings the policy nearer; the weights had not been touched
    slope = sum(float(gradient.square().sum()) for gradient in gradients(sd3).values())
    with torch.no_grad():
        for name, weight in sd3.parameters():
            assert torch.equal(weight, moved[name]), name
            if weight.grad is not None:
                weight -= 0.05 * first / slope * weight.grad
    sd3.denoiser.zero_grad()
    assert 0 < accumulate(sd3, data, beta=1.0)[0] < first

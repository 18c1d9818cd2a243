"""The objective by closed form: loss, clip, gradient, pruning, weights and KL, with a linear denoiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import LinearDenoiser, Recording, accumulate, batch

from grpo_bench.forest.builders import branching
from grpo_bench.forest.forest import Forest
from grpo_bench.metering.ledger import Ledger
from grpo_bench.method import EdgeBatch
from grpo_bench.registry import METHODS
from grpo_bench.sampling.engine import Trajectories, grow
from grpo_bench.sampling.gaussian import Likelihood
from grpo_bench.sampling.handle import Conditioning, Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.training.losses.edges import Batch, Diagnostics, default_clip

Flat = METHODS.get("flat")
PROMPTS = ["a red circle", "a blue square", "a star"]
T = 10
SCHEDULE = make_schedule(shifted_grid(T), "flow-sde")


def edges(logp: list[float], advantage: list[float], *, clip: float = 0.1, weight: float = 1.0) -> EdgeBatch:
    """A hand-made batch whose old log-probs are 0, so that the ratio is exp(logp)."""
    zero = torch.zeros(len(logp))
    return EdgeBatch(
        logp=torch.tensor(logp, requires_grad=True),
        logp_old=zero,
        mean=zero.view(-1, 1, 1, 1),
        std=zero + 1,
        h=zero + 1,
        advantage=torch.tensor(advantage),
        weight=zero + weight,
        clip=clip,
    )


class TestEdgeLoss:
    """The clipped surrogate, w max(-A rho, -A clip(rho, 1-eps, 1+eps)), by hand."""

    def test_by_value(self) -> None:
        # rho = 1.2, 1.05, 0.8, 1.2, 0.8 with eps = .1
        rho = [1.2, 1.05, 0.8, 1.2, 0.8]
        loss = Flat(Flat.Config()).edge_loss(edges(np.log(rho).tolist(), [2.0, 2.0, 2.0, -2.0, -2.0]))
        # a good edge's gain ends at 1.1; a bad edge's gain ends at 0.9; both losses are unbounded on the other side
        assert loss.tolist() == pytest.approx([-2.2, -2.1, -1.6, 2.4, 1.8], rel=1e-6)

    def test_the_gradient_stops_where_the_clip_holds(self) -> None:
        given = edges(np.log([1.2, 1.05, 0.8, 1.2, 0.8]).tolist(), [2.0, 2.0, 2.0, -2.0, -2.0])
        Flat(Flat.Config()).edge_loss(given).sum().backward()
        # d(-A rho)/d logp = -A rho where it is not clipped
        assert given.logp.grad is not None
        assert given.logp.grad.tolist() == pytest.approx([0, -2.1, -1.6, 2.4, 0], rel=1e-6)

    def test_at_ratio_one_the_clip_is_inert(self) -> None:
        for clip in (1e-6, 1e-3, 0.5):
            given = edges([0.0, 0.0], [1.5, -0.5], clip=clip)
            loss = Flat(Flat.Config()).edge_loss(given)
            loss.sum().backward()
            assert loss.tolist() == [-1.5, 0.5]
            assert given.logp.grad is not None
            assert given.logp.grad.tolist() == [-1.5, 0.5]

    def test_weights_multiply(self) -> None:
        loss = Flat(Flat.Config()).edge_loss(edges([0.0, np.log(1.2)], [1.0, 1.0], weight=0.25))
        assert loss.tolist() == pytest.approx([-0.25, -0.275])


def test_default_clip_scales_with_the_latents_size() -> None:
    # 1e-4 sqrt(65536 / D)
    assert default_clip(65536) == pytest.approx(1e-4, rel=1e-12)
    assert default_clip(256) == pytest.approx(1.6e-3, rel=1e-12)


def linear(
    forest: Forest, *, gain: float = 0.3, push: float = 0.5, likelihood: Likelihood | None = None
) -> tuple[LinearDenoiser, Trajectories, Conditioning, Ledger]:
    denoiser, ledger = LinearDenoiser((2, 4, 4), gain, push), Ledger()
    handle = Metered(denoiser, ledger, guidance=1.0, batch=64)
    conditioning = denoiser.conditioning(len(PROMPTS))
    noise = Noise(0, 0, PROMPTS, denoiser.latent_shape)
    grown = grow(forest, SCHEDULE, handle, conditioning, noise, likelihood=likelihood or Likelihood())
    return denoiser, grown, conditioning, ledger


def advantages(forest: Forest, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((forest.trained_edges, len(PROMPTS)))


FOREST = branching(SCHEDULE.sigmas, {1: 3, 2: 2}, (np.arange(T) == 1) | (np.arange(T) == 2))


def test_loss_and_gradient_are_the_closed_form() -> None:
    # given v = gain x + push c, on policy: loss = -mean A, and with noise xi = (x' - mean) / std
    # d logp / d gain = mean over dims of (xi / std) v_T x, d logp / d push = mean (xi / std) v_T c
    denoiser, grown, conditioning, _ = linear(FOREST)
    advantage_EP = advantages(FOREST)
    loss, count = accumulate(denoiser, batch(FOREST, SCHEDULE, grown, conditioning, advantage_EP))
    parent_N = FOREST.parent_N[FOREST.trained_edges_E]
    step_E = FOREST.depth_N[parent_N]
    x_EPD = grown.parent_KPZ[np.searchsorted(FOREST.trained_parents, parent_N)].double().flatten(2).numpy()
    child_EPD = grown.child_EPZ.double().flatten(2).numpy()
    x_E, v_E, std_E = (values[step_E][:, None, None] for values in (SCHEDULE.x_T, SCHEDULE.v_T, SCHEDULE.std_T))
    code_P = np.arange(1.0, 4)[None, :, None]
    score_EPD = (child_EPD - x_E * x_EPD - v_E * (0.3 * x_EPD + 0.5 * code_P)) / std_E**2 * v_E
    assert count == advantage_EP.size
    assert loss == pytest.approx(-advantage_EP.mean(), abs=1e-6)
    assert denoiser.gain.grad is not None and denoiser.push.grad is not None
    assert float(denoiser.gain.grad) == pytest.approx(-(advantage_EP * (score_EPD * x_EPD).mean(2)).mean(), rel=1e-4)
    assert float(denoiser.push.grad) == pytest.approx(-(advantage_EP * (score_EPD * code_P).mean(2)).mean(), rel=1e-4)


def test_an_update_raises_the_likelihood_of_a_good_edge_and_lowers_a_bad_ones() -> None:
    for sign in (1.0, -1.0):
        denoiser, grown, conditioning, _ = linear(FOREST)
        advantage_EP = np.zeros((FOREST.trained_edges, len(PROMPTS)))
        advantage_EP[4, 1] = sign
        data = batch(FOREST, SCHEDULE, grown, conditioning, advantage_EP)
        accumulate(denoiser, data)
        with torch.no_grad():
            for weight in (denoiser.gain, denoiser.push):
                assert weight.grad is not None
                weight -= 1e-2 * weight.grad
                weight.grad = None
        seen = Recording()
        accumulate(denoiser, data, chosen=seen)
        change = [(b.logp.detach() - b.logp_old)[b.advantage != 0] for b in seen.seen]
        assert float(torch.cat(change)) * sign > 0


@pytest.mark.parametrize("train_batch", [1, 4, 7, 1000])
def test_the_loss_is_the_mean_over_kept_edges_whatever_the_micro_batch(train_batch: int) -> None:
    keep_EP = np.random.default_rng(1).random((FOREST.trained_edges, len(PROMPTS))) < 0.6
    results = []
    for size in (train_batch, 64):
        denoiser, grown, conditioning, _ = linear(FOREST)
        data = batch(FOREST, SCHEDULE, grown, conditioning, advantages(FOREST), keep_EP)
        loss, count = accumulate(denoiser, data, train_batch=size)
        assert denoiser.gain.grad is not None
        results.append((loss, count, float(denoiser.gain.grad)))
    assert results[0][1] == results[1][1] == keep_EP.sum()
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert results[0][0] == pytest.approx(-advantages(FOREST)[keep_EP].mean(), abs=1e-6)


def test_pruned_edges_have_no_part_in_the_gradient() -> None:
    # given edge 3 of prompt 1 pruned: any advantage it had changes nothing
    keep_EP = np.ones((FOREST.trained_edges, len(PROMPTS)), dtype=bool)
    keep_EP[3, 1] = False
    gradients = []
    for value in (0.0, 1e6):
        denoiser, grown, conditioning, _ = linear(FOREST)
        advantage_EP = advantages(FOREST)
        advantage_EP[3, 1] = value
        accumulate(denoiser, batch(FOREST, SCHEDULE, grown, conditioning, advantage_EP, keep_EP))
        assert denoiser.gain.grad is not None
        gradients.append(float(denoiser.gain.grad))
    assert gradients[0] == gradients[1] != 0


def test_a_zero_advantage_is_still_evaluated() -> None:
    denoiser, grown, conditioning, ledger = linear(FOREST)
    data = batch(FOREST, SCHEDULE, grown, conditioning, np.zeros((FOREST.trained_edges, len(PROMPTS))))
    accumulate(denoiser, data, ledger=ledger)
    assert ledger.evaluations("train") == FOREST.train_nfe * len(PROMPTS)


def test_updates_split_over_prompts_use_their_own_edges_only() -> None:
    # the mean over three prompts is the mean of the three prompts' own losses, their edges being equally many
    denoiser, grown, conditioning, _ = linear(FOREST)
    data = batch(FOREST, SCHEDULE, grown, conditioning, advantages(FOREST))
    losses = [accumulate(denoiser, data, prompts=[p])[0] for p in range(3)]
    assert losses == pytest.approx((-advantages(FOREST).mean(0)).tolist(), abs=1e-6)
    assert accumulate(denoiser, data)[0] == pytest.approx(float(np.mean(losses)), abs=1e-6)


def test_weights_of_the_forests_edges_reach_the_loss() -> None:
    denoiser, grown, conditioning, _ = linear(FOREST)
    weight_E = np.random.default_rng(2).random(FOREST.trained_edges) + 0.1
    data = batch(FOREST, SCHEDULE, grown, conditioning, advantages(FOREST))
    weighted = Batch(**{**vars(data), "weight_E": weight_E})
    assert accumulate(denoiser, weighted)[0] == pytest.approx(
        -(weight_E[:, None] * advantages(FOREST)).mean(), abs=1e-6
    )


def test_the_kl_is_zero_at_the_reference_and_its_closed_form_off_it() -> None:
    denoiser, grown, conditioning, ledger = linear(FOREST)
    none = np.zeros((FOREST.trained_edges, len(PROMPTS)))
    data = batch(FOREST, SCHEDULE, grown, conditioning, none)
    # at the start the KL and its gradient vanish, but the reference has been asked once a parent
    loss, count = accumulate(denoiser, data, ledger=ledger, beta=0.5)
    assert loss == 0
    assert ledger.evaluations("reference") == FOREST.train_nfe * len(PROMPTS)
    assert denoiser.gain.grad is not None and float(denoiser.gain.grad) == 0
    # push moved by d: |mean - reference|^2 / (2 std^2) = (v_T d c)^2 / (2 std^2) for every edge, prompt code c
    with torch.no_grad():
        denoiser.push += 0.01
    diagnostics = Diagnostics.empty(T)
    loss, _ = accumulate(denoiser, data, beta=0.5, diagnostics=diagnostics)
    step_E = FOREST.depth_N[FOREST.parent_N[FOREST.trained_edges_E]]
    kl_EP = (SCHEDULE.v_T * 0.01 / SCHEDULE.std_T)[step_E, None] ** 2 * np.arange(1.0, 4) ** 2 / 2
    assert loss == pytest.approx(0.5 * kl_EP.mean(), rel=1e-4)
    assert diagnostics.kl / count == pytest.approx(kl_EP.mean(), rel=1e-4)
    # and the reference is only borrowed: the weights are what they were
    assert denoiser.push.item() == pytest.approx(0.51)


def test_the_clipped_share_is_counted_by_step() -> None:
    # given a policy moved so far that every ratio leaves a clip of 1e-7, and then none leaves a clip of 1e3
    denoiser, grown, conditioning, _ = linear(FOREST)
    with torch.no_grad():
        denoiser.gain += 0.05
    data = batch(FOREST, SCHEDULE, grown, conditioning, advantages(FOREST))
    for clip, share in ((1e-7, 1), (1e3, 0)):
        diagnostics = Diagnostics.empty(T)
        accumulate(denoiser, data, clip=clip, diagnostics=diagnostics)
        # 3 edges at step 1 and 6 at step 2, for 3 prompts
        assert diagnostics.edges_T.tolist() == [0, 9, 18, *[0] * 7]
        assert diagnostics.clipped_T.tolist() == [0, 9 * share, 18 * share, *[0] * 7]


def test_the_edge_batch_holds_what_its_docstring_says() -> None:
    denoiser, grown, conditioning, _ = linear(FOREST)
    seen = Recording()
    accumulate(
        denoiser, batch(FOREST, SCHEDULE, grown, conditioning, advantages(FOREST)), chosen=seen, train_batch=1000
    )
    (given,) = seen.seen
    step_E = np.repeat(FOREST.depth_N[FOREST.parent_N[FOREST.trained_edges_E]], len(PROMPTS))
    np.testing.assert_allclose(given.std.numpy(), SCHEDULE.std_T[step_E], rtol=1e-6)
    np.testing.assert_allclose(given.h.numpy(), SCHEDULE.h_T[step_E], rtol=1e-6)
    np.testing.assert_allclose(given.advantage.numpy(), advantages(FOREST).ravel(), rtol=1e-6)
    assert given.clip == 1e-3
    assert given.old_mean is None and given.reference_mean is None
    assert given.logp.requires_grad

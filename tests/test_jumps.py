"""Edges that jump over grid points: exact coefficients, one evaluation a parent, and the gradient of one per edge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from forest_strategy import forests
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import CPU, LinearDenoiser, batch, method

from grpo_bench.errors import UserError
from grpo_bench.forest.builders import assemble, branching, chains, trunk
from grpo_bench.forest.draw import draw_text
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.picture import draw_png
from grpo_bench.forest.rollout import back_up
from grpo_bench.forest.schedule import Grid, Schedule
from grpo_bench.forest.sketch import Sketch
from grpo_bench.metering.ledger import Ledger
from grpo_bench.sampling.engine import Trajectories, grow
from grpo_bench.sampling.gaussian import Likelihood
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise, Purpose
from grpo_bench.sampling.schedule import diffusion_grid, shifted_grid
from grpo_bench.training.losses.edges import Diagnostics, Objective

PROMPTS = ["one", "two"]
GAIN, PUSH = 0.3, 0.7


def grown(
    forest: Forest, schedule: Schedule, shape: tuple[int, ...] = (2, 4, 4)
) -> tuple[LinearDenoiser, Trajectories]:
    """The forest grown with v = gain x + push c, and who was asked."""
    denoiser = LinearDenoiser(shape, GAIN, PUSH)
    handle = Metered(denoiser, Ledger(), guidance=1.0, batch=7)
    noise = Noise(0, 4, PROMPTS, shape)
    return denoiser, grow(forest, schedule, handle, denoiser.conditioning(2), noise, old_mean=True)


class TestCoefficients:
    """A transition between any two points is the step of the grid that has no point between them."""

    @pytest.mark.parametrize("kernel", ["flow-sde", "dance-sde", "cps", "ode"])
    @pytest.mark.parametrize("visited", [[0, 10], [0, 3, 10], [0, 1, 2, 5, 9, 10], list(range(11))])
    def test_a_flows(self, kernel: str, visited: list[int]) -> None:
        fine, coarse = shifted_grid(10), shifted_grid(10)[visited]
        edge, step = make_schedule(fine, kernel).edge(visited[:-1], visited[1:]), make_schedule(coarse, kernel).step
        for values, wanted in zip(edge, step, strict=True):
            np.testing.assert_array_equal(values, wanted)

    @pytest.mark.parametrize("visited", [[0, 10], [0, 4, 5, 10]])
    def test_a_diffusion_models(self, visited: list[int]) -> None:
        fine = diffusion_grid(10)
        assert fine.alpha is not None
        coarse = Grid(fine.sigmas[visited], fine.alpha[visited])
        for one, other in (
            (make_schedule(fine, "ddim").edge(visited[:-1], visited[1:]), make_schedule(coarse, "ddim").step),
            (make_schedule(fine, "ddim").still(visited[:-1], visited[1:]), make_schedule(coarse, "ddim").still_step),
        ):
            for values, wanted in zip(one, other, strict=True):
                np.testing.assert_array_equal(values, wanted)

    def test_a_jump_to_the_image_is_the_clean_prediction(self) -> None:
        # x0hat = x - s v: coefficients 1 and -s
        schedule = make_schedule(shifted_grid(10), "flow-sde")
        jump = schedule.still(np.arange(10), 10)
        np.testing.assert_array_equal(jump.x, 1.0)
        np.testing.assert_array_equal(jump.v, -schedule.sigmas[:-1])

    def test_noise_of_a_step_is_scaled_by_its_factor(self) -> None:
        # flow-sde: std = a sqrt(s / (1 - s)) sqrt(h)
        schedule = make_schedule(shifted_grid(10), "flow-sde", 0.7)
        assert schedule.edge(4, 6, 1.5).std == pytest.approx(1.5 * float(schedule.edge(4, 6).std), rel=1e-14)
        s, after = schedule.sigmas[[4, 6]]
        assert schedule.edge(4, 6, 1.5).std == pytest.approx(1.05 * np.sqrt(s / (1 - s) * (s - after)), rel=1e-14)

    @pytest.mark.parametrize(("start", "end"), [(2, 2), (3, 1), (-1, 2), (4, 11)])
    def test_there_is_no_transition_back_or_past_the_image(self, start: int, end: int) -> None:
        for transition in (make_schedule(shifted_grid(10), "cps").edge, make_schedule(shifted_grid(10), "cps").still):
            with pytest.raises(UserError, match=f"got {start} to {end}"):
                transition(start, end)

    def test_more_noise_than_the_kernel_has_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"cps is at most 1, and noise_T makes it 1\.2"):
            make_schedule(shifted_grid(10), "cps", 0.8).edge(0, 1, 1.5)


class TestRollout:
    """What the engine makes of a forest whose edges go anywhere."""

    @given(forests(max_steps=6), st.sampled_from(["flow-sde", "dance-sde"]))
    @settings(max_examples=60)
    def test_every_node_is_its_parents_transition_and_every_parent_is_asked_once(
        self, forest: Forest, kernel: str
    ) -> None:
        schedule = make_schedule(forest.sigmas, kernel, 0.5)
        denoiser, out = grown(forest, schedule)
        assert denoiser.evaluations == forest.rollout_nfe * len(PROMPTS)
        # by hand, node after node in float64, with the noise that each edge is named by
        noise, code = Noise(0, 4, PROMPTS, (2, 4, 4)), torch.tensor([1.0, 2.0]).double().view(2, 1, 1, 1)
        x: dict[int, torch.Tensor] = {}
        for node in range(forest.nodes):
            if node < forest.roots:
                x[node] = noise.draw(Purpose.ROOT, forest.key_N[[node]], CPU)[0].double()
                continue
            parent = int(forest.parent_N[node])
            edge = forest.transitions(schedule, np.array([node]))
            x[node] = float(edge.x[0]) * x[parent] + float(edge.v[0]) * (GAIN * x[parent] + PUSH * code)
            if forest.stochastic_N[node]:
                x[node] = x[node] + float(edge.std[0]) * _noise(forest, noise, node)
        for tensor, nodes in (
            (out.leaf_LPZ, forest.leaves_L),
            (out.parent_KPZ, forest.trained_parents),
            (out.child_EPZ, forest.trained_edges_E),
        ):
            for row, node in enumerate(nodes.tolist()):
                torch.testing.assert_close(tensor[row].double(), x[node], rtol=1e-4, atol=1e-4)

    def test_a_coarse_end_is_a_run_on_the_coarser_grid(self) -> None:
        """Bit for bit: three chains with noise on the first two steps, then every other point."""
        fine = shifted_grid(8)
        forest = chains(fine, 3, np.arange(8) < 2, stride=2)
        coarse = chains(fine[[0, 1, 2, 4, 6, 8]], 3, np.arange(5) < 2)
        assert (forest.nodes, forest.rollout_nfe) == (coarse.nodes, coarse.rollout_nfe) == (18, 15)
        found = [grown(each, make_schedule(each.sigmas, "flow-sde"))[1] for each in (forest, coarse)]
        for name in ("leaf_LPZ", "parent_KPZ", "child_EPZ", "logp_EP", "old_mean_FPZ"):
            assert torch.equal(*(getattr(out, name) for out in found)), name

    def test_a_judged_clean_prediction_costs_an_image_and_no_evaluation(self) -> None:
        # one chain of four steps; a jump to T off every node but the last, which goes there anyway
        sigmas = shifted_grid(4)
        parent, depth = [-1, 0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 4, 4, 4]
        forest = assemble(sigmas, parent, depth, [False, True, True, True] + [False] * 4, [False] * 8)
        assert (forest.rollout_nfe, forest.images) == (4, 4)
        schedule = make_schedule(sigmas, "flow-sde")
        _, out = grown(forest, schedule)
        plain = chains(sigmas, 1, np.arange(4) < 3)
        assert torch.equal(out.leaf_LPZ[-1], grown(plain, schedule)[1].leaf_LPZ[0])  # the jumps shift no noise
        root = Noise(0, 4, PROMPTS, (2, 4, 4)).draw(Purpose.ROOT, forest.key_N[:1], CPU)[0]
        code = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
        torch.testing.assert_close(out.leaf_LPZ[0], root - (GAIN * root + PUSH * code), rtol=1e-5, atol=1e-5)

    def test_siblings_share_noise_to_whatever_depth_they_go(self) -> None:
        # two stochastic children of one root, one of which jumps: (xi + s eta) / sqrt(1 + s^2)
        sigmas = shifted_grid(3)
        forest = assemble(
            sigmas, [-1, 0, 0, 1, 2], [0, 1, 2, 3, 3], [False, True, True, False, False], [False] * 5, sibling_noise=2.0
        )
        schedule = make_schedule(sigmas, "dance-sde")
        forest = Forest(sigmas, forest.parent_N, forest.depth_N, forest.stochastic_N, forest.stochastic_N, 2.0)
        _, out = grown(forest, schedule, (40, 40, 40))
        assert out.old_mean_FPZ is not None
        std_E = torch.from_numpy(forest.transitions(schedule, forest.trained_edges_E).std).view(-1, 1, 1, 1, 1)
        eps = ((out.child_EPZ - out.old_mean_FPZ).double() / std_E).flatten(1)
        assert float((eps[0] * eps[1]).mean()) == pytest.approx(1 / 5, abs=0.02)
        assert eps.square().mean(1).tolist() == pytest.approx([1, 1], abs=0.02)

    @pytest.mark.parametrize("forest", [trunk(shifted_grid(6), {0: 2, 2: 2}, stride=(1, 2))])
    def test_a_latent_may_have_any_number_of_axes(self, forest: Forest) -> None:
        """Clips are C F H W: the same numbers as in a picture's shape, to the last bit."""
        schedule, results = make_schedule(forest.sigmas, "flow-sde"), []
        for shape in ((2, 3, 4, 4), (2, 12, 4), (96,)):
            denoiser, out = grown(forest, schedule, shape)
            loss, norms = _update(denoiser, forest, schedule, out)
            results.append([loss, *norms, *out.logp_EP.flatten().tolist(), *out.leaf_LPZ.flatten().tolist()])
        assert results[0] == results[1] == results[2]


def _noise(forest: Forest, noise: Noise, node: int) -> torch.Tensor:
    """The noise of a stochastic edge, siblings' shared part included."""
    own = noise.draw(Purpose.EDGE, forest.key_N[[node]], CPU)[0].double()
    parent, spread = int(forest.parent_N[node]), forest.sibling_noise
    siblings = np.count_nonzero(forest.stochastic_N & (forest.parent_N == parent))
    if spread is None or siblings == 1:
        return own
    shared = noise.draw(Purpose.SIBLINGS, forest.key_N[[parent]], CPU)[0].double()
    return (shared + spread * own) / (1 + spread**2) ** 0.5


def _update(
    denoiser: LinearDenoiser, forest: Forest, schedule: Schedule, out: Trajectories, seed: int = 0
) -> tuple[float, list[float]]:
    """Loss and gradients of one update with random advantages; the ledger must agree with what the forest declares."""
    ledger = Ledger()
    objective = Objective(
        method("flat"),
        Metered(denoiser, ledger, guidance=1.0, batch=7),
        Likelihood(),
        clip=1e-3,
        beta=0.0,
        train_batch=5,
    )
    advantage_EP = np.random.default_rng(seed).standard_normal((forest.trained_edges, 2))
    data = batch(forest, schedule, out, denoiser.conditioning(2), advantage_EP)
    loss, edges = objective.accumulate(data, np.arange(2), Diagnostics.empty(forest.steps))
    assert edges == forest.trained_edges * 2
    assert ledger.evaluations("train") == forest.train_nfe * 2
    assert denoiser.gain.grad is not None and denoiser.push.grad is not None
    return loss, [float(denoiser.gain.grad), float(denoiser.push.grad)]


@given(forests(max_steps=6), st.integers(0, 99))
@settings(max_examples=60)
def test_the_gradient_is_that_of_one_evaluation_per_edge(forest: Forest, seed: int) -> None:
    assume(forest.trained_edges)
    schedule = make_schedule(forest.sigmas, "flow-sde", 0.5)
    denoiser, out = grown(forest, schedule)
    _, found = _update(denoiser, forest, schedule, out, seed)
    # on policy d loss / d w = -mean A d logp / d w, each edge with a mean of its own, in float64
    gain, push = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (GAIN, PUSH))
    advantage_EP = np.random.default_rng(seed).standard_normal((forest.trained_edges, 2))
    total = torch.zeros((), dtype=torch.float64)
    coefficients = forest.transitions(schedule, forest.trained_edges_E)
    for edge, node in enumerate(forest.trained_edges_E.tolist()):
        row = int(np.searchsorted(forest.trained_parents, forest.parent_N[node]))
        for prompt in range(2):
            x, child = out.parent_KPZ[row, prompt].double(), out.child_EPZ[edge, prompt].double()
            mean = coefficients.x[edge] * x + coefficients.v[edge] * (gain * x + push * (prompt + 1))
            total = total + advantage_EP[edge, prompt] * ((child - mean) ** 2).mean() / (
                2 * coefficients.std[edge] ** 2
            )
    (total / advantage_EP.size).backward()
    assert gain.grad is not None and push.grad is not None
    scale = max(abs(float(gain.grad)), abs(float(push.grad)), 1.0)
    assert found == pytest.approx([float(gain.grad), float(push.grad)], rel=1e-4, abs=1e-4 * scale)


class TestBuilders:
    """Strides, counted by hand."""

    def test_every_branch_of_a_trunk_finished_twice(self) -> None:
        """G2RPO at T = 16: 8 trunk nodes, 12 children a step, ends of 92 and 40 evaluations a child (methods.md)."""
        forest = trunk(shifted_grid(16), dict.fromkeys(range(8), 12), stride=(1, 2))
        assert (forest.rollout_nfe, forest.train_nfe, forest.images) == (8 + 12 * (92 + 40), 8, 192)
        assert forest.trained_edges == 96
        children = {tuple((forest.depth_N[kids] - forest.depth_N[node]).tolist()) for node, kids in _stochastic(forest)}
        assert children == {(1, 2)}

    def test_strides_that_meet_at_the_image_are_one_edge(self) -> None:
        # from point 2 of 3 both strides reach the image at once, from point 1 only one does
        forest = trunk(shifted_grid(3), {0: 1, 1: 1}, stride=(1, 2))
        assert sorted(forest.child_count_N[forest.stochastic_N].tolist()) == [1, 2]
        assert forest.images == 3

    @pytest.mark.parametrize(("stride", "visited"), [(2, [0, 1, 3, 5, 7]), (3, [0, 1, 4, 7]), (9, [0, 1, 7])])
    def test_the_last_jump_is_as_long_as_is_left(self, stride: int, visited: list[int]) -> None:
        forest = chains(shifted_grid(7), 2, np.arange(7) < 1, stride=stride)
        assert forest.depth_N[forest.path_LD[0]].tolist() == [
            max(point for point in visited if point <= place) for place in range(8)
        ]

    def test_a_trees_end_in_strides_keeps_its_trained_part(self) -> None:
        grid, noisy = shifted_grid(8), np.arange(8) < 3
        fine, coarse = (branching(grid, {0: 2, 2: 3}, noisy, stride=stride) for stride in (1, 2))
        assert (fine.trained_edges, fine.train_nfe) == (coarse.trained_edges, coarse.train_nfe)
        assert np.array_equal(fine.key_N[fine.trained_edges_E], coarse.key_N[coarse.trained_edges_E])
        assert (fine.rollout_nfe, coarse.rollout_nfe) == (1 + 2 + 2 + 6 * 5, 1 + 2 + 2 + 6 * 3)

    @pytest.mark.parametrize("stride", [0, -1, ()])
    def test_a_stride_below_one_is_refused(self, stride: int) -> None:
        with pytest.raises(UserError, match="at least 1 step"):
            chains(shifted_grid(4), 1, np.zeros(4, dtype=bool), stride=stride)

    def test_assembled_in_any_order(self) -> None:
        """The same nodes, listed depth first, are numbered as `branching` numbers them."""
        wanted = branching(shifted_grid(3), {0: 2}, np.array([True, False, False]))
        parent, depth = [-1, 0, 1, 2, 0, 4, 5], [0, 1, 2, 3, 1, 2, 3]
        noisy = [False, True, False, False, True, False, False]
        assert assemble(shifted_grid(3), parent, depth, noisy, noisy).same_as(wanted)

    def test_a_child_listed_before_its_parent_is_refused(self) -> None:
        with pytest.raises(UserError, match="node 1 has parent 2"):
            assemble(shifted_grid(2), [-1, 2, 0], [0, 2, 1], [False] * 3, [False] * 3)


def _stochastic(forest: Forest) -> list[tuple[int, np.ndarray]]:
    early = forest.stochastic_N & (forest.depth_N < forest.steps - 1)
    return [(node, forest.children[node]) for node in np.flatnonzero(early).tolist()]


@given(forests(), st.integers(0, 9))
def test_credit_backs_up_over_jumps(forest: Forest, seed: int) -> None:
    """Each node the mean of its children, whatever depths they are at."""
    leaf_LP = np.random.default_rng(seed).standard_normal((forest.images, 2))
    value_NP = back_up(forest, leaf_LP)
    for node in range(forest.nodes):
        below = forest.children[node]
        wanted = value_NP[below].mean(axis=0) if below.size else leaf_LP[forest.leaves_L.tolist().index(node)]
        assert value_NP[node] == pytest.approx(wanted, abs=1e-12)


class TestDrawing:
    """People see where an edge leads."""

    def test_text(self) -> None:
        forest = trunk(shifted_grid(4), {0: 1}, stride=(1, 2))
        rows = [line for line in draw_text(forest).splitlines() if "◆" in line and "image" not in line]
        assert len(rows) == 2
        # from the branch at point 1: one end over points 2 and 3, the other in a jump to 3 and a last step
        assert [row.count("•") for row in rows] == [2, 1]

    @given(forests())
    @settings(max_examples=40)
    def test_any_forest_as_text(self, forest: Forest) -> None:
        shown = [line.split("◆")[1] for line in draw_text(forest).splitlines() if "◆" in line and "image" not in line]
        if "more rows" not in draw_text(forest):
            assert sum(int(images) for images in shown) == forest.images

    def test_picture(self, tmp_path: Path) -> None:
        forest = trunk(shifted_grid(8), {0: 2, 2: 2}, stride=(1, 2))
        draw_png([Sketch("tempflow", forest, title="two granularities")], tmp_path / "forest.png")
        with Image.open(tmp_path / "forest.png") as image:
            assert image.width == 1400

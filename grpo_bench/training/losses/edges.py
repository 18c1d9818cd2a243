"""The objective on edges: mean over an update's kept edges of the method's edge loss, plus beta KL.

One forward and backward a *parent*: all its kept children are scored against the same mean (TreeGRPO's "several policy
updates per forward pass", for every method).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Bools, Credit, Floats, Ints
from grpo_bench.forest.schedule import Schedule, Transition
from grpo_bench.guard import calling
from grpo_bench.method import Draws, EdgeBatch, Method, MethodConfig
from grpo_bench.sampling.engine import Trajectories
from grpo_bench.sampling.gaussian import Likelihood, gaussian_kl, log_prob, transition_mean
from grpo_bench.sampling.handle import Conditioning, Metered, Regime
from grpo_bench.sampling.noise import Noise
from grpo_bench.training.handed import handed
from grpo_bench.training.losses.forward import ForwardSamples
from grpo_bench.training.planning import needs_reference
from grpo_bench.training.ranks import Ranks


def default_clip(latent_numbers: int) -> float:
    """1e-4 sqrt(65536 / D): the papers' 1e-4 belongs to SD3.5's D = 65,536; a mean log-prob's std goes as D^-1/2."""
    return float(1e-4 * np.sqrt(65536 / latent_numbers))


@dataclass(frozen=True)
class Batch:
    """What one iteration trains on; edges E and parents K in the forest's node order, this rank's P prompts.

    `forward` replaces the edges of methods that train on the forward process. `place_P` says where the rank's prompts
    stand among all ranks', of each of which `terms_A` counts the kept edges or the draws; default: there are no others.
    """

    forest: Forest
    schedule: Schedule
    trajectories: Trajectories
    conditioning: Conditioning
    advantage_EP: Floats
    weight_E: Floats
    keep_EP: Bools
    forward: ForwardSamples | None = None
    place_P: Ints | None = None
    terms_A: Ints | None = None

    def __post_init__(self) -> None:
        if self.place_P is None or self.terms_A is None:
            object.__setattr__(self, "place_P", np.arange(self.keep_EP.shape[1]))
            object.__setattr__(self, "terms_A", np.count_nonzero(self.keep_EP, axis=0))

    @property
    def prompts(self) -> int:
        """Those of all ranks."""
        assert self.terms_A is not None
        return len(self.terms_A)

    def terms(self, prompts: Ints) -> int:
        """Kept edges, or draws, of some places among all ranks' prompts."""
        assert self.terms_A is not None
        return int(self.terms_A[prompts].sum())

    def columns(self, prompts: Ints) -> Ints:
        """Which of this rank's prompts are among them."""
        assert self.place_P is not None
        return np.flatnonzero(np.isin(self.place_P, prompts))

    @cached_property
    def coefficients_E(self) -> Transition:
        """The kernel's, of the trained edges."""
        return self.forest.transitions(self.schedule, self.forest.trained_edges_E)

    @classmethod
    def credited(
        cls,
        forest: Forest,
        schedule: Schedule,
        trajectories: Trajectories,
        conditioning: Conditioning,
        credit: Credit,
        weight_N: Floats | None,
        noise: Noise,
        *,
        advantage_clip: float,
        draws: Draws | None = None,
        place_P: Ints | None = None,
    ) -> Batch:
        """A method's credit and weights on what was sampled; advantages are clipped to plus or minus `advantage_clip`.

        The credit is of all ranks' prompts, the rest of those at `place_P` (default: all). `draws` and `noise` name the
        samples of a forward method.
        """
        edge_E = forest.trained_edges_E
        advantage_NA = np.clip(credit.advantage_NP, -advantage_clip, advantage_clip)
        keep_EA = np.ones((len(edge_E), advantage_NA.shape[1]), dtype=bool)
        keep_EA = keep_EA if credit.keep_NP is None else credit.keep_NP[edge_E]
        place_P = np.arange(advantage_NA.shape[1]) if place_P is None else place_P
        advantage_NP, forward = advantage_NA[:, place_P], None
        terms_A = np.count_nonzero(keep_EA, axis=0)
        if draws is not None:
            leaf_LP = advantage_NP[forest.leaves_L]
            forward = ForwardSamples(forest, schedule, draws, trajectories.leaf_LPZ, leaf_LP, advantage_clip, noise)
            terms_A = np.full(advantage_NA.shape[1], forest.images * draws.number)
        return cls(
            forest=forest,
            schedule=schedule,
            trajectories=trajectories,
            conditioning=conditioning,
            advantage_EP=advantage_NP[edge_E],
            weight_E=np.ones(len(edge_E)) if weight_N is None else weight_N[edge_E],
            keep_EP=keep_EA[:, place_P],
            place_P=place_P,
            terms_A=terms_A,
            forward=forward,
        )


@dataclass
class Diagnostics:
    """What an update logs: sums over kept edges, by step of the schedule."""

    edges_T: Ints
    clipped_T: Ints
    ratio_deviation: float = 0.0
    kl: float = 0.0
    norms: list[float] = field(default_factory=list)

    def describe(self) -> str:
        """One line for the log: the clipped share by step, the largest |ratio - 1|, gradient norms and the KL."""
        shares = [
            f"{step}:{clipped / edges:.2f}"
            for step, (edges, clipped) in enumerate(zip(self.edges_T, self.clipped_T, strict=True))
            if edges
        ]
        norms = ", ".join(f"{norm:.3g}" for norm in self.norms)
        if not self.edges_T.any():
            return f"gradient {norms}"
        kl = self.kl / max(int(self.edges_T.sum()), 1)
        ratio = f"first ratio off by {self.ratio_deviation:.2e}, clipped by step {' '.join(shares)}"
        return f"{ratio}, gradient {norms}, kl {kl:.2e}"

    @classmethod
    def empty(cls, steps: int) -> Diagnostics:
        """Zero edges at every step."""
        return cls(np.zeros(steps, np.int64), np.zeros(steps, np.int64))

    def of_all(self, ranks: Ranks) -> Diagnostics:
        """The same over every rank's edges."""
        steps = len(self.edges_T)
        counts = np.array(ranks.sum([*self.edges_T.tolist(), *self.clipped_T.tolist()]), dtype=np.int64)
        (deviation,) = ranks.most([self.ratio_deviation])
        return Diagnostics(counts[:steps], counts[steps:], deviation, ranks.total(self.kl), self.norms)


@dataclass(frozen=True)
class _Part:
    """One micro-batch, M edges: the step, loss, log of the ratio and (where beta > 0) KL of each."""

    step_M: Ints
    loss_M: Tensor
    log_ratio_M: Tensor
    kl_M: Tensor | None

    def detached(self) -> _Part:
        """The same numbers without the graph that made them."""
        kl_M = None if self.kl_M is None else self.kl_M.detach()
        return _Part(self.step_M, self.loss_M.detach(), self.log_ratio_M.detach(), kl_M)


class Objective:
    """Turns a batch of edges into gradients.

    Args:
        method: its `edge_loss` and `needs`.
        handle: charges one `train` evaluation a parent and prompt.
        clip: half-width of the ratio clip, before the method's own `clip_scale`.
        beta: weight of the KL to the reference policy.
        train_batch: parents in one forward and backward.
    """

    def __init__(
        self,
        method: Method[MethodConfig],
        handle: Metered,
        likelihood: Likelihood,
        *,
        clip: float,
        beta: float,
        train_batch: int,
    ) -> None:
        self._method, self._handle, self._likelihood = method, handle, likelihood
        self.clip, self._beta, self._train_batch = clip * method.clip_scale, beta, train_batch
        self.needs_reference = needs_reference(beta, method)

    def accumulate(self, batch: Batch, prompts: Ints, diagnostics: Diagnostics) -> tuple[float, int]:
        """Backpropagate the mean loss over the kept edges of `prompts`, micro-batch by micro-batch.

        Args:
            batch: this rank's.
            prompts: places among all ranks' prompts, whose kept edges the mean is over.
            diagnostics: where what is logged is added.

        Returns:
            This rank's part of the loss, and of the edges; with no kept edge nothing is evaluated and both are zero.
        """
        total, columns = batch.terms(prompts), batch.columns(prompts)
        regime_T = self._handle.regimes(batch.schedule.sigmas[:-1])
        changed_T = np.array([one != before for before, one in pairwise([regime_T[0], *regime_T])])
        parts: list[_Part] = []
        for parent_B, edge_M, row_M in _micro_batches(
            batch.forest, batch.keep_EP, columns, self._train_batch, np.cumsum(changed_T)
        ):
            part = self._evaluate(batch, parent_B, edge_M, row_M, regime_T)
            (part.loss_M.sum() / total).backward()
            parts.append(part.detached())
        # Read back once, at the end: a read inside the loop would make the host wait for every micro-batch.
        for part in parts:
            self._diagnose(part, diagnostics)
        edges = int(np.count_nonzero(batch.keep_EP[:, columns]))
        return sum(float(part.loss_M.sum()) for part in parts) / max(total, 1), edges

    def _evaluate(self, batch: Batch, parent_B: Ints, edge_M: Ints, row_M: Ints, regime_T: Sequence[Regime]) -> _Part:
        """Loss of the (edge, prompt) pairs `edge_M`, whose parents are rows `row_M` of the pairs `parent_B`."""
        forest, grown, coefficients_E = batch.forest, batch.trajectories, batch.coefficients_E
        device = grown.parent_KPZ.device

        def on_device(values: Floats) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=device)

        # Edges of one parent to one grid point share a mean: G such means in this micro-batch.
        fan_E = forest.fans.fan_E
        shared_M = row_M * len(fan_E) + fan_E[edge_M[:, 0]]
        _, first_G, mean_M = np.unique(shared_M, return_index=True, return_inverse=True)
        row_G, edge_G = row_M[first_G], edge_M[first_G, 0]
        point_B = forest.depth_N[forest.trained_parents[parent_B[:, 0]]]
        regime = regime_T[point_B[0]]

        parent_rows, edge_rows = torch.as_tensor(parent_B, device=device), torch.as_tensor(edge_M, device=device)
        mean_of = torch.as_tensor(mean_M, device=device)
        x_BZ = grown.parent_KPZ[parent_rows[:, 0], parent_rows[:, 1]]
        child_MZ = grown.child_EPZ[edge_rows[:, 0], edge_rows[:, 1]]
        conditioning = batch.conditioning.select(parent_rows[:, 1])
        sigma_B, std_M = on_device(batch.schedule.sigmas[point_B]), on_device(coefficients_E.std[edge_M[:, 0]])
        cx_G, cv_G = (on_device(values_E[edge_G]) for values_E in (coefficients_E.x, coefficients_E.v))

        def means(v_BZ: Tensor) -> Tensor:
            if len(row_G) == len(parent_B):  # no parent has edges to two points, and nothing is copied
                return transition_mean(x_BZ, v_BZ, cx_G, cv_G).index_select(0, mean_of)
            row_of = torch.as_tensor(row_G, device=device)
            return transition_mean(x_BZ[row_of], v_BZ.index_select(0, row_of), cx_G, cv_G).index_select(0, mean_of)

        # What is frozen comes first: the weights are exchanged for it, which no graph may see.
        reference_MZ = None
        if self.needs_reference:
            reference_MZ = means(self._handle.predict_reference(x_BZ, sigma_B, conditioning, regime))
        mean_MZ = means(self._handle.predict(x_BZ, sigma_B, conditioning, "train", regime))
        old_mean_MZ = None
        if grown.old_mean_FPZ is not None:
            fan_M = torch.as_tensor(fan_E[edge_M[:, 0]], device=device)
            old_mean_MZ = grown.old_mean_FPZ[fan_M, edge_rows[:, 1]]
        edge_batch = EdgeBatch(
            logp=log_prob(child_MZ, mean_MZ, std_M, self._likelihood),
            logp_old=grown.logp_EP[edge_rows[:, 0], edge_rows[:, 1]],
            mean=mean_MZ,
            std=std_M,
            h=on_device(coefficients_E.h[edge_M[:, 0]]),
            advantage=on_device(batch.advantage_EP[edge_M[:, 0], edge_M[:, 1]]),
            weight=on_device(batch.weight_E[edge_M[:, 0]]),
            clip=self.clip,
            old_mean=old_mean_MZ,
            reference_mean=reference_MZ,
        )
        with calling(f"method {self._method.name!r}"), handed(edge_batch, self._method.name):
            loss_M, log_ratio_M = self._method.edge_loss(edge_batch), self._method.log_ratio(edge_batch)
        kl_M = None
        if self._beta > 0 and reference_MZ is not None:
            kl_M = gaussian_kl(mean_MZ, reference_MZ, std_M)
            loss_M = loss_M + self._beta * kl_M
        return _Part(forest.start_N[forest.trained_edges_E[edge_M[:, 0]]], loss_M, log_ratio_M, kl_M)

    def _diagnose(self, part: _Part, diagnostics: Diagnostics) -> None:
        deviation_M = (part.log_ratio_M.exp() - 1).abs().cpu().numpy()
        if not diagnostics.norms:  # before the iteration's first optimiser step the ratio must be 1
            diagnostics.ratio_deviation = max(diagnostics.ratio_deviation, float(deviation_M.max()))
        np.add.at(diagnostics.edges_T, part.step_M, 1)
        np.add.at(diagnostics.clipped_T, part.step_M, deviation_M > self.clip)
        if part.kl_M is not None:
            diagnostics.kl += float(part.kl_M.sum())


def _micro_batches(
    forest: Forest, keep_EP: Bools, prompts: Ints, size: int, served_T: Ints
) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Cut the parents of the kept edges of `prompts` into micro-batches of at most `size`.

    A micro-batch holds parents of one value of `served_T`, which never falls along the grid.

    Yields the (parent, prompt) pairs of a micro-batch (B, 2), its kept (edge, prompt) pairs (M, 2), and each pair's
    row among the parents (M,). Pairs are in order of parent or edge, then prompt.
    """
    column_U = np.sort(prompts)
    keep_EU = keep_EP[:, column_U]
    parent_E = np.searchsorted(forest.trained_parents, forest.parent_N[forest.trained_edges_E])
    used_KU = np.zeros((len(forest.trained_parents), len(column_U)), dtype=bool)
    np.logical_or.at(used_KU, parent_E, keep_EU)
    pair_R2 = np.argwhere(used_KU)
    row_KU = np.full(used_KU.shape, -1)
    row_KU[used_KU] = np.arange(len(pair_R2))
    edge_M2 = np.argwhere(keep_EU)
    row_M = row_KU[parent_E[edge_M2[:, 0]], edge_M2[:, 1]]
    for pair_X2 in (pair_R2, edge_M2):
        pair_X2[:, 1] = column_U[pair_X2[:, 1]]
    served_R = served_T[forest.depth_N[forest.trained_parents[pair_R2[:, 0]]]]
    first_R = np.searchsorted(served_R, served_R)  # where each pair's stretch of the grid begins
    batch_R = np.cumsum((np.arange(len(pair_R2)) - first_R) % size == 0) - 1
    starts = np.searchsorted(batch_R, np.arange(batch_R[-1] + 2 if len(batch_R) else 1))
    # Sorted once, since a search through all edges for every micro-batch would be quadratic; stable keeps their order.
    batch_M = batch_R[row_M]
    order_M = np.argsort(batch_M, kind="stable")
    cuts = np.searchsorted(batch_M[order_M], np.arange(len(starts)))
    for (start, end), (first, last) in zip(pairwise(starts), pairwise(cuts), strict=True):
        inside_M = order_M[first:last]
        yield pair_R2[start:end], edge_M2[inside_M], row_M[inside_M] - start

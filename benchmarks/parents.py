"""Training time with one forward and backward a parent, against one an edge, as released code does it. One JSON line.

    python benchmarks/parents.py [--model FOLDER] [--device cuda] [--dtype bf16] [--size sd35]

`tree` is TreeGRPO's default (39 edges from 13 parents: at most 3 times faster), `split` a trunk that throws six
children at every step, as TempFlow-GRPO does (54 edges from 9 parents: at most 6 times). Both ways give one gradient;
`gradient_difference` is how far they are apart, relative to its norm.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from engine import Bench, circumstances, fastest, parser, prepare

from grpo_bench.forest.builders import trunk
from grpo_bench.method import EdgeBatch
from grpo_bench.sampling.gaussian import Likelihood, log_prob, transition_mean
from grpo_bench.training.losses.edges import Batch, Diagnostics, default_clip
from grpo_bench.training.planning import make_method

if TYPE_CHECKING:
    from torch import Tensor

CHILDREN = 6


def one_per_edge(bench: Bench, data: Batch) -> None:
    """The gradient of the same loss, each edge's mean computed for itself."""
    forest, schedule, grown, device = data.forest, data.schedule, data.trajectories, bench.policy.device
    method, training = make_method(bench.config), bench.config.training
    clip = default_clip(int(np.prod(bench.policy.latent_shape)))
    parent_E = np.searchsorted(forest.trained_parents, forest.parent_N[forest.trained_edges_E])
    pair_M2 = np.argwhere(data.keep_EP)

    def on_device(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=device)

    for start in range(0, len(pair_M2), training.train_batch):
        edge_B, prompt_B = pair_M2[start : start + training.train_batch].T
        (regime,) = bench.handle.served(schedule.sigmas[:-1].tolist())
        step_B = forest.depth_N[forest.trained_parents[parent_E[edge_B]]]
        prompt_rows = torch.as_tensor(prompt_B, device=device)
        x_BCHW = grown.parent_KPZ[torch.as_tensor(parent_E[edge_B], device=device), prompt_rows]
        conditioning = data.conditioning.select(prompt_rows)
        v_BCHW = bench.handle.predict(x_BCHW, on_device(schedule.sigmas[step_B]), conditioning, "train", regime)
        mean_BCHW = transition_mean(x_BCHW, v_BCHW, on_device(schedule.x_T[step_B]), on_device(schedule.v_T[step_B]))
        edge_rows, std_B = torch.as_tensor(edge_B, device=device), on_device(schedule.std_T[step_B])
        edges = EdgeBatch(
            logp=log_prob(grown.child_EPZ[edge_rows, prompt_rows], mean_BCHW, std_B, Likelihood()),
            logp_old=grown.logp_EP[edge_rows, prompt_rows],
            mean=mean_BCHW,
            std=std_B,
            h=on_device(schedule.h_T[step_B]),
            advantage=on_device(data.advantage_EP[edge_B, prompt_B]),
            weight=on_device(data.weight_E[edge_B]),
            clip=clip,
        )
        (method.edge_loss(edges).sum() / len(pair_M2)).backward()


def gradient(bench: Bench) -> Tensor:
    """The weights' gradients as one vector, which are then cleared."""
    parts = [weight.grad.flatten() for _, weight in bench.policy.parameters() if weight.grad is not None]
    bench.policy.denoiser.zero_grad(set_to_none=True)
    return torch.cat(parts)


def measure(bench: Bench, rounds: int) -> dict[str, float]:
    """Seconds of one iteration's training both ways."""
    data, objective = bench.batch(bench.roll_out()), bench.objective()

    def shared() -> Tensor:
        objective.accumulate(data, np.arange(len(bench.prompts)), Diagnostics.empty(bench.forest.steps))
        return gradient(bench)

    def apart() -> Tensor:
        one_per_edge(bench, data)
        return gradient(bench)

    best, _ = fastest({"parents": shared, "edges": apart}, rounds, bench.policy.device)
    one, other = shared(), apart()
    return {
        "parents": bench.forest.train_nfe,
        "edges": bench.forest.trained_edges,
        "seconds_per_parent_way": round(best["parents"], 4),
        "seconds_per_edge_way": round(best["edges"], 4),
        "speedup": round(best["edges"] / best["parents"], 2),
        "gradient_difference": float((one - other).norm() / other.norm()),
    }


def main() -> None:
    """Measure both forests, and print the result."""
    arguments = parser(__doc__).parse_args()
    bench = prepare(arguments, "tree")
    split = trunk(bench.schedule.sigmas, dict.fromkeys(range(bench.schedule.steps - 1), CHILDREN))
    result = {
        "tree": measure(bench, arguments.rounds),
        "split": measure(replace(bench, forest=split), arguments.rounds),
        "prompts": len(bench.prompts),
        "size": arguments.model or arguments.size,
        **circumstances(bench, arguments),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

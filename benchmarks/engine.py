"""What the engine costs on top of the network: its rollout and training speed over a bare loop's. Prints one JSON line.

    python benchmarks/engine.py [--method tree] [--model FOLDER] [--device cuda] [--dtype bf16] [--size sd35]

The bare loops call the same transformer on the same batch sizes, in the same precision and in the deterministic mode of
runs, and do nothing else: no noise, no kernel, no log-prob, no ledger. Rounds of both alternate, so that a busy machine
slows both; a ratio is the median of the rounds' own, `*_fastest` that of the fastest rounds. Both ratios ought to be at
least 0.85.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from grpo_bench.config import RunConfig, Table, build, merge, parse_set
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Ledger
from grpo_bench.policies.sd3 import SD3Policy
from grpo_bench.sampling.engine import Trajectories, grow
from grpo_bench.sampling.gaussian import Likelihood
from grpo_bench.sampling.handle import Conditioning, Metered
from grpo_bench.sampling.noise import Noise
from grpo_bench.training.determinism import deterministic
from grpo_bench.training.losses.edges import Batch, Diagnostics, Objective, default_clip
from grpo_bench.training.planning import make_method, plan_forest, sampling_schedule
from grpo_bench.workloads.pretraining.parts import make_pipeline
from grpo_bench.workloads.shapes.scenes import WORDS
from grpo_bench.workloads.shapes.workload import MODEL, ShapesWorkload

SD35 = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
    "dual_attention_layers": tuple(range(13)),
}
"""transformer/config.json of stabilityai/stable-diffusion-3.5-medium."""
SD35_DEFAULTS: Table = {
    "model": {"height": 512, "width": 512, "max_sequence_length": 256, "trainable": "lora"},
    "training": {"prompts": 2, "rollout_batch": 16, "train_batch": 4},
    "method": {"branching": 2},
}
SD35_TOKENS = 333
"""77 of CLIP and 256 of T5."""


@dataclass(frozen=True)
class Bench:
    """One forest of one method on one policy, ready to be rolled out and trained on."""

    config: RunConfig
    policy: SD3Policy
    conditioning: Conditioning
    prompts: list[str]
    forest: Forest
    schedule: Schedule
    handle: Metered

    def roll_out(self, iteration: int = 0) -> Trajectories:
        """The engine's rollout."""
        noise = Noise(0, iteration, self.prompts, self.policy.latent_shape)
        return grow(self.forest, self.schedule, self.handle, self.conditioning, noise)

    def batch(self, grown: Trajectories) -> Batch:
        """What one update trains on, advantages drawn at random."""
        advantage_EP = np.random.default_rng(0).standard_normal((self.forest.trained_edges, len(self.prompts)))
        return Batch(
            forest=self.forest,
            schedule=self.schedule,
            trajectories=grown,
            conditioning=self.conditioning,
            advantage_EP=advantage_EP,
            weight_E=np.ones(self.forest.trained_edges),
            keep_EP=np.ones(advantage_EP.shape, dtype=bool),
        )

    def objective(self) -> Objective:
        """The objective of the run's defaults."""
        return Objective(
            make_method(self.config),
            self.handle,
            Likelihood(),
            clip=default_clip(int(np.prod(self.policy.latent_shape))),
            beta=0.0,
            train_batch=self.config.training.train_batch,
        )

    def bare(self, sizes: list[int], *, train: bool) -> None:
        """The transformer alone on batches of these sizes, with a backward pass if it is `train`."""
        dtype = torch.bfloat16 if self.config.model.dtype == "bf16" else torch.float32
        for size in sizes:
            x_BCHW = torch.randn(size, *self.policy.latent_shape, device=self.policy.device)
            rows = self.conditioning.select(torch.arange(size, device=self.policy.device) % len(self.prompts)).tensors
            with (
                torch.set_grad_enabled(train),
                torch.autocast(self.policy.device.type, dtype, enabled=dtype != torch.float32),
            ):
                v_BCHW = self.policy.denoiser(
                    hidden_states=x_BCHW,
                    timestep=torch.full((size,), 500.0, device=self.policy.device),
                    encoder_hidden_states=rows["tokens"],
                    pooled_projections=rows["pooled"],
                    return_dict=False,
                )[0]
            if train:
                v_BCHW.float().square().mean().backward()
        self.policy.denoiser.zero_grad(set_to_none=True)


def cut(total: int, size: int) -> list[int]:
    """`total` in micro-batches of at most `size`."""
    return [min(size, total - start) for start in range(0, total, size)]


def fastest(
    work: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Fastest seconds and all rounds' seconds of each piece of work, the pieces taking turns after a warm round."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, do in work.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            do()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: min(taken) for name, taken in seconds.items()}, seconds


def sd35_policy(config: RunConfig, device: torch.device) -> tuple[SD3Policy, Conditioning]:
    """SD3.5-M's transformer with random weights, beside parts of no size, and random text tokens."""
    pipeline = make_pipeline(WORDS)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16,
        norm_num_groups=8,
    )
    dtype = torch.bfloat16 if config.model.dtype == "bf16" else torch.float32
    with torch.device(device):
        transformer = SD3Transformer2DModel(**SD35).to(dtype)
    parts = {**pipeline.components, "vae": vae, "transformer": transformer}
    policy = SD3Policy(StableDiffusion3Pipeline(**parts), config.model, device)
    prompts = config.training.prompts
    tokens, pooled = torch.randn(prompts, SD35_TOKENS, 4096), torch.randn(prompts, 2048)
    rows = {"tokens": tokens.to(device, dtype), "pooled": pooled.to(device, dtype)}
    return policy, Conditioning(rows, {name: value[:1] for name, value in rows.items()})


def shapes_policy(config: RunConfig, device: torch.device, prompts: list[str]) -> tuple[SD3Policy, Conditioning]:
    """The pipeline asked for, else the shipped one, else random weights of its size."""
    source = config.model.path or (str(MODEL) if MODEL.exists() else "")
    with tempfile.TemporaryDirectory() as folder:
        if not source:
            torch.manual_seed(0)
            make_pipeline(WORDS).save_pretrained(folder)
        policy = SD3Policy.load(source or folder, config.model, device)
    return policy, policy.encode(prompts).to(device)


def prepare(arguments: argparse.Namespace, method: str) -> Bench:
    """The bench that the command line asks for."""
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    deterministic()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    asked: Table = {"method": {"name": method}, "model": {"dtype": arguments.dtype, "path": arguments.model}}
    size = SD35_DEFAULTS if arguments.size == "sd35" else {}
    if method != "tree":
        size = {key: value for key, value in size.items() if key != "method"}
    layers = [ShapesWorkload.defaults, size, asked, *map(parse_set, arguments.set)]
    merged: Table = {}
    for layer in layers:
        merged = merge(merged, layer)
    config = build([("benchmark", merged)])
    prompts = [f"a red circle left of a blue square {i}" for i in range(config.training.prompts)]
    made = sd35_policy(config, device) if arguments.size == "sd35" else shapes_policy(config, device, prompts)
    policy, conditioning = made
    schedule = sampling_schedule(config.sampling, policy.grid)
    return Bench(
        config=config,
        policy=policy,
        conditioning=conditioning,
        prompts=prompts,
        forest=plan_forest(make_method(config), config.seed, 0, schedule),
        schedule=schedule,
        handle=Metered(policy, Ledger(), guidance=1.0, batch=config.training.rollout_batch),
    )


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that both benchmarks share."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="", help="folder of an SD3 pipeline; default: the built-in one")
    options.add_argument("--size", choices=["shapes", "sd35"], default="shapes", help="sd35: random, SD3.5-M's size")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=0, help="of torch on the CPU; 0: its default")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of grpo-bench run")
    return options


def circumstances(bench: Bench, arguments: argparse.Namespace) -> dict[str, str | int]:
    """Where the figures were taken."""
    return {
        "device": torch.cuda.get_device_name() if bench.policy.device.type == "cuda" else "cpu",
        "dtype": arguments.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure, and print the result."""
    options = parser(__doc__)
    options.add_argument("--method", default="tree")
    arguments = options.parse_args()
    bench = prepare(arguments, arguments.method)
    forest, prompts, training = bench.forest, len(bench.prompts), bench.config.training
    rollout = [n for d in range(forest.steps) for n in cut(len(forest.nodes_at(d)) * prompts, training.rollout_batch)]
    train = cut(len(forest.trained_parents) * prompts, training.train_batch)
    data, objective = bench.batch(bench.roll_out()), bench.objective()

    def accumulate() -> None:
        objective.accumulate(data, np.arange(prompts), Diagnostics.empty(forest.steps))
        bench.policy.denoiser.zero_grad(set_to_none=True)

    best, every = fastest(
        {
            "bare_rollout": lambda: bench.bare(rollout, train=False),
            "rollout": bench.roll_out,
            "bare_train": lambda: bench.bare(train, train=True),
            "train": accumulate,
        },
        arguments.rounds,
        bench.policy.device,
    )

    def median(name: str) -> float:
        pairs = zip(every[f"bare_{name}"], every[name], strict=True)
        return round(statistics.median(bare / ours for bare, ours in pairs), 3)

    result = {
        "rollout_ratio": median("rollout"),
        "train_ratio": median("train"),
        "rollout_ratio_fastest": round(best["bare_rollout"] / best["rollout"], 3),
        "train_ratio_fastest": round(best["bare_train"] / best["train"], 3),
        "rollout_nfe_per_second": round(sum(rollout) / best["rollout"], 1),
        "train_nfe_per_second": round(sum(train) / best["train"], 1),
        "rollout_batches": [min(rollout), max(rollout)],
        "train_batches": [min(train), max(train)],
        "method": arguments.method,
        "size": arguments.model or arguments.size,
        "trainable": bench.config.model.trainable,
        **circumstances(bench, arguments),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""The analytic workload: one Gaussian a prompt, drawn by its closed-form flow, so that the exact gradient is known."""

from grpo_bench.workloads.gaussian.clouds import Cloud, cloud
from grpo_bench.workloads.gaussian.judge import differentiable_score, latents_of, score_latents

__all__ = ["Cloud", "cloud", "differentiable_score", "latents_of", "score_latents"]

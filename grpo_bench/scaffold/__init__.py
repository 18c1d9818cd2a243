"""`grpo-bench new`: the first files of somebody's plugin."""

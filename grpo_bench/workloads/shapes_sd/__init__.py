"""The built-in replication of `shapes` in the format of Stable Diffusion 1: other model, same captions and judge."""

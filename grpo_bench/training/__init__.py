"""The objective, the loop and its checkpoints."""

"""The forest: one plain-data picture of every method's rollout (numpy only)."""

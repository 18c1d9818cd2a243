"""`grpo-bench doctor`: facts about this machine (probes), and what they mean for a person (diagnosis)."""

"""The built-in workload of sparse reward: captions that count, and a judge that says all right or nothing."""

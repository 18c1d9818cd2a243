"""Where the runs of a sweep are carried out: processes here, a Ray cluster, Slurm. Scheduling is the engine's own."""

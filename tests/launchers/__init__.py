"""Sweeps on a real one-node Slurm and a real local Ray: what `make launchers` runs."""

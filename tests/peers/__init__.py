"""The peers' table (``make perf``): a training step of seqbench beside what users would pick instead."""

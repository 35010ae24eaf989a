"""Where the runs of a sweep are worked on: here side by side, or by joblib, Slurm or Ray.

An engine takes batches of runs as bytes and says when each has ended; what it is made of is the engine's
library's affair. Records are written by the runs themselves, on a folder that all of them see.
"""

"""seqbench compares sequence-model architectures fairly and says, in words, what the comparison showed."""

import os
import sys

__version__ = "0.1.0"

# `python -m seqbench...` puts the current folder first among the places of modules, so that a file
# named like a library (a pandas.py in a folder of strange records) would be run. While Python looks for the
# module to run, and only then, the program's name is "-m"; this is the first of our code that it meets.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and __path__ != [os.path.join(sys.path[0], "seqbench")]:
    del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"  # the same for the processes that this one starts

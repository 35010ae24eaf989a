"""Statistics of a comparison: intervals, paired differences, verdicts. Pure functions of plain numbers.

The unit of replication is the seed, paired over models. Distributions come from scipy; what is here is
the care for small samples: one seed, no spread, all equal, missing values. ``samples`` describes one set
of values, ``pairs`` compares two, ``judging`` decides over a family of comparisons, ``decay`` tells how
gradients fall, ``power`` how costs grow with a size.
"""

from seqbench.stats.decay import HORIZON_SHARE, Decay, decay, decay_factor, decay_factors, horizon
from seqbench.stats.judging import FEWEST, Outcome, Verdict, judge, refused
from seqbench.stats.pairs import (
    ALPHA,
    MARGIN,
    Paired,
    Spread,
    detectable,
    equivalence,
    holm,
    paired,
    pooled_spread,
    rounding_spread,
    seeds_needed,
    sign_flip,
)
from seqbench.stats.power import Power, power_of, power_of_medians
from seqbench.stats.samples import (
    Floats,
    Interval,
    censored_median,
    expected_best,
    interquartile_mean,
    mean_interval,
    unseen,
    wilson,
)

__all__ = [
    "ALPHA",
    "FEWEST",
    "HORIZON_SHARE",
    "MARGIN",
    "Decay",
    "Floats",
    "Interval",
    "Outcome",
    "Paired",
    "Power",
    "Spread",
    "Verdict",
    "censored_median",
    "decay",
    "decay_factor",
    "decay_factors",
    "detectable",
    "equivalence",
    "expected_best",
    "holm",
    "horizon",
    "interquartile_mean",
    "judge",
    "mean_interval",
    "paired",
    "pooled_spread",
    "power_of",
    "power_of_medians",
    "refused",
    "rounding_spread",
    "seeds_needed",
    "sign_flip",
    "unseen",
    "wilson",
]

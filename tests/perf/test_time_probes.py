"""Every probe on every kind of network, beside training steps of the same network."""

from __future__ import annotations

import statistics
import time

import pytest
from bench import at_128, like_a_run, tell, training_step  # noqa: F401

from seqbench.match import Place, solve_width
from seqbench.probes.base import NotApplicable
from seqbench.registry import plugins

pytestmark = pytest.mark.perf


@pytest.mark.parametrize("probe", plugins("probe"))
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "bilstm", "transformer"])
def test_a_probe_beside_training_steps(benchmark, tell, name, probe):  # noqa: F811
    """A snapshot of 16 sequences in training steps of the same network, at T=128."""
    benchmark.group = f"probe: {probe}"
    job, data = at_128(name)
    step = training_step(job, data)
    place, batch = Place.of(data), data.probe(16)
    network, batch = place.network(job, solve_width(job, place)), batch.marked(job.task.relevant(batch))
    one = plugins("probe")[probe]()
    try:
        one.measure(network, batch)
    except NotApplicable as reason:
        pytest.skip(str(reason))
    ratios = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(5):
            step()
        middle = time.process_time()
        one.measure(network, batch)
        ratios.append((time.process_time() - middle) / ((middle - start) / 5))
    steps = statistics.median(ratios)
    tell(f"{probe}: {steps:.1f} training steps: {name} T=128 (median of 5)", steps=steps)
    benchmark.pedantic(one.measure, args=(network, batch), rounds=5)

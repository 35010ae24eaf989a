"""Checks of an encoder's promises before a second is spent on training it.

The properties are those of ``python -m seqbench.check`` without which a comparison would mean nothing. They
are judged on short sequences of noise, never on the task's data, so that no rare input raises an alarm.
"""

from __future__ import annotations

import contextlib

from seqbench import conformance
from seqbench.batch import Batch
from seqbench.conformance import Property
from seqbench.network import Network
from seqbench.subject import LONG, Inapplicable, Subject, run, subject_of

# Without them a score would be earned by cheating, or the budget or a probe would count what is not there.
STOPPING: tuple[Property, ...] = (
    conformance.shape, conformance.causality, conformance.rows, conformance.padding, conformance.state,
    conformance.parameters,
)  # fmt: skip


class ContractBroken(Exception):
    """The encoder does not do what it declares; the message names the property and the numbers."""


def check_contract(network: Network, batch: Batch) -> None:
    """Stop an encoder that leaks, reads padding, mixes rows, hands on a wrong state or has dead parameters.

    One whose outputs are no numbers, or random in evaluation mode, or that cannot be copied, is left to
    training and to its record.

    Args:
        batch: says how wide the inputs are, and how long; its content is not used.

    Raises:
        ContractBroken: the first property that does not hold, with what was expected and found.
    """
    device = next(network.parameters()).device
    width_in = network.embed(batch.rows(0, 1).tensors(device)).shape[2]
    try:
        subject = subject_of(network.encoder, width_in, long=min(batch.ids_BT.shape[1], LONG))
    except Inapplicable:
        return
    if not _steady(subject):
        return
    for one in STOPPING:
        with contextlib.suppress(Inapplicable):
            finding = one(subject)
            if not finding.passed:
                raise ContractBroken(f"{finding.name}: {finding.sentence}")


def _steady(subject: Subject) -> bool:
    """Whether the same input gives the same numbers twice."""
    first, again = (run(subject.encoder, subject.x_BTD)[0] for _ in range(2))
    return bool(first.isfinite().all()) and bool((first == again).all())

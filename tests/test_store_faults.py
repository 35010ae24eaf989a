"""Every campaign against the store, at its small size; ``make faults`` runs the large ones."""

from __future__ import annotations

import random

import pytest
from faults import powercut, store_faults


@pytest.mark.parametrize("campaign", [*powercut.CAMPAIGNS, *store_faults.CAMPAIGNS], ids=lambda one: one.name)
def test_no_promise_of_the_store_breaks(campaign, tmp_path):
    figure = campaign.run(campaign.few, tmp_path, random.Random(0))
    assert figure.violations == []
    assert figure.tried >= campaign.few

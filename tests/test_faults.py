"""A part of the fault campaign at every commit: runs that break, sweeps that are killed."""

from __future__ import annotations

import random

import pytest
from faults import jobs, sweeps
from faults.campaign import Campaign

CAMPAIGNS = [campaign for campaign in (*jobs.CAMPAIGNS, *sweeps.CAMPAIGNS) if campaign.few]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=[campaign.name for campaign in CAMPAIGNS])
def test_no_promise_is_broken(campaign: Campaign, tmp_path):
    figure = campaign.run(campaign.few, tmp_path, random.Random(0))
    assert figure.violations == []
    assert figure.tried > 0

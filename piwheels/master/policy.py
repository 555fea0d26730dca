# SPDX-License-Identifier: BSD-3-Clause
"""The operator's policy for the whole farm, from the settings: the same in every process that plans. Pure."""

from piwheels.master.planner import Policy, Rebuild
from piwheels.settings import Settings


def policy_of(settings: Settings) -> Policy:
    """What the planner goes by."""
    return Policy(
        rebuild=Rebuild(settings.planning.rebuild),
        strikes=settings.dispatch.strikes,
        prereleases=settings.planning.prereleases == "yes",
    )

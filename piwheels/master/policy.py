# SPDX-License-Identifier: BSD-3-Clause
"""The operator's policy for the whole farm, from the settings: the same in every process that plans. Pure."""

from piwheels.db.builds import RetryPolicy
from piwheels.master.planner import Policy, Rebuild
from piwheels.settings import Settings


def policy_of(settings: Settings) -> Policy:
    """What the planner goes by."""
    return Policy(
        rebuild=Rebuild(settings.planning.rebuild),
        strikes=settings.dispatch.strikes,
        prereleases=settings.planning.prereleases == "yes",
    )


def retry_policy_of(settings: Settings) -> RetryPolicy:
    """What becomes of jobs whose builds ended."""
    dispatch = settings.dispatch
    farm = policy_of(settings)
    return RetryPolicy(dispatch.strikes, dispatch.retry_after, dispatch.build_timeout, dispatch.memory_limit, farm)

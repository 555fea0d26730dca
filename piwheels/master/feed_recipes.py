# SPDX-License-Identifier: BSD-3-Clause
"""The feed's part in recipes: applies the folder when it changes, and plans anew what changed recipes concern.

It must not know what recipes say, nor who else applies some (piw-recipes does).
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from piwheels.db import recipe_planning, recipes
from piwheels.db.beside import Beside
from piwheels.master.planner import Policy
from piwheels.master.recipe_folder import Folder
from piwheels.master.recipes import Entry, RecipeError

logger = logging.getLogger(__name__)

LOOK = 10.0  #: seconds between two looks at the folder
PLAN = 2.0  #: seconds between two looks whether something is to be planned anew


class Recipes:
    """Keeps the stored set equal to the folder, if there is one."""

    def __init__(self, folder: Path | None, database: Beside, policy: Policy) -> None:
        self._folder = Folder(folder) if folder else None
        self._database = database
        self._policy = policy

    async def look(self) -> None:
        """Apply the folder if it changed since the last look. One that makes no sense changes nothing."""
        if self._folder is None:
            return
        try:
            entries = await asyncio.to_thread(self._folder.news)
        except RecipeError as error:
            logger.warning("recipes stay as they were: %s", error)
            return
        if entries is not None:
            await self._apply(entries)

    async def _apply(self, entries: Sequence[Entry]) -> None:
        changed = await self._database(lambda conn: recipes.apply(conn, entries))
        logger.info(
            "%d recipes in force; changed: %d names, %d patterns",
            len(entries),
            len(changed.names),
            len(changed.patterns),
        )

    async def keep_looking(self) -> None:
        """Look now and then, for ever."""
        while True:
            await asyncio.sleep(LOOK)
            await self.look()

    async def keep_planning(self) -> None:
        """Plan anew what changed recipes concern, for ever."""
        planned = 0
        while True:
            batch = await self._database(partial(recipe_planning.replan_next, policy=self._policy))
            planned += batch.projects
            if batch.finished or batch.busy:
                if planned:
                    logger.info("planned %d projects anew, for which recipes changed", planned)
                planned = 0
                await asyncio.sleep(PLAN)

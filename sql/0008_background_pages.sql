-- SPDX-License-Identifier: BSD-3-Clause
-- Version 8: pages that are rendered when nothing else is to be; docs/serving.rst tells the story.

ALTER TABLE pages ADD COLUMN background boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN pages.background IS 'Rendered again only because somebody wants to see the same anew (piw-rebuild, a new look): others come first.';
CREATE INDEX pages_order ON pages (background, since);
DROP INDEX pages_since;

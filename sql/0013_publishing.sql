-- SPDX-License-Identifier: BSD-3-Clause
-- Version 13: what a project's pages were made of, and lists of projects too long to be written often; docs/serving.rst
-- tells the story.

ALTER TABLE published ADD COLUMN facts bytea;
COMMENT ON COLUMN published.facts IS 'Fingerprint of all that the pages show; pages with the same are not rendered again. Null: render them.';

CREATE TABLE listed (
    name  text NOT NULL,
    space text NOT NULL,
    PRIMARY KEY (name, space)
);
COMMENT ON TABLE listed IS 'A project has a page in an index, so the list of that index names it. space: empty for /simple/, a distribution, or all/.';
CREATE INDEX listed_order ON listed (space, name COLLATE "C");
INSERT INTO listed (name, space) SELECT name, '' FROM published WHERE listed;

CREATE TABLE listings (
    space      text PRIMARY KEY,
    rest_until timestamptz NOT NULL
);
COMMENT ON TABLE listings IS 'When the list of an index may be written again; a long one takes seconds.';

ALTER TABLE upstream_files ADD COLUMN yanked_reason text NOT NULL DEFAULT '';
COMMENT ON COLUMN upstream_files.yanked_reason IS 'Kept, as the url and sha256 of what is no sdist, only for the merged index (publish.all_index).';

-- The newest serial is the one that lists of projects give as theirs.
CREATE INDEX projects_serial ON projects (serial);

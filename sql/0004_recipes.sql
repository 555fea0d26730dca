-- SPDX-License-Identifier: BSD-3-Clause
-- Version 4: what operators say of particular projects (docs/recipes.rst), and targets' C libraries (docs/targets.rst).

ALTER TABLE targets ADD COLUMN libc text NOT NULL DEFAULT '' CHECK (libc ~ '^((glibc|musl)-[0-9]+\.[0-9]+)?$');
COMMENT ON COLUMN targets.libc IS 'Its C library, e.g. glibc-2.36; empty: not known.';

CREATE TABLE recipes (
    position integer PRIMARY KEY,
    pattern  text NOT NULL CHECK (pattern ~ '^[a-z0-9*?-]{1,200}$'),
    content  jsonb NOT NULL,
    file     text NOT NULL,
    line     integer NOT NULL
);
COMMENT ON TABLE recipes IS 'What the files of recipes say, one row for each name or pattern. The whole set is replaced at a time; its mark is the row recipes of feeds.';
COMMENT ON COLUMN recipes.position IS 'The order in which recipes of one project are merged: the later wins.';
COMMENT ON COLUMN recipes.content IS 'What is said, key by key; master/recipes.from_plain reads it.';
COMMENT ON COLUMN recipes.line IS 'Where it is said, for people.';

CREATE TABLE recipe_changes (
    pattern text PRIMARY KEY,
    resets  boolean NOT NULL DEFAULT false,
    after   text NOT NULL DEFAULT '',
    since   timestamptz NOT NULL DEFAULT now(),
    noticed bigint
);
COMMENT ON TABLE recipe_changes IS 'Names and patterns whose projects are to be planned anew, because a recipe changed. Written with the recipes; deleted with the last batch.';
COMMENT ON COLUMN recipe_changes.resets IS 'Builds that failed count no more: they would be made in another way now.';
COMMENT ON COLUMN recipe_changes.after IS 'Projects up to this name are done.';
COMMENT ON COLUMN recipe_changes.noticed IS 'The transaction that noticed this row: while an older one runs, that may plan by the recipes there were before.';

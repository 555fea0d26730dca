-- SPDX-License-Identifier: BSD-3-Clause
-- Version 12: what happened on the farm, for whoever follows it; docs/json.rst tells the story.

ALTER TYPE page_kind ADD VALUE 'changes';

CREATE TYPE news_kind AS ENUM ('built', 'failed', 'withdrawn', 'yanked', 'restored', 'removed', 'quarantined');

CREATE TABLE news (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    serial   bigint UNIQUE,
    at       timestamptz NOT NULL DEFAULT now(),
    kind     news_kind NOT NULL,
    project  text NOT NULL,
    version  text NOT NULL DEFAULT '',
    target   text NOT NULL DEFAULT '',
    build_id bigint,
    reason   text NOT NULL DEFAULT '',
    detail   text NOT NULL DEFAULT '' CHECK (length(detail) <= 300),
    has_log  boolean NOT NULL DEFAULT false,
    files    text[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE news IS 'What happened to what the site has, written with what it tells of and never changed but for its serial. Names stand here as text, since it outlives what it names.';
COMMENT ON COLUMN news.serial IS 'Given when it is published, without gaps and in the order of publishing, so that whoever has all up to one misses none. Empty: not yet.';
COMMENT ON COLUMN news.version IS 'Empty: the whole project.';
COMMENT ON COLUMN news.reason IS 'What a build failed for.';
CREATE INDEX news_fresh ON news (id) WHERE serial IS NULL;
CREATE INDEX news_project ON news (project, id);

-- SPDX-License-Identifier: BSD-3-Clause
-- Version 2: following PyPI by journal, index or watch list; docs/following.rst tells the story.

CREATE TABLE changes (
    name         text PRIMARY KEY CHECK (name ~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$' AND length(name) <= 200),
    priority     smallint NOT NULL CHECK (priority BETWEEN 0 AND 3),
    first_serial bigint NOT NULL DEFAULT 0,
    serial       bigint NOT NULL DEFAULT 0,
    removed      boolean NOT NULL DEFAULT false,
    said         bigint NOT NULL DEFAULT 0,
    page         boolean NOT NULL DEFAULT false,
    seq          bigint NOT NULL DEFAULT 1,
    since        timestamptz NOT NULL DEFAULT now(),
    ready_at     timestamptz NOT NULL DEFAULT now(),
    attempts     integer NOT NULL DEFAULT 0,
    doubted_since timestamptz
);
COMMENT ON TABLE changes IS 'Projects to ask PyPI for: it said that they changed, or they are to be compared. Written in the transaction that moves the feed''s position; deleted in the one that applies the answer.';
COMMENT ON COLUMN changes.priority IS '0 news, 1 watch list, 2 bootstrap, 3 repair.';
COMMENT ON COLUMN changes.first_serial IS 'The lowest serial of the events that wait in this row; 0: none.';
COMMENT ON COLUMN changes.serial IS 'The highest serial heard of; an answer with a lower one is stale. 0: none.';
COMMENT ON COLUMN changes.removed IS 'The last that was heard is that the project is gone.';
COMMENT ON COLUMN changes.said IS 'The serial at which that was heard, or that the project is there; 0: neither was.';
COMMENT ON COLUMN changes.page IS 'The project''s index page is to be read too: its status may have changed.';
COMMENT ON COLUMN changes.seq IS 'Counts what was heard. An answer settles only what had been heard when it was asked for.';
COMMENT ON COLUMN changes.doubted_since IS 'Since when PyPI gives an answer that is not believed yet: missing, or older than what we have.';
CREATE INDEX changes_ready ON changes (priority, ready_at);
CREATE INDEX changes_first ON changes (first_serial) WHERE first_serial > 0;

CREATE TABLE documents (
    project_id bigint PRIMARY KEY REFERENCES projects ON DELETE CASCADE,
    body       bytea NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE documents IS 'A project''s JSON as the metadata dump has it: no description, the latest release''s files, zstd.';
CREATE INDEX documents_changed ON documents (changed_at);
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL;  -- it is compressed already

ALTER TABLE projects ADD COLUMN hides boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN projects.hides IS 'Its index page hides files that its JSON has (a release in quarantine): the page is to be read each time.';

ALTER TABLE watches ADD COLUMN origin text NOT NULL DEFAULT 'listed' CHECK (origin IN ('listed', 'required', 'dependency'));
ALTER TABLE watches ADD COLUMN extras text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN watches.origin IS 'Who named it: the settings, the requirements file, or a project that needs it.';
COMMENT ON COLUMN watches.extras IS 'Which of its extras are needed, for what it depends on in turn.';

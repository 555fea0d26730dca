-- SPDX-License-Identifier: BSD-3-Clause
-- Version 5: planning all releases again, for the feed's catch_up; docs/planning.rst tells the story.

-- The order in which releases are planned, and how the one before a release is found.
CREATE INDEX releases_order ON releases (project_id, sort_key, id);

CREATE TABLE planning (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    mark        text NOT NULL,
    project_id  bigint NOT NULL DEFAULT 0,
    sort_key    bytea NOT NULL DEFAULT '',
    release_id  bigint NOT NULL DEFAULT 0,
    planned     bigint NOT NULL DEFAULT 0,
    total       bigint NOT NULL DEFAULT 0,
    seconds     double precision NOT NULL DEFAULT 0,
    changed     bigint NOT NULL DEFAULT 0,
    since       bigint NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
COMMENT ON TABLE planning IS 'How far all releases have been planned for the targets and the policy that hold now.';
COMMENT ON COLUMN planning.mark IS 'A digest of those targets and that policy.';
COMMENT ON COLUMN planning.project_id IS 'With sort_key and release_id: the last release that was planned, in the order of releases_order.';
COMMENT ON COLUMN planning.total IS 'Releases there were, about, when it began.';
COMMENT ON COLUMN planning.seconds IS 'Spent on it so far.';
COMMENT ON COLUMN planning.changed IS 'Releases whose jobs were made, withdrawn or moved up.';
COMMENT ON COLUMN planning.since IS 'The transaction that began it: while an older one runs, that may plan for the targets there were before.';

DELETE FROM feeds WHERE name = 'planner';

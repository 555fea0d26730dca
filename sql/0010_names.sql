-- SPDX-License-Identifier: BSD-3-Clause
-- Version 10: what each file name stands for, for ever; docs/decisions/0007 tells the story.

CREATE TABLE names (
    filename text COLLATE "C" NOT NULL CHECK (length(filename) <= 255),
    space    text NOT NULL,
    sha256   bytea NOT NULL CHECK (length(sha256) = 32),
    made_of  bytea NOT NULL CHECK (length(made_of) = 32),
    PRIMARY KEY (filename, space)
);
COMMENT ON TABLE names IS 'The content that a file name stands for, in the main index and in those of distributions. Written with the build that has the name first, and never changed or deleted: the name outlives the wheel, its build and its project.';
COMMENT ON COLUMN names.space IS 'Empty: the main index; else the distribution in whose index it is.';
COMMENT ON COLUMN names.made_of IS 'SHA-256 of the wheel before it was given a build number; the same as sha256 where it has none.';

-- A name that several builds had stands for the first one's content, which is what was published. Wheels that were taken
-- back come last: before this version, a rebuild had their names.
INSERT INTO names (filename, space, sha256, made_of)
SELECT DISTINCT ON (f.filename, s.space) f.filename, s.space, f.sha256, f.sha256
FROM files f JOIN builds b ON b.id = f.build_id JOIN targets t ON t.id = b.target_id
    CROSS JOIN LATERAL (SELECT t.distribution UNION SELECT '') AS s(space)
ORDER BY f.filename, s.space, f.id;

INSERT INTO names (filename, space, sha256, made_of)
SELECT DISTINCT ON (w.filename, s.space) w.filename, s.space, w.sha256, w.sha256
FROM withdrawn w JOIN builds b ON b.id = w.build_id JOIN targets t ON t.id = b.target_id
    CROSS JOIN LATERAL (SELECT t.distribution UNION SELECT '') AS s(space)
ORDER BY w.filename, s.space, w.withdrawn_at, w.build_id
ON CONFLICT DO NOTHING;

COMMENT ON COLUMN withdrawn.sha256 IS 'What its name stands for still (names): no other wheel gets it.';

-- SPDX-License-Identifier: BSD-3-Clause
-- Version 3: a queue whose cost does not depend on how long it is; docs/queue.rst tells the story.

-- A lease without a slave: dispatch has taken the job ahead, for the next builder that asks.
ALTER TABLE jobs DROP CONSTRAINT jobs_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_lease CHECK (
    (lease_token IS NULL) = (lease_expires IS NULL) AND (lease_token IS NULL) = (lease_started IS NULL)
    AND (lease_token IS NOT NULL OR lease_slave_id IS NULL)
);
COMMENT ON COLUMN jobs.lease_slave_id IS 'Who builds it. Empty although there is a token: dispatch keeps it for whoever asks next.';

UPDATE jobs SET memory_class = least(greatest(memory_class, 0), 7);
ALTER TABLE jobs ADD CONSTRAINT jobs_memory CHECK (memory_class BETWEEN 0 AND 7);
ALTER TABLE jobs ADD COLUMN disk_class smallint NOT NULL DEFAULT 0 CHECK (disk_class BETWEEN 0 AND 7);
ALTER TABLE jobs ADD COLUMN time_class smallint NOT NULL DEFAULT 0 CHECK (time_class BETWEEN 0 AND 7);
ALTER TABLE jobs ADD COLUMN room smallint GENERATED ALWAYS AS (memory_class * 64 + disk_class * 8 + time_class) STORED;
ALTER TABLE jobs ADD COLUMN resting boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN jobs.memory_class IS 'How much memory its builder must have: 0 any, then doubling (piwheels/master/needs.py).';
COMMENT ON COLUMN jobs.disk_class IS 'How much free disk, in the same way.';
COMMENT ON COLUMN jobs.time_class IS 'How long its builder must let a build take, in the same way.';
COMMENT ON COLUMN jobs.room IS 'The three classes in one number, for the index that jobs are claimed by.';
COMMENT ON COLUMN jobs.resting IS 'Not to be claimed before ready_at: outside the index of claims until it is woken, so that no claim walks past it.';
UPDATE jobs SET resting = true WHERE ready_at > now();

DROP INDEX jobs_claim;
CREATE INDEX jobs_claim ON jobs (target_id, room, priority, downloads DESC, released DESC, release_id)
    WHERE lease_token IS NULL AND NOT resting;
CREATE INDEX jobs_resting ON jobs (ready_at) WHERE resting AND lease_token IS NULL;

CREATE TABLE needs (
    project_id   bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    target_id    integer NOT NULL REFERENCES targets ON DELETE CASCADE,
    memory_class smallint NOT NULL DEFAULT 0 CHECK (memory_class BETWEEN 0 AND 7),
    disk_class   smallint NOT NULL DEFAULT 0 CHECK (disk_class BETWEEN 0 AND 7),
    time_class   smallint NOT NULL DEFAULT 0 CHECK (time_class BETWEEN 0 AND 7),
    PRIMARY KEY (project_id, target_id)
);
COMMENT ON TABLE needs IS 'What the last builds of a project taught about what it needs on a target; no row: nothing in particular.';

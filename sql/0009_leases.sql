-- SPDX-License-Identifier: BSD-3-Clause
-- Version 9: leases found by their token, however many there are; docs/queue.rst tells the story.

-- "lease_token = ..." implied the old condition, so that PostgreSQL, whenever it believed that few jobs were leased, read
-- all of them for each build that was recorded. It knows no way from a token to this condition.
DROP INDEX jobs_leases;
CREATE INDEX jobs_leases ON jobs (lease_expires) WHERE lease_expires IS NOT NULL;

-- Claims walk past what earlier ones took until a vacuum removes it; by default that is a fifth of all jobs.
ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- SPDX-License-Identifier: BSD-3-Clause
-- Version 1: the whole farm. docs/database.rst tells the story; every table says here what one row means.
-- Applied in one transaction by piw-initdb. Mirrored by piwheels/db/tables.py (a test compares the two).

CREATE TYPE project_status AS ENUM ('active', 'archived', 'quarantined', 'deprecated');
CREATE TYPE upstream_kind AS ENUM ('sdist', 'wheel', 'other');
CREATE TYPE build_outcome AS ENUM ('success', 'failed');
CREATE TYPE failure_reason AS ENUM ('package', 'timeout', 'memory', 'disk', 'network', 'builder', 'lost');
CREATE TYPE dependency_tool AS ENUM ('apt', 'pip', '');
CREATE TYPE page_kind AS ENUM ('project', 'root', 'home');
CREATE TYPE watch_state AS ENUM ('pending', 'found', 'missing', 'error');
CREATE TYPE slave_wish AS ENUM ('run', 'pause', 'stop');

CREATE TABLE projects (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$' AND length(name) <= 200),
    display_name text NOT NULL CHECK (length(display_name) <= 200),
    summary      text NOT NULL DEFAULT '' CHECK (length(summary) <= 1000),
    status       project_status NOT NULL DEFAULT 'active',
    status_reason text NOT NULL DEFAULT '',
    skip_reason  text NOT NULL DEFAULT '',
    serial       bigint NOT NULL DEFAULT 0,
    synced_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE projects IS 'A project of PyPI''s that the farm knows. name is canonical (PEP 503).';
COMMENT ON COLUMN projects.skip_reason IS 'Why the operator does not want it built; empty: build it.';
COMMENT ON COLUMN projects.serial IS 'PyPI''s last serial that our rows reflect.';

CREATE TABLE project_names (
    project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    name       text NOT NULL CHECK (length(name) <= 200),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, name)
);
COMMENT ON TABLE project_names IS 'Every spelling of a project''s name ever seen.';

CREATE TABLE releases (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id    bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    version       text NOT NULL CHECK (length(version) BETWEEN 1 AND 200),
    sort_key      bytea NOT NULL,
    released      timestamptz NOT NULL,
    yanked        boolean NOT NULL DEFAULT false,
    yanked_reason text NOT NULL DEFAULT '',
    requires_python text,
    skip_reason   text NOT NULL DEFAULT '',
    wanted        boolean NOT NULL DEFAULT true,
    UNIQUE (project_id, version)
);
COMMENT ON TABLE releases IS 'A release, its version as PyPI spells it.';
COMMENT ON COLUMN releases.sort_key IS 'Orders versions as PEP 440 does when compared bytewise; piwheels.versions.sort_key.';
COMMENT ON COLUMN releases.wanted IS 'False: outside what the feed was told to build (older than the latest release).';

CREATE TABLE upstream_files (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    release_id  bigint NOT NULL REFERENCES releases ON DELETE CASCADE,
    filename    text NOT NULL CHECK (length(filename) <= 400),
    kind        upstream_kind NOT NULL,
    size        bigint,
    sha256      bytea CHECK (length(sha256) = 32),
    url         text,
    requires_python text,
    yanked      boolean NOT NULL DEFAULT false,
    uploaded    timestamptz NOT NULL,
    UNIQUE (release_id, filename)
);
COMMENT ON TABLE upstream_files IS 'PyPI''s own files of a release. url and sha256 are kept for sdists.';

CREATE TABLE watches (
    name       text PRIMARY KEY,
    spelling   text NOT NULL,
    position   integer NOT NULL,
    state      watch_state NOT NULL DEFAULT 'pending',
    detail     text NOT NULL DEFAULT '',
    etag       text NOT NULL DEFAULT '',
    checked_at timestamptz,
    releases   text NOT NULL DEFAULT 'latest' CHECK (releases IN ('latest', 'all'))
);
COMMENT ON TABLE watches IS 'The watch list of a feed in watch-list mode, and where it stands with each name.';
COMMENT ON COLUMN watches.releases IS 'Which releases the last synchronisation was told to build.';

CREATE TABLE targets (
    id             integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9._-]*$' AND length(name) <= 60),
    python_version text NOT NULL CHECK (python_version ~ '^[0-9]+\.[0-9]+$'),
    abi            text NOT NULL,
    platform       text NOT NULL,
    platforms      text[] NOT NULL,
    distribution   text NOT NULL DEFAULT '',
    enabled        boolean NOT NULL DEFAULT true,
    rank           integer NOT NULL UNIQUE,
    preinstalled   text[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE targets IS 'What wheels are built for. Oldest first by rank.';
COMMENT ON COLUMN targets.platform IS 'The platform tag its builders announce, e.g. linux_armv7l.';
COMMENT ON COLUMN targets.platforms IS 'Every platform tag an installer there accepts, most specific first.';

CREATE TABLE slaves (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key         text NOT NULL UNIQUE CHECK (length(key) = 40),
    label       text NOT NULL DEFAULT '' CHECK (length(label) <= 100),
    enabled     boolean NOT NULL DEFAULT true,
    wish        slave_wish NOT NULL DEFAULT 'run',
    target_id   integer REFERENCES targets,
    os_name     text NOT NULL DEFAULT '',
    os_version  text NOT NULL DEFAULT '',
    board       text NOT NULL DEFAULT '',
    board_serial text NOT NULL DEFAULT '',
    agent       text NOT NULL DEFAULT '',
    stats       jsonb,
    enrolled_at timestamptz NOT NULL DEFAULT now(),
    last_seen   timestamptz
);
COMMENT ON TABLE slaves IS 'A builder the farm admits: its CurveZMQ public key (Z85) is its identity.';

CREATE TABLE jobs (
    release_id    bigint NOT NULL REFERENCES releases ON DELETE CASCADE,
    target_id     integer NOT NULL REFERENCES targets ON DELETE CASCADE,
    priority      smallint NOT NULL CHECK (priority BETWEEN 0 AND 3),
    downloads     bigint NOT NULL DEFAULT 0,
    released      timestamptz NOT NULL,
    ready_at      timestamptz NOT NULL DEFAULT now(),
    strikes       smallint NOT NULL DEFAULT 0,
    memory_class  smallint NOT NULL DEFAULT 0,
    lease_slave_id integer REFERENCES slaves,
    lease_token   uuid UNIQUE,
    lease_started timestamptz,
    lease_expires timestamptz,
    cancelled     boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (release_id, target_id),
    CHECK ((lease_token IS NULL) = (lease_expires IS NULL) AND (lease_token IS NULL) = (lease_slave_id IS NULL)
           AND (lease_token IS NULL) = (lease_started IS NULL))
);
COMMENT ON TABLE jobs IS 'What is to be built and nothing else: small and hot. A row with a lease is being built.';
COMMENT ON COLUMN jobs.downloads IS 'The project''s downloads when the job was made; orders, decides nothing.';
COMMENT ON COLUMN jobs.cancelled IS 'The operator told the builder to stop this build; its next BUSY is answered DONE.';
CREATE INDEX jobs_claim ON jobs (target_id, priority, downloads DESC, released DESC, release_id) WHERE lease_token IS NULL;
CREATE INDEX jobs_leases ON jobs (lease_expires) WHERE lease_token IS NOT NULL;
CREATE INDEX jobs_slave ON jobs (lease_slave_id) WHERE lease_slave_id IS NOT NULL;

CREATE TABLE builds (
    id          bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    release_id  bigint NOT NULL REFERENCES releases ON DELETE CASCADE,
    target_id   integer NOT NULL REFERENCES targets,
    slave_id    integer REFERENCES slaves,
    token       uuid NOT NULL UNIQUE,
    started     timestamptz NOT NULL,
    finished    timestamptz NOT NULL DEFAULT now(),
    duration    interval NOT NULL,
    outcome     build_outcome NOT NULL,
    reason      failure_reason,
    detail      text NOT NULL DEFAULT '' CHECK (length(detail) <= 1000),
    superseded  boolean NOT NULL DEFAULT false,
    peak_memory bigint,
    cpu_seconds double precision,
    built_from  bytea CHECK (length(built_from) = 32),
    built_with  jsonb,
    has_log     boolean NOT NULL DEFAULT false,
    CHECK ((outcome = 'failed') = (reason IS NOT NULL))
);
COMMENT ON TABLE builds IS 'Every attempt to build a release for a target, by the lease token it was made under.';
COMMENT ON COLUMN builds.superseded IS 'True once a new sdist or an operator reset the attempts: no longer counts for planning.';
COMMENT ON COLUMN builds.built_from IS 'SHA-256 of the sdist.';
CREATE INDEX builds_release ON builds (release_id);
CREATE INDEX builds_finished ON builds (finished);

CREATE TABLE files (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    build_id     bigint NOT NULL REFERENCES builds ON DELETE CASCADE,
    filename     text NOT NULL CHECK (length(filename) <= 255),
    size         bigint NOT NULL CHECK (size > 0),
    sha256       bytea NOT NULL CHECK (length(sha256) = 32),
    requires_python text,
    metadata_sha256 bytea NOT NULL CHECK (length(metadata_sha256) = 32),
    top_level    text[] NOT NULL DEFAULT '{}',
    yanked       boolean NOT NULL DEFAULT false,
    yanked_reason text NOT NULL DEFAULT '',
    uploaded     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (build_id, filename)
);
COMMENT ON TABLE files IS 'A wheel we built: store/<aa>/<sha256> holds its bytes, store/<bb>/<metadata_sha256> its METADATA.';
COMMENT ON COLUMN files.top_level IS 'Importable names at its top level, as far as the wheel tells.';

-- Orphans in the store are told by these (db/builds.unreferenced).
CREATE INDEX files_sha256 ON files (sha256);
CREATE INDEX files_metadata ON files (metadata_sha256);

CREATE TABLE dependencies (
    file_id bigint NOT NULL REFERENCES files ON DELETE CASCADE,
    tool    dependency_tool NOT NULL,
    name    text NOT NULL CHECK (length(name) BETWEEN 1 AND 500),
    PRIMARY KEY (file_id, tool, name)
);
COMMENT ON TABLE dependencies IS 'What a wheel needs from its system (apt), from an index (pip), or from nobody known ('''').';

CREATE TABLE pages (
    kind          page_kind NOT NULL,
    key           text NOT NULL,
    seq           bigint NOT NULL DEFAULT 1,
    since         timestamptz NOT NULL DEFAULT now(),
    reason        text NOT NULL DEFAULT '',
    attempts      integer NOT NULL DEFAULT 0,
    claimed_by    text,
    claimed_until timestamptz,
    PRIMARY KEY (kind, key)
);
COMMENT ON TABLE pages IS 'Pages that no longer show what the database says. Deleted once rendered, unless marked again meanwhile (seq).';
CREATE INDEX pages_since ON pages (since);

CREATE TABLE published (
    name       text PRIMARY KEY,
    listed     boolean NOT NULL,
    files      integer NOT NULL DEFAULT 0 CHECK (files >= 0),
    published_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE published IS 'Projects that have pages on the site; listed: has files, so appears under /simple/; files: how many.';

CREATE TABLE downloads (
    at         timestamptz NOT NULL,
    project_id bigint NOT NULL,
    filename   text NOT NULL,
    arch       text NOT NULL DEFAULT '',
    distro     text NOT NULL DEFAULT '',
    python     text NOT NULL DEFAULT '',
    installer  text NOT NULL DEFAULT ''
) PARTITION BY RANGE (at);
COMMENT ON TABLE downloads IS 'One wheel fetched. No address of whoever fetched it is kept.';
CREATE TABLE downloads_default PARTITION OF downloads DEFAULT;

CREATE TABLE download_days (
    project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE,
    day        date NOT NULL,
    arch       text NOT NULL DEFAULT '',
    distro     text NOT NULL DEFAULT '',
    python     text NOT NULL DEFAULT '',
    installer  text NOT NULL DEFAULT '',
    count      bigint NOT NULL CHECK (count > 0),
    PRIMARY KEY (project_id, day, arch, distro, python, installer)
);
COMMENT ON TABLE download_days IS 'Roll-up of downloads by day (UTC); the only one that pages read.';
CREATE INDEX download_days_day ON download_days (day);

CREATE TABLE loggers (
    id      uuid PRIMARY KEY,
    last_batch bigint NOT NULL DEFAULT 0,
    seen_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE loggers IS 'Each piw-logger and its last batch that was counted, so that a repeated batch counts once.';

CREATE TABLE feeds (
    name       text PRIMARY KEY,
    serial     bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    detail     text NOT NULL DEFAULT ''
);
COMMENT ON TABLE feeds IS 'Where each way of following PyPI stands.';

CREATE TABLE roles (
    name       text PRIMARY KEY,
    pid        integer NOT NULL,
    host       text NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT now(),
    state      jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE roles IS 'Heartbeat of each process of the master''s.';

CREATE TABLE switches (
    name  text PRIMARY KEY,
    value text NOT NULL
);
COMMENT ON TABLE switches IS 'Farm-wide state an operator set at run time, e.g. paused = ''1''.';

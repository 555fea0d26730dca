-- SPDX-License-Identifier: BSD-3-Clause
-- Version 7: taking back what a builder made; docs/slaves.rst tells the story.

CREATE TABLE withdrawn (
    build_id     bigint NOT NULL REFERENCES builds ON DELETE CASCADE,
    filename     text NOT NULL CHECK (length(filename) <= 255),
    size         bigint NOT NULL,
    sha256       bytea NOT NULL CHECK (length(sha256) = 32),
    withdrawn_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (build_id, filename)
);
COMMENT ON TABLE withdrawn IS 'A wheel that was ours until the operator withdrew what its builder made: in no index, and removed from the tree.';
COMMENT ON COLUMN withdrawn.sha256 IS 'Publish removes a file of that name with this content, unless another build made the same.';

-- What a builder made, in order.
CREATE INDEX builds_slave ON builds (slave_id, id);

-- SPDX-License-Identifier: BSD-3-Clause
-- Version 6: builders that come without encryption, known by their address; docs/protocol.rst tells the story.

ALTER TABLE slaves DROP CONSTRAINT slaves_key_check;
ALTER TABLE slaves ADD CONSTRAINT slaves_key_check CHECK (
    length(key) = 40 AND key !~ '\s' OR key ~ '^plain [0-9A-Za-z:.%_-]{2,60}( #[0-9]{1,2})?$'
);
COMMENT ON COLUMN slaves.key IS 'A public key (Z85); or an admitted network address, "plain 192.0.2.5", from which builders may come without encryption; or one of those builders, "plain 192.0.2.5 #1".';

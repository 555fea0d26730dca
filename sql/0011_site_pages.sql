-- SPDX-License-Identifier: BSD-3-Clause
-- Version 11: pages about the farm as a whole; docs/site.rst tells the story.

ALTER TYPE page_kind ADD VALUE 'search';
ALTER TYPE page_kind ADD VALUE 'stats';
ALTER TYPE page_kind ADD VALUE 'status';
ALTER TYPE page_kind ADD VALUE 'sitemap';

CREATE TABLE renderings (
    kind        page_kind PRIMARY KEY,
    rendered_at timestamptz NOT NULL DEFAULT now(),
    took        interval NOT NULL
);
COMMENT ON TABLE renderings IS 'When each page that follows the clock was last rendered. The longer that took, the longer it rests.';

CREATE TABLE download_counts (
    day   date NOT NULL,
    kind  text NOT NULL CHECK (kind IN ('all', 'arch', 'distro', 'python', 'installer')),
    value text NOT NULL,
    count bigint NOT NULL CHECK (count > 0),
    saved interval NOT NULL DEFAULT '0',
    PRIMARY KEY (day, kind, value)
);
COMMENT ON TABLE download_counts IS 'Downloads of a day (UTC) of the whole farm''s, by what was told of the machine; few values a day and kind.';
COMMENT ON COLUMN download_counts.value IS 'Empty: not told, of kind all, or one value too many for a day.';
COMMENT ON COLUMN download_counts.saved IS 'Of kind all: how long the builds of what was fetched took, once for each download.';

-- What was counted before. The 40 most frequent values of each day and kind keep their names.
INSERT INTO download_counts (day, kind, value, count)
SELECT day, kind, CASE WHEN place <= 40 THEN value ELSE '' END, sum(count)
FROM (
    SELECT day, kind, value, sum(count) AS count,
           row_number() OVER (PARTITION BY day, kind ORDER BY sum(count) DESC, value) AS place
    FROM download_days
    CROSS JOIN LATERAL (
        VALUES ('all', ''), ('arch', arch), ('distro', distro), ('python', python), ('installer', installer)
    ) AS told (kind, value)
    GROUP BY day, kind, value
) AS ranked
GROUP BY 1, 2, 3;

CREATE TABLE build_days (
    day      date PRIMARY KEY,
    built    bigint NOT NULL,
    failed   bigint NOT NULL,
    duration interval NOT NULL
);
COMMENT ON TABLE build_days IS 'Builds that ended on a day (UTC) that is over, so that nobody counts them again. Days without any are there too.';

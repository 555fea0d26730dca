# SPDX-License-Identifier: BSD-3-Clause
"""The metadata dump of 200 000 projects: what piw-dump takes to write it."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache

from piwheels.db.documents import pack
from piwheels.site import dump
from tests.bench.harness import MB, Bench, Goal, Result, run

PROJECTS = 200_000
MEMORY = 150 * MB  #: target
NULLS = ("bugtrack_url", "docs_url", "dynamic", "license_expression", "maintainer", "platform", "yanked_reason")
LETTERS = "etaoinshrdlucmfwypvbgk"


def bench(at: Bench) -> Result:
    """Run it."""
    projects = at.scaled(PROJECTS)
    names = [f"bench-{number}" for number in range(projects)]
    at.fill("projects", ("name", "display_name"), ((name, name) for name in names))
    at.fill("documents", ("project_id", "body", "changed_at"), _documents(at, names))
    cpu = at.database_cpu()
    usage = run(at, "piwheels.admin.dump", "--all", *at.arguments())
    cpu = at.database_cpu() - cpu
    facts = dump.last(at.settings.paths.output)
    if facts is None or facts.packages != projects:
        raise RuntimeError(f"{projects} projects are known, and this was written: {facts}")
    return Result(
        "dump",
        f"{projects} projects, {facts.unpacked / projects:.0f} bytes each",
        (
            f"{facts.unpacked / MB / usage.seconds:.0f} MB/s of JSON, {projects / usage.seconds:.0f} projects/s",
            f"{facts.unpacked / MB:.0f} MB in {facts.size / MB:.1f} MB",
        ),
        usage,
        cpu,
        (Goal(f"under {MEMORY / MB:.0f} MB", usage.peak < MEMORY),),
    )


def _documents(at: Bench, names: list[str]) -> Iterator[tuple[int, bytes, datetime]]:
    with at.connect() as connection:
        ids = {str(row[0]): int(row[1]) for row in connection.execute("SELECT name, id FROM projects")}
    now = datetime.now(UTC)
    return ((ids[name], pack(entry(name)), now) for name in names)


@cache
def _words() -> tuple[str, ...]:
    choose = random.Random(1)
    return tuple("".join(choose.choices(LETTERS, k=choose.randint(2, 11))) for _ in range(5000))


def entry(name: str) -> bytes:
    """About 2 KB that compress like real ones: much is the same in all, digests in none."""
    choose = random.Random(name)

    def text(words: int) -> str:
        return " ".join(choose.choices(_words(), k=words))

    def file(suffix: str) -> dict[str, object]:
        digest = choose.randbytes(32).hex()
        filename = f"{name.replace('-', '_')}-{version}{suffix}"
        return {
            "digests": {"blake2b_256": digest, "md5": choose.randbytes(16).hex(), "sha256": choose.randbytes(32).hex()},
            "filename": filename,
            "comment_text": None,
            "downloads": -1,
            "has_sig": False,
            "packagetype": "sdist" if suffix == ".tar.gz" else "bdist_wheel",
            "size": choose.randrange(10**6),
            "upload_time_iso_8601": f"2025-0{choose.randint(1, 9)}-11T12:00:00.{choose.randrange(10**6):06}Z",
            "url": f"https://files.example/packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{filename}",
            "yanked": False,
            "yanked_reason": None,
        }

    version = f"{choose.randrange(9)}.{choose.randrange(30)}.{choose.randrange(30)}"
    files = [file(".tar.gz")]
    document = {
        "info": {
            **dict.fromkeys(NULLS),
            "author": text(2),
            "author_email": f"{text(1)}@{text(1)}.example",
            "classifiers": [f"Topic :: {text(2)}" for _ in range(choose.randrange(5, 15))],
            "license": choose.choice(["MIT", "BSD", "Apache-2.0", text(5)]),
            "name": name,
            "project_urls": {"Homepage": f"https://{text(1)}.example/{name}"},
            "requires_dist": [f"{text(1)}>={choose.randrange(9)}" for _ in range(choose.randrange(6))],
            "requires_python": ">=3.9",
            "summary": text(10),
            "version": version,
        },
        "last_serial": choose.randrange(10**8),
        "releases": {version: files},
        "urls": files,
        "vulnerabilities": [],
    }
    return json.dumps(document, separators=(",", ":")).encode()

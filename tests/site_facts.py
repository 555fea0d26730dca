# SPDX-License-Identifier: BSD-3-Clause
"""Facts for the tests of the site: a small project with everything a page can show, and its parts."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from piwheels.master.planner import Code, Verdict
from piwheels.master.targets import PRESETS, Target
from piwheels.site.facts import BuildFacts, FileFacts, Link, ProjectFacts, ReleaseFacts, SiteFacts
from piwheels.site.farm_facts import (
    Builder,
    Builds,
    Downloads,
    Feed,
    HomeFacts,
    Latest,
    Process,
    Queue,
    RecentBuild,
    Running,
    StatsFacts,
    StatusFacts,
)
from piwheels.site.model import ProjectPage, project_page
from piwheels.versions import sort_key
from piwheels.vocabulary import DependencyTool, FailureReason, ProjectStatus, SlaveWish

NOW = datetime(2026, 11, 20, 10, 11, 12, 123456, tzinfo=UTC)
SITE = SiteFacts(
    "Test farm",
    "https://wheels.example.org",
    "ops@example.org",
    "https://upstream.example.org/project/",
    links=(Link("Source code", "https://example.org/source"),),
)
TARGETS = [
    replace(target, id=number) for number, target in enumerate(sorted(PRESETS.values(), key=lambda t: t.rank), 1)
]
ARMHF, ARM64, NEWER, LATEST = TARGETS


def release(number: int, version: str, **values: object) -> ReleaseFacts:
    """A release, the later the higher its number."""
    when = NOW - timedelta(days=400 - number)
    facts = ReleaseFacts(number, version, sort_key(version), when, False, "", "", True)
    return replace(facts, **values)  # type: ignore[arg-type]


def build(
    number: int, of: int, target: Target = ARMHF, reason: FailureReason | None = None, **values: object
) -> BuildFacts:
    """An attempt."""
    facts = BuildFacts(number, of, target.name, NOW, timedelta(seconds=83), reason, "", False, True)
    return replace(facts, **values)  # type: ignore[arg-type]


def file(number: int, build_id: int, filename: str, **values: object) -> FileFacts:
    """A wheel, its content different from that of others by its number."""
    facts = FileFacts(
        id=number,
        build_id=build_id,
        filename=filename,
        size=1000 * number,
        sha256=bytes([number]) * 32,
        metadata_sha256=bytes([100 + number]) * 32,
        requires_python=">=3.8",
        yanked=False,
        yanked_reason="",
        uploaded=NOW,
        dependencies=((DependencyTool.APT, "libopenblas0"), (DependencyTool.PIP, "numpy>=1.20")),
    )
    return replace(facts, **values)  # type: ignore[arg-type]


def project(**values: object) -> ProjectFacts:
    """A project with four releases, five attempts and three wheels."""
    releases = (
        release(1, "0.9", yanked=True, yanked_reason="Broke on Pi Zero"),
        release(2, "1.0"),
        release(3, "1.10"),
        release(4, "2.0rc1"),
    )
    builds = (
        build(1, 2),
        build(2, 2, ARM64),
        build(3, 3, ARMHF, FailureReason.MEMORY, detail="killed"),
        build(4, 3),
        build(5, 3, ARM64, FailureReason.PACKAGE, detail="gcc said no\nand that was that"),
        build(6, 1),
    )
    files = (
        file(1, 1, "foo_bar-1.0-cp311-cp311-linux_armv7l.whl"),
        file(2, 2, "foo_bar-1.0-cp311-cp311-linux_aarch64.whl"),
        file(3, 4, "foo_bar-1.10-cp311-cp311-linux_armv7l.whl", requires_python="nonsense"),
        file(4, 6, "foo_bar-0.9-py3-none-any.whl", dependencies=((DependencyTool.NONE, "libodd.so.1"),)),
    )
    facts = ProjectFacts(
        id=1,
        name="foo-bar",
        display_name="Foo.Bar",
        summary="Talks to <things> & more",
        status=ProjectStatus.ACTIVE,
        status_reason="",
        skip_reason="",
        serial=4711,
        aliases=("Foo.Bar", "foo_bar"),
        releases=releases,
        builds=builds,
        files=files,
        downloads_month=12,
        downloads_all=34567,
    )
    return replace(facts, **values)  # type: ignore[arg-type]


def verdict(target: Target, code: Code, *wheels: str, words: str = "") -> Verdict:
    """A verdict."""
    return Verdict(target, code, words or code.value, wheels=wheels)


def verdicts(facts: ProjectFacts) -> dict[int, dict[str, Verdict]]:
    """What the planner would say, more or less, of :func:`project`."""
    names = [one.filename for one in facts.files]
    said = {one.id: {t.name: verdict(t, Code.NOT_WANTED) for t in TARGETS} for one in facts.releases}
    if len(names) == 4 and len(said) == 4:
        said[2] |= {
            ARMHF.name: verdict(ARMHF, Code.BUILT, names[0]),
            ARM64.name: verdict(ARM64, Code.BUILT, names[1]),
            NEWER.name: verdict(NEWER, Code.REQUIRES_PYTHON, words="not built: needs another Python: <3.12"),
        }
        said[3] = {
            ARMHF.name: verdict(ARMHF, Code.BUILT, names[2]),
            ARM64.name: verdict(ARM64, Code.FAILED, words="the build failed"),
            NEWER.name: verdict(NEWER, Code.ON_PYPI, "upstream.whl"),
            LATEST.name: verdict(LATEST, Code.QUEUED),
        }
    return said


def page(facts: ProjectFacts | None = None, targets: Sequence[Target] = TARGETS) -> ProjectPage:
    """The model of a project."""
    facts = facts or project()
    return project_page(facts, verdicts(facts), targets)


RUNNING = Running("foo-bar", "Foo.Bar", "2.0", ARMHF.name, "pi-7", NOW)


def home(**values: object) -> HomeFacts:
    """The farm."""
    facts = HomeFacts(
        projects=1,
        files=4,
        builds=3,
        downloads=1_234_567,
        targets=tuple(t.name for t in TARGETS),
        distributions=("bookworm", "trixie"),
        running=(RUNNING,),
        latest=(Latest("foo-bar", "Foo.Bar", "1.10", "Talks to <things> & more", (ARMHF.name, ARM64.name), NOW),),
    )
    return replace(facts, **values)  # type: ignore[arg-type]


def status(**values: object) -> StatusFacts:
    """How it does."""
    recent = tuple(
        RecentBuild(b.id, "foo-bar", "Foo.Bar", "1.0", b.target, b.finished, b.duration, b.reason, b.has_log)
        for b in project().builds
    )
    facts = StatusFacts(
        paused=False,
        ceiling=10_000,
        processes=(Process("dispatch", NOW, False), Process("feed", NOW, False)),
        builders=(
            Builder("pi-7", ARMHF.name, SlaveWish.RUN, NOW, RUNNING),
            Builder("pi-8", "", SlaveWish.PAUSE, None, None),
        ),
        queues=(Queue(ARMHF.name, 10_000, 1, NOW), Queue(ARM64.name, 0, 0, None)),
        feed=Feed("journal", True, 12_345_678, 3, NOW),
        stale=2,
        stale_since=NOW,
        recent=recent,
    )
    return replace(facts, **values)  # type: ignore[arg-type]


def stats(**values: object) -> StatsFacts:
    """What it did."""
    today = NOW.date()
    days = [today - timedelta(days=number) for number in range(400, -1, -1)]
    facts = StatsFacts(
        today=today,
        downloads=tuple(Downloads(day, 100 + n % 7 * 50, timedelta(hours=n % 9)) for n, day in enumerate(days)),
        builds=tuple(Builds(day, 90, 10, timedelta(hours=3)) for day in days[-20:]),
        told={"arch": (("armv7l", 700), ("aarch64", 250), ("", 50)), "distro": (("Debian <12>", 1000),)},
        projects=1,
        files=4,
        waiting=7,
        saved=timedelta(days=900),
        fetched=123_456,
        top=(("foo-bar", 990), ("baz", 10)),
    )
    return replace(facts, **values)  # type: ignore[arg-type]

# SPDX-License-Identifier: BSD-3-Clause
"""The schema of ``sql/`` as SQLAlchemy Core tables, for writing queries with; a test compares the two.

What a table means is said in ``sql/`` (COMMENT ON) alone. Constraints and indexes are not repeated here but for primary
and foreign keys. Enum columns read and write the enums of piwheels.vocabulary; uuid columns are ``uuid.UUID`` (lease
tokens travel as its ``hex``); timestamps are aware, in UTC.
"""

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, ENUM, INTERVAL, JSONB

from piwheels import vocabulary

metadata = MetaData()


def _enum(kind: type[StrEnum], name: str) -> ENUM:
    return ENUM(kind, name=name, create_type=False, values_callable=lambda members: [m.value for m in members])


project_status = _enum(vocabulary.ProjectStatus, "project_status")
upstream_kind = _enum(vocabulary.UpstreamKind, "upstream_kind")
build_outcome = _enum(vocabulary.Outcome, "build_outcome")
failure_reason = _enum(vocabulary.FailureReason, "failure_reason")
dependency_tool = _enum(vocabulary.DependencyTool, "dependency_tool")
page_kind = _enum(vocabulary.PageKind, "page_kind")
watch_state = _enum(vocabulary.WatchState, "watch_state")
slave_wish = _enum(vocabulary.SlaveWish, "slave_wish")
news_kind = _enum(vocabulary.NewsKind, "news_kind")

_time = DateTime(timezone=True)
_now = text("now()")

projects = Table(
    "projects",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("summary", Text, nullable=False, server_default=""),
    Column("status", project_status, nullable=False, server_default="active"),
    Column("status_reason", Text, nullable=False, server_default=""),
    Column("skip_reason", Text, nullable=False, server_default=""),
    Column("serial", BigInteger, nullable=False, server_default="0"),
    Column("synced_at", _time, nullable=False, server_default=_now),
    Column("hides", Boolean, nullable=False, server_default="false"),
)

project_names = Table(
    "project_names",
    metadata,
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("seen_at", _time, nullable=False, server_default=_now),
)

releases = Table(
    "releases",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("version", Text, nullable=False),
    Column("sort_key", LargeBinary, nullable=False),
    Column("released", _time, nullable=False),
    Column("yanked", Boolean, nullable=False, server_default="false"),
    Column("yanked_reason", Text, nullable=False, server_default=""),
    Column("requires_python", Text),
    Column("skip_reason", Text, nullable=False, server_default=""),
    Column("wanted", Boolean, nullable=False, server_default="true"),
)

upstream_files = Table(
    "upstream_files",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("release_id", BigInteger, ForeignKey("releases.id", ondelete="CASCADE"), nullable=False),
    Column("filename", Text, nullable=False),
    Column("kind", upstream_kind, nullable=False),
    Column("size", BigInteger),
    Column("sha256", LargeBinary),
    Column("url", Text),
    Column("requires_python", Text),
    Column("yanked", Boolean, nullable=False, server_default="false"),
    Column("uploaded", _time, nullable=False),
    Column("yanked_reason", Text, nullable=False, server_default=""),
)

watches = Table(
    "watches",
    metadata,
    Column("name", Text, primary_key=True),
    Column("spelling", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("state", watch_state, nullable=False, server_default="pending"),
    Column("detail", Text, nullable=False, server_default=""),
    Column("etag", Text, nullable=False, server_default=""),
    Column("checked_at", _time),
    Column("releases", Text, nullable=False, server_default="latest"),
    Column("origin", Text, nullable=False, server_default="listed"),
    Column("extras", ARRAY(Text), nullable=False, server_default="{}"),
)

changes = Table(
    "changes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("priority", SmallInteger, nullable=False),
    Column("first_serial", BigInteger, nullable=False, server_default="0"),
    Column("serial", BigInteger, nullable=False, server_default="0"),
    Column("removed", Boolean, nullable=False, server_default="false"),
    Column("said", BigInteger, nullable=False, server_default="0"),
    Column("page", Boolean, nullable=False, server_default="false"),
    Column("seq", BigInteger, nullable=False, server_default="1"),
    Column("since", _time, nullable=False, server_default=_now),
    Column("ready_at", _time, nullable=False, server_default=_now),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("doubted_since", _time),
)

documents = Table(
    "documents",
    metadata,
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("changed_at", _time, nullable=False, server_default=_now),
)

targets = Table(
    "targets",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("python_version", Text, nullable=False),
    Column("abi", Text, nullable=False),
    Column("platform", Text, nullable=False),
    Column("platforms", ARRAY(Text), nullable=False),
    Column("distribution", Text, nullable=False, server_default=""),
    Column("enabled", Boolean, nullable=False, server_default="true"),
    Column("rank", Integer, nullable=False),
    Column("preinstalled", ARRAY(Text), nullable=False, server_default="{}"),
    Column("libc", Text, nullable=False, server_default=""),
)

recipes = Table(
    "recipes",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("pattern", Text, nullable=False),
    Column("content", JSONB, nullable=False),
    Column("file", Text, nullable=False),
    Column("line", Integer, nullable=False),
)

recipe_changes = Table(
    "recipe_changes",
    metadata,
    Column("pattern", Text, primary_key=True),
    Column("resets", Boolean, nullable=False, server_default="false"),
    Column("after", Text, nullable=False, server_default=""),
    Column("since", _time, nullable=False, server_default=_now),
    Column("noticed", BigInteger),
)

planning = Table(
    "planning",
    metadata,
    Column("only_row", Boolean, primary_key=True, server_default="true"),
    Column("mark", Text, nullable=False),
    Column("project_id", BigInteger, nullable=False, server_default="0"),
    Column("sort_key", LargeBinary, nullable=False, server_default=""),
    Column("release_id", BigInteger, nullable=False, server_default="0"),
    Column("planned", BigInteger, nullable=False, server_default="0"),
    Column("total", BigInteger, nullable=False, server_default="0"),
    Column("seconds", Double, nullable=False, server_default="0"),
    Column("changed", BigInteger, nullable=False, server_default="0"),
    Column("since", BigInteger, nullable=False, server_default="0"),
    Column("started_at", _time, nullable=False, server_default=_now),
    Column("updated_at", _time, nullable=False, server_default=_now),
    Column("finished_at", _time),
)

slaves = Table(
    "slaves",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("key", Text, nullable=False),
    Column("label", Text, nullable=False, server_default=""),
    Column("enabled", Boolean, nullable=False, server_default="true"),
    Column("wish", slave_wish, nullable=False, server_default="run"),
    Column("target_id", Integer, ForeignKey("targets.id")),
    Column("os_name", Text, nullable=False, server_default=""),
    Column("os_version", Text, nullable=False, server_default=""),
    Column("board", Text, nullable=False, server_default=""),
    Column("board_serial", Text, nullable=False, server_default=""),
    Column("agent", Text, nullable=False, server_default=""),
    Column("stats", JSONB),
    Column("enrolled_at", _time, nullable=False, server_default=_now),
    Column("last_seen", _time),
)

jobs = Table(
    "jobs",
    metadata,
    Column("release_id", BigInteger, ForeignKey("releases.id", ondelete="CASCADE"), primary_key=True),
    Column("target_id", Integer, ForeignKey("targets.id", ondelete="CASCADE"), primary_key=True),
    Column("priority", SmallInteger, nullable=False),
    Column("downloads", BigInteger, nullable=False, server_default="0"),
    Column("released", _time, nullable=False),
    Column("ready_at", _time, nullable=False, server_default=_now),
    Column("strikes", SmallInteger, nullable=False, server_default="0"),
    Column("memory_class", SmallInteger, nullable=False, server_default="0"),
    Column("lease_slave_id", Integer, ForeignKey("slaves.id")),
    Column("lease_token", Uuid),
    Column("lease_started", _time),
    Column("lease_expires", _time),
    Column("cancelled", Boolean, nullable=False, server_default="false"),
    Column("created_at", _time, nullable=False, server_default=_now),
    Column("disk_class", SmallInteger, nullable=False, server_default="0"),
    Column("time_class", SmallInteger, nullable=False, server_default="0"),
    Column("room", SmallInteger, Computed("memory_class * 64 + disk_class * 8 + time_class", persisted=True)),
    Column("resting", Boolean, nullable=False, server_default="false"),
)

needs = Table(
    "needs",
    metadata,
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("target_id", Integer, ForeignKey("targets.id", ondelete="CASCADE"), primary_key=True),
    Column("memory_class", SmallInteger, nullable=False, server_default="0"),
    Column("disk_class", SmallInteger, nullable=False, server_default="0"),
    Column("time_class", SmallInteger, nullable=False, server_default="0"),
)

builds = Table(
    "builds",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("release_id", BigInteger, ForeignKey("releases.id", ondelete="CASCADE"), nullable=False),
    Column("target_id", Integer, ForeignKey("targets.id"), nullable=False),
    Column("slave_id", Integer, ForeignKey("slaves.id")),
    Column("token", Uuid, nullable=False),
    Column("started", _time, nullable=False),
    Column("finished", _time, nullable=False, server_default=_now),
    Column("duration", INTERVAL, nullable=False),
    Column("outcome", build_outcome, nullable=False),
    Column("reason", failure_reason),
    Column("detail", Text, nullable=False, server_default=""),
    Column("superseded", Boolean, nullable=False, server_default="false"),
    Column("peak_memory", BigInteger),
    Column("cpu_seconds", Double),
    Column("built_from", LargeBinary),
    Column("built_with", JSONB),
    Column("has_log", Boolean, nullable=False, server_default="false"),
)

files = Table(
    "files",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("build_id", BigInteger, ForeignKey("builds.id", ondelete="CASCADE"), nullable=False),
    Column("filename", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("requires_python", Text),
    Column("metadata_sha256", LargeBinary, nullable=False),
    Column("top_level", ARRAY(Text), nullable=False, server_default="{}"),
    Column("yanked", Boolean, nullable=False, server_default="false"),
    Column("yanked_reason", Text, nullable=False, server_default=""),
    Column("uploaded", _time, nullable=False, server_default=_now),
)

dependencies = Table(
    "dependencies",
    metadata,
    Column("file_id", BigInteger, ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    Column("tool", dependency_tool, primary_key=True),
    Column("name", Text, primary_key=True),
)

withdrawn = Table(
    "withdrawn",
    metadata,
    Column("build_id", BigInteger, ForeignKey("builds.id", ondelete="CASCADE"), primary_key=True),
    Column("filename", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("withdrawn_at", _time, nullable=False, server_default=_now),
)

names = Table(
    "names",
    metadata,
    Column("filename", Text(collation="C"), primary_key=True),
    Column("space", Text, primary_key=True),
    Column("sha256", LargeBinary, nullable=False),
    Column("made_of", LargeBinary, nullable=False),
)

news = Table(
    "news",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("serial", BigInteger),
    Column("at", _time, nullable=False, server_default=_now),
    Column("kind", news_kind, nullable=False),
    Column("project", Text, nullable=False),
    Column("version", Text, nullable=False, server_default=""),
    Column("target", Text, nullable=False, server_default=""),
    Column("build_id", BigInteger),
    Column("reason", Text, nullable=False, server_default=""),
    Column("detail", Text, nullable=False, server_default=""),
    Column("has_log", Boolean, nullable=False, server_default="false"),
    Column("files", ARRAY(Text), nullable=False, server_default="{}"),
)

pages = Table(
    "pages",
    metadata,
    Column("kind", page_kind, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False, server_default="1"),
    Column("since", _time, nullable=False, server_default=_now),
    Column("reason", Text, nullable=False, server_default=""),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("claimed_by", Text),
    Column("claimed_until", _time),
    Column("background", Boolean, nullable=False, server_default="false"),
)

renderings = Table(
    "renderings",
    metadata,
    Column("kind", page_kind, primary_key=True),
    Column("rendered_at", _time, nullable=False, server_default=_now),
    Column("took", INTERVAL, nullable=False),
)

published = Table(
    "published",
    metadata,
    Column("name", Text, primary_key=True),
    Column("listed", Boolean, nullable=False),
    Column("files", Integer, nullable=False, server_default="0"),
    Column("published_at", _time, nullable=False, server_default=_now),
    Column("facts", LargeBinary),
)

listed = Table(
    "listed",
    metadata,
    Column("name", Text, primary_key=True),
    Column("space", Text, primary_key=True),
)

listings = Table(
    "listings",
    metadata,
    Column("space", Text, primary_key=True),
    Column("rest_until", _time, nullable=False),
)

downloads = Table(  # partitioned; has no primary key
    "downloads",
    metadata,
    Column("at", _time, nullable=False),
    Column("project_id", BigInteger, nullable=False),
    Column("filename", Text, nullable=False),
    Column("arch", Text, nullable=False, server_default=""),
    Column("distro", Text, nullable=False, server_default=""),
    Column("python", Text, nullable=False, server_default=""),
    Column("installer", Text, nullable=False, server_default=""),
)

download_days = Table(
    "download_days",
    metadata,
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("arch", Text, primary_key=True, server_default=""),
    Column("distro", Text, primary_key=True, server_default=""),
    Column("python", Text, primary_key=True, server_default=""),
    Column("installer", Text, primary_key=True, server_default=""),
    Column("count", BigInteger, nullable=False),
)

download_counts = Table(
    "download_counts",
    metadata,
    Column("day", Date, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("saved", INTERVAL, nullable=False, server_default="0"),
)

build_days = Table(
    "build_days",
    metadata,
    Column("day", Date, primary_key=True),
    Column("built", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("duration", INTERVAL, nullable=False),
)

loggers = Table(
    "loggers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("last_batch", BigInteger, nullable=False, server_default="0"),
    Column("seen_at", _time, nullable=False, server_default=_now),
)

feeds = Table(
    "feeds",
    metadata,
    Column("name", Text, primary_key=True),
    Column("serial", BigInteger, nullable=False, server_default="0"),
    Column("updated_at", _time, nullable=False, server_default=_now),
    Column("detail", Text, nullable=False, server_default=""),
)

roles = Table(
    "roles",
    metadata,
    Column("name", Text, primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("host", Text, nullable=False),
    Column("started_at", _time, nullable=False),
    Column("seen_at", _time, nullable=False, server_default=_now),
    Column("state", JSONB, nullable=False, server_default="{}"),
)

switches = Table(
    "switches",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("applied_at", _time, nullable=False, server_default=_now),
)

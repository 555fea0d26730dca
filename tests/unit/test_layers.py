# SPDX-License-Identifier: BSD-3-Clause
"""Imports point one way: foundation <- wire <- decisions <- shells <- commands, and a slave stays on its diet.

Read from the source (every import, also those inside functions), so nothing has to be importable here.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import piwheels

ROOT = Path(piwheels.__file__).parent
STDLIB_ONLY = {
    *("checks", "commands", "configuration", "durable", "errors", "faults", "logs", "processes", "settings"),
    "vocabulary",
}
FOUNDATION = STDLIB_ONLY | {"", "versions", "wheelfile"}

# What the pure machines are allowed: facts and time come in, decisions go out.
DECISIONS = {
    "checks",
    "logger.agents",
    "logger.lines",
    "master.arm_elf",
    "master.commands",
    "master.feed_choice",
    "master.feed_verdict",
    "master.bulk",
    "master.needs",
    "master.numbering",
    "master.plain_door",
    "master.planner",
    "master.preinstalled",
    "master.recipe_values",
    "master.recipes",
    "master.rules",
    "master.session",
    "master.targets",
    "master.verdicts",
    "master.why",
    "monitor.show",
    "pypi.addresses",
    "pypi.entry",
    "pypi.interpret",
    "pypi.journal",
    "pypi.listing",
    "pypi.model",
    "pypi.weather",
    "site.badge",
    "site.build_log",
    "site.changes",
    "site.charts",
    "site.facts",
    "site.farm_facts",
    "site.icon",
    "site.log_errors",
    "site.merged",
    "site.model",
    "site.paths",
    "site.project_files",
    "site.project_json",
    "site.release_rows",
    "site.search_index",
    "site.serving",
    "site.simple",
    "site.sitemap",
    "site.text",
    "slave.session",
    "versions",
    "vocabulary",
    "wire.codec",
    "wire.messages",
    "wire.plain",
    "wire.transfer",
}
IMPURE = {"asyncio", "socket", "subprocess", "threading", "time", "zmq", "sqlalchemy", "psycopg", "aiohttp", "requests"}

# Who may import whom, by package or module; "X" stands for X and all in it. Everybody may import FOUNDATION.
MAY_IMPORT = {
    "wire": {"wire"},
    "slave": {"wire", "slave"},
    "pypi": {"pypi"},
    "db": {
        "db",
        "master.bulk",
        "master.needs",
        "master.numbering",
        "master.planner",
        "master.recipes",
        "master.rules",
        "master.session",
        "master.targets",
        "master.verdicts",
        "master.why",
        "pypi",
        "site.facts",
        "site.farm_facts",
        "site.paths",
        "site.search_index",
        "wire",
    },
    "site": {"site", "db", "pypi", "master.planner", "master.targets"},
    "logger": {"logger", "site.paths"},
    "monitor": {"monitor", "master.commands"},
    "admin": {"admin", "db", "wire", "pypi", "site", "master"},
    "master": {"master", "db", "wire", "pypi", "site", "logger.batches", "logger.lines", "logger.agents"},
    "postgres": {"postgres_host"},
    "postgres_host": set(),
}
MASTERS_LIBRARIES = {"sqlalchemy", "psycopg", "aiohttp", "pypi_simple", "requests", "chameleon", "rich", "zstandard"}
SLAVES_LIBRARIES = {"zmq", "cbor2", "packaging", "elftools"}


def modules() -> list[str]:
    """Every module of the package, without ``piwheels.``; the package itself is the empty name."""
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        for path in ROOT.rglob("*.py")
    )


def path_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")) if module else ROOT
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports: ours without ``piwheels.``, others by their first word, as ``@word``."""
    known = set(modules())
    found: set[str] = set()
    for node in ast.walk(ast.parse(path_of(module).read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} uses a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] != "piwheels":
                found.add("@" + name.split(".")[0])
                continue
            ours = name.removeprefix("piwheels").removeprefix(".")
            while ours not in known:  # a name inside a module
                ours = ours.rpartition(".")[0]
            found.add(ours)
    return frozenset(found)


def libraries(module: str) -> set[str]:
    return {name[1:] for name in imports(module) if name.startswith("@")}


def ours(module: str) -> set[str]:
    return {name for name in imports(module) if not name.startswith("@")}


def within(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


def reachable(start: set[str]) -> set[str]:
    """Modules that are loaded when these are, packages on the way included."""
    seen: set[str] = set()
    todo = list(start)
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += [*ours(module), *([module.rpartition(".")[0]] if module else [])]
    return seen


def test_the_walk_sees_what_is_there() -> None:
    assert {"", "settings", "db.engine", "wire.messages", "master.role"} <= set(modules())
    assert {"errors", "settings", "@psycopg", "@sqlalchemy"} <= imports("db.engine")
    assert "configuration" in imports("settings")  # imported inside a function


@pytest.mark.parametrize("module", sorted(FOUNDATION & set(modules())))
def test_the_foundation_imports_only_itself(module: str) -> None:
    assert ours(module) <= FOUNDATION
    if module in STDLIB_ONLY:
        assert not libraries(module) & (MASTERS_LIBRARIES | SLAVES_LIBRARIES)


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_packages_import_only_what_lies_below(package: str) -> None:
    wrong = {
        f"{module} imports {name}"
        for module in modules()
        if within(module, {package})
        for name in ours(module)
        if name not in FOUNDATION and not within(name, MAY_IMPORT[package]) and name not in parents(MAY_IMPORT[package])
    }
    assert not wrong


def parents(places: set[str]) -> set[str]:
    return {place.rpartition(".")[0] for place in places}


def test_everything_has_its_place() -> None:
    others = {m for m in modules() if m not in FOUNDATION and not within(m, set(MAY_IMPORT))}
    assert {m for m in others if not m.startswith("farm")} == set()


def test_nobody_imports_a_command() -> None:
    commands = {m for m in modules() if m.endswith(".cli") or m == "farm" or m.startswith("admin.")}
    wrong = {
        f"{module} imports {name}"
        for module in modules()
        if not module.startswith("farm")
        for name in ours(module) & commands
    }
    assert not wrong


@pytest.mark.parametrize("module", sorted(DECISIONS))
def test_decisions_do_no_input_or_output(module: str) -> None:
    if module not in modules():
        pytest.fail(f"{module} is gone: correct DECISIONS")
    assert not libraries(module) & IMPURE
    assert not {name for name in ours(module) if within(name, {"db"})}


def test_a_slave_loads_only_what_its_diet_allows() -> None:
    loaded = reachable({m for m in modules() if within(m, {"slave", "wire"})})
    assert "wire.messages" in loaded
    assert not {m for m in loaded if within(m, {"master", "db", "site", "pypi", "logger", "monitor", "admin", "farm"})}
    used = {library for module in loaded for library in libraries(module)}
    assert not used & MASTERS_LIBRARIES


def test_sql_is_written_in_one_place() -> None:
    """Statements as text appear in piwheels/db alone; others call its functions."""
    sql = re.compile(r"[\"'](SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|CREATE (TABLE|DATABASE)|LISTEN) ", re.DOTALL)
    assert sql.search(path_of("db.migrate").read_text("utf-8"))  # the pattern finds what there is
    assert not [m for m in modules() if not within(m, {"db"}) and sql.search(path_of(m).read_text("utf-8"))]


def test_queries_are_built_in_one_place() -> None:
    """SQLAlchemy's statements too: outside piwheels/db only connections and engines are passed around."""
    handles = {"Connection", "Engine"}
    wrong = set()
    for module in modules():
        if within(module, {"db"}):
            continue
        for node in ast.walk(ast.parse(path_of(module).read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy":
                wrong |= {f"{module}: {alias.name}" for alias in node.names if alias.name not in handles}
    assert not wrong

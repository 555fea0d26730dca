# SPDX-License-Identifier: BSD-3-Clause
"""A day at PyPI by chance: steps of a script, the same for the same seed, with everything that can happen to a project.

A sketch of the projects is kept while the day is made, so that every step is possible when its turn comes. Knows of the
history's methods only their names and arguments.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

NAMES = (
    "spam",
    "Eggs",
    "parrot",
    "Lumber.Jack",
    "shrubbery",
    "Knights_Ni",
    "larch",
    "halibut",
    "gumby",
    "dead-Norwegian",
)
WHEELS = ("py3-none-any", "cp39-cp39-win32", "cp311-cp311-manylinux_2_17_aarch64", "cp313-cp313-macosx_11_0_arm64")
#: Versions that PEP 440 rejects, or that are unusual; one in forty.
ODD_VERSIONS = ("dog", "1.0-final!", "2004d", "1!2.0", "1.0+local.1", "v3", "1." + "0" * 136)
REASONS = (None, "broken", "uploaded by mistake", "<b>see</b> \u2028 \u202e the notes", "")
PEOPLE = ("ada", "grace", "remove-me", "file", "release")
UNKNOWN = ("polish the brass", "remove trusted publisher", "add attestation", "transfer project", "remove")
RECENT = 6  #: of its versions, that a project's steps are mostly about


@dataclass(slots=True)
class _Sketch:
    """A project as far as later steps depend on it."""

    name: str
    files: dict[str, list[str]] = field(default_factory=dict)  #: of each version
    made: int = 0  #: releases ever
    status: str = "active"
    hidden: set[str] = field(default_factory=set)
    there: bool = False


def random_day(seed: int, *, projects: int = 300, events: int = 10_000) -> list[dict[str, Any]]:
    """Steps that make at least ``events`` events, of up to ``projects`` projects; some of them a little-known lot."""
    return _Day(seed, projects).steps(events)


class _Day:
    def __init__(self, seed: int, projects: int) -> None:
        self.rng = Random(seed)
        self.projects = [_Sketch(f"{NAMES[n % len(NAMES)]}-{n}") for n in range(projects)]
        self.made: list[dict[str, Any]] = []
        self.events = 0
        # how often, what, and the events that it makes at least
        self.kinds: list[tuple[int, Callable[[_Sketch], bool]]] = [
            (40, self._release),
            (14, self._more_files),
            (5, self._remove_file),
            (5, self._remove_release),
            (6, self._yank),
            (4, self._unyank),
            (4, self._people),
            (2, self._docs),
            (3, self._unknown),
            (2, self._rename),
            (2, self._archive),
            (3, self._quarantine),
            (3, self._quarantine_release),
            (2, self._remove_project),
            (2, self._recreate),
            (1, self._skip),
        ]

    def steps(self, events: int) -> list[dict[str, Any]]:
        weights = [weight for weight, _ in self.kinds]
        while self.events < events:
            project = self._some_project()
            if not project.there:
                self._create(project)
                continue
            (_, happen), *_ = self.rng.choices(self.kinds, weights)
            if project.status == "quarantined" and happen not in (self._people, self._remove_project, self._skip):
                happen = self._quarantine  # nobody uploads to it meanwhile
            happen(project)
        return self.made

    def _some_project(self) -> _Sketch:
        """A few see most of what happens."""
        return self.projects[int(len(self.projects) * self.rng.random() ** 2)]

    def _do(self, do: str, project: _Sketch, events: int = 1, **arguments: Any) -> bool:
        self.made.append({"do": do, "name": project.name, **arguments})
        self.events += events
        return True

    # Projects

    def _create(self, project: _Sketch) -> bool:
        project.there, project.status = True, "active"
        summary = self.rng.choice(["A package", "Ünïcode \U0001f40d", "", "two\nlines"])
        return self._do("add_project", project, 2, summary=summary)

    def _remove_project(self, project: _Sketch) -> bool:
        self._forget(project)
        return self._do("remove_project", project)

    def _recreate(self, project: _Sketch) -> bool:
        self._forget(project)
        project.there = True
        version = self._new_version(project)
        project.files[version] = [_sdist(project, version)]
        return self._do("recreate", project, 5, version=version, recipe="tiny")

    def _forget(self, project: _Sketch) -> None:
        project.files.clear()
        project.hidden.clear()
        project.there, project.status = False, "active"

    def _rename(self, project: _Sketch) -> bool:
        """Another spelling; the steps go on to use whatever was the last one."""
        old = project.name
        parts = old.replace("_", "-").replace(".", "-").split("-")
        change = self.rng.choice([str.lower, str.upper, str.title])
        new = change(self.rng.choice("-_.").join(parts))
        self._do("rename", project, spelling=new)
        project.name = new
        return True

    def _people(self, project: _Sketch) -> bool:
        who, role = self.rng.choice(PEOPLE), self.rng.choice(["Owner", "Maintainer"])
        return self._do("change_owner", project, who=who, role=role, remove=self.rng.random() < 0.5)

    def _docs(self, project: _Sketch) -> bool:
        return self._do("docupdate", project)

    def _unknown(self, project: _Sketch) -> bool:
        return self._do("unknown_event", project, action=self.rng.choice(UNKNOWN))

    def _archive(self, project: _Sketch) -> bool:
        project.status = "active" if project.status == "archived" else "archived"
        return self._do("set_status", project, status=project.status)

    def _quarantine(self, project: _Sketch) -> bool:
        back = project.status == "quarantined"
        project.status = "active" if back else "quarantined"
        return self._do("clear_quarantine" if back else "quarantine", project)

    def _skip(self, project: _Sketch) -> bool:
        self.made.append({"do": "skip", "serials": self.rng.randint(1, 300)})
        return True

    # Releases

    def _new_version(self, project: _Sketch) -> str:
        project.made += 1
        if self.rng.random() < 0.025:
            odd = self.rng.choice(ODD_VERSIONS)
            if odd not in project.files:
                return odd
        return f"{project.made // 10}.{project.made % 10}" + self.rng.choice(
            ["", "", "", ".0", "rc1", ".dev2", ".post3"]
        )

    def _release(self, project: _Sketch) -> bool:
        version = self._new_version(project)
        if version in project.files:
            return False
        sdist = self.rng.random() < 0.8
        wheels = self.rng.sample(WHEELS, self.rng.choice([0, 0, 1, 2]) if sdist else 1)
        return self._add(project, version, sdist=sdist, wheels=wheels)

    def _add(self, project: _Sketch, version: str, *, sdist: bool, wheels: list[str]) -> bool:
        new = version not in project.files
        files = project.files.setdefault(version, [])
        files += [_sdist(project, version)] * sdist + [_wheel(project, version, tag) for tag in wheels]
        arguments: dict[str, Any] = {"requires_python": ">=3.8"} if self.rng.random() < 0.2 else {}
        if wheels:
            arguments["wheels"] = wheels
        recipe = "tiny" if sdist else None
        events = len(wheels) + sdist + new
        return self._do("add_release", project, events, version=version, recipe=recipe, **arguments)

    def _more_files(self, project: _Sketch) -> bool:
        """An sdist after the wheels, or wheels after the sdist."""
        version = self._some_version(project)
        if version is None:
            return False
        held = project.files[version]
        sdist = _sdist(project, version) not in held
        wheels = [tag for tag in WHEELS if _wheel(project, version, tag) not in held][:1]
        return (sdist or bool(wheels)) and self._add(project, version, sdist=sdist, wheels=[] if sdist else wheels)

    def _remove_file(self, project: _Sketch) -> bool:
        version = self._some_version(project)
        if version is None or not project.files[version]:
            return False
        filename = self.rng.choice(project.files[version])
        project.files[version].remove(filename)
        return self._do("remove_file", project, filename=filename)

    def _remove_release(self, project: _Sketch) -> bool:
        version = self._some_version(project)
        if version is None:
            return False
        del project.files[version]
        project.hidden.discard(version)
        return self._do("remove_release", project, version=version)

    def _yank(self, project: _Sketch) -> bool:
        version = self._some_version(project)
        reason = self.rng.choice(REASONS)
        arguments: dict[str, Any] = {} if reason is None else {"reason": reason}
        return version is not None and self._do("yank", project, version=version, **arguments)

    def _unyank(self, project: _Sketch) -> bool:
        version = self._some_version(project)
        return version is not None and self._do("yank", project, version=version, yanked=False)

    def _quarantine_release(self, project: _Sketch) -> bool:
        version = min(project.hidden, default=None) or self._some_version(project)
        if version is None:
            return False
        back = version in project.hidden
        (project.hidden.discard if back else project.hidden.add)(version)
        return self._do("clear_release_quarantine" if back else "quarantine_release", project, version=version)

    def _some_version(self, project: _Sketch) -> str | None:
        recent = list(project.files)[-RECENT:]
        return self.rng.choice(recent) if recent else None


def _sdist(project: _Sketch, version: str) -> str:
    return f"{_escaped(project.name)}-{version}.tar.gz"


def _wheel(project: _Sketch, version: str, tag: str) -> str:
    return f"{_escaped(project.name)}-{version}-{tag}.whl"


def _escaped(name: str) -> str:
    return name.replace("-", "_").replace(".", "_").lower()

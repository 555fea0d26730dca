# SPDX-License-Identifier: BSD-3-Clause
"""Which package of the system provides a shared library: the linker's search, then dpkg's own data.

Nothing is run: ``ldd`` would execute what it looks at, and ``dpkg -S`` knows neither usrmerge nor alternatives. The
system lies under a root that tests may choose. It must not know wheels; names come from an untrusted ELF file.

dpkg lists a file as its package shipped it. So a library found at /usr/lib/x may be listed as /lib/x (usrmerge), be
reached over a link that update-alternatives made and nobody owns, or be listed under the name it was diverted from.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9_.+~:@-]{1,200}")
_MERGED = ("/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/")
_MAX_LINKS = 10
_MAX_DIVERSIONS = 10 * 1024**2

#: What every Debian has and no wheel needs to be told of: Essential, or required by what is.
EVERYWHERE = frozenset({"libc6"})


@dataclass(frozen=True, slots=True)
class Machine:
    """What an ELF file is for, as its header says: libraries must be of the same."""

    width: int  #: EI_CLASS: 1 is 32 bit, 2 is 64
    order: int  #: EI_DATA: 1 is little-endian
    number: int  #: e_machine

    @classmethod
    def of(cls, header: bytes) -> "Machine | None":
        """From the first 20 bytes of a file; None if it is no ELF file."""
        if len(header) < 20 or header[:4] != b"\x7fELF" or header[5] not in (1, 2):
            return None
        return cls(header[4], header[5], int.from_bytes(header[18:20], "little" if header[5] == 1 else "big"))


class System:
    """An installed Debian."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def packages(self, libraries: Iterable[str], machine: Machine) -> dict[str, str]:
        """Each library's package; empty for one that is not found, or that no package owns."""
        chains = {name: self._links(found) for name in set(libraries) if (found := self.find(name, machine))}
        owners = self._owners({path for chain in chains.values() for path in chain})
        packages = dict.fromkeys(libraries, "")
        for name, chain in chains.items():
            packages[name] = next((owners[path] for path in chain if path in owners), "")
        return packages

    def find(self, name: str, machine: Machine) -> str | None:
        """The absolute path of a library as the dynamic linker would find it, within the root."""
        if name.startswith("/"):
            candidates = [name] if "/../" not in name and len(name) < 1000 and "\0" not in name else []
        else:
            candidates = [f"{directory}/{name}" for directory in self.directories] if _NAME.fullmatch(name) else []
        return next((path for path in candidates if self._machine(path) == machine), None)

    @cached_property
    def directories(self) -> list[str]:
        """Where the dynamic linker looks: ld.so.conf(5), then its built-in places."""
        configured = list(self._configured("/etc/ld.so.conf", depth=0))
        multiarch = sorted(
            f"/usr/lib/{path.name}" for path in self._inside("/usr/lib").glob("*-linux-gnu*") if path.is_dir()
        )
        plain = ["/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib"]
        return list(dict.fromkeys([*configured, *multiarch, *plain]))

    def _configured(self, path: str, *, depth: int) -> Iterator[str]:
        try:
            lines = self._inside(path).read_text(errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            line = line.partition("#")[0].strip()
            if line.startswith("include") and depth < 5:
                for pattern in line.split()[1:]:
                    for file in sorted(self.root.glob(pattern.lstrip("/"))):
                        yield from self._configured(f"/{file.relative_to(self.root)}", depth=depth + 1)
            elif line.startswith("/"):
                yield line.rstrip("/")

    def _inside(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _machine(self, path: str) -> Machine | None:
        real = self._links(path)[-1]
        try:
            with self._inside(real).open("rb") as file:
                return Machine.of(file.read(20))
        except OSError:
            return None

    def _links(self, path: str) -> list[str]:
        """The path, what it links to, what that links to, and so on, each with its directories resolved."""
        chain: list[str] = []
        while len(chain) < _MAX_LINKS:
            path = self._real_directory(path)
            if path in chain:
                break
            chain.append(path)
            try:
                target = self._inside(path).readlink()
            except OSError:
                break
            path = str(Path(path).parent / target)
        return chain

    def _real_directory(self, path: str) -> str:
        """The path with the links in its directory followed, within the root."""
        done = Path("/")
        parts = list(reversed(Path(path).parent.parts[1:]))
        for _ in range(200):
            if not parts:
                break
            part = parts.pop()
            if part == "..":
                done = done.parent
                continue
            here = done / part
            try:
                target = self._inside(str(here)).readlink()
            except OSError:
                done = here
                continue
            done = Path("/") if target.is_absolute() else done
            parts += [piece for piece in reversed(target.parts) if piece != "/"]
        return str(done / Path(path).name)

    # dpkg

    def _owners(self, paths: set[str]) -> dict[str, str]:
        """The package of each path that one owns. Every list is read once; together they are some 20 MB."""
        wanted: dict[bytes, list[tuple[str, str]]] = {}  # as listed -> (path on disk, only package or not this one)
        for path in paths:
            for listed, package in self._listings(path):
                wanted.setdefault(f"\n{listed}\n".encode(), []).append((path, package))
        found: dict[str, str] = {}
        if not wanted:
            return found
        for file in sorted(self._inside("/var/lib/dpkg/info").glob("*.list")):
            package = file.name.removesuffix(".list").partition(":")[0]
            try:
                data = b"\n" + file.read_bytes() + b"\n"
            except OSError:
                continue
            for line, uses in wanted.items():
                if line in data:
                    for path, condition in uses:
                        if _holds(condition, package):
                            found.setdefault(path, package)
        return found

    def _listings(self, path: str) -> Iterator[tuple[str, str]]:
        """How dpkg's lists may spell a path on disk, and a condition on the package: "", "=name" or "!name"."""
        spellings = [path]
        if path.startswith("/usr") and path[4:].startswith(_MERGED):
            spellings.append(path[4:])
        elif path.startswith(_MERGED):
            spellings.append(f"/usr{path}")
        for spelling in spellings:
            if (diverting := self._diverted.get(spelling)) is not None:
                yield spelling, f"={diverting}"  # what lies here belongs to whoever diverted the others' away
            elif spelling not in self._diversions:
                yield spelling, ""
            if (original := self._diversions.get(spelling)) is not None:
                yield original, f"!{self._diverted[original]}"

    @cached_property
    def _diverted(self) -> dict[str, str]:
        """Original path -> the package that diverts others' files from it; ":" for the administrator."""
        return {original: package for original, _, package in self._read_diversions()}

    @cached_property
    def _diversions(self) -> dict[str, str]:
        """Where a file was diverted to -> its original path."""
        return {diverted: original for original, diverted, _ in self._read_diversions()}

    def _read_diversions(self) -> list[tuple[str, str, str]]:
        """dpkg's diversions: three lines each (dpkg-divert(1))."""
        try:
            with self._inside("/var/lib/dpkg/diversions").open("rb") as file:
                lines = file.read(_MAX_DIVERSIONS).decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        return list(zip(lines[0::3], lines[1::3], lines[2::3], strict=False))


def _holds(condition: str, package: str) -> bool:
    if not condition:
        return True
    return (package == condition[1:]) == (condition[0] == "=")

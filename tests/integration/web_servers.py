# SPDX-License-Identifier: BSD-3-Clause
"""Web servers over a published tree, as people run them: piw-web; nginx and Apache with the files of ``master/``."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.bench.harness import ROOT
from tests.e2e.running import free_port
from tests.missing import program
from tests.waiting import wait_for

OTHER = "nobody" if os.geteuid() == 0 else None  #: who runs it: Apache will not run as root
START = 20.0  #: seconds

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""
# What Debian switches on that the site needs, and what the site's file says is to be switched on.
APACHE_MODULES = ("mpm_event", "authz_core", "mime", "dir", "alias", "filter", "rewrite", "headers", "deflate")
APACHE = """
ServerRoot {folder}
ServerName localhost
DefaultRuntimeDir {folder}
PidFile {folder}/apache.pid
ErrorLog {folder}/error.log
StartServers 1
Listen 127.0.0.1:{port}
{modules}
TypesConfig /etc/mime.types
Include {folder}/site.conf
"""


@dataclass(frozen=True, slots=True)
class Server:
    """One that is to be started: its name, its program, and what writes its configuration and says how to start it."""

    name: str
    program: str
    prepare: Callable[[Path, Path, int], Sequence[str]]  #: a folder of its own, the tree, the port


def _piw_web(folder: Path, tree: Path, port: int) -> Sequence[str]:
    return (sys.executable, "-m", "piwheels.site.web", "--root", str(tree), "--port", str(port))


def _nginx(folder: Path, tree: Path, port: int) -> Sequence[str]:
    site = _with(ROOT / "master/nginx.conf", {"listen 80;": f"listen 127.0.0.1:{port};", "/var/lib/piwheels/www": tree})
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    return ("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"))


def _apache(folder: Path, tree: Path, port: int) -> Sequence[str]:
    site = _with(ROOT / "master/apache.conf", {"*:80": f"127.0.0.1:{port}", "/var/lib/piwheels/www": tree})
    (folder / "site.conf").write_text(site)
    lines = (f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in APACHE_MODULES)
    (folder / "apache.conf").write_text(APACHE.format(folder=folder, port=port, modules="\n".join(lines)))
    return ("apache2", "-DFOREGROUND", "-f", str(folder / "apache.conf"))


def _with(path: Path, changes: dict[str, object]) -> str:
    """The file with what its reader is to change changed."""
    text = path.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, f"{path.name} has {old!r} {text.count(old)} times"
        text = text.replace(old, str(new))
    return text


SERVERS = {
    server.name: server
    for server in (
        Server("piw-web", sys.executable, _piw_web),
        Server("nginx", "nginx", _nginx),
        Server("apache", "apache2", _apache),
    )
}


@contextmanager
def running(server: Server, folder: Path, tree: Path) -> Iterator[str]:
    """Run it; its address. ``folder`` becomes its own; both must be readable for everybody."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    program(server.program, "apache2-bin" if server.name == "apache" else "")
    port = free_port()
    folder.mkdir()
    command = server.prepare(folder, tree, port)
    user = None if server.program == sys.executable else OTHER  # our own Python may be where others cannot reach
    if user:
        shutil.chown(folder, user)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | {"PATH": path}, user=user, group=user and "nogroup"
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _answers(url) or process.poll() is not None, f"{server.name} to answer", seconds=START)
        assert process.poll() is None, (folder / "output").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(START)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except URLError as error:
        return hasattr(error, "code")

# SPDX-License-Identifier: BSD-3-Clause
"""The environment a build sees: made from nothing, so that no build depends on, or learns of, the builder's user.

Only what reaching the network takes is passed through: proxies and certificates. It must not know how processes start.
"""

from collections.abc import Mapping
from pathlib import Path, PurePath

CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")

SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")


def network_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What of ``environ`` concerns proxies and certificates."""
    wanted = {*CERTIFICATES, *PROXIES, *(name.upper() for name in PROXIES)}
    return {name: value for name, value in environ.items() if name in wanted and value}


def certificate_paths(environ: Mapping[str, str]) -> list[Path]:
    """Files and directories that the certificate variables name; a sandbox must show them."""
    paths = [Path(environ[name]) for name in CERTIFICATES if environ.get(name)]
    return [path for path in paths if path.is_absolute() and path.exists()]


def build_environment(
    environ: Mapping[str, str],
    *,
    home: PurePath,
    temporary: PurePath,
    interpreter: PurePath,
    ordered: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The whole environment of a build. Paths are those that the build sees. ``ordered``: what the master's order adds;
    it takes nothing of ours away."""
    return {
        **(ordered or {}),
        "PATH": ":".join(dict.fromkeys((str(interpreter.parent), *SYSTEM_PATH))),
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "USER": "build",
        "LOGNAME": "build",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        # Old pips would run setup.py bdist_wheel for projects without pyproject.toml; new ones know only PEP 517.
        "PIP_USE_PEP517": "1",
        # Reaches the pip that installs build requirements too.
        "PIP_PREFER_BINARY": "1",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        **network_environment(environ),
    }

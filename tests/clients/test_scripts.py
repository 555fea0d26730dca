# SPDX-License-Identifier: BSD-3-Clause
"""Scripts that people have for the JSON API run as they are, but for the host: those of its manual."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.clients import shop
from tests.clients.shop import Counter, Shop

pytestmark = pytest.mark.integration

HOST = "https://www.example.org"
SETUP = f"""
import requests

url = "{HOST}/project/numpy/json"
package = requests.get(url).json()
"""
RELEASED = f"""{SETUP}
for version, release in package['releases'].items():
  print(version, release['released'])
"""
FILES = f"""{SETUP}
for version, info in package['releases'].items():
  if info['files']:
      print('{{}}: {{}} files'.format(version, len(info['files'])))
  else:
      print('{{}}: No files'.format(version))
"""
DOWNLOADS = f"""
import requests

url = "{HOST}/packages.json"
packages = requests.get(url).json()
packages = {{
  pkg: (d_month, d_all)
  for pkg, d_month, d_all, *_ in packages
}}

package = 'numpy'
d_month, d_all = packages[package]

print(package, "has had", d_month, "downloads in the last month")
print(package, "has had", d_all, "downloads in total")
"""


@pytest.fixture(scope="module")
def counter(stocked: Shop) -> Iterator[Counter]:
    """The shop, open."""
    with shop.opened(stocked, []) as opened:
        yield opened


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (RELEASED, "2.2.0 2026-01-01 00:00:00\n2.1.0 2026-01-01 00:00:00\n1.26.4 2026-01-01 00:00:00\n"),
        (FILES, "2.2.0: No files\n2.1.0: 2 files\n1.26.4: 1 files\n"),
        (DOWNLOADS, "numpy has had 40 downloads in the last month\nnumpy has had 100 downloads in total\n"),
    ],
    ids=["released", "files", "downloads"],
)
def test_the_manuals_scripts_run(counter: Counter, script: str, says: str) -> None:
    script = script.replace(HOST, counter.url("127.0.0.1"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (says, "")


def test_packages_are_said_for_each_file(counter: Counter) -> None:
    """What the same document has of apt, with the same three lines."""
    script = f"{SETUP.replace(HOST, counter.url('127.0.0.1'))}\nprint(package['releases']['2.1.0']['files'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "'apt_dependencies': ['libgfortran5', 'libopenblas0']" in done.stdout

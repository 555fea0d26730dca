# SPDX-License-Identifier: BSD-3-Clause
"""The error in logs as pip, compilers and build systems write them: the line that says what is wrong, not the last."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.site.log_errors import LONGEST_REGION, Region, find_error

# Each log has its error between « and »; the first line there is the one to find.
LOGS = {
    "gcc, a header is missing": """\
Collecting spidev
  Building wheel for spidev (pyproject.toml): started
  error: subprocess-exited-with-error
  \N{MULTIPLICATION SIGN} Building wheel for spidev (pyproject.toml) did not run successfully.
  │ exit code: 1
  ╰─> [12 lines of output]
      building 'spidev' extension
      gcc -Wall -Werror=format-security -c spidev_module.c -o error.o
«      spidev_module.c:28:10: fatal error: Python.h: No such file or directory
         28 | #include <Python.h>
            |          ^~~~~~~~~~»
      compilation terminated.
      error: command '/usr/bin/gcc' failed with exit code 1
      [end of output]
  note: This error originates from a subprocess, and is likely not a problem with pip.
  ERROR: Failed building wheel for spidev
Failed to build spidev
error: failed-wheel-build-for-install""",
    "gcc, several errors": """\
src/a.c: In function 'main':
src/a.c:3:5: warning: unused variable 'errors' [-Wunused-variable]
«src/a.c:7:1: error: unknown type name 'uint'
    7 | uint x;
      | ^~~~»
src/b.c:9:2: error: expected ';' before '}' token
error: command 'gcc' failed with exit status 1""",
    "a trial of configure's fails on purpose": """\
C compiler: gcc -pthread
_configtest.c:1:10: fatal error: cblas.h: No such file or directory
failure.
conftest.c:11:3: error: expected ';'
checking for cblas... no
«numpy/core/src/umath/loops.c:42:9: error: 'NPY_DOUBLE' undeclared»
error: Command "gcc" failed with exit status 1""",
    "linker": """\
      gcc -shared build/temp/x.o -lblas -o x.so
«      /usr/bin/ld: cannot find -lblas: No such file or directory»
      collect2: error: ld returned 1 exit status
      error: command '/usr/bin/gcc' failed with exit code 1""",
    "undefined symbols": """\
[ 90%] Linking CXX executable demo
«/usr/bin/ld: main.cpp:(.text+0x1c): undefined reference to `frobnicate()'»
collect2: error: ld returned 1 exit status
make[2]: *** [CMakeFiles/demo.dir/build.make:97: demo] Error 1
make: *** [Makefile:136: all] Error 2""",
    "rustc": """\
   Compiling libc v0.2.150
   Compiling thing v0.1.0 (/tmp/build)
«error[E0308]: mismatched types
  --> src/lib.rs:10:5
   |
10 |     "text"
   |     ^^^^^^ expected `u32`, found `&str`»

error: aborting due to 1 previous error
error: could not compile `thing` (lib) due to 1 previous error
💥 maturin failed
  Caused by: Failed to build a native library through cargo""",
    "no Rust": """\
      running build_rust
«      error: can't find Rust compiler»

      If you are using an outdated pip version, it is possible a prebuilt wheel is available.
      [end of output]
  ERROR: Failed building wheel for cryptography""",
    "CMake": """\
-- The C compiler identification is GNU 12.2.0
-- Performing Test HAVE_ERROR_H - Failed
«CMake Error at CMakeLists.txt:12 (find_package):
  By not providing "FindFoo.cmake" in CMAKE_MODULE_PATH this project has
  asked CMake to find a package configuration file provided by "Foo".»

-- Configuring incomplete, errors occurred!
See also "/tmp/build/CMakeFiles/CMakeOutput.log".
subprocess.CalledProcessError: Command '['cmake', '..']' returned non-zero exit status 1.""",
    "Meson": """\
      Program cython found: YES
«      ../meson.build:27:0: ERROR: Dependency "openblas" not found, tried pkgconfig and cmake»

      A full log can be found at /tmp/build/meson-logs/meson-log.txt""",
    "configure": """\
checking for gcc... gcc
checking whether the C compiler works... yes
«configure: error: libffi is needed»
make: *** No targets specified and no makefile found.  Stop.""",
    "setup.py fails": """\
  Getting requirements to build wheel: finished with status 'error'
  error: subprocess-exited-with-error
  ╰─> [7 lines of output]
«      Traceback (most recent call last):
        File "<string>", line 2, in <module>
        File "/tmp/pip-install/setup.py", line 3, in <module>
          import numpy
      ModuleNotFoundError: No module named 'numpy'»
      [end of output]""",
    "an exception while another is handled": """\
«Traceback (most recent call last):
  File "setup.py", line 5, in <module>
    read()
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "setup.py", line 7, in <module>
    raise RuntimeError("set FOO_HOME")
RuntimeError: set FOO_HOME»
ERROR: Failed to build""",
    "out of memory": """\
g++ -c big.cpp
big.cpp:1:1: error: expected unqualified-id
«g++: fatal error: Killed signal terminated program cc1plus»
compilation terminated.""",
    "the disk is full": """\
Traceback (most recent call last):
  File "x.py", line 1, in <module>
«OSError: [Errno 28] No space left on device»""",
    "Cython": """\
[1/1] Cythonizing x.pyx
«Error compiling Cython file:»
------------------------------------------------------------
cdef int f() except -1: retrun 0
x.pyx:4:24: Syntax error in simple statement list""",
    "pip finds nothing": """\
Collecting thing==1.0
  Using cached thing-1.0.tar.gz
  Installing build dependencies: finished with status 'error'
  error: subprocess-exited-with-error
  ╰─> [3 lines of output]
«      ERROR: Could not find a version that satisfies the requirement setuptools-golang (from versions: none)»
      ERROR: No matching distribution found for setuptools-golang
      [end of output]""",
    "pkg-config": """\
«Package cairo was not found in the pkg-config search path.»
Perhaps you should add the directory containing `cairo.pc'
No package 'cairo' found
Command 'pkg-config --cflags cairo' returned non-zero exit status 1.""",
    "only what pip says": """\
Building wheel for x (setup.py): started
«error: subprocess-exited-with-error»
Failed to build x""",
}


@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
def test_the_error_is_found(log: str) -> None:
    before, inside, _ = log.replace("»", "«").split("«")
    start = before.count("\n")
    lines = log.replace("«", "").replace("»", "").split("\n")
    found = find_error(lines)
    assert found is not None, "nothing"
    assert (lines[found.start], found) == (lines[start], Region(start, start + inside.count("\n") + 1))


@pytest.mark.parametrize(
    "log",
    [
        "",
        "Successfully built spidev\nremoving build/bdist",
        "test_errors ... ok\n0 errors, 0 failures\nerrors.py\ncopying error.py -> build/lib",
    ],
)
def test_where_nothing_went_wrong_nothing_is_found(log: str) -> None:
    assert find_error(log.split("\n")) is None


@given(
    st.lists(
        st.sampled_from(
            [
                "error: x",
                "Traceback (most recent call last):",
                "  File x",
                "KeyError: 1",
                "",
                " | ^",
                "a.c:1:1: error: y",
            ]
        )
        | st.text(max_size=30),
        max_size=60,
    )
)
def test_a_region_is_within_the_log(lines: list[str]) -> None:
    found = find_error(lines)
    if found is not None:
        assert 0 <= found.start < found.stop <= len(lines)
        assert found.stop - found.start <= 4 * LONGEST_REGION

# SPDX-License-Identifier: BSD-3-Clause
"""Messages for the tests of the wire and of the two sessions: plain samples, and Hypothesis strategies."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from piwheels.vocabulary import DependencyTool, FailureReason
from piwheels.wire import messages as m

TOKEN = "0123456789abcdef" * 2
OTHER_TOKEN = "f" * 32
NOW = datetime(2024, 2, 29, 12, 30, 15, 250000, tzinfo=UTC)
STATS = m.Stats(NOW, 32_000_000_000, 8_000_000_000, 1_000_000_000, 600_000_000, 100, 50, 1.25, 48.5)
HELLO = m.Hello(
    build_timeout=timedelta(hours=3),
    busy_timeout=timedelta(minutes=5),
    py_version="311",
    abi="cp311",
    platform="linux_armv7l",
    label="pi-1",
    os_name="Raspbian",
    os_version="12 (bookworm)",
    board_revision="a02082",
    board_serial="0000000012345678",
    capabilities=m.Capabilities(agent="piwheels 1", features=("resume",)),
)
ORDER = m.Order(
    token=TOKEN,
    target="bookworm-armhf",
    sdist_name="foo-1.0.tar.gz",
    sdist_url="https://files.example.org/foo-1.0.tar.gz",
    sdist_sha256="ab" * 32,
    sdist_size=1234,
    time_limit=timedelta(hours=1),
    memory_limit=0,
)


def file_info(filename: str = "foo-1.0-cp311-cp311-linux_armv7l.whl", *, size: int = 1000) -> m.FileInfo:
    return m.FileInfo(
        filename=filename,
        size=size,
        sha256="cd" * 32,
        package_tag="foo",
        version_tag="1.0",
        py_tag="cp311",
        abi_tag="cp311",
        platform_tag="linux_armv7l",
        requires_python=">=3.9",
        dependencies={DependencyTool.APT: ("libc6",), DependencyTool.NONE: ("libodd.so.1",)},
    )


def built(*files: m.FileInfo, token: str | None = TOKEN, reason: FailureReason | None = None) -> m.Built:
    report = None if token is None else m.BuildReport(token=token, reason=reason, detail="it did" if reason else "")
    return m.Built(reason is None, timedelta(seconds=90), "building...\n", files, report)


# Strategies

_plain = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\u2028\u2029")
_any = st.characters(exclude_categories=("Cs",))


def words(longest: int = 30) -> st.SearchStrategy[str]:
    return st.text(_plain, max_size=longest)


_hex32 = st.text("0123456789abcdef", min_size=32, max_size=32)
_hex64 = st.text("0123456789abcdef", min_size=64, max_size=64)
_bigints = st.integers(0, 2**63 - 1)
_spans = st.timedeltas(timedelta(seconds=1), timedelta(days=1))
_counts = st.integers(1, 7 * 86_400).map(lambda seconds: timedelta(seconds=seconds))
_moments = st.integers(0, 2**37).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
_numbers = st.floats(-1e6, 1e6)
_maps = st.dictionaries(words(20), words(20), max_size=4)

capabilities = st.builds(
    m.Capabilities,
    protocol=st.integers(2, 1000),
    agent=words(),
    resume=st.none() | _hex32,
    features=st.lists(words(), max_size=5).map(tuple),
)
hellos = st.builds(
    m.Hello,
    build_timeout=_spans,
    busy_timeout=_spans,
    py_version=st.text("0123456789", min_size=2, max_size=4),
    abi=st.sampled_from(["cp311", "cp313t", "abi3"]),
    platform=st.sampled_from(["linux_armv7l", "linux_x86_64"]),
    label=words(),
    os_name=words(),
    os_version=words(),
    board_revision=words(),
    board_serial=words(),
    capabilities=st.none() | capabilities,
)
stats = st.builds(m.Stats, _moments, *[_bigints] * 6, _numbers, _numbers)
dependencies = st.dictionaries(st.sampled_from(DependencyTool), st.lists(words(), max_size=3).map(tuple), max_size=3)
files = st.builds(
    m.FileInfo,
    filename=st.text(_any, max_size=300),
    size=_bigints,
    sha256=words(70),
    package_tag=words(),
    version_tag=words(),
    py_tag=words(),
    abi_tag=words(),
    platform_tag=words(),
    requires_python=st.none() | words(),
    dependencies=dependencies,
    location=words(),
)
_reasons = st.sampled_from([reason for reason in FailureReason if reason is not FailureReason.LOST])


@st.composite
def builts(draw: st.DrawFn) -> m.Built:
    ok = draw(st.booleans())
    report = st.builds(
        m.BuildReport,
        token=_hex32,
        reason=st.none() if ok else _reasons,
        detail=words(),
        peak_memory=st.none() | _bigints,
        cpu_seconds=st.none() | st.floats(0, 1e9),
        built_from=st.none() | _hex64,
        built_with=_maps,
    )
    return m.Built(
        ok,
        draw(st.timedeltas(timedelta(0), timedelta(days=20))),
        draw(st.text(_any, max_size=500)),
        draw(st.lists(files, max_size=3).map(tuple)),
        draw(st.none() | report),
    )


slave_messages = st.one_of(
    hellos,
    st.builds(m.Idle, stats),
    st.builds(m.Busy, stats, st.text(_any, max_size=300)),
    builts(),
    st.just(m.Sent()),
    st.just(m.Bye()),
)
orders = st.builds(
    m.Order,
    token=_hex32,
    target=words(),
    sdist_name=st.sampled_from(["a-1.tar.gz", "é_1.zip"]),
    sdist_url=st.sampled_from(["https://example.org/a-1.tar.gz", "http://[::1]:8000/x"]),
    sdist_sha256=_hex64,
    sdist_size=st.none() | _bigints,
    time_limit=_counts,
    memory_limit=_bigints,
    apt=st.lists(st.sampled_from(["libfoo-dev", "g++-12"]), max_size=2).map(tuple),
    environment=st.dictionaries(
        st.sampled_from(["A", "_b2"]), st.text(_any, max_size=50).map(lambda text: text.replace("\0", ""))
    ).map(lambda pairs: tuple(sorted(pairs.items()))),
    network=st.booleans(),
)
master_messages = st.one_of(
    st.builds(m.Ack, _bigints, words(100)),
    st.builds(m.Build, words(), words(), st.none() | orders),
    st.builds(m.Sleep, st.booleans()),
    st.just(m.Cont()),
    st.builds(m.Send, st.text(_any, max_size=300)),
    st.just(m.Done()),
    st.just(m.Die()),
)

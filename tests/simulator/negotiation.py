# SPDX-License-Identifier: BSD-3-Clause
"""Which kind of index page a client gets (PEP 691, RFC 9110 section 12.5.1): by quality, never by mere mention."""

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
SIMPLE_HTML = "application/vnd.pypi.simple.v1+html"
HTML = "text/html"

#: What we have, the one that wins a tie first, with the other name that PEP 691 gives it.
OFFERS = {
    HTML: "",
    SIMPLE_HTML: "application/vnd.pypi.simple.latest+html",
    SIMPLE_JSON: SIMPLE_JSON.replace("v1", "latest"),
}


def choose(accept: str) -> str | None:
    """The kind to answer with; None: nothing that we have is accepted."""
    ranges = _ranges(accept or "*/*")
    graded = {kind: max(_quality(kind, ranges), _quality(other, ranges)) for kind, other in OFFERS.items()}
    best = max(graded, key=lambda kind: graded[kind])
    return best if graded[best] > 0 else None


def _ranges(accept: str) -> dict[str, float]:
    ranges: dict[str, float] = {}
    for part in accept.lower().split(","):
        kind, *parameters = (word.strip() for word in part.split(";"))
        ranges[kind] = next((_number(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
    return ranges


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _quality(kind: str, ranges: dict[str, float]) -> float:
    """The most specific range that covers the kind decides."""
    for candidate in (kind, kind.split("/")[0] + "/*", "*/*"):
        if kind and candidate in ranges:
            return ranges[candidate]
    return 0.0

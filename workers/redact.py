"""URLs and texts made fit to be shown, stored and logged: the one place that decides what a secret
is. Needs nothing.

Works on the text, not on a parser's reading of it, as a URL that no parser takes holds a password
all the same: everything between the scheme and the last `@` goes, and so does every value of a
query, a fragment or a parameter whose name is not known to be harmless. An absolute path is a path
and shown as it is. Too much is hidden rather than too little.
"""

import re

# fmt: off
HARMLESS = frozenset({
    "bitrate", "camera", "cam", "ch", "channel", "client_name", "codec", "connect_timeout",
    "db", "decode_responses", "encoding", "end", "format", "fps", "from", "health_check_interval",
    "height", "last", "max_connections", "media", "mode", "ms", "port", "profile", "proto",
    "protocol", "quality", "resolution", "rtsp_transport", "sample", "session_timeout", "size",
    "socket_connect_timeout", "socket_timeout", "ssl_cert_reqs", "start", "stream", "subtype",
    "t", "timeout", "to", "track", "transport", "tz", "unicast", "v", "video", "width",
})
# fmt: on
"""Parameters whose values say nothing of who asks; all others are hidden."""
HIDDEN = "***"
MAX_SHOWN = 300

_KNOWN = "embedded|file|https?|rediss?|rtmps?|rtsps?|srt|tcp|udp|unix|v4l2"
_SCHEME = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*://+|(?:{_KNOWN})(?::/*|/+)|//+", re.IGNORECASE)
"""Also one that is misspelt or missing: `redis:/`, `redis:`, `redis//`, `//`."""
_IN_TEXT = re.compile(
    rf"[A-Za-z][A-Za-z0-9+.-]*://+|\b(?:{_KNOWN})(?::/*|//+)(?=\S)", re.IGNORECASE
)
_HOST = r"\[[^\]/?#;]*\]|[^\[:/?#;]*"
_MORE = r"(?:,(?:\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5})*"
"""Further nodes of a cluster, or sentinels."""
_PORT = re.compile(rf"^((?:{_HOST}):)(?!\d*{_MORE}(?:[/?#;]|$)|port\b)[^/?#;]*")
_PARAMETERS = re.compile(r"[?#;]|(?<=/)[^/?#;&=]*=")
"""Where parameters begin: behind `?`, `#` or `;`, or at a part of the path that is one itself."""
_PARAMETER = re.compile(r"([?#;&/]?)([^?#;&=]*)(=?)([^?#;&]*)")
_PAIR = re.compile(r"[^\s'\"]*:[^\s'\"]*@")


def redact_url(url: str) -> str:
    """`url` without user, password and whatever may be one; a path as it is."""
    if is_path(url):
        return url
    scheme = match[0] if (match := _SCHEME.match(url)) else ""
    rest = url[len(scheme) :]
    if "@" in rest:
        rest = ("" if "://" in scheme else f"{HIDDEN}@") + rest.rpartition("@")[2]
    elif not scheme:  # a relative path
        return url
    if scheme.endswith("://"):  # a third slash leaves no host
        rest = _PORT.sub(rf"\1{HIDDEN}", rest, count=1)
    return scheme + _hide_parameters(rest)


def show_url(url: str) -> str:
    """`redact_url` for a message: control characters escaped, at most 300 characters."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in redact_url(url))
    return text if len(text) <= MAX_SHOWN else f"{text[:200]}...{text[-80:]}"


def redact_text(text: str) -> str:
    """Free text, such as an error of a library, without the credentials of URLs in it.

    A password may hold anything, blanks too: from the first scheme to the last `@` all goes.
    """
    found = _IN_TEXT.search(text)
    if found is None:
        return _PAIR.sub(f"{HIDDEN}@", text)
    before, rest = text[: found.start()], text[found.end() :]
    kept = found[0] + (rest.rpartition("@")[2] if "@" in rest else rest)
    return _PAIR.sub(f"{HIDDEN}@", before) + re.sub(r"\S+", _redact_word, kept)


def is_path(text: str) -> bool:
    """True for an absolute path, which no scheme stands before."""
    return text.startswith("/") and not text.startswith("//")


def _redact_word(word: re.Match[str]) -> str:
    """A word of a text where it holds a URL; quotes and stops around it stay."""
    found = _IN_TEXT.search(word[0])
    if found is None:
        return word[0]
    url = word[0][found.start() :]
    ending = url[len(url.rstrip("'\",;:.)")) :]
    return word[0][: found.start()] + redact_url(url.removesuffix(ending)) + ending


def _hide_parameters(rest: str) -> str:
    """Values of parameters behind host and path, but for the harmless."""
    begin = _PARAMETERS.search(rest)
    if begin is None:
        return rest
    at = begin.start()
    return rest[:at] + _PARAMETER.sub(_hide_value, rest[at:])


def _hide_value(parameter: re.Match[str]) -> str:
    mark, name, equals, value = parameter.groups()
    if not equals:
        return f"{mark}{HIDDEN}" if name else mark
    harmless = name.lower() in HARMLESS or not value
    return f"{mark}{name}={value if harmless else HIDDEN}"

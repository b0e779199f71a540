"""Which URLs may be opened: a scheme of a list, an address of a permitted network.

A source is not trusted, and neither is what it names: every URL that a playlist or a redirect
leads to comes here too. Names are resolved once and the address that was checked is the one that
is used, so that a name cannot mean another machine a moment later. Opens nothing.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit, urlunsplit

from workers.decode.device import SCHEME, check_device, is_device_url
from workers.errors import SourceRefused, SourceUnreachable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""Host and port in, addresses out; raises OSError."""

PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}
"""Default ports; the other schemes must name theirs."""

SCHEMES = (*PORTS, "tcp", "udp")
"""`tcp` and `udp` carry MPEG-TS."""

MAX_URL = 4096

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class SourcePolicy:
    """What the operator permits."""

    networks: tuple[str, ...] = ()
    """Networks beside the public internet whose addresses may be opened, as `10.0.0.0/8`."""
    schemes: tuple[str, ...] = SCHEMES
    devices: tuple[str, ...] = ()
    """Cameras of this machine that may be opened, as `/dev/video0`."""

    def permits(self, address: Address) -> bool:
        """Whether an address is public, or of a network that is named."""
        plain = _embedded(address)
        if any(
            candidate.version == network.version and candidate in network
            for network in map(ipaddress.ip_network, self.networks)
            for candidate in {address, plain}
        ):
            return True
        return plain.is_global and not plain.is_multicast and address.is_global


@dataclass(frozen=True)
class Endpoint:
    """A URL that may be opened, at the address (of a device: the path) that was checked."""

    scheme: str
    host: str
    address: str
    port: int
    url: str
    """As it was given, credentials and all: never to be shown."""

    @property
    def pinned_url(self) -> str:
        """The same with the address in the place of the name, for openers that resolve anew."""
        parts = urlsplit(self.url)
        userinfo = parts.netloc.rpartition("@")[0]
        host = f"[{self.address}]" if ":" in self.address else self.address
        netloc = f"{userinfo}@{host}:{self.port}" if userinfo else f"{host}:{self.port}"
        return urlunsplit((self.scheme, netloc, parts.path, parts.query, ""))


def is_network_url(url: str) -> bool:
    """Whether a source names a protocol other than a file's."""
    scheme = _SCHEME.match(url)
    return scheme is not None and scheme[1].lower() != "file"


def resolve_host(host: str, port: int) -> list[str]:
    """Addresses of a host by the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]).partition("%")[0] for entry in found]


def check_url(
    url: str, policy: SourcePolicy, *, shown: str, resolve: Resolve = resolve_host
) -> Endpoint:
    """The endpoint of a URL that the policy permits.

    `shown` stands for the URL in messages. Every address a name has must be permitted: one that is
    not would be taken at the next try.

    Raises:
        SourceRefused: a scheme, an address or a device that is not permitted.
        SourceUnreachable: a name that no address belongs to, or no such device.
    """
    if is_device_url(url):
        path = check_device(url, policy.devices, shown=shown)
        return Endpoint(SCHEME, "", path, 0, url)
    parts, host, port = _take_apart(url, policy, shown)
    try:
        addresses = resolve(host, port)
    except OSError as error:
        reason = error.strerror or "no such name"
        raise SourceUnreachable(f"{shown}: {host}: {reason}; check the name") from None
    for text in addresses:
        address = ipaddress.ip_address(text)
        if not policy.permits(address):
            raise SourceRefused(
                f"{shown}: {host} is {address}, which is of no permitted network; name the network "
                f"to permit it: --allow-net {_smallest_network(address)}"
            )
    if not addresses:
        raise SourceUnreachable(f"{shown}: {host} has no address; check the name")
    return Endpoint(parts.scheme.lower(), host, addresses[0], port, url)


def _take_apart(url: str, policy: SourcePolicy, shown: str) -> tuple[SplitResult, str, int]:
    if len(url) > MAX_URL or any(character <= " " or character == "\x7f" for character in url):
        raise SourceRefused(
            f"{shown}: is no URL: expected at most {MAX_URL} characters and no blanks in it"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise SourceRefused(
            f"{shown}: host and port do not read; write scheme://host:port/path"
        ) from None
    scheme = parts.scheme.lower()
    if scheme not in policy.schemes:
        raise SourceRefused(
            f"{shown}: got protocol {scheme!r}, expected one of {', '.join(policy.schemes)}, "
            f"{SCHEME}, or a file path"
        )
    port = port or PORTS.get(scheme)
    if not host or not port:
        raise SourceRefused(f"{shown}: names no host and port; write {scheme}://host:port/path")
    return parts, host, port


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one only wraps (mapped, 6to4, NAT64), or itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return inner or address


def _smallest_network(address: Address) -> str:
    return f"{address}/{address.max_prefixlen}"

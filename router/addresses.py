"""Base URLs and hosts: what a backend's URL may look like, and which address a host is, however it is spelled."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._-]+)?", re.ASCII)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
METADATA_ADDRESSES = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})
"""Metadata services outside of the link-local ranges: AWS by IPv6, Alibaba."""


def plain_http_url(value: str) -> str:
    """A base URL without its last slash. Raises: ValueError."""
    if not all("!" <= character <= "~" for character in value):
        raise ValueError("must be printable ASCII without blanks; write others percent-encoded, hosts as xn--")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as exc:
        raise ValueError("has a bad port (1 to 65535) or bad brackets") from exc  # its text may be part of a password
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http(s) URL such as http://127.0.0.1:8101/v1")
    if "@" in parts.netloc:
        raise ValueError("must not contain credentials; name an environment variable in api_key_env")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("must have a port from 1 to 65535, or none")
    if not HOST.fullmatch(parts.hostname):
        raise ValueError("has a host that is neither a name nor an address")
    if serves_metadata(parts.hostname):
        raise ValueError("link-local addresses (cloud metadata services) are refused")
    return value.rstrip("/")


def serves_metadata(host: str) -> bool:
    """Whether a host is a cloud's metadata service, in any spelling that the resolver takes for its address."""
    host = host.rstrip(".").lower()
    address = _address(host)
    if address is None:
        return host == "metadata.google.internal"
    return address.is_link_local or address in METADATA_ADDRESSES


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is a spelling of: 0xa9fea9fe, 2852039166 and 0251.0376.43518 are 169.254.169.254."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64 or (int(address) >> 32 == 0 and int(address) > 1):  # the latter: ::a.b.c.d, obsolete
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

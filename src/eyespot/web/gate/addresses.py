"""The client's address behind trusted proxies."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from eyespot.errors import InvalidSetting
from eyespot.values import shown

Network = IPv4Network | IPv6Network

_MAX_HOPS = 30  # a request head has room for thousands, which took 30 ms of the event loop

# An entry of X-Forwarded-For. No zone (`%eth0`): it means nothing on another host, and Python would accept any text.
_ENTRY = re.compile(
    r"""
    "?
    (?: \[ ([0-9a-f.]*:[0-9a-f:.]*) (?: \] (?: :[0-9]+ )? )?  # [2001:db8::1]:80
    |      ([0-9.]+)                (?: :[0-9]+ )?            # 192.0.2.1:80
    |      ([0-9a-f.]*:[0-9a-f:.]*)                           # 2001:db8::1
    )
    "?
    """,
    re.VERBOSE | re.IGNORECASE,
)


def read_networks(text: str | None) -> tuple[Network, ...]:
    """The comma-separated addresses and networks of EYESPOT_TRUSTED_PROXIES. Raises `InvalidSetting`."""
    return tuple(_read_network(part.strip()) for part in text.split(",")) if text else ()


def _read_network(text: str) -> Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        reason = f"{shown(text)} is not an address or network such as 192.168.1.5 or 10.0.0.0/8"
        raise InvalidSetting(f"EYESPOT_TRUSTED_PROXIES: {reason}") from error
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return IPv4Network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """The nearest address that is not a trusted proxy, or the farthest if all are.

    `forwarded` are the X-Forwarded-For lines, to which each proxy appends the address it was called from. A client can
    forge all but the last entries, so the walk starts at the peer and stops at the first entry that is not an address.
    If the 30 nearest hops are trusted and more follow, the header is ignored.
    """
    if peer is None or not (trusted or ":" in peer):
        return peer
    hop = parse_address(peer)
    if hop is None:
        return peer
    entries = ",".join(forwarded).rsplit(",", _MAX_HOPS)  # the first may hold all entries farther away
    for number, entry in enumerate(reversed(entries)):
        if not any(hop in network for network in trusted):
            break
        if number == _MAX_HOPS:
            return str(parse_address(peer))
        match = _ENTRY.fullmatch(entry.strip())
        farther = parse_address(match[match.lastindex or 0]) if match else None
        if farther is None:
            break
        hop = farther
    return str(hop)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address, or None if it is not one; IPv4 also where it is written as IPv6 (`::ffff:192.0.2.1`)."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address

"""The address that a request comes from, when proxies stand in between."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from eyespot.errors import InvalidSetting

Network = IPv4Network | IPv6Network
_MAX_HOPS = 30  # read of X-Forwarded-For; a head has room for thousands, which took 30 ms of the event loop


def trusted_networks(text: str | None) -> tuple[Network, ...]:
    """The networks of EYESPOT_TRUSTED_PROXIES: addresses and networks, separated by commas.

    Raises:
        InvalidSetting: one is neither.
    """
    return tuple(_network(part.strip()) for part in text.split(",")) if text else ()


def _network(text: str) -> Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        example = "10.0.0.0/8 or 192.168.1.5"
        raise InvalidSetting(f"EYESPOT_TRUSTED_PROXIES: {text!r} is no address or network such as {example}") from error
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return IPv4Network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """The address that a request comes from: the nearest that is no trusted proxy's, or the farthest when all are.

    `forwarded` are the X-Forwarded-For lines, to which each proxy has appended whom it heard from. Whoever is not
    trusted can write anything there, so that the walk goes from us outwards, and ends at what is no address. If the
    nearest 30 are all trusted and more follow, the header is ignored and the address is the peer's.
    """
    if peer is None or not (trusted or ":" in peer):
        return peer
    hop = parsed(peer)
    if hop is None:
        return peer
    entries = ",".join(forwarded).rsplit(",", _MAX_HOPS)  # the first may be all that is farther away
    for number, entry in enumerate(reversed(entries)):
        if not _is_in(hop, trusted):
            break
        if number == _MAX_HOPS:
            return str(parsed(peer))
        farther = parsed(_without_port(entry))
        if farther is None:
            break
        hop = farther
    return str(hop)


def _is_in(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def parsed(text: str) -> IPv4Address | IPv6Address | None:
    """The address, an IPv4 one also where it is written as IPv6 (`::ffff:192.0.2.1`)."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _without_port(entry: str) -> str:
    """An entry of X-Forwarded-For without what may be around its address; empty when that is something odd."""
    entry = entry.strip().removeprefix('"').removesuffix('"')
    if "%" in entry:  # a zone means nothing beyond its own host, and Python would take any text for one
        return ""
    if entry.startswith("["):
        address, _, port = entry[1:].partition("]")
        well_formed = ":" in address and (not port or (port[0] == ":" and port[1:].isdecimal()))
    elif entry.count(":") == 1:
        address, _, port = entry.partition(":")
        well_formed = port.isdecimal()
    else:
        return entry
    return address if well_formed else ""

"""Client addresses behind proxies, and EYESPOT_TRUSTED_PROXIES."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyespot.errors import InvalidSetting
from eyespot.web.gate.addresses import client_address, read_networks
from tests.web.gate.helpers import CLIENT, app_with, get

PROXIES = read_networks("10.0.0.0/8, 192.0.2.7, 2001:db8:aa::/48")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (None, [], None),
        (None, [CLIENT], None),
        ("testclient", [CLIENT], "testclient"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [CLIENT], CLIENT),
        ("192.0.2.7", [CLIENT], CLIENT),
        ("192.0.2.8", [CLIENT], "192.0.2.8"),
        ("::ffff:10.0.0.1", [CLIENT], CLIENT),
        ("::ffff:192.0.2.8", [CLIENT], "192.0.2.8"),
        ("2001:db8:aa::1", ["2001:DB8::0:1"], "2001:db8::1"),
        ("10.0.0.1", [f"1.1.1.1, {CLIENT}"], CLIENT),
        ("10.0.0.1", ["1.1.1.1", CLIENT], CLIENT),
        ("10.0.0.1", [f"1.1.1.1, {CLIENT},10.9.9.9", "2001:db8:aa::2 , 10.0.0.2"], CLIENT),
        ("10.0.0.1", ["10.0.0.4, 10.0.0.3", "10.0.0.2"], "10.0.0.4"),
        ("10.0.0.1", [f"{CLIENT}, 10.0.0.3, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [f"{CLIENT}, unknown"], "10.0.0.1"),
        ("10.0.0.1", [f"{CLIENT}, "], "10.0.0.1"),
        ("10.0.0.1", [f"{CLIENT}:5678"], CLIENT),
        ("10.0.0.1", [f'"{CLIENT}:5678"'], CLIENT),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]:80"], "2001:db8::1"),
        ("10.0.0.1", ['"[2001:db8::1]:80"'], "2001:db8::1"),
        ("10.0.0.1", [f"::ffff:{CLIENT}"], CLIENT),
        ("10.0.0.1", [f"[::ffff:{CLIENT}]:80"], CLIENT),
        ("10.0.0.1", [f"{CLIENT}:"], "10.0.0.1"),
        ("10.0.0.1", [f"{CLIENT}:http"], "10.0.0.1"),
        ("10.0.0.1", [f"[{CLIENT}]:80"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]80"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::1]:http"], "10.0.0.1"),
        ("10.0.0.1", ["fe80::1%\nforged=1"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.09"], "10.0.0.1"),
        ("10.0.0.1", ["256.0.0.1"], "10.0.0.1"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_not_a_proxy(
    peer: str | None, forwarded: list[str], address: str | None
) -> None:
    assert client_address(peer, forwarded, PROXIES) == address


ADDRESSES = st.ip_addresses().map(str)
HEADERS = st.lists(
    st.text(st.characters(max_codepoint=255))
    | st.text(st.sampled_from('0123456789abcdef.:,[]"% '))
    | st.lists(ADDRESSES, max_size=4).map(", ".join),
    max_size=4,
)


@given(HEADERS)
def test_an_untrusted_peer_cannot_forge_its_address(forwarded: list[str]) -> None:
    for peer in (CLIENT, "2001:db8::9"):
        assert client_address(peer, forwarded, PROXIES) == peer
        assert client_address(peer, forwarded, ()) == peer
    assert client_address(f"::ffff:{CLIENT}", forwarded, ()) == CLIENT


@given(HEADERS)
def test_a_client_behind_a_proxy_cannot_forge_its_address(forged: list[str]) -> None:
    assert client_address("10.0.0.1", [*forged, CLIENT], PROXIES) == CLIENT
    joined = ",".join([*forged, CLIENT, " 10.0.0.2"])
    assert client_address("10.0.0.1", [joined], PROXIES) == CLIENT


@given(HEADERS)
def test_the_client_is_always_an_address(forwarded: list[str]) -> None:
    address = client_address("10.0.0.1", forwarded, read_networks("0.0.0.0/0, ::/0"))
    assert address is not None
    assert str(ip_address(address)) == address
    assert "%" not in address


@pytest.mark.parametrize(
    ("entries", "address"),
    [
        ([CLIENT, *["10.0.0.9"] * 29], CLIENT),
        (["10.0.0.8", *["10.0.0.9"] * 29], "10.0.0.8"),
        ([CLIENT, *["10.0.0.9"] * 30], "10.0.0.1"),
        (["10.0.0.9"] * 31, "10.0.0.1"),
        (["10.0.0.9"] * 6000, "10.0.0.1"),
        (["10.0.0.9"] * 6000 + [CLIENT, *["10.0.0.9"] * 29], CLIENT),
        (["unknown"] * 8000 + ["10.0.0.9"] * 30, "10.0.0.1"),
    ],
    ids=["29 proxies", "30 proxies", "a client too far", "31 proxies", "6000 proxies", "forged", "forged nonsense"],
)
def test_at_most_thirty_hops_are_followed(entries: list[str], address: str) -> None:
    for separator in (",", ", "):
        assert client_address("10.0.0.1", [separator.join(entries)], PROXIES) == address
    assert client_address("10.0.0.1", entries, PROXIES) == address


@pytest.mark.parametrize("text", [None, ""])
def test_nobody_is_trusted_unless_configured(text: str | None) -> None:
    assert read_networks(text) == ()


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("10.1.2.3/8", "10.255.0.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1/32", "2001:db8:ffff::1"),
        ("::1", "::1"),
        ("::ffff:192.0.2.0/120", "192.0.2.255"),
        ("0.0.0.0/0", "255.1.2.3"),
    ],
)
def test_a_network_contains_its_addresses(text: str, inside: str) -> None:
    assert any(ip_address(inside) in network for network in read_networks(f"172.16.0.0/12 , {text}"))
    assert read_networks(text) == read_networks(f" {text} ")


@pytest.mark.parametrize("text", ["*", "proxy", "10.0.0.0/33", "10.0.0.0/8,", "10.0.0.0/8;::1", "10.0.0", "a\0b"])
def test_a_wrong_network_is_an_invalid_setting(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_TRUSTED_PROXIES: .* such as .* 10\.0\.0\.0/8"):
        read_networks(text)


def test_the_access_line_names_the_proxy() -> None:
    app = app_with(trusted="10.0.0.0/8, ::/0")
    forwarded = get(app, peer="10.0.0.1", x_forwarded_for="1.1.1.1, 192.0.2.1").json()
    assert (forwarded["address"], forwarded["facts"]) == ("192.0.2.1", {"peer": "10.0.0.1"})
    for peer in ("10.0.0.1", "::ffff:10.0.0.1"):
        assert get(app, peer=peer).json()["facts"] == {}
    direct = get(app, peer="192.0.2.1", x_forwarded_for="1.1.1.1").json()
    assert (direct["address"], direct["facts"]) == ("192.0.2.1", {})

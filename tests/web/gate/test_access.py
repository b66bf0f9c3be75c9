"""API keys, client addresses, rate limits, and the middleware that holds requests to them."""

import asyncio
import contextlib
import pickle
import random
import traceback
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route

from eyespot.errors import InvalidSetting
from eyespot.memory.rate_limiter import RateLimiter
from eyespot.recognizer import Trace
from eyespot.telemetry import Metrics
from eyespot.web import access
from eyespot.web.access import Admission, Key, Keys, cors_origins, require_admin
from eyespot.web.addresses import client_address, trusted_networks
from eyespot.web.gate import problems
from eyespot.web.gate.request_log import RequestLog

SECRET = "correct-horse"
CLIENT = "203.0.113.9"
PROXIES = trusted_networks("10.0.0.0/8, 192.0.2.7, 2001:db8:aa::/48")


# Keys


def test_keys_are_found_by_their_secrets() -> None:
    keys = Keys.read("alice:correct-horse,bob.b-2_:battery#staple=:admin, ")
    assert keys.find(b"correct-horse") == Key("alice", admin=False)
    assert keys.find(b"battery#staple=") == Key("bob.b-2_", admin=True)
    for wrong in (b"", b"alice", b"correct-hors", b"correct-horse ", b"battery#staple=:admin", "gr\xfc\xdfe".encode()):
        assert keys.find(wrong) is None


@pytest.mark.parametrize("text", [None, ""])
def test_without_the_setting_there_are_no_keys(text: str | None) -> None:
    assert not Keys.read(text)
    assert Keys.read("alice:correct-horse")


def test_a_file_may_hold_the_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(
        b"\xef\xbb\xbf# whose, and what for\r\nalice:correct-horse # of a team, not a person\r\n\r\n"
        b"  # bob:correct-horse\r\nbob:battery#staple:admin,carol:secret-of-carol\n"
    )
    keys = Keys.read(f"@{file}")
    assert keys.find(b"correct-horse") == Key("alice", admin=False)
    assert keys.find(b"battery#staple") == Key("bob", admin=True)
    assert keys.find(b"secret-of-carol") == Key("carol", admin=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SECRET, "key 1: before the colon"),
        (f":{SECRET}", "key 1: before the colon"),
        (f"{SECRET}:", "key 1: its secret"),
        (f"{SECRET}:alice", "key 1: its secret"),  # the wrong way round
        (f"al ice:{SECRET}", "key 1: before the colon"),
        (f"\xe4lice:{SECRET}", "key 1: before the colon"),
        (f"{'a' * 65}:{SECRET}", "key 1: before the colon"),
        ("alice:7-chars", "key 1: its secret"),
        (f"alice:{SECRET} {SECRET}", "key 1: its secret"),
        (f"alice:{SECRET}\xe4", "key 1: its secret"),
        (f"alice:{SECRET}\udcff", "key 1: its secret"),  # what Python makes of a byte that is no UTF-8
        (f"alice:{SECRET}:", "key 1: after the secret"),
        (f"alice:{SECRET}:Admin", "key 1: after the secret"),
        (f"alice:{SECRET}:admin:{SECRET}", "key 1: after the secret"),
        (f"alice:{SECRET}, ,alice:battery-staple", "key 2: its name is that of an earlier one"),
        (f"alice:{SECRET},bob:{SECRET}", "key 2: its secret is that of an earlier one"),
        (" , ", "there is no key in it"),
        ("@/nowhere/keys", "cannot read its file: No such file"),
        (f"@alice:{SECRET}", "cannot read its file: No such file"),
        ("@", "cannot read its file"),
        ("@a\0b", "no text"),
    ],
)
def test_a_wrong_key_is_told_without_a_secret(text: str, reason: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_API_KEYS: ") as raised:
        Keys.read(text)
    assert reason in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize("content", [b"", b"# alice:correct-horse\n", b"alice:correct-horse\n\xff\xfe"])
def test_a_wrong_file_is_told_without_a_secret(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_API_KEYS: ") as raised:
        Keys.read(f"@{file}")
    assert SECRET not in "".join(traceback.format_exception(raised.value))


@given(st.text(st.sampled_from("ab1:,#@ \n\xe4"), max_size=40))
def test_any_text_is_keys_or_a_wrong_setting(text: str) -> None:
    with contextlib.suppress(InvalidSetting):
        Keys.read(text)


def test_no_secret_is_kept() -> None:
    keys = Keys.read(f"alice:{SECRET}")
    assert SECRET.encode() not in pickle.dumps(keys)


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = set()

    def compare_digest(known: bytes, sent: bytes) -> bool:
        compared.add(known)
        return known == sent

    monkeypatch.setattr(access, "hmac", SimpleNamespace(compare_digest=compare_digest))
    keys = Keys.read(",".join(f"key{i}:secret-of-{i}" for i in range(5)))
    assert keys.find(b"secret-of-0") == Key("key0", admin=False)
    assert len(compared) == 5


# Client addresses


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
def test_the_client_is_the_nearest_that_is_no_proxy(
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
def test_who_is_not_trusted_cannot_choose_an_address(forwarded: list[str]) -> None:
    for peer in (CLIENT, "2001:db8::9"):
        assert client_address(peer, forwarded, PROXIES) == peer
        assert client_address(peer, forwarded, ()) == peer
    assert client_address(f"::ffff:{CLIENT}", forwarded, ()) == CLIENT


@given(HEADERS)
def test_what_a_client_sends_to_a_proxy_changes_nothing(forged: list[str]) -> None:
    assert client_address("10.0.0.1", [*forged, CLIENT], PROXIES) == CLIENT
    joined = ",".join([*forged, CLIENT, " 10.0.0.2"])
    assert client_address("10.0.0.1", [joined], PROXIES) == CLIENT


@given(HEADERS)
def test_the_client_is_always_an_address(forwarded: list[str]) -> None:
    address = client_address("10.0.0.1", forwarded, trusted_networks("0.0.0.0/0, ::/0"))
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
def test_thirty_hops_are_read_and_after_more_the_peer_counts(entries: list[str], address: str) -> None:
    for separator in (",", ", "):
        assert client_address("10.0.0.1", [separator.join(entries)], PROXIES) == address
    assert client_address("10.0.0.1", entries, PROXIES) == address


@pytest.mark.parametrize("text", [None, ""])
def test_nobody_is_trusted_unless_configured(text: str | None) -> None:
    assert trusted_networks(text) == ()


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
def test_networks(text: str, inside: str) -> None:
    assert any(ip_address(inside) in network for network in trusted_networks(f"172.16.0.0/12 , {text}"))
    assert trusted_networks(text) == trusted_networks(f" {text} ")


@pytest.mark.parametrize("text", ["*", "proxy", "10.0.0.0/33", "10.0.0.0/8,", "10.0.0.0/8;::1", "10.0.0", "a\0b"])
def test_a_wrong_network_is_told(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_TRUSTED_PROXIES: .* such as 10\.0\.0\.0/8"):
        trusted_networks(text)


# Origins


def test_origins() -> None:
    assert cors_origins(None) == cors_origins("") == []
    assert cors_origins("*") == ["*"]
    origins = ["https://example.org", "http://localhost:3000", "http://[::1]:80", "capacitor://localhost"]
    assert cors_origins(" , ".join(origins)) == origins
    assert cors_origins("HTTPS://Example.ORG") == ["https://example.org"]


@pytest.mark.parametrize(
    "text",
    [
        *("example.org", "https://example.org/", "https://example.org/page", "https://user@example.org", "null", ","),
        *("https://*.example.org", "https://example.org,*", "https://example.org:port", "https://", "//example.org"),
        "https://a.org https://b.org",
    ],
)
def test_a_wrong_origin_is_told(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_CORS_ORIGINS: .* such as https://example\.org"):
        cors_origins(text)


# The middleware


def app_with(keys: str = "", rate: str = "", trusted: str = "") -> FastAPI:
    """An app that answers every path with what the middleware made of the request."""
    app = FastAPI(openapi_url=None, exception_handlers=problems.handlers())
    app.state.metrics, app.state.pool = Metrics(), SimpleNamespace(draining=False)
    app.add_middleware(
        Admission,
        keys=Keys.read(keys),
        trusted=trusted_networks(trusted),
        limiter=RateLimiter.open(rate, "memory://") if rate else None,
    )
    app.add_middleware(RequestLog, paths=frozenset({"/predict"}))

    @app.get("/admin", dependencies=[Depends(require_admin)])
    async def admin() -> str:
        return "done"

    @app.get("/{path:path}")
    async def everything(request: Request) -> dict[str, object]:
        state = request.state
        return {"address": state.trace.address, "key": state.key, "admin": state.admin, "facts": state.facts}

    return app


def ask(app: FastAPI, path: str = "/predict", peer: str = CLIENT, **headers: str) -> httpx.Response:
    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(peer, 50000))
        async with httpx.AsyncClient(transport=transport, base_url="http://eyespot") as client:
            return await client.get(path, headers=[(name.replace("_", "-"), value) for name, value in headers.items()])

    return asyncio.run(scenario())


OPEN = [
    "/",
    "/docs",
    "/openapi.json",
    "/favicon.ico",
    "/static/a.js",
    "/livez",
    "/readyz",
    "/metrics",
    "/v2/health/live",
]
KEYS = f"alice:{SECRET},root:battery-staple:admin"


def test_without_settings_everything_is_open_and_a_key_is_ignored() -> None:
    app = app_with()
    for headers in ({}, {"x_api_key": "whatever"}, {"authorization": "Bearer whatever"}):
        reply = ask(app, **headers)
        assert reply.json() == {"address": CLIENT, "key": None, "admin": False, "facts": {}}


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {SECRET}"},
        {"authorization": f"bEARER   {SECRET} "},
        {"Authorization": f"Bearer {SECRET}", "x_api_key": "of-another-gateway"},
        {"x_api_key": SECRET},
        {"authorization": "Bearer of-another-gateway", "x_api_key": SECRET},
        {"X_API_Key": f" {SECRET}", "authorization": "Basic YTpi"},
    ],
)
def test_a_key_opens(headers: dict[str, str]) -> None:
    reply = ask(app_with(KEYS), **headers)
    assert reply.json() == {"address": CLIENT, "key": "alice", "admin": False, "facts": {"key": "alice"}}


def test_an_admin_key_is_told_from_the_others() -> None:
    assert ask(app_with(KEYS), x_api_key="battery-staple").json()["admin"] is True


@pytest.mark.parametrize("path", ["/predict", "/static", "/v2/health", "/livez/", "/nowhere", "/docs/x", "/v2/models"])
@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({}, "An API key is needed"),
        ({"authorization": f"Basic {SECRET}"}, "An API key is needed"),
        ({"authorization": SECRET}, "An API key is needed"),
        ({"x_api_key": "alice"}, "The API key is not valid"),
        ({"x_api_key": ""}, "The API key is not valid"),
        ({"x_api_key": f"alice:{SECRET}"}, "The API key is not valid"),
        ({"authorization": f"Bearer {SECRET.upper()}"}, "The API key is not valid"),
    ],
)
def test_without_a_valid_key_there_is_no_answer(path: str, headers: dict[str, str], sentence: str) -> None:
    reply = ask(app_with(KEYS), path, **headers)
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
    assert reply.json()["detail"] == f"{sentence}; send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`."
    assert reply.headers["www-authenticate"] == 'Bearer realm="eyespot"'
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_pages_need_no_key_and_have_no_limit(path: str) -> None:
    app = app_with(KEYS, rate="1/hour")
    for _ in range(3):
        assert ask(app, path).status_code == 200


@given(
    st.lists(
        st.sampled_from(["authorization", "x-api-key", "cookie"]).flatmap(
            lambda name: st.tuples(st.just(name.encode()), st.binary(max_size=20) | st.just(b"Bearer \xff"))
        )
    )
)
def test_hostile_headers_are_no_key(headers: list[tuple[bytes, bytes]]) -> None:
    answers: list[Any] = []

    async def app(*_: object) -> None:
        raise AssertionError

    async def send(message: Any) -> None:
        answers.append(message)

    state = {"facts": {}, "request_id": "1", "trace": Trace("1")}
    scope = {"type": "http", "path": "/predict", "headers": headers, "client": None, "state": state, "app": app_with()}
    asyncio.run(Admission(app, Keys.read(KEYS), (), None)(scope, None, send))  # type: ignore[arg-type]
    assert answers[0]["status"] == 401


def test_no_request_is_more_than_one_guess_of_each_kind() -> None:
    guesses = [f"guess-number-{i}" for i in range(9)]
    random.Random(1).shuffle(guesses)
    headers = [(b"x-api-key", guess.encode()) for guess in [*guesses[:4], SECRET, *guesses[4:]]]
    app = app_with(KEYS)

    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://eyespot") as client:
            return await client.get("/predict", headers=headers)

    assert asyncio.run(scenario()).status_code == 401


def test_a_limit_holds_for_each_key_and_else_for_each_address() -> None:
    app = app_with(KEYS, rate="2/hour")

    def statuses(**sent: str) -> list[int]:
        return [ask(app, **sent).status_code for _ in range(3)]

    assert statuses(x_api_key=SECRET) == [200, 200, 429]
    assert statuses(x_api_key=SECRET, peer="192.0.2.1") == [429, 429, 429]
    assert statuses(x_api_key="battery-staple") == [200, 200, 429]
    assert statuses(x_api_key="a-wrong-key") == [401, 401, 429]
    assert statuses() == [429, 429, 429]
    assert statuses(peer="192.0.2.1") == [401, 401, 429]


def test_without_keys_a_limit_holds_for_each_address() -> None:
    app = app_with(rate="1/hour", trusted="10.0.0.0/8")
    assert ask(app).status_code == 200
    reply = ask(app, x_api_key="whatever")
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem["limit"]) == (429, "rate-limited", 1)
    assert problem["detail"] == f"The limit is 1 request per hour; try again in {reply.headers['retry-after']} s."
    assert ask(app, x_forwarded_for="192.0.2.1").status_code == 429
    assert ask(app, peer="10.0.0.1", x_forwarded_for="192.0.2.1").status_code == 200
    assert ask(app, peer="10.0.0.2", x_forwarded_for="192.0.2.1").status_code == 429


def test_the_log_learns_of_a_proxy() -> None:
    app = app_with(trusted="10.0.0.0/8, ::/0")
    forwarded = ask(app, peer="10.0.0.1", x_forwarded_for="1.1.1.1, 192.0.2.1").json()
    assert (forwarded["address"], forwarded["facts"]) == ("192.0.2.1", {"peer": "10.0.0.1"})
    for peer in ("10.0.0.1", "::ffff:10.0.0.1"):
        assert ask(app, peer=peer).json()["facts"] == {}
    direct = ask(app, peer="192.0.2.1", x_forwarded_for="1.1.1.1").json()
    assert (direct["address"], direct["facts"]) == ("192.0.2.1", {})


@pytest.mark.parametrize(
    ("keys", "sent", "status", "sentence"),
    [
        (KEYS, "battery-staple", 200, None),
        (KEYS, SECRET, 403, "The API key alice is no admin key."),
        (KEYS, "a-wrong-key", 401, None),
        ("", "battery-staple", 403, "Admin routes are closed until EYESPOT_API_KEYS names an admin key."),
    ],
)
def test_admin_routes_need_an_admin_key(keys: str, sent: str, status: int, sentence: str | None) -> None:
    reply = ask(app_with(keys), "/admin", x_api_key=sent)
    assert reply.status_code == status
    if sentence:
        assert (reply.json()["code"], reply.json()["detail"]) == ("forbidden", sentence)


def test_no_browser_guesses_at_a_reply_of_any_status() -> None:
    app = app_with()
    app.router.routes.insert(
        0, Route("/status/{of:int}", lambda request: Response(status_code=request.path_params["of"]))
    )
    for status in (200, 204, 206, 304, 307, 400, 404, 499, 500, 503):
        reply = ask(app, f"/status/{status}")
        assert (reply.status_code, reply.headers.get_list("x-content-type-options")) == (status, ["nosniff"])


def test_what_is_no_request_passes_through() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    asyncio.run(Admission(app, Keys.read(KEYS), (), None)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}]

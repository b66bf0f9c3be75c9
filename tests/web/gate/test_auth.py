"""API keys, requests with and without them, and what they are charged."""

import asyncio
import contextlib
import hmac
import pickle
import random
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyespot.errors import InvalidSetting
from eyespot.telemetry import Trace
from eyespot.web.gate.auth import Auth, Key, find_key, read_keys
from tests.web.gate.helpers import CLIENT, KEYS, OPEN_PATHS, SECRET, FakeLimiter, app_with, get, get_with


def test_keys_are_found_by_their_secrets() -> None:
    keys = read_keys("alice:correct-horse,bob.b-2_:battery#staple=:admin, ")
    assert find_key(keys, [b"correct-horse"]) == Key("alice", admin=False)
    assert find_key(keys, [b"battery#staple="]) == Key("bob.b-2_", admin=True)
    for wrong in (b"", b"alice", b"correct-hors", b"correct-horse ", b"battery#staple=:admin", "gr\xfc\xdfe".encode()):
        assert find_key(keys, [wrong]) is None


def test_without_the_setting_there_are_no_keys() -> None:
    assert not read_keys(None)
    assert read_keys("alice:correct-horse")


def test_a_file_may_hold_the_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(
        b"\xef\xbb\xbf# whose, and what for\r\nalice:correct-horse # of a team, not a person\r\n\r\n"
        b"  # bob:correct-horse\r\nbob:battery#staple:admin,carol:secret-of-carol\n"
    )
    keys = read_keys(f"@{file}")
    assert find_key(keys, [b"correct-horse"]) == Key("alice", admin=False)
    assert find_key(keys, [b"battery#staple"]) == Key("bob", admin=True)
    assert find_key(keys, [b"secret-of-carol"]) == Key("carol", admin=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SECRET, "key 1 is not"),
        (f":{SECRET}", "key 1 is not"),
        (f"{SECRET}:", "key 1 is not"),
        (f"{SECRET}:alice", "key 1 is not"),  # the wrong way round
        (f"al ice:{SECRET}", "key 1 is not"),
        (f"\xe4lice:{SECRET}", "key 1 is not"),
        (f"{'a' * 65}:{SECRET}", "key 1 is not"),
        ("alice:7-chars", "key 1 is not"),
        (f"alice:{SECRET} {SECRET}", "key 1 is not"),
        (f"alice:{SECRET}\xe4", "key 1 is not"),
        (f"alice:{SECRET}\udcff", "key 1 is not"),  # what Python makes of a byte that is no UTF-8
        (f"alice:{SECRET}:", "key 1 is not"),
        (f"alice:{SECRET}:Admin", "key 1 is not"),
        (f"alice:{SECRET}:admin:{SECRET}", "key 1 is not"),
        (f"alice:{SECRET}, ,alice:battery-staple", "key 2 has the name or the secret of an earlier key"),
        (f"alice:{SECRET},bob:{SECRET}", "key 2 has the name or the secret of an earlier key"),
        (" , ", "no keys found"),
        ("", "no keys found"),
        ("@/nowhere/keys", "cannot read the key file: No such file"),
        (f"@alice:{SECRET}", "cannot read the key file: No such file"),
        ("@", "cannot read the key file"),
        ("@a\0b", "not UTF-8 text"),
    ],
)
def test_the_error_about_a_malformed_key_shows_no_secret(text: str, reason: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_API_KEYS: ") as raised:
        read_keys(text)
    assert reason in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize("content", [b"", b"# alice:correct-horse\n", b"alice:correct-horse\n\xff\xfe"])
def test_the_error_about_a_key_file_shows_no_secret(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_API_KEYS: ") as raised:
        read_keys(f"@{file}")
    assert SECRET not in "".join(traceback.format_exception(raised.value))


@given(st.text(st.sampled_from("ab1:,#@ \n\xe4"), max_size=40))
def test_any_text_is_read_or_an_invalid_setting(text: str) -> None:
    with contextlib.suppress(InvalidSetting):
        read_keys(text)


def test_no_secret_is_kept() -> None:
    keys = read_keys(f"alice:{SECRET}")
    assert SECRET.encode() not in pickle.dumps(keys)


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = set()

    def compare_digest(known: bytes, sent: bytes) -> bool:
        compared.add(known)
        return known == sent

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    keys = read_keys(",".join(f"key{i}:secret-of-{i}" for i in range(5)))
    assert find_key(keys, [b"secret-of-0"]) == Key("key0", admin=False)
    assert len(compared) == 5


def test_without_settings_everything_is_open_and_a_key_is_ignored() -> None:
    app = app_with()
    for headers in ({}, {"x_api_key": "whatever"}, {"authorization": "Bearer whatever"}):
        reply = get(app, **headers)
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
def test_a_valid_key_is_admitted(headers: dict[str, str]) -> None:
    reply = get(app_with(KEYS), **headers)
    assert reply.json() == {"address": CLIENT, "key": "alice", "admin": False, "facts": {"key": "alice"}}


def test_an_admin_key_is_recognised() -> None:
    assert get(app_with(KEYS), x_api_key="battery-staple").json()["admin"] is True


@pytest.mark.parametrize("path", ["/predict", "/static", "/v2/health", "/livez/", "/nowhere", "/docs/x", "/v2/models"])
@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "API key required"),
        ({"authorization": f"Basic {SECRET}"}, "API key required"),
        ({"authorization": SECRET}, "API key required"),
        ({"x_api_key": "alice"}, "Invalid API key"),
        ({"x_api_key": ""}, "Invalid API key"),
        ({"x_api_key": f"alice:{SECRET}"}, "Invalid API key"),
        ({"authorization": f"Bearer {SECRET.upper()}"}, "Invalid API key"),
    ],
)
def test_a_request_without_a_valid_key_is_refused(path: str, headers: dict[str, str], reason: str) -> None:
    reply = get(app_with(KEYS), path, **headers)
    detail = f"{reason}: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == 'Bearer realm="eyespot"'
    if path.startswith("/v2"):
        assert (reply.json(), reply.headers["content-type"]) == ({"error": detail}, "application/json")
        return
    assert (reply.json()["code"], reply.json()["detail"]) == ("unauthorized", detail)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("path", OPEN_PATHS)
def test_probes_and_pages_need_no_key_and_have_no_limit(path: str) -> None:
    app = app_with(KEYS, FakeLimiter(1))
    for _ in range(3):
        assert get(app, path).status_code == 200


@given(
    st.lists(
        st.sampled_from(["authorization", "x-api-key", "cookie"]).flatmap(
            lambda name: st.tuples(st.just(name.encode()), st.binary(max_size=20) | st.just(b"Bearer \xff"))
        )
    )
)
def test_hostile_headers_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    answers: list[Any] = []

    async def app(*_: object) -> None:
        raise AssertionError

    async def send(message: Any) -> None:
        answers.append(message)

    state = {"facts": {}, "trace": Trace("1")}
    scope = {"type": "http", "path": "/predict", "headers": headers, "client": None, "state": state, "app": app_with()}
    asyncio.run(Auth(app, read_keys(KEYS), (), None)(scope, None, send))  # type: ignore[arg-type]
    assert answers[0]["status"] == 401


def test_a_request_can_try_one_key_in_each_header() -> None:
    guesses = [f"guess-number-{i}" for i in range(9)]
    random.Random(1).shuffle(guesses)
    headers = [(b"x-api-key", guess.encode()) for guess in [*guesses[:4], SECRET, *guesses[4:]]]
    assert get_with(app_with(KEYS), headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("keys", "sent", "status", "sentence"),
    [
        (KEYS, "battery-staple", 200, None),
        (KEYS, SECRET, 403, "API key alice is not an admin key."),
        (KEYS, "a-wrong-key", 401, None),
        (None, "battery-staple", 403, "Admin routes are disabled: EYESPOT_API_KEYS has no admin key."),
    ],
)
def test_admin_routes_need_an_admin_key(keys: str | None, sent: str, status: int, sentence: str | None) -> None:
    reply = get(app_with(keys), "/admin", x_api_key=sent)
    assert reply.status_code == status
    if sentence:
        assert (reply.json()["code"], reply.json()["detail"]) == ("forbidden", sentence)


def test_the_lifespan_passes_through() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    asyncio.run(Auth(app, read_keys(KEYS), (), None)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}]


def test_each_key_and_otherwise_each_address_has_its_own_limit() -> None:
    app = app_with(KEYS, FakeLimiter(2))

    def statuses(**sent: str) -> list[int]:
        return [get(app, **sent).status_code for _ in range(3)]

    assert statuses(x_api_key=SECRET) == [200, 200, 429]
    assert statuses(x_api_key=SECRET, peer="192.0.2.1") == [429, 429, 429]
    assert statuses(x_api_key="battery-staple") == [200, 200, 429]
    assert statuses(x_api_key="a-wrong-key") == [401, 401, 429]
    assert statuses() == [429, 429, 429]
    assert statuses(peer="192.0.2.1") == [401, 401, 429]


def test_without_keys_each_address_has_its_own_limit() -> None:
    app = app_with(limiter=FakeLimiter(1), trusted="10.0.0.0/8")
    assert get(app).status_code == 200
    reply = get(app, x_api_key="whatever")
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")
    assert (reply.json()["code"], reply.json()["limit"]) == ("rate-limited", 1)
    assert get(app, x_forwarded_for="192.0.2.1").status_code == 429
    assert get(app, peer="10.0.0.1", x_forwarded_for="192.0.2.1").status_code == 200
    assert get(app, peer="10.0.0.2", x_forwarded_for="192.0.2.1").status_code == 429


def test_each_image_of_a_batch_counts_as_a_request() -> None:
    limiter = FakeLimiter(5)
    app = app_with(KEYS, limiter)
    for images, charged, status in [(1, 1, 200), (3, 4, 200), (2, 6, 429)]:
        assert get(app, f"/batch/{images}", x_api_key=SECRET).status_code == status
        assert limiter.charged == {"key:alice": charged}


def test_a_batch_that_can_never_pass_is_too_large() -> None:
    limiter = FakeLimiter(5)
    reply = get(app_with(limiter=limiter), "/batch/6")
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (413, "too-many-images")
    assert (problem["limit"], problem["value"]) == (5, 6)
    assert set(limiter.charged.values()) == {1}

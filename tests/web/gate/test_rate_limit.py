"""Requests and batches charged to a rate limit."""

from tests.web.gate.helpers import KEYS, SECRET, FakeLimiter, app_with, get


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

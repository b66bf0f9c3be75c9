"""What was seen once is remembered, what is being computed is computed once, and no cache ever costs an answer."""

import asyncio
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from eyespot.errors import CacheUnavailable, InvalidSetting
from eyespot.memory.cache import MEMORY_BYTES, Cache, MemoryCache, RedisCache, open_cache
from eyespot.settings import Settings
from eyespot.telemetry import Metrics
from eyespot.types import Calibration
from eyespot.web.app import create_app
from tests import makers, serving
from tests.requests import IMAGE, answered, image, metric, predict
from tests.services import RedisServer, redis_server
from tests.serving import FakeEngine, Served, fake_classifier, golden, until


def serve_fake(engine: FakeEngine | None = None, **settings: Any) -> AbstractContextManager[Served]:
    return serving.serve_fake(engine, **{"cache_url": "memory://", **settings})


def counted(served: Served) -> dict[str, float]:
    return {
        result: count
        for result in ("hit", "miss", "joined")
        if (count := metric(served, f'eyespot_cache_requests_total{{result="{result}"}}'))
    }


def test_a_repeated_image_is_a_hit() -> None:
    engine = FakeEngine()
    with serve_fake(engine) as served:
        first, again = predict(served), predict(served)
        assert (first.headers["x-cache"], first.json()["cached"]) == ("miss", False)
        assert (again.headers["x-cache"], again.json()["cached"]) == ("hit", True)
        for name in ("predictions", "image", "model"):
            assert again.json()[name] == first.json()[name]
        assert engine.calls == 1
        assert counted(served) == {"miss": 1, "hit": 1}


def test_one_cached_result_serves_all_parameters() -> None:
    engine = FakeEngine()
    with serve_fake(engine) as served, serve_fake(cache_url="off") as computing:
        predict(served, top_k=1)
        for query in ({"top_k": 10}, {"top_k": 2, "min_confidence": 0.5}, {"lang": "zh"}, {"min_confidence": 1}):
            remembered = predict(served, **query)
            assert remembered.headers["x-cache"] == "hit"
            assert remembered.json()["predictions"] == predict(computing, **query).json()["predictions"]
        assert engine.calls == 1


def test_the_cache_does_not_depend_on_how_an_image_is_sent() -> None:
    with serve_fake() as served, served.client() as client:
        predict(served)
        assert client.post("/predict", files={"file": ("a.png", IMAGE)}).headers["x-cache"] == "hit"


def test_refusals_are_not_cached() -> None:
    with serve_fake() as served:
        for _ in range(2):
            refused = predict(served, makers.jpeg()[:5000])
            assert (refused.status_code, refused.headers["x-cache"]) == (422, "miss")


def test_without_a_cache_everything_is_computed() -> None:
    engine = FakeEngine()
    with serve_fake(engine, cache_url="off") as served:
        assert [predict(served).headers["x-cache"] for _ in range(3)] == ["miss"] * 3
        assert engine.calls == 3
        with served.client() as client:
            assert {"name": "cache", "ok": True, "detail": "off"} in client.get("/readyz?verbose").json()["checks"]


def test_identical_images_in_flight_are_computed_once_even_if_the_first_client_disconnects() -> None:
    engine = FakeEngine()
    engine.go.clear()
    with serve_fake(engine) as served, ThreadPoolExecutor(3) as callers:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(IMAGE)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(head.encode() + IMAGE)
            assert engine.started.acquire(timeout=30)
            joined = [callers.submit(predict, served) for _ in range(3)]
            until(lambda: [job.waiters for job in list(served.recognizer.pool.joinable.values())] == [4])
        until(lambda: answered(served, "/predict", 499) == 1)
        engine.go.set()
        answers = [answer.result() for answer in joined]
        assert [(answer.status_code, answer.headers["x-cache"]) for answer in answers] == [(200, "joined")] * 3
        assert [answer.json()["cached"] for answer in answers] == [False] * 3
        assert engine.calls == 1
        assert counted(served) == {"joined": 3}  # the first was not answered
        assert predict(served).headers["x-cache"] == "hit"


def test_a_result_is_cached_even_if_the_client_disconnected() -> None:
    engine = FakeEngine()
    engine.go.clear()
    with serve_fake(engine) as served:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(IMAGE)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(head.encode() + IMAGE)
            assert engine.started.acquire(timeout=30)
        until(lambda: answered(served, "/predict", 499) == 1)
        engine.go.set()
        until(lambda: metric(served, "eyespot_workers_busy") == 0)
        assert predict(served).headers["x-cache"] == "hit"
        assert engine.calls == 1


def test_an_image_deleted_while_it_is_computed_is_not_cached() -> None:
    engine = FakeEngine()
    engine.go.clear()
    with (
        serve_fake(engine, api_keys="boss:open-sesame:admin") as served,
        served.client(headers={"X-API-Key": "open-sesame"}) as client,
        ThreadPoolExecutor(1) as callers,
    ):
        first = callers.submit(client.post, "/predict", content=IMAGE)
        assert engine.started.acquire(timeout=30)
        assert client.delete(f"/uploads/{sha256(IMAGE).hexdigest()}").status_code == 204
        engine.go.set()
        assert first.result().status_code == 200
        assert client.post("/predict", content=IMAGE).headers["x-cache"] == "miss"


CAMERA, BOSS = {"X-API-Key": "click-clack"}, {"X-API-Key": "open-sesame"}
KEYS = "camera:click-clack,boss:open-sesame:admin"


@pytest.mark.parametrize(("scope", "other"), [("shared", "hit"), ("key", "miss")])
def test_the_cache_is_shared_or_separate_for_each_key(scope: str, other: str) -> None:
    path = f"/results/{sha256(IMAGE).hexdigest()}"
    with serve_fake(cache_scope=scope, api_keys=KEYS) as served, served.client() as client:
        assert client.post("/predict", content=IMAGE, headers=CAMERA).headers["x-cache"] == "miss"
        assert client.get(path, headers=BOSS).status_code == (200 if scope == "shared" else 404)
        assert client.post("/predict", content=IMAGE, headers=BOSS).headers["x-cache"] == other
        for key in (CAMERA, BOSS):
            assert client.get(path, headers=key).status_code == 200
            assert client.post("/predict", content=IMAGE, headers=key).headers["x-cache"] == "hit"
        assert client.delete(f"/uploads/{sha256(IMAGE).hexdigest()}", headers=BOSS).status_code == 204
        for key in (CAMERA, BOSS):
            assert client.get(path, headers=key).status_code == 404


@pytest.mark.parametrize(("scope", "calls"), [("shared", 1), ("key", 2)])
def test_images_in_flight_are_joined_across_keys_only_if_the_cache_is_shared(scope: str, calls: int) -> None:
    engine = FakeEngine()
    engine.go.clear()
    with (
        serve_fake(engine, cache_scope=scope, api_keys=KEYS) as served,
        served.client() as client,
        ThreadPoolExecutor(4) as callers,
    ):
        assert served.recognizer
        twins = served.recognizer.pool.joinable
        sent = [
            callers.submit(client.post, "/predict", content=IMAGE, headers=key) for key in (CAMERA, BOSS, BOSS, CAMERA)
        ]
        until(lambda: sorted(job.waiters for job in list(twins.values())) == [4 // calls] * calls)
        engine.go.set()
        said = sorted(answer.result().headers["x-cache"] for answer in sent)
        assert said == ["joined"] * (4 - calls) + ["miss"] * calls
        assert engine.calls == calls


def test_a_cache_for_each_key_needs_keys() -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_CACHE_SCOPE: .* set EYESPOT_API_KEYS"):
        create_app(Settings(cache_scope="key"))


def test_hits_misses_and_joined_add_up() -> None:
    engine = FakeEngine()
    with serve_fake(engine, queue=4) as served, ThreadPoolExecutor(16) as callers:
        data = [image(number % 7) for number in range(300)]
        data[::10] = [makers.jpeg()[:5000]] * 30
        answers = list(callers.map(lambda data: predict(served, data), data))
        assert {answer.status_code for answer in answers} <= {200, 422, 503}
        said = Counter(answer.headers["x-cache"] for answer in answers)
        assert counted(served) == said
        assert said.total() == 300
        assert said["hit"] > 200


def test_the_fingerprint_covers_what_a_result_depends_on() -> None:
    engine = FakeEngine()
    one = fake_classifier(engine)
    keys = {one.fingerprint}
    for change in ({"digest": "1" * 64}, {"engine": "torch"}, {"precision": "int8"}):
        other = fake_classifier(engine)
        other.info = replace(other.info, **change)
        keys.add(other.fingerprint)
    other = fake_classifier(engine)
    other.recipe = replace(other.recipe, resize=224)
    keys.add(other.fingerprint)
    other = fake_classifier(engine)
    other.labels = replace(other.labels, groups=other.labels.groups[::-1])
    keys.add(other.fingerprint)
    other = fake_classifier(engine)
    other.calibration = Calibration(temperature=2)
    keys.add(other.fingerprint)
    int8 = [golden((3, 0.9)).model_copy(update={"precision": "int8", "files": {"model.bin": file}}) for file in "ab"]
    keys |= {fake_classifier(engine, record=record).fingerprint for record in int8}
    assert len(keys) == 9
    assert fake_classifier(engine).fingerprint in keys


def test_memory_is_bounded_in_bytes_and_keeps_what_is_used() -> None:
    async def test() -> None:
        cache = MemoryCache(100_000)
        cache.put("used", "f32", b"u" * 1000)
        for number in range(1000):
            assert await cache.get("used", "f32")
            cache.put(str(number), "f32", bytes(1000))
        kept = [number for number in range(1000) if await cache.get(str(number), "f32")]
        assert 60 < len(kept) < 80
        assert kept[-1] == 999
        cache.put("too large", "f32", bytes(100_001))
        assert await cache.get("too large", "f32") is None
        await cache.drop("used")
        assert await cache.get("used", "f32") is None

    asyncio.run(test())


def test_the_size_is_configurable() -> None:
    for url, size in (("memory://", MEMORY_BYTES), ("memory://?max_bytes=1000000", 1_000_000)):
        cache = open_cache(url, Metrics())
        assert isinstance(cache, MemoryCache)
        assert cache._entries.maxsize == size


def test_a_missing_redis_is_a_miss_and_counted() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        with serve_fake(cache_url=f"redis://127.0.0.1:{free.getsockname()[1]}") as served:
            assert [predict(served).status_code for _ in range(3)] == [200] * 3
            assert metric(served, "eyespot_cache_errors_total") >= 1
            with served.client() as client:
                checks = client.get("/readyz?verbose").json()["checks"]
            (cache,) = [check for check in checks if check["name"] == "cache"]
            assert cache["ok"] is False
            assert "lost" in cache["detail"]


@pytest.mark.needs("redis-server")
def test_redis_shares_answers_between_replicas() -> None:
    with redis_server() as redis, serve_fake(cache_url=redis.url) as one, serve_fake(cache_url=redis.url) as two:
        first = predict(one)
        until(lambda: predict(two).headers["x-cache"] == "hit")
        assert predict(two, top_k=10).json()["predictions"][:3] == first.json()["predictions"]


@pytest.mark.needs("redis-server")
def test_a_foreign_value_is_a_miss() -> None:
    async def spoil(redis: RedisServer) -> None:
        cache = RedisCache(redis.url, Metrics(), timeout=30)
        for key in [key async for key in cache._client.scan_iter()]:
            for variant in await cache._client.hkeys(key):
                await cache._client.hset(key, variant, b"something else")
        await cache.close()

    with redis_server() as redis, serve_fake(cache_url=redis.url) as served:
        predict(served)
        until(lambda: predict(served).headers["x-cache"] == "hit")
        asyncio.run(spoil(redis))
        assert predict(served).headers["x-cache"] == "miss"
        assert metric(served, "eyespot_cache_errors_total") == 1


@pytest.mark.parametrize("kind", ["memory", pytest.param("redis", marks=pytest.mark.needs("redis-server"))])
def test_a_drop_removes_all_variants(kind: str) -> None:
    async def test(cache: Cache) -> None:
        for variant in ("f32", "bf16", "f32:of a key"):
            cache.put("a", variant, b"answer")
        cache.put("b", "f32", b"another")
        assert await cache.drop("a")
        assert [await cache.get("a", variant) for variant in ("f32", "bf16", "f32:of a key")] == [None] * 3
        assert await cache.get("b", "f32") == b"another"
        assert not await cache.drop("a")
        await cache.close()

    async def test_redis(url: str) -> None:
        await test(RedisCache(url, Metrics(), timeout=30))

    if kind == "memory":
        asyncio.run(test(MemoryCache(10_000)))
        return
    with redis_server() as redis:
        asyncio.run(test_redis(redis.url))


@pytest.mark.needs("redis-server")
def test_a_drop_during_a_put_wins() -> None:
    async def test(redis: RedisServer) -> None:
        cache = RedisCache(redis.url, Metrics(), timeout=30)
        for number in range(100):
            cache.put("a", "f32", b"older")
            for _ in range(number % 10):  # so that the drop meets the put at every step
                await asyncio.sleep(0)
            assert await cache.drop("a")
            assert await cache.get("a", "f32") is None
            assert not await cache.drop("a")
        cache.put("a", "f32", b"older")
        cache.put("b", "f32", b"another")
        dropping = asyncio.create_task(cache.drop("a"))
        await asyncio.sleep(0)
        cache.put("a", "f32", b"younger")
        assert await dropping
        await cache.close()
        again = RedisCache(redis.url, Metrics(), timeout=30)
        assert (await again.get("a", "f32"), await again.get("b", "f32")) == (b"younger", b"another")
        await again.close()

    with redis_server() as redis:
        asyncio.run(test(redis))


@pytest.mark.needs("redis-server")
def test_a_drop_waits_for_earlier_puts() -> None:
    async def test(redis: RedisServer) -> None:
        arriving, go_on = asyncio.Event(), asyncio.Event()

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1000):
                if b"older" in data:
                    arriving.set()
                    await go_on.wait()
                writer.write(data)
            writer.close()

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            beyond, towards = await asyncio.open_connection("127.0.0.1", redis.port)
            await asyncio.gather(forward(reader, towards), forward(beyond, writer))

        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        cache = RedisCache(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", Metrics())
        cache.put("a", "f32", b"older")
        await arriving.wait()
        with pytest.raises(CacheUnavailable):
            await cache.drop("a")
        go_on.set()
        async with asyncio.timeout(30):
            while True:
                with suppress(CacheUnavailable):  # until it is tried again
                    await cache.drop("a")
                    break
                await asyncio.sleep(0.01)
        assert await cache.get("a", "f32") is None
        await cache.close()
        server.close()

    with redis_server() as redis:
        asyncio.run(test(redis))


@pytest.mark.needs("redis-server")
def test_a_hung_redis_delays_one_request_and_is_found_again() -> None:
    with redis_server() as redis, serve_fake(cache_url=redis.url) as served:
        predict(served)
        until(lambda: predict(served).headers["x-cache"] == "hit")
        redis.pause()
        with served.client() as client:
            answers = [client.post("/predict", content=IMAGE) for _ in range(20)]
        assert {(answer.status_code, answer.headers["x-cache"]) for answer in answers} == {(200, "miss")}
        assert metric(served, "eyespot_cache_errors_total") < 20  # it is left alone after the first
        redis.resume()
        until(lambda: predict(served).headers["x-cache"] == "hit")


@pytest.mark.needs("redis-server")
def test_a_redis_killed_under_load_fails_no_request() -> None:
    with redis_server() as redis, serve_fake(cache_url=redis.url, queue=64) as served, ThreadPoolExecutor(8) as callers:
        answers = [callers.submit(predict, served, image(number % 20)) for number in range(200)]
        until(lambda: sum(answer.done() for answer in answers) > 50)
        redis.kill()
        until(lambda: sum(answer.done() for answer in answers) > 120)
        redis.start()
        assert {answer.result().status_code for answer in answers} == {200}
        until(lambda: predict(served).headers["x-cache"] == "hit")


@pytest.mark.needs("redis-server")
def test_a_full_redis_is_still_read() -> None:
    async def fill(redis: RedisServer) -> None:
        cache = RedisCache(redis.url, Metrics(), timeout=30)
        await cache._client.config_set("maxmemory-policy", "noeviction")
        await cache._client.config_set("maxmemory", "1")
        await cache.close()

    with redis_server() as redis, serve_fake(cache_url=redis.url) as served:
        predict(served)
        until(lambda: predict(served).headers["x-cache"] == "hit")
        asyncio.run(fill(redis))
        assert predict(served, image(1)).headers["x-cache"] == "miss"
        until(lambda: metric(served, "eyespot_cache_errors_total") >= 1)  # more if the machine stood still meanwhile
        until(lambda: predict(served).headers["x-cache"] == "hit")


@pytest.mark.needs("redis-server")
def test_a_redis_that_is_slow_to_connect_is_used_in_the_end() -> None:
    async def test(redis: RedisServer) -> None:
        async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.2)  # longer than anybody waits
            beyond, towards = await asyncio.open_connection("127.0.0.1", redis.port)
            await asyncio.gather(pipe(reader, towards), pipe(beyond, writer))

        async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1000):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(late, "127.0.0.1", 0)
        cache = RedisCache(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", Metrics())
        assert await cache.get("a", "f32") is None
        assert not cache.state()[0]
        async with asyncio.timeout(30):
            while await cache.get("a", "f32") != b"known":
                cache.put("a", "f32", b"known")
                await asyncio.sleep(0.01)
        await cache.close()
        server.close()

    with redis_server() as redis:
        asyncio.run(test(redis))

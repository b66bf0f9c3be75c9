"""The servers that other tests are run against: they answer, they can be killed and started again, and they end."""

import contextlib
import socket
from pathlib import Path

import psycopg
import pytest
import redis

from tests.services import (
    PostgresServer,
    Service,
    haproxy_server,
    postgres_server,
    redis_server,
)

CONFIG = """
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
listen here
    bind "${LISTEN}"
    http-request return status 200 content-type text/plain string "${WORD}"
"""


def ask(server: PostgresServer, question: str, *, connect_timeout: int = 30) -> list[tuple[object, ...]]:
    with contextlib.closing(
        psycopg.connect(server.url, connect_timeout=connect_timeout, autocommit=True)
    ) as connection:
        cursor = connection.execute(question)
        return cursor.fetchall() if cursor.description else []


def pids(server: Service) -> list[int]:
    assert server.process
    return [server.process.pid, *server._children()]


def runs(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.needs("redis-server")
def test_redis_answers_forgets_when_it_is_killed_and_can_be_started_again() -> None:
    with redis_server() as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("word", "here")
            assert client.get("word") == b"here"
            before = pids(server)
            server.kill()
            assert not any(map(runs, before))
            with pytest.raises(redis.ConnectionError):
                client.get("word")
            server.start()
            assert client.get("word") is None
        last = pids(server)
    assert not any(map(runs, last))
    assert not server.folder.exists()


@pytest.mark.needs("redis-server")
def test_redis_that_hangs_answers_when_it_goes_on() -> None:
    with redis_server() as server, socket.create_connection(("127.0.0.1", server.port), timeout=0.2) as client:
        server.pause()
        client.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            client.recv(100)
        server.resume()
        client.settimeout(30)
        assert client.recv(100) == b"+PONG\r\n"


@pytest.mark.needs("make test-all")
@pytest.mark.needs("postgres")
def test_postgres_remembers_what_was_committed_when_it_is_killed() -> None:
    with postgres_server() as server:
        ask(server, "CREATE TABLE words (word text)")
        with contextlib.closing(psycopg.connect(server.url)) as cut_off:
            ask(server, "INSERT INTO words VALUES ('here')")
            cut_off.execute("INSERT INTO words VALUES ('not committed')")
            before = pids(server)
            assert len(before) > 3  # the backend of this connection among them
            server.kill()
            assert not any(map(runs, before))
            with pytest.raises(psycopg.OperationalError):
                cut_off.execute("SELECT 1")
            with pytest.raises(psycopg.OperationalError):
                ask(server, "SELECT 1")
        server.start()
        assert ask(server, "SELECT word FROM words") == [("here",)]
        assert ask(server, "SHOW fsync") == [("on",)]
        server.stop()
        server.start()
        assert ask(server, "SELECT word FROM words") == [("here",)]
        last = pids(server)
    assert not any(map(runs, last))
    assert not server.folder.exists()


@pytest.mark.needs("make test-all")
@pytest.mark.needs("postgres")
def test_postgres_that_hangs_answers_when_it_goes_on_and_can_be_stopped_while_it_hangs() -> None:
    with postgres_server() as server, contextlib.closing(psycopg.connect(server.url)) as connection:
        server.pause()
        assert not server.answers()
        connection.pgconn.send_query(b"SELECT 1")
        with socket.socket(fileno=socket.dup(connection.fileno())) as waiting:
            waiting.settimeout(0.2)
            with pytest.raises(TimeoutError):
                waiting.recv(1, socket.MSG_PEEK)
            server.resume()
            waiting.settimeout(30)
            assert waiting.recv(1, socket.MSG_PEEK)
        server.pause()


@pytest.mark.needs("make test-all")
@pytest.mark.needs("postgres")
def test_postgres_that_was_killed_leaves_no_shared_memory() -> None:
    def segments() -> set[str]:
        return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}

    before = segments()
    with postgres_server() as server:
        during = segments() - before
        server.kill()
        assert during
    assert not during & segments()


@pytest.mark.needs("haproxy")
def test_haproxy_answers_and_can_be_started_again(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    with haproxy_server(config, WORD="hello") as server:
        for end in (server.kill, server.stop):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(1000), b""))
            assert answer.endswith(b"\r\n\r\nhello")
            end()
            assert not server.answers()
            server.start()


@pytest.mark.needs("haproxy")
def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text("nonsense\n")
    with pytest.raises(AssertionError, match="unknown keyword 'nonsense'"), haproxy_server(config):
        pytest.fail("it started")

"""Real servers for the tests: Redis, PostgreSQL and HAProxy, on free loopback ports and in temporary folders."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

# Debian keeps PostgreSQL's programs in folders by version, and HAProxy where only root's PATH leads.
_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(re.sub(r"\D", "", path.parent.name)))
_PATH = os.pathsep.join([os.environ.get("PATH", ""), *map(str, reversed(_POSTGRES)), "/usr/sbin"])
_SECONDS = 60  # until a server must have started or stopped


def which(tool: str) -> str | None:
    """Where a program is, also where a server's package puts it."""
    return shutil.which(tool, path=_PATH)


def free_port() -> int:
    """A port that stays free while a server is down: none that the system gives to whoever connects.

    Such a port could be taken meanwhile; by a client, even, that tries to reach the server and meets itself.
    """
    while True:
        port = random.randrange(20_000, 32_768)  # where Linux begins; net.ipv4.ip_local_port_range
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Service:
    """A server in a process of its own. What it prints is in `log`, and in the error when it does not start."""

    hello: ClassVar[tuple[bytes, bytes]] = (b"", b"")  # what a client says first, and how a server that is ready begins
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def identity(self) -> dict[str, Any]:
        """As whom it runs, as `subprocess` has it."""
        return {}

    def start(self) -> None:
        """Start it, again on the same port and with the same data, and wait until it answers."""
        assert self.process is None, "it runs"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment(),
                start_new_session=True,
                **self.identity(),
            )
        deadline = time.monotonic() + _SECONDS
        while not self.answers():
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"{self.command()[0]} did not start:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.01)

    def answers(self) -> bool:
        question, answer = self.hello
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(question)
                return not answer or connection.recv(100).startswith(answer)
        except OSError:
            return False

    def stop(self) -> None:
        """Stop it as an operator does; nothing when it does not run."""
        if self.process is None:
            return
        self.process.send_signal(self.stop_signal)
        self.resume()
        try:
            self.process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self.process = None

    def kill(self) -> None:
        """End it and its children with SIGKILL; nothing when it does not run."""
        if self.process is None:
            return
        self.pause()
        children = self._children()
        self._send(signal.SIGKILL)
        self.process.wait()
        self.process = None
        _wait_until(lambda: all(_state(child) in "ZX" for child in children))

    def pause(self) -> None:
        """Leave it hanging: connections are accepted by the kernel, and nothing is answered."""
        assert self.process
        pid = self.process.pid
        self.process.send_signal(signal.SIGSTOP)
        _wait_until(lambda: _state(pid) in "TZX")  # then it begins no more children
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def close(self) -> None:
        self.stop()

    def _children(self) -> list[int]:
        assert self.process
        if self.process.poll() is not None:
            return []
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _send(self, number: signal.Signals) -> None:
        """To it and its children, each of which may have a process group of its own."""
        assert self.process
        children = self._children()
        self.process.send_signal(number)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)


def _state(pid: int) -> str:
    """As in proc(5): T is stopped, Z has ended and X has been waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class RedisServer(Service):
    """Redis that keeps nothing on disk: what was in it is gone after a kill or a stop."""

    hello = (b"PING\r\n", b"+PONG")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        redis = which("redis-server")
        assert redis
        keep_nothing = ["--save", "", "--appendonly", "no"]
        return [redis, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), *keep_nothing]


class PostgresServer(Service):
    """PostgreSQL with fsync on: what was committed is there after a kill."""

    # The first message of a client (protocol 3.0): its length, the version, names and values. The answer asks for the
    # password; a server that recovers from a kill, and is not ready, begins with E.
    _WHO = b"user\0eyespot\0database\0eyespot\0\0"
    hello = (struct.pack("!II", 8 + len(_WHO), 3 << 16) + _WHO, b"R")
    stop_signal = signal.SIGINT  # without waiting for clients to leave; a restart then needs no recovery

    @property
    def url(self) -> str:
        return f"postgresql://eyespot:secret@127.0.0.1:{self.port}/eyespot"

    def program(self, name: str) -> str:
        postgres = which("postgres")
        assert postgres
        return str(Path(postgres).resolve().with_name(name))

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "dynamic_shared_memory_type": "mmap",  # in the data folder, so that a kill leaves nothing elsewhere
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self.program("postgres"), "-D", str(self.folder / "data"), *options]

    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}

    def identity(self) -> dict[str, Any]:
        root = os.geteuid() == 0  # as whom it refuses to run
        return {"user": "postgres", "group": "postgres", "extra_groups": []} if root else {}

    def create(self) -> None:
        """A new data folder with one user, who may do anything, and a database of the same name."""
        password = self.folder / "password"
        password.write_text("secret\n")
        if identity := self.identity():
            for path in (self.folder, password):
                shutil.chown(path, identity["user"], identity["group"])
        data = str(self.folder / "data")
        access = ["--username=eyespot", f"--pwfile={password}", "--auth-local=trust", "--auth-host=scram-sha-256"]
        self._run("initdb", "--pgdata", data, *access, "--encoding=UTF8", "--locale=C", "--no-sync")
        self._run("postgres", "--single", "-D", data, "postgres", said="CREATE DATABASE eyespot;\n")

    def _run(self, program: str, *arguments: str, said: str = "") -> None:
        done = subprocess.run(
            [self.program(program), *arguments],
            input=said,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self.environment(),
            **self.identity(),
        )
        assert done.returncode == 0, f"{program} failed:\n{done.stdout}"

    def close(self) -> None:
        super().close()
        left = self.folder / "data" / "postmaster.pid"
        if left.exists():  # killed, and not started again: a bit of shared memory is named in its seventh line
            subprocess.run(["ipcrm", "-m", left.read_text().splitlines()[6].split()[1]], check=True)


class HaproxyServer(Service):
    """HAProxy with a configuration that listens at "${LISTEN}"."""

    def __init__(self, folder: Path, port: int, config: Path, variables: dict[str, str]) -> None:
        super().__init__(folder, port)
        self._config = config
        self._variables = variables

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        haproxy = which("haproxy")
        assert haproxy
        return [haproxy, "-db", "-f", str(self._config)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "LISTEN": f"127.0.0.1:{self.port}", **self._variables}


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A Redis that is empty."""
    with _folder() as folder, _running(RedisServer(folder, free_port())) as server:
        yield server


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL with an empty database."""
    with _folder() as folder:
        server = PostgresServer(folder, free_port())
        server.create()
        with _running(server):
            yield server


@contextmanager
def haproxy_server(config: Path, **environment: str) -> Iterator[HaproxyServer]:
    """HAProxy with that file and those variables; `LISTEN` is given."""
    with _folder() as folder, _running(HaproxyServer(folder, free_port(), config, environment)) as server:
        yield server


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="eyespot-") as folder:
        yield Path(folder)


_S = TypeVar("_S", bound=Service)


@contextmanager
def _running(server: _S) -> Iterator[_S]:
    try:
        server.start()
        yield server
    finally:
        server.close()

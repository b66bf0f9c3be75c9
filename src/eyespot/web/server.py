"""One process that serves the app: the port, the signals, and a stop that loses no request."""

import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from eyespot.errors import ModelUnavailable, PortTaken
from eyespot.telemetry import event
from eyespot.web.gate.protocol import Protocol

HANDSHAKE_SECONDS = 0.25  # for a connection that has begun to be established and accepted
_FIRST_REQUEST_SECONDS = 1  # for a client to send once it is connected and the port is closed
# IP_MINTTL and IPV6_MINHOPCOUNT of linux/in.h and in6.h; Python has no names for them.
_MIN_TTL_OPTIONS = ((socket.IPPROTO_IP, 21), (socket.IPPROTO_IPV6, 73))
_ANY_TTL, _MAX_TTL = 0, 255
_REASONS = {
    errno.EADDRINUSE: "the port is in use; set EYESPOT_PORT to another one",
    errno.EADDRNOTAVAIL: "no network interface has this address; set EYESPOT_HOST to one of this machine's",
    errno.EACCES: "ports below 1024 are for root; set EYESPOT_PORT to a higher one",
}
# uvicorn's messages about requests cut off by a stop; the access log has them.
_CUT_OFF = ("Cancel %s running task(s)", "ASGI callable returned without completing response")
logging.getLogger("uvicorn.error").addFilter(lambda record: not str(record.msg).startswith(_CUT_OFF))


def bind(host: str, port: int) -> socket.socket:
    """A socket with that address. It does not listen yet: connections are refused until the model is ready.

    Raises `PortTaken` if the address is in use, belongs to another machine, or needs more rights.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a possible host name
        raise cannot_listen(error, host, port) from error
    return bound


def cannot_listen(error: OSError | UnicodeError, host: str, port: int) -> PortTaken:
    """The error with its remedy."""
    if isinstance(error, UnicodeError | socket.gaierror):
        reason = "this is not an address; set EYESPOT_HOST to one of this machine"
    else:
        reason = _REASONS.get(error.errno or 0, f"{error.strerror or error}; check EYESPOT_HOST and EYESPOT_PORT")
    return PortTaken(f"cannot listen on {f'[{host}]' if ':' in host else host}:{port}: {reason}")


class Server(uvicorn.Server):
    """uvicorn with a stop that drains. `run` raises StartError if the app cannot start or the address is taken.

    SIGTERM: not ready, but listening for another `drain_seconds` while balancers take notice; then accepted requests
    finish, and the exit code is 0. SIGINT, from a terminal: the same without the wait. A second signal: at once.
    `handle_hangup` is for SIGHUP.
    """

    def __init__(
        self,
        app: FastAPI,
        on_ready: Callable[[], None],
        drain_seconds: float,
        deadline_seconds: float,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        **options: Any,
    ) -> None:
        """`on_ready` is called when the port listens; `options` are for `uvicorn.Config`."""
        ours: dict[str, Any] = {
            "http": Protocol,
            "log_config": None,
            "access_log": False,
            "server_header": False,
            "lifespan": "off",  # see serve
            "ws": "none",
            "timeout_keep_alive": 75,  # longer than the 60 s of common balancers, which would meet a reset
            "timeout_graceful_shutdown": math.ceil(deadline_seconds) + 5,
            "proxy_headers": False,  # the gate reads them
        }
        super().__init__(uvicorn.Config(app, **{**ours, **options}))
        self._app = app
        self._on_ready = on_ready
        self._drain_seconds = drain_seconds
        self._handshake_seconds = handshake_seconds
        self._stop_at = math.inf
        self._on_terminal = os.isatty(0)
        self._hung_up = False
        self._reopening: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the app, listen, and stop; uvicorn's lifespan protocol would reduce an error to its text."""
        with self.capture_signals():
            async with self._app.router.lifespan_context(self._app):
                await self._serve(sockets)
            if self._app.state.recognizer.model.is_switching and threading.current_thread() is threading.main_thread():
                event("server_stopped")
                os._exit(0)  # all is closed, and an orderly end would wait until the model is loaded or exported

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for port in sockets or ():
            try:
                port.listen(self.config.backlog)  # uvloop ignores EADDRINUSE
            except OSError as error:
                raise cannot_listen(error, *port.getsockname()[:2]) from error
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._stop_at < math.inf:
            self.should_exit = self.force_exit = True
            return
        if not self.started:
            event("start_abandoned", signal=signal.Signals(sig).name)
            os._exit(0)  # nothing is accepted yet, and an orderly stop would wait until the model is loaded or exported
        wait = self._drain_seconds if sig == signal.SIGTERM else 0
        self._stop_at = time.monotonic() + wait
        self._app.state.recognizer.pool.draining = True
        event("stop_requested", signal=signal.Signals(sig).name, drain_seconds=wait)

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """Open the model anew; or stop, if it is the terminal that hung up, as when its window is closed."""
        if self._on_terminal and not os.isatty(0):
            self.handle_exit(sig, frame)
        else:
            self._hung_up = True

    async def _reopen(self) -> None:
        with contextlib.suppress(ModelUnavailable):  # the log says why
            await self._app.state.recognizer.model.switch()

    async def on_tick(self, counter: int) -> bool:
        if self._hung_up:
            self._hung_up = False
            self._reopening = asyncio.create_task(self._reopen())
        self.should_exit = self.should_exit or time.monotonic() >= self._stop_at
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, answer all requests that reached it, and stop.

        uvicorn alone resets connections in the port's queue, and closes those that have not sent yet: 40 stops under
        load lost 103 requests.
        """
        for port in sockets or ():
            _set_min_ttl(port, _MAX_TTL)
        begun = time.monotonic()
        while not self.force_exit and (waited := time.monotonic() - begun) < _FIRST_REQUEST_SECONDS:
            await asyncio.sleep(0.01)  # for the loop to accept the queue
            connections = self.server_state.connections
            for connection in connections:
                _set_min_ttl(connection.transport.get_extra_info("socket"), _ANY_TTL)  # inherited from the port
            if waited > self._handshake_seconds and all(
                getattr(connection, "cycle", None) for connection in connections
            ):
                break  # each has sent a request
        await super().shutdown(sockets)


def _set_min_ttl(on: socket.socket, ttl: int) -> None:
    """Make the kernel drop packets with a lower TTL; handshakes that have begun still complete.

    Packets start at 64 or 128, so with 255 no new connection is possible: the client's kernel retries after a second,
    and is refused, as the port is closed by then. Otherwise connections that arrive between the last accept and the
    close are lost. Linux only; see ip(7), IP_MINTTL, made for RFC 5082.
    """
    if sys.platform == "linux":
        for level, option in _MIN_TTL_OPTIONS:
            with contextlib.suppress(OSError):  # not IPv6, or unknown in a sandbox
                on.setsockopt(level, option, ttl)

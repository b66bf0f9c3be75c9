"""One process that serves the app: the port, the signals, and an end that loses no request."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from eyespot.errors import PortTaken
from eyespot.telemetry import event
from eyespot.web.gate.protocol import Protocol

_KEEP_ALIVE_SECONDS = (
    75  # longer than the 60 s after which common balancers drop an idle connection, or they meet a reset
)

_HANDSHAKE_SECONDS = 0.25  # what a connection that has begun may take to be completed and accepted
_FIRST_REQUEST_SECONDS = 1  # what a client may take between connecting and sending, once the port is closed
_IP_MINTTL, _IPV6_MINHOPCOUNT = 21, 73  # linux/in.h, linux/in6.h; Python has no names for them
_ANY, _NEAREST = 0, 255


def bind(host: str, port: int) -> socket.socket:
    """A socket at that address which does not listen yet: whoever connects is refused until the model is ready.

    Raises:
        PortTaken: the address is in use, is not this machine's, or needs more rights.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        reason = getattr(error, "strerror", None) or error
        raise PortTaken(f"cannot listen on {host}:{port}: {reason}") from error
    return bound


class Server(uvicorn.Server):
    """uvicorn, with a stop of our own.

    SIGTERM: not ready from now on, still listening for `drain_seconds` while balancers take notice, then accepted
    requests finish, exit code 0. SIGINT is somebody at a terminal: the same without the wait. Either again: at once.
    """

    def __init__(self, app: FastAPI, bound: socket.socket, drain_seconds: float, deadline_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                ws="none",
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=math.ceil(deadline_seconds) + 5,
                # Client addresses come from our own reading of proxies.
                proxy_headers=False,
            )
        )
        self._app = app
        self._bound = bound
        self._drain_seconds = drain_seconds
        self._stop_at = math.inf

    def serve_until_stopped(self, on_ready: Callable[[], None]) -> None:
        """Open the app, listen, call `on_ready`, and return when a signal has ended it.

        Raises:
            StartError: the app cannot be opened, or another process began to listen on the same address meanwhile.
        """
        self._on_ready = on_ready
        self.run(sockets=[self._bound])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        log = logging.getLogger("uvicorn.error")
        log.disabled = True  # it would print the traceback of an error that we raise ourselves
        try:
            await super().startup(sockets)
        except SystemExit:
            raise self._app.state.start_error from None
        except OSError as error:
            await self.lifespan.shutdown()
            raise PortTaken(f"cannot listen: {error.strerror or error}") from error
        finally:
            log.disabled = False
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._stop_at < math.inf:
            self.should_exit = self.force_exit = True
            return
        if not self.started:
            event("start_abandoned", signal=signal.Signals(sig).name)
            os._exit(0)  # nothing was accepted yet; an orderly end would wait for the model to be loaded or exported
        wait = self._drain_seconds if sig == signal.SIGTERM else 0
        self._stop_at = time.monotonic() + wait
        self._app.state.recognizer.pool.draining = True
        event("stop_requested", signal=signal.Signals(sig).name, drain_seconds=wait)

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or time.monotonic() >= self._stop_at
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, answer whoever had got through by then, and end.

        uvicorn alone resets connections that wait in the port's queue, and closes those that have not sent yet: 103
        requests were lost in 40 stops under load.
        """
        _accept_from(self._bound, _NEAREST)
        begun = time.monotonic()
        while not self.force_exit and (waited := time.monotonic() - begun) < _FIRST_REQUEST_SECONDS:
            await asyncio.sleep(0.01)  # the queue is accepted meanwhile
            connections = self.server_state.connections
            for connection in connections:
                _accept_from(connection.transport.get_extra_info("socket"), _ANY)  # inherited from the port
            if waited > _HANDSHAKE_SECONDS and all(getattr(connection, "cycle", None) for connection in connections):
                break  # each has sent a request
        await super().shutdown(sockets)


def _accept_from(listening: socket.socket, least_ttl: int) -> None:
    """From now on the kernel drops packets that may have come further, and still completes handshakes that have begun.

    Packets start with a TTL of 64 or 128, so that with 255 nobody can connect any more: the client's kernel tries again
    after a second, and is refused, since the port is closed by then. Without this, there is always a moment between the
    last accept and the close. Linux only; see ip(7), IP_MINTTL, which is meant for RFC 5082.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may not know it
            listening.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, least_ttl)
        if listening.family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                listening.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, least_ttl)

"""One process that serves the app: the port, the signals, and an end that loses no request."""

import asyncio
import contextlib
import ctypes
import logging
import math
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from eyespot.errors import PortTaken
from eyespot.telemetry import event
from eyespot.web.protocol import Protocol

_KEEP_ALIVE_SECONDS = (
    75  # longer than the 60 s after which common balancers drop an idle connection, or they meet a reset
)

_FIRST_REQUEST_SECONDS = 1  # what a client may take between connecting and sending, once the port is closed
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it


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
        _drop_new_connections(self._bound)
        give_up = time.monotonic() + _FIRST_REQUEST_SECONDS
        while not self.force_exit and time.monotonic() < give_up:
            await asyncio.sleep(0.01)  # the queue is accepted meanwhile
            if all(getattr(connection, "cycle", None) for connection in self.server_state.connections):
                break  # each has sent a request
        await super().shutdown(sockets)


def _drop_new_connections(listening: socket.socket) -> None:
    """From now on the kernel drops what opens a connection, and still completes what has begun.

    The client's kernel tries again after a second, and is refused, since the port is closed by then. Without this,
    there is always a moment between the last accept and the close. Linux only; see socket(7), SO_ATTACH_FILTER.
    """
    load_flags, unless_syn, drop, keep = (0x30, 0, 0, 13), (0x45, 0, 1, 2), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFF)
    program = b"".join(struct.pack("HBBI", *step) for step in (load_flags, unless_syn, drop, keep))
    steps = ctypes.create_string_buffer(program)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may not know it
            listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 4, ctypes.addressof(steps)))

"""`eyespot` in processes of its own that need not import its libraries: each is forked from one that has."""

import atexit
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path

# The modules of the command line are left to each process: their consoles read the environment when they are made.
_LIBRARIES = ["typer.rich_utils", "rich.progress", "eyespot.web.app", "eyespot.web.server", "eyespot.client"]
_TIMEOUT_SECONDS = 120


def run(words: tuple[str, ...], cwd: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `eyespot` with these words to its end."""
    _, server = _start()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        request = json.dumps([words, str(cwd), dict(environment)]).encode()
        socket.send_fds(server, [len(request).to_bytes(4)], [out.fileno(), err.fileno()])
        server.sendall(request)
        exit_code = int(server.recv(100))
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, exit_code, out.read(), err.read())


@cache
def _start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process that forks, until this one ends, and the connection to it."""
    ours, its = socket.socketpair()
    ours.settimeout(_TIMEOUT_SECONDS)
    # A process that is forked has one thread; numpy would start more.
    settings = {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", f"from tests import command; command.serve({its.fileno()})"],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **settings},
        pass_fds=[its.fileno()],
        start_new_session=True,
    )
    its.close()
    atexit.register(_stop, process, ours)
    return process, ours


def _stop(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    os.killpg(process.pid, signal.SIGKILL)  # with a command that did not end in time
    process.wait()
    connection.close()


def serve(number: int) -> None:
    """Run the commands that arrive at the socket with this file descriptor, one after the other."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    connection = socket.socket(fileno=number)
    while True:
        size, streams, _, _ = socket.recv_fds(connection, 4, 2)
        if not size:
            break
        request = connection.recv(int.from_bytes(size), socket.MSG_WAITALL)
        process = os.fork()
        if not process:
            # The end of an interpreter with this many objects takes longer than most commands.
            os._exit(_main(*json.loads(request), streams))
        for stream in streams:
            os.close(stream)
        connection.send(str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])).encode())


def _main(words: list[str], cwd: str, environment: dict[str, str], streams: list[int]) -> int:
    """Run the command; its exit code."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
    for number, name, stream in zip((1, 2), ("stdout", "stderr"), streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
        getattr(sys, name).reconfigure(encoding=encoding, errors=errors or None)
    sys.argv = ["eyespot", *words]
    from eyespot.__main__ import main

    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0

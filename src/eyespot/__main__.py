"""`eyespot` and `python -m eyespot`: the command line, which can be stopped from its first moment on."""

import contextlib
import ctypes
import os
import signal

# For process 1, which this is in a container, the kernel drops a signal that has no handler; the imports take a second.
if os.getpid() == 1:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))

# A Ctrl-C while the imports go on ends it without a traceback.
_interrupt = signal.getsignal(signal.SIGINT)
if _interrupt is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# The heap of glibc gives threads an arena each, and every one keeps what its largest moment took.
_M_ARENA_MAX = -8  # malloc.h
with contextlib.suppress(AttributeError):  # other C libraries have no such thing
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)

from eyespot.cli.main import main  # noqa: E402 - the largest part of what the heap holds

if _interrupt is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if __name__ == "__main__":
    main()

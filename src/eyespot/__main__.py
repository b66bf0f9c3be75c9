"""`eyespot` and `python -m eyespot`: the command line, which can be stopped from its first moment on."""

import contextlib
import ctypes
import os
import signal
import sys

# Huge pages save 2 to 4 % of processor time per image. glibc reads this only when a process starts, so the server
# re-executes itself under the same process id.
if sys.platform == "linux" and sys.argv[1:] == sys.orig_argv[-1:] == ["serve"] and "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    with contextlib.suppress(OSError, ValueError):  # forbidden, or Python does not know its own path
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606

# For process 1, which this is in a container, the kernel drops a signal that has no handler; the imports take a second.
if os.getpid() == 1:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))

# A Ctrl-C while the imports go on ends it without a traceback.
_interrupt = signal.getsignal(signal.SIGINT)
if _interrupt is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# The heap of glibc gives threads an arena each, and every one keeps what its largest moment took. And it learns from
# large blocks that are freed to put those to come, up to 32 MB, into the heap, which keeps the holes that they leave.
# With that fixed it would give back, and fetch again, every 128 kB at the heap's end: decoding took a third more.
_M_ARENA_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -8, -3, -1  # malloc.h
with contextlib.suppress(AttributeError):  # other C libraries have no such thing
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_THRESHOLD, 2 * 1024 * 1024)
    mallopt(_M_TRIM_THRESHOLD, 16 * 1024 * 1024)

from eyespot.cli.main import main  # noqa: E402 - the largest part of what the heap holds

if _interrupt is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if __name__ == "__main__":
    main()

"""`eyespot` and `python -m eyespot`: the command line, which can be stopped from its first moment on."""

import os
import signal

if (
    os.getpid() == 1
):  # in a container: for process 1 the kernel drops a signal that has no handler, and imports take a second
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))

from eyespot.cli import main

if __name__ == "__main__":
    main()

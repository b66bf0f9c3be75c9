"""`eyespot` and `python -m eyespot`: the command line, which can be stopped from its first moment on."""

import os
import signal

# For process 1, which this is in a container, the kernel drops a signal that has no handler; the imports take a second.
if os.getpid() == 1:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))

from eyespot.cli import main

if __name__ == "__main__":
    main()

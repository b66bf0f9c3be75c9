"""A file that is replaced whole, or not at all."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, name: str) -> Iterator[BinaryIO]:
    """A file to write that replaces `path`, keeping its permissions, once complete and synced.

    Until then it is `.name.part` beside it, in place of any that a killed process left; no other may be writing it.
    """
    path = Path(os.path.realpath(path))  # a link stays, and its target is replaced
    unfinished = path.with_name(f".{name}.part")
    unfinished.unlink(missing_ok=True)
    try:
        with unfinished.open("xb") as file:
            if path.exists():
                unfinished.chmod(stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)

"""Writing beside others and on a disk that may be full."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bncap.errors import BncapError
from bncap.pipeline.paths import short_name


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn a full disk, or a used up quota, met while ``path`` is written into a :class:`BncapError`."""
    try:
        yield
    except Exception as error:
        # safetensors has an error of its own, with the system's number in the text alone
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT) and "(os error 28)" not in str(error):
            raise
        raise BncapError(
            f"disk full while writing {short_name(path)}: free some space or set BNCAP_ARTIFACTS to another disk, "
            "then start again; finished steps and this step's work so far are kept"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``.<folder>.lock`` beside ``folder``; if another process has it, say which and wait."""
    lock = folder.with_name(f".{folder.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise BncapError(
            f"{lock.parent} cannot be written ({error.strerror}); set BNCAP_ARTIFACTS to a folder that can be"
        ) from error
    with lock.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            print(
                f"{short_name(folder)}: waiting for another run ({stream.read().strip() or 'unknown'})", file=sys.stderr
            )
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%H:%M:%S')}")
        stream.flush()
        yield

"""Memory of this process by Linux's own counts."""

from __future__ import annotations

from pathlib import Path

from bncap.errors import BncapError

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(name: str) -> int:
    """Bytes by ``/proc/self/status``: "VmRSS" now, "VmHWM" at most, "RssAnon" now without pages of files."""
    text = STATUS.read_text("utf-8") if STATUS.is_file() else ""
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise BncapError(f"{STATUS} has no {name}; measure memory on Linux")


def forget_peak() -> None:
    """Let "VmHWM" begin anew at what the process has now."""
    try:
        FORGET.write_text("5")
    except OSError as error:
        raise BncapError(f"{FORGET} cannot be written ({error.strerror}); measure memory on Linux") from error

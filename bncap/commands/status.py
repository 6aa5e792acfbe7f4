"""What is finished, what is under way, and what it took."""

from __future__ import annotations

from pathlib import Path

from bncap.errors import BncapError
from bncap.pipeline import artifacts, paths


def status_table(profile: str) -> str:
    """One line a step folder: state, wall time, size, peak memory; :class:`BncapError` for a profile without any."""
    root = paths.artifacts_root() / profile
    folders = sorted(f for f in root.glob("[0-9][0-9]_*/*") if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise BncapError(f"nothing has been run in profile {profile}; start with: ./run_all.sh --profile {profile}")
    lines = [f"{'step':<52} {'state':<12} {'seconds':>8} {'MB':>8} {'peak MB':>8}"]
    lines += [_line(root, folder) for folder in folders]
    return "\n".join(lines)


def _line(root: Path, folder: Path) -> str:
    name = folder.relative_to(root).as_posix()
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    if not artifacts.is_finished(folder):
        return f"{name:<52} {'unfinished':<12} {'':>8} {size:>8.1f}"
    try:
        manifest = artifacts.read_manifest(folder)
    except BncapError:
        return f"{name:<52} {'unreadable':<12} {'':>8} {size:>8.1f}"
    try:
        artifacts.check_outputs(folder)
        state = "finished"
    except BncapError:
        state = "changed"
    seconds, peak = manifest.get("seconds", 0.0), manifest.get("peak_memory_bytes", 0) / 1e6
    return f"{name:<52} {state:<12} {seconds:>8.1f} {size:>8.1f} {peak:>8.0f}"

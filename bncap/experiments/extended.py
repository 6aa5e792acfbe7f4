"""What the notebooks of ``--extended`` found, kept with date and commit beside the other results."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from bncap.pipeline import artifacts, paths

READINGS, ERRORS = "readings", "error_analysis"
NAMES = (READINGS, ERRORS)


def write(profile: str, name: str, content: dict[str, Any]) -> Path:
    """Write ``content`` with today's date and the commit as ``figures/<profile>/<name>.json``, one of :data:`NAMES`.

    Where the content is what the file holds already, date and commit stay those of the first time.
    """
    path = _path(profile, name)
    if path.is_file() and artifacts.read_json(path)["found"] == content:
        return path
    made = {"date": datetime.date.today().isoformat(), "commit": artifacts.git_commit()}
    artifacts.write_json(path, {"made": made, "found": content})
    return path


def read(profile: str, name: str) -> dict[str, Any] | None:
    """``{"made": {"date", "commit"}, "found": ...}`` of :func:`write`; None where it was never run."""
    path = _path(profile, name)
    return artifacts.read_json(path) if path.is_file() else None


def result_files(profile: str) -> list[Path]:
    """The files of :data:`NAMES` that are there."""
    return [path for path in (_path(profile, name) for name in NAMES) if path.is_file()]


def _path(profile: str, name: str) -> Path:
    return paths.figures_dir(profile) / f"{name}.json"

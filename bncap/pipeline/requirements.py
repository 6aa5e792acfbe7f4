"""The packages that bncap needs, and their installed versions.  Standard library only: used before an installation."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

from bncap.pipeline.paths import ROOT


def locked_versions() -> dict[str, str]:
    """Direct dependency of pyproject.toml -> the version that requirements.txt locks; empty if a file is missing."""
    project, lock = ROOT / "pyproject.toml", ROOT / "requirements.txt"
    if not (project.is_file() and lock.is_file()):
        return {}
    direct = tomllib.loads(project.read_text("utf-8"))["project"]["dependencies"]
    names = {match[0] for requirement in direct if (match := re.match(r"[\w.-]+", requirement))}
    locked = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text("utf-8"), re.MULTILINE))
    return {name: version for name, version in locked.items() if name in names}


def installed_version(name: str) -> str | None:
    """The version without its local part, such as "2.14.1" for "2.14.1+cpu"; None if the package is not installed."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None

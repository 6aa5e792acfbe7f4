"""Inside a Kaggle kernel: what the generated notebook of :mod:`bncap.kaggle.kernels` does once it has found this package.

Needs nothing but the standard library, as it runs before anything is installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bncap.commands import check
from bncap.errors import BncapError
from bncap.pipeline import deadline, paths

NEVER_INSTALLED = ("torch", "torchvision")
"""They fit the driver of the machine and stay as they are."""


def take_over(previous: Path | None) -> None:
    """Copy the output of this kernel's version before, so that the output of the newest version is the whole."""
    if previous is None:
        print("no output of an earlier version of this kernel is attached: starting from the beginning")
        return
    for name, target in (("artifacts", paths.artifacts_root()), ("figures", Path(os.environ["BNCAP_FIGURES"]))):
        if (previous / name).is_dir():
            shutil.copytree(previous / name, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.lock"))
    print(f"going on from {previous}")


def gather_figures() -> None:
    """Copy the figures and tables of the attached kernels, which the report shows, beside those of this one."""
    for root in paths.input_roots():
        if (root.parent / "figures").is_dir():
            shutil.copytree(root.parent / "figures", os.environ["BNCAP_FIGURES"], dirs_exist_ok=True)


def keep(target: Path, without: str) -> None:
    """Copy the artefacts to ``target``, except the step folders that match ``without``: they would not fit there, and
    are made again in minutes."""
    ignored = shutil.ignore_patterns("*.lock", without)
    shutil.copytree(paths.artifacts_root(), target, dirs_exist_ok=True, ignore=ignored)


def missing_packages() -> dict[str, str]:
    """Package -> pinned version, for those that are not installed at all, without those that never are."""
    missing = {}
    for name, version in check.pins().items():
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name not in NEVER_INSTALLED:
                missing[name] = version
    return missing


def install_missing(internet: bool, scratch: Path) -> None:
    """Install what is missing from the internet, or else from the wheels of an attached dataset.

    torch and torchvision are held at what is installed.  Raises :class:`BncapError` that names what is still missing.
    """
    missing = missing_packages()
    if not missing:
        print("all packages are here")
        return
    wanted = [f"{name}=={version}" for name, version in missing.items()]
    wheels = [] if internet else wheel_folders()
    if internet or wheels:
        constraints = scratch / "constraints.txt"
        constraints.parent.mkdir(parents=True, exist_ok=True)
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in _held().items()))
        source = [] if internet else ["--no-index", *(f"--find-links={folder}" for folder in wheels)]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        subprocess.run([*pip, *source, *wanted], check=False)  # what is missing afterwards says more than its status
        importlib.invalidate_caches()
    still = [f"{name}=={version}" for name, version in missing_packages().items()]
    if still:
        raise BncapError(
            f"missing packages: {' '.join(still)}; turn the kernel's internet on, or attach a dataset with their "
            f"wheels, made with: pip download --dest wheels --no-deps --only-binary=:all: --python-version "
            f"{sys.version_info.major}.{sys.version_info.minor} {' '.join(still)}"
        )
    print("installed:", " ".join(wanted))


def wheel_folders() -> list[Path]:
    """Attached folders, or folders in them, with wheels."""
    attached = paths.kaggle_inputs()
    candidates = [*attached, *(child for folder in attached for child in sorted(folder.iterdir()) if child.is_dir())]
    return [folder for folder in candidates if next(folder.glob("*.whl"), None)]


def run(arguments: Sequence[str], folder: Path) -> None:
    """``python -m bncap <arguments>`` in ``folder``, its output shown as it comes.

    An end for lack of time is a good one.  Raises :class:`BncapError` for any other exit status than 0.
    """
    command = [sys.executable, "-u", "-m", "bncap", *arguments]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode == deadline.EXIT_STATUS:
        print(
            "Time is up, and all that was made is in the output of this version. To go on, start the next version of "
            "this kernel with its own output attached as an input."
        )
    elif process.returncode:
        raise BncapError(f"python -m bncap {' '.join(arguments)} ended with exit status {process.returncode}")


def _held() -> dict[str, str]:
    held = {}
    for name in NEVER_INSTALLED:
        try:
            held[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return held

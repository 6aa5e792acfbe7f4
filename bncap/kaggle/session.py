"""Inside a Kaggle kernel: what ``kernel.ipynb`` calls once it has found this package.

Needs the standard library alone, as it runs before anything is installed.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bncap.errors import BncapError
from bncap.pipeline import deadline, paths
from bncap.pipeline.code import installed_version, locked_versions

NEVER_INSTALLED = ("torch", "torchvision")
"""They fit the driver of the machine and stay as they are."""


def copy_earlier_output(previous: Path | None) -> None:
    """Copy the attached output of this kernel's last version, so that the output of the newest version is complete."""
    if previous is None:
        print("no output of an earlier version of this kernel is attached: starting from the beginning")
        return
    for name, target in (("artifacts", paths.artifacts_root()), ("figures", Path(os.environ["BNCAP_FIGURES"]))):
        if (previous / name).is_dir():
            shutil.copytree(previous / name, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.lock"))
    print(f"continuing from {previous}")


def gather_figures() -> None:
    """Copy the figures and tables of the attached kernels, which the report shows."""
    for root in paths.input_roots():
        if (root.parent / "figures").is_dir():
            shutil.copytree(root.parent / "figures", os.environ["BNCAP_FIGURES"], dirs_exist_ok=True)


def keep_artifacts(target: Path, without: str) -> None:
    """Copy the artefacts to ``target``, without the step folders that match ``without``."""
    ignored = shutil.ignore_patterns("*.lock", without)
    shutil.copytree(paths.artifacts_root(), target, dirs_exist_ok=True, ignore=ignored)


def install_missing(internet: bool, scratch: Path) -> None:
    """Install the packages that are missing from the internet, or else from the wheels of an attached dataset.

    torch and torchvision stay at the installed version.  Raises :class:`BncapError` that names what is still missing.
    """
    missing = _missing()
    folders = paths.kaggle_inputs()
    candidates = [*folders, *(child for folder in folders for child in sorted(folder.iterdir()) if child.is_dir())]
    wheels = [folder for folder in candidates if next(folder.glob("*.whl"), None)]
    if missing and (internet or wheels):
        constraints = scratch / "constraints.txt"
        constraints.parent.mkdir(parents=True, exist_ok=True)
        held = {name: installed_version(name) for name in NEVER_INSTALLED}
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in held.items() if version))
        source = [] if internet else ["--no-index", *(f"--find-links={folder}" for folder in wheels)]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        subprocess.run([*pip, *source, *missing], check=False)  # what is missing afterwards says more than its status
        importlib.invalidate_caches()
    if still := _missing():
        raise BncapError(
            f"missing packages: {' '.join(still)}; turn the kernel's internet on, or attach a dataset with their "
            f"wheels, made with: pip download --dest wheels --no-deps --only-binary=:all: --python-version "
            f"{sys.version_info.major}.{sys.version_info.minor} {' '.join(still)}"
        )
    print("installed:", " ".join(missing) or "nothing, all packages are here")


def _missing() -> list[str]:
    """``name==version`` of the packages that are not installed at all, without torch and torchvision."""
    versions = locked_versions().items()
    return [f"{n}=={v}" for n, v in versions if n not in NEVER_INSTALLED and installed_version(n) is None]


def run(arguments: Sequence[str], folder: Path) -> None:
    """``python -m bncap <arguments>`` in ``folder``, its output shown as it comes.

    The end of the time is no error.  Raises :class:`BncapError` for any other exit status than 0.
    """
    command = [sys.executable, "-u", "-m", "bncap", *arguments]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
    if process.returncode == deadline.EXIT_STATUS:
        print("Time is up; this version's output has all that was made. Attach it and start the next version.")
    elif process.returncode:
        raise BncapError(f"python -m bncap {' '.join(arguments)} ended with exit status {process.returncode}")

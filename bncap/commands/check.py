"""Is everything here that a profile, or one notebook of it, needs?  Looked at before hours are spent.

:func:`require` stands at the head of every notebook; ``python -m bncap check`` prints :func:`table`.  Nothing is
fetched and no network is asked: a model that is not on this machine is missing, and the remedy says how to get it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bncap.commands import resources
from bncap.commands.check_data import MISSING, OK, OTHER, Finding, Need, of_data
from bncap.device import CU126, has_kernels
from bncap.errors import BncapError
from bncap.pipeline import hub, paths
from bncap.settings import Config

LARGE = 5000
"""Triplets from which the real components are no work for a CPU: at a second a picture and pass, a week."""
DRIVER = Path("/dev/nvidia0")


NEEDS: dict[str, Need] = {
    "00": Need(own_captions=True),  # the mini components learn their text
    "01": Need(("translator", "verifier"), captions=True, pictures=True, gpu=True),
    "02": Need(("synthesiser", "synthesiser_prior", "encoder"), pictures=True, gpu=True),
    "03": Need(),
    "04": Need(("decoder", "encoder", "bertscore"), pictures=True, gpu=True),
    "05": Need(("decoder", "bertscore", "vit", "gpt2", "cnn"), pictures=True, gpu=True),
    **dict.fromkeys(("06", "07"), Need(("decoder", "bertscore"), gpu=True)),
    "08": Need(("decoder", "encoder"), gpu=True),  # from which the runs began, and whose view boxes lie in
    "09": Need(),
    "10": Need(("encoder",), pictures=True, gpu=True),
    **dict.fromkeys(("11", "12"), Need(("decoder", "encoder", "bertscore"), pictures=True, gpu=True)),
}
"""By the two digits of the notebook."""


def preflight(config: Config, notebook: str | None = None) -> list[Finding]:
    """What was found of what ``config`` needs: for all notebooks, or for the one with the two digits ``notebook``."""
    need = _need(notebook)
    return [
        _python(),
        *_packages(),
        _device(need.gpu and is_large(config, need)),
        *_room(config, need, notebook),
        *_models(config, need),
        *of_data(config, need if config.data.check_images or notebook != "01" else replace(need, pictures=False)),
    ]


def table(findings: Sequence[Finding]) -> str:
    """One line a finding: state, what, what was found; below it the remedy where one is needed."""
    lines = []
    for f in findings:
        lines.append(f"{f.state:<8} {f.what:<18} {f.found}")
        if f.state != OK and f.remedy:
            lines.append(f"{'':<8} {'':<18} -> {f.remedy}")
    return "\n".join(lines)


def require(config: Config, notebook: str | None = None) -> None:
    """Print one line if all is here; else raise :class:`BncapError` that names what is missing, with remedies."""
    findings = ensure(config, notebook)
    other = sum(f.state == OTHER for f in findings)
    note = f"; {other} other than pinned (python -m bncap check)" if other else ""
    print(f"all that {_whose(config, notebook)} needs is here{note}")


def ensure(config: Config, notebook: str | None = None) -> list[Finding]:
    """The findings, if nothing is missing; else a :class:`BncapError` with what is, and the remedies."""
    findings = preflight(config, notebook)
    missing = [f for f in findings if f.state == MISSING]
    if missing:
        lines = [f"{f.what}: {f.found}" + (f" -> {f.remedy}" if f.remedy else "") for f in missing]
        colon = ": " if len(lines) == 1 else f", {len(lines)} missing:\n"
        raise BncapError(f"{_whose(config, notebook)} cannot run{colon}" + "\n".join(lines))
    return findings


def _whose(config: Config, notebook: str | None) -> str:
    return f"notebook {notebook} in profile {config.profile}" if notebook else f"profile {config.profile}"


def download(config: Config, notebook: str | None = None) -> None:
    """Fetch from the hub each model that is needed and not here; :class:`BncapError` if one is not to be had."""
    need = _need(notebook)
    for name in real_components(config, need):
        if hub.find_local(name) is None:
            print(f"{name}: {hub.path(config, name)}", flush=True)


def real_components(config: Config, need: Need) -> dict[str, str]:
    """Name -> field of ``config.components``, for those of ``need`` that are pretrained models from outside."""
    parts = config.components
    names = {getattr(parts, part): part for part in need.parts}
    if "kandinsky" not in parts.synthesiser.lower():
        names.pop(parts.synthesiser_prior, None)  # only Kandinsky has one
    return {name: part for name, part in names.items() if name not in hub.BUILT_IN and not name.startswith("mini:")}


def is_large(config: Config, need: Need) -> bool:
    """Whether a CPU would take weeks: real components on COCO; the size of an own data set is not known here."""
    of_coco = config.data.source == "coco" and config.data.triplets > LARGE
    return of_coco and bool(real_components(config, need))


def pins() -> dict[str, str]:
    """Direct dependency of pyproject.toml -> the version that requirements.txt locks; empty if a file is missing."""
    project, lock = paths.ROOT / "pyproject.toml", paths.ROOT / "requirements.txt"
    if not (project.is_file() and lock.is_file()):
        return {}
    direct = tomllib.loads(project.read_text("utf-8"))["project"]["dependencies"]
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in direct}
    locked = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text("utf-8"), re.MULTILINE))
    return {name: version for name, version in locked.items() if name in names}


def _need(notebook: str | None) -> Need:
    if notebook is None:
        parts = dict.fromkeys(part for need in NEEDS.values() for part in need.parts)
        return Need(tuple(parts), captions=True, pictures=True, gpu=True)
    if notebook not in NEEDS:
        raise BncapError(f"there is no notebook {notebook!r}; there are {', '.join(NEEDS)}")
    return NEEDS[notebook]


def _python() -> Finding:
    state = OK if sys.version_info >= (3, 11) else MISSING
    return Finding("Python", platform.python_version(), state, "use Python 3.11 or newer")


def _packages() -> list[Finding]:
    wanted = pins()
    missing, other = [], []
    for name, version in wanted.items():
        try:
            here = importlib.metadata.version(name)
            if here.split("+")[0] != version:
                other.append(f"{name} {here} (pinned {version})")
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{name}=={version}")
    found = [Finding("packages", f"{len(wanted) - len(missing)} of {len(wanted)}")]
    if missing:
        found = [Finding("packages", f"missing: {', '.join(missing)}", MISSING, f"pip install {' '.join(missing)}")]
    if other:
        found.append(Finding("other versions", ", ".join(other), OTHER, "it may run; the numbers may differ slightly"))
    return found


def _device(needed: bool) -> Finding:
    # A GPU without kernels kills small profiles as well; without a driver there is none, and torch is slow to import.
    if not needed and "torch" not in sys.modules and not DRIVER.exists():
        return Finding("device", "CPU, which is enough")
    try:
        import torch
    except ImportError:
        return Finding("device", "torch is not installed", MISSING, "install the packages first")
    if not torch.cuda.is_available():
        remedy = "this needs a CUDA GPU of 16 GB (Kaggle: GPU T4 x2); without one use --profile mini"
        return Finding("device", "no GPU that torch can use", MISSING if needed else OK, remedy)
    count = torch.cuda.device_count()
    capabilities = [torch.cuda.get_device_capability(i) for i in range(count)]
    memory_gb = min(torch.cuda.get_device_properties(i).total_memory for i in range(count)) / 1e9
    found = f"{count} x {torch.cuda.get_device_name(0)}, {memory_gb:.0f} GB, torch {torch.__version__}"
    for major, minor in capabilities:
        if not has_kernels((major, minor), torch.cuda.get_arch_list()):
            remedy = f"on Kaggle choose GPU T4 x2; elsewhere: {CU126}"
            return Finding("device", f"{found}: it has no kernels for sm_{major}{minor}", MISSING, remedy)
    return Finding("device", found)


def _room(config: Config, need: Need, notebook: str | None) -> list[Finding]:
    """Main memory, and room on the disk of the artefacts."""
    root = paths.artifacts_root()
    existing = next(p for p in (root, *root.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        remedy = "set BNCAP_ARTIFACTS to a folder that can be written"
        return [Finding("artefacts", f"{root} cannot be written", MISSING, remedy)]
    real = bool(real_components(config, need))
    has, wants = resources.memory_here(), resources.memory_needed(config, real)
    free, made = resources.disk_free(existing), resources.disk_made(config.profile, notebook)
    room = resources.disk_needed(config, real, notebook)
    enough = has >= 0.95 * wants  # a machine sold as 16 GB reports a little less
    on_disk = f"{free:.0f} GB free" + (f" and {made:.0f} GB made" if made >= 0.5 else "") + f" of {room:.3g} GB needed"
    fits = free + made >= room
    return [
        Finding("memory", f"{has:.0f} GB of {wants:.0f} GB needed", OK if enough else MISSING, "use a larger machine"),
        Finding("disk", f"{on_disk}, {root}", OK if fits else MISSING, "free some, or set BNCAP_ARTIFACTS"),
    ]


def _models(config: Config, need: Need) -> list[Finding]:
    """Each component: in a model folder, in the hub's cache, or missing."""
    findings = []
    for name, part in real_components(config, need).items():
        remedy = f"with internet: hf download {name} (or: python -m bncap check --download); else $BNCAP_MODELS/{name}"
        try:
            local = hub.find_local(name)
        except BncapError as error:
            findings.append(Finding(part, str(error), MISSING, "name a model of the hub, or a folder that is there"))
            continue
        folder = local.folder if local else hub.cached(name)
        if folder is None:
            findings.append(Finding(part, f"{name}: not on this machine", MISSING, remedy))
        elif not any(_weights(folder)):
            findings.append(Finding(part, f"{name}: no weights in {folder}", MISSING, remedy))
        else:
            findings.append(Finding(part, f"{name}: {folder if local else 'hub cache'}"))
    return findings or [Finding("models", "none from outside")]


def _weights(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.suffix in (".safetensors", ".bin", ".pt", ".pth", ".ckpt") and p.exists()]

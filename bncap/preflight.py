"""Is everything here that a profile needs?  Looked at before hours are spent."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from bncap import paths
from bncap.config import get_config
from bncap.errors import BncapError
from bncap.settings import Components, Config

NEEDED = {"smoke": (2, 2), "mini": (6, 3), "kaggle": (12, 60), "paper": (24, 200)}
"""Main memory and disk, GB, by profile."""
NEEDS_GPU = ("kaggle", "paper")


@dataclass(frozen=True)
class Finding:
    what: str
    found: str
    ok: bool
    remedy: str = ""


def preflight_table(profile: str) -> tuple[str, bool]:
    """A table of findings for ``profile`` and whether nothing needed is missing."""
    config = get_config(profile)
    findings = [_python(), *_packages(), _device(profile), *_room(profile), *_models(config), _data(config)]
    lines = []
    for f in findings:
        lines.append(f"{'ok' if f.ok else 'MISSING':<8} {f.what:<22} {f.found}")
        if not f.ok:
            lines.append(f"{'':<8} {'':<22} -> {f.remedy}")
    return "\n".join(lines), all(f.ok for f in findings)


def _python() -> Finding:
    return Finding("Python", platform.python_version(), sys.version_info >= (3, 11), "use Python 3.11 or newer")


def _packages() -> list[Finding]:
    """Every pinned package; another version than the pinned one is said, a missing one is an error."""
    pins = paths.ROOT / "requirements.txt"
    lines = pins.read_text("utf-8").splitlines() if pins.is_file() else []
    wanted = dict(line.split("==") for line in lines if "==" in line)
    missing, other = [], []
    for name, version in wanted.items():
        try:
            here = importlib.metadata.version(name)
            if here.split("+")[0] != version:
                other.append(f"{name} {here} (pinned {version})")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    found = f"{len(wanted) - len(missing)} of {len(wanted)}" + (
        f"; other versions: {', '.join(other)}" if other else ""
    )
    return [Finding("packages", found, not missing, f"pip install {' '.join(missing)}")]


def _device(profile: str) -> Finding:
    import torch

    if not torch.cuda.is_available():
        remedy = "this profile needs a CUDA GPU; without one use --profile mini"
        return Finding("device", "CPU", profile not in NEEDS_GPU, remedy)
    name = torch.cuda.get_device_name()
    major, minor = torch.cuda.get_device_capability()
    # kernels of a lower minor version run as well; a P100 (sm_60) is what newer builds leave out
    usable = any(a.startswith(f"sm_{major}") and int(a[3:]) <= 10 * major + minor for a in torch.cuda.get_arch_list())
    remedy = (
        f"torch {torch.__version__} has no kernels for sm_{major}{minor}: "
        "pip install torch==2.14.1 --index-url https://download.pytorch.org/whl/cu126"
    )
    return Finding("device", f"{name}, sm_{major}{minor}", usable, remedy)


def _room(profile: str) -> list[Finding]:
    memory, disk = NEEDED[profile]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    root = paths.artifacts_root()
    existing = next(p for p in (root, *root.parents) if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    usable = existing.is_dir() and os.access(existing, os.W_OK)
    return [
        Finding("memory", f"{total:.0f} GB of {memory} needed", total >= 0.95 * memory, "use a larger machine"),
        Finding("artefacts", str(root), usable, "set BNCAP_ARTIFACTS to a folder that can be written"),
        Finding("disk", f"{free:.0f} GB free of {disk} needed", free >= disk, "free some, or set BNCAP_ARTIFACTS"),
    ]


def _models(config: Config) -> list[Finding]:
    """Components from a hub: found in BNCAP_MODELS or the hub's cache, or missing."""
    findings = []
    for part in Components.__dataclass_fields__:
        name = getattr(config.components, part)
        if not isinstance(name, str) or name.startswith("mini:") or config.data.source == "mini":
            continue
        local = Path(paths.model_path(config, name))
        cached = _hub_cache() / f"models--{name.replace('/', '--')}"
        where = str(local) if local.is_dir() else "hub cache" if cached.is_dir() else "not found"
        remedy = f"with internet: hf download {name}; without: put it in $BNCAP_MODELS/{name}"
        findings.append(Finding(part, f"{name}: {where}", where != "not found", remedy))
    return findings or [Finding("models", "made by notebook 00 or shipped with the package", True)]


def _hub_cache() -> Path:
    return Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"


def _data(config: Config) -> Finding:
    if config.data.source == "mini":
        return Finding("data", "made by notebook 00", True)
    wanted = ("annotations/captions_train2014.json", "train2014", "annotations/captions_val2014.json", "val2014")
    wanted += ("flickr30k/results.csv", "flickr30k/flickr30k_images")
    try:
        root = paths.dataset_root(config)
    except BncapError as error:
        return Finding("data", "BNCAP_DATA is not set", False, str(error))
    missing = [name for name in wanted if not (root / name).exists()]
    remedy = "COCO 2014 from cocodataset.org, Flickr30k from its authors, unpacked there under these names"
    return Finding("data", f"missing: {', '.join(missing)}" if missing else str(root), not missing, remedy)

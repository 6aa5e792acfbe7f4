"""``python -m bncap check``: does this machine have everything that a profile, or one notebook of it, needs?

:func:`require` stands at the head of every notebook; ``python -m bncap check`` prints :func:`format_table`.  Nothing is
downloaded: a model that is not on this machine is missing, and the remedy says how to get it.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bncap.config import override
from bncap.errors import BncapError
from bncap.pipeline import hub, paths
from bncap.pipeline.code import installed_version, locked_versions
from bncap.settings import Config

OK, OTHER, MISSING = "ok", "other", "MISSING"
"""States: as it should be; it works but differs from what the results were made with; it will not work."""
GB = 1e9
LARGE = 5000
"""Triplets of COCO above which real components on a CPU would take weeks."""
MEMORY_GB = {"smoke": 2, "mini": 3, "own": 3}
"""Measured in profile ``mini`` with all its processes: 2.1."""
MEMORY_REAL_GB = 16
"""Two processes, one a GPU, that each load Kandinsky's 3.5 G parameters in fp16."""
DISK_GB = 1
"""With the mini components; measured in profile ``mini``: 0.5."""
DISK_REAL_GB = {"02": 18, "04": 9, "05": 39, "06": 12, "07": 11, "11": 60, "12": 12}
"""With real components and COCO's 80,000 triplets: pictures and features (02, 05), models and their checkpoints."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
DRIVER = Path("/dev/nvidia0")
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Limits of a container, in control groups of version 2 and 1."""


@dataclass(frozen=True)
class Need:
    """What a notebook uses: fields of ``config.components``, caption files, pictures, and a GPU at full size."""

    parts: tuple[str, ...] = ()
    captions: bool = False
    own_captions: bool = False
    pictures: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class Requirement:
    """One line of the table: what is required, its state, what is here, and what to do if that is not enough."""

    name: str
    here: str
    state: str = OK
    remedy: str = ""


NEEDS: dict[str, Need] = {
    "00": Need(own_captions=True),  # the mini components learn their text
    "01": Need(("translator", "verifier"), captions=True, pictures=True, gpu=True),
    "02": Need(("synthesiser", "synthesiser_prior", "encoder"), pictures=True, gpu=True),
    "03": Need(),
    "04": Need(("decoder", "encoder", "bertscore"), pictures=True, gpu=True),
    "05": Need(("decoder", "bertscore", "vit", "gpt2", "cnn"), pictures=True, gpu=True),
    **dict.fromkeys(("06", "07"), Need(("decoder", "bertscore"), gpu=True)),
    "08": Need(("decoder", "encoder"), gpu=True),
    "09": Need(),
    "10": Need(("encoder",), pictures=True, gpu=True),
    **dict.fromkeys(("11", "12"), Need(("decoder", "encoder", "bertscore"), pictures=True, gpu=True)),
}
"""By the two digits of the notebook."""


def check_requirements(config: Config, notebook: str | None = None) -> list[Requirement]:
    """The state of what ``config`` requires: for all notebooks, or for the one with the two digits ``notebook``."""
    need = find_need(notebook)
    data_need = need if config.data.check_images or notebook != "01" else replace(need, pictures=False)
    large = config.data.source == "coco" and config.data.triplets > LARGE and bool(real_components(config, need))
    return [
        Requirement("Python", platform.python_version(), OK if sys.version_info >= (3, 11) else MISSING, "use 3.11"),
        *_packages(),
        _device(need.gpu and large),
        *_memory_and_disk(config, need, notebook),
        *_models(config, need),
        *_data(config, data_need),
    ]


def find_need(notebook: str | None = None) -> Need:
    """What a notebook needs, or what all of them need together."""
    if notebook is None:
        parts = dict.fromkeys(part for need in NEEDS.values() for part in need.parts)
        return Need(tuple(parts), captions=True, pictures=True, gpu=True)
    if notebook not in NEEDS:
        raise BncapError(f"there is no notebook {notebook!r}; there are {', '.join(NEEDS)}")
    return NEEDS[notebook]


def format_table(requirements: Sequence[Requirement]) -> str:
    """One line each: state, name, what is here; below it the remedy where one is needed."""
    lines = []
    for each in requirements:
        lines.append(f"{each.state:<8} {each.name:<18} {each.here}")
        if each.state != OK and each.remedy:
            lines.append(f"{'':<8} {'':<18} -> {each.remedy}")
    return "\n".join(lines)


def require(config: Config, notebook: str | None = None, quiet: bool = False) -> None:
    """Print one line if nothing is missing; else raise :class:`BncapError` that names what is, with the remedies."""
    requirements = check_requirements(config, notebook)
    subject = f"notebook {notebook} in profile {config.profile}" if notebook else f"profile {config.profile}"
    missing = [each for each in requirements if each.state == MISSING]
    if missing:
        lines = [f"{each.name}: {each.here}" + (f" -> {each.remedy}" if each.remedy else "") for each in missing]
        colon = ": " if len(lines) == 1 else f", {len(lines)} missing:\n"
        raise BncapError(f"{subject} cannot run{colon}" + "\n".join(lines))
    if not quiet:
        other = sum(each.state == OTHER for each in requirements)
        print(f"{subject} has all it needs" + (f"; {other} other than locked (python -m bncap check)" if other else ""))


def download(config: Config, notebook: str | None = None) -> None:
    """Download each required model that is not here; :class:`BncapError` if one cannot be downloaded."""
    for name in real_components(config, find_need(notebook)):
        if hub.find_local(name) is None:
            print(f"{name}: {hub.path(config, name)}", flush=True)


def real_components(config: Config, need: Need) -> dict[str, str]:
    """Name -> field of ``config.components``, for those of ``need`` that are pretrained models from outside."""
    parts = config.components
    names = {getattr(parts, part): part for part in need.parts}
    if "kandinsky" not in parts.synthesiser.lower():
        names.pop(parts.synthesiser_prior, None)  # only Kandinsky has one
    return {name: part for name, part in names.items() if name not in hub.BUILT_IN and not name.startswith("mini:")}


def memory_here() -> float:
    """Physical memory in GB of 10^9 bytes, or the limit of the container where that is lower."""
    limits = [path.read_text().strip() for path in MEMORY_LIMITS if path.is_file()]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(int(limit) for limit in limits if limit.isdecimal())]) / GB


def _packages() -> list[Requirement]:
    versions = {name: (locked, installed_version(name)) for name, locked in locked_versions().items()}
    missing = [f"{name}=={locked}" for name, (locked, here) in versions.items() if here is None]
    different = {n: v for n, v in versions.items() if v[1] is not None and v[1].partition("+")[0] != v[0]}  # torch+cpu
    other = [f"{name} {here} (locked {locked})" for name, (locked, here) in different.items()]
    if missing:
        rows = [Requirement("packages", f"missing: {', '.join(missing)}", MISSING, f"pip install {' '.join(missing)}")]
    else:
        rows = [Requirement("packages", f"{len(versions)} of {len(versions)}")]
    if other:
        rows.append(Requirement("versions", ", ".join(other), OTHER, "it may run; the numbers may differ slightly"))
    return rows


def _device(needed: bool) -> Requirement:
    # A GPU without kernels stops small profiles as well; without a driver there is none, and torch is slow to import.
    if not needed and "torch" not in sys.modules and not DRIVER.exists():
        return Requirement("device", "CPU, which is enough")
    try:
        import torch  # heavy

        from bncap.device import CU126, has_kernels  # imports torch
    except ImportError:
        return Requirement("device", "torch is not installed", MISSING, "install the packages first")
    if not torch.cuda.is_available():
        remedy = "this needs a CUDA GPU of 16 GB (Kaggle: GPU T4 x2); without one use --profile mini"
        return Requirement("device", "no GPU that torch can use", MISSING if needed else OK, remedy)
    gpus = range(torch.cuda.device_count())
    memory = min(torch.cuda.get_device_properties(i).total_memory for i in gpus) / GB
    here = f"{len(gpus)} x {torch.cuda.get_device_name(0)}, {memory:.0f} GB, torch {torch.__version__}"
    for major, minor in (torch.cuda.get_device_capability(i) for i in gpus):
        if not has_kernels((major, minor), torch.cuda.get_arch_list()):
            remedy = f"on Kaggle choose GPU T4 x2; elsewhere: {CU126}"
            return Requirement("device", f"{here}: it has no kernels for sm_{major}{minor}", MISSING, remedy)
    return Requirement("device", here)


def _memory_and_disk(config: Config, need: Need, notebook: str | None) -> list[Requirement]:
    root = paths.artifacts_root()
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        remedy = "set BNCAP_ARTIFACTS to a folder that can be written"
        return [Requirement("artefacts", f"{root} cannot be written", MISSING, remedy)]
    memory, disk = float(MEMORY_GB.get(config.profile, MEMORY_GB["mini"])), float(DISK_GB)
    if real_components(config, need):
        memory = MEMORY_REAL_GB
        share = min(1.0, config.data.triplets / 80_000)
        disk = share * (DISK_REAL_GB.get(notebook, 1) if notebook else sum(DISK_REAL_GB.values()))
    made = sum(file.stat().st_size for file in (root / config.profile).rglob("*") if file.is_file()) / GB
    here, free = memory_here(), shutil.disk_usage(existing).free / GB
    enough = here >= 0.95 * memory  # a machine sold as 16 GB reports a little less
    space = f"{free:.1f} GB free and {made:.1f} GB made of {disk:.1f} GB needed, {root}"
    size = f"{here:.1f} GB of {memory:.0f} GB needed"
    return [
        Requirement("memory", size, OK if enough else MISSING, "use a larger machine"),
        Requirement("disk", space, OK if free + made >= disk else MISSING, "free some, or set BNCAP_ARTIFACTS"),
    ]


def _models(config: Config, need: Need) -> list[Requirement]:
    """Each component: in a model folder, in the hub's cache, or missing."""
    rows = []
    for name, part in real_components(config, need).items():
        remedy = f"with internet: hf download {name} (or: python -m bncap check --download); else $BNCAP_MODELS/{name}"
        try:
            local = hub.find_local(name)
        except BncapError as error:
            rows.append(Requirement(part, str(error), MISSING, "name a model of the hub, or a folder that is there"))
            continue
        folder = local.folder if local else hub.cached(name)
        if folder is None:
            rows.append(Requirement(part, f"{name}: not on this machine", MISSING, remedy))
        elif not any(path.suffix in WEIGHTS and path.exists() for path in folder.rglob("*")):
            rows.append(Requirement(part, f"{name}: no weights in {folder}", MISSING, remedy))
        else:
            rows.append(Requirement(part, f"{name}: {folder if local else 'hub cache'}"))
    return rows or [Requirement("models", "none from outside")]


def _data(config: Config, need: Need) -> list[Requirement]:
    """Each file and folder of the data sets."""
    if config.data.source == "mini":
        return [Requirement("data", "made by notebook 00")]
    try:
        rows = _own_data(config, need) if config.data.source == "own" else _coco_and_flickr(config, need)
        return rows or [Requirement("data", "none needed")]
    except BncapError as error:
        source = "" if config.data.source == "own" else "; COCO: cocodataset.org; Flickr30k: from its authors"
        return [Requirement("data", "not found", MISSING, f"{error}{source}")]


def _coco_and_flickr(config: Config, need: Need) -> list[Requirement]:
    from bncap.data.splits import FLICKR_FOLDERS, OOD_FILES  # imports pandas

    data, rows = config.data, []
    coco = "COCO 2014 from cocodataset.org, unpacked into a folder of BNCAP_DATA (Kaggle: attach it with --data)"
    flickr = "Flickr30k from its authors, captions and pictures, into a folder of BNCAP_DATA (Kaggle: --data)"
    files = [data.train, *([data.held_out] if data.validation_images + data.test_images else [])]
    if need.captions:
        rows += [_first_of(config, "COCO", [name], coco) for name in files]
    if need.pictures:
        folders = dict.fromkeys(match[1] for name in files if (match := re.search(r"captions_(\w+)\.json$", name)))
        rows += [_first_of(config, "COCO", [name], coco) for name in folders]
    if need.captions and data.ood_images:
        rows.append(_first_of(config, "Flickr30k", [data.ood] if data.ood else OOD_FILES, flickr))
    if need.pictures and data.ood_images and (not data.ood or "flickr30k" in data.ood):
        rows.append(_first_of(config, "Flickr30k", FLICKR_FOLDERS, flickr))
    if need.pictures and "bertscore" in need.parts:
        rows.append(_boxes(config))
    return rows


def _boxes(config: Config) -> Requirement:
    """Boxes of the test pictures, which no score of the paper needs."""
    from bncap.experiments.evaluate import noun_lexicon  # imports torch

    name = "annotations/instances_val2014.json"
    if not paths.data_path(config, name).is_file():
        return Requirement("objects", f"{name} is not here: no noun scores, no grounding", OTHER, "it comes with COCO")
    if not noun_lexicon(config):
        here = f"no words for its categories in {config.data.lang}: no noun scores, no grounding"
        return Requirement("objects", here, OTHER)
    return Requirement("objects", str(paths.data_path(config, name)))


def _first_of(config: Config, name: str, places: Sequence[str], remedy: str) -> Requirement:
    """The first of ``places`` that exists below a root of the data sets."""
    here = [path for place in places if (path := paths.data_path(config, place)).exists()]
    if here:
        return Requirement(name, str(here[0]))
    return Requirement(name, f"{' or '.join(places)}: not found", MISSING, remedy)


def _own_data(config: Config, need: Need) -> list[Requirement]:
    """The captions file, which is read so that its faults are named before a notebook starts, and its pictures."""
    from bncap.data.splits import read_splits  # imports pandas

    rows = []
    if need.captions or need.own_captions:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # remarks of the readers come when the captions are used
                splits = read_splits(override(config, ["data.check_images=False"]))  # the pictures' bytes can wait
            rows.append(Requirement("captions", f"{sum(map(len, splits.values())):,} in {config.data.captions}"))
        except BncapError as error:
            rows.append(Requirement("captions", str(error), MISSING))
    if need.pictures:
        folder = paths.dataset_roots(config)[0]
        state = OK if folder.is_dir() else MISSING
        rows.append(Requirement("pictures", str(folder), state, "no such folder; name it with --images DIR"))
    return rows

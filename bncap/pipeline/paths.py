"""Where things lie: artefacts, figures, data, models.

==================  =======================================================================
``BNCAP_ARTIFACTS``  folder of the artefacts (default ``artifacts/`` beside the package)
``BNCAP_FIGURES``    folder of the figures (default ``figures/`` beside the package)
``BNCAP_INPUTS``     folders of artefacts that are only read, as made by earlier sessions
``BNCAP_DATA``       folders with COCO and Flickr30k in their own layouts (profiles ``kaggle``, ``paper``)
``BNCAP_MODELS``     folders with models under their hub names, as on a machine without internet
==================  =======================================================================

Several folders stand in one variable with ":" between them, as in PATH.  An empty variable counts as not set.
Relative paths are made absolute on import, as notebooks and workers run in other folders.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bncap.errors import BncapError

if TYPE_CHECKING:
    from bncap.settings import Config

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
NOTEBOOKS = ROOT / "notebooks"
MANIFEST = "manifest.json"
"""Written last into the folder of a step, so that its presence means complete."""
TRIAL = "BNCAP_TRIAL"
"""Environment variable with the name of the trial that is under way, see :mod:`bncap.pipeline.artifacts`; "": none."""
VARIABLES = ("BNCAP_ARTIFACTS", "BNCAP_FIGURES", "BNCAP_INPUTS", "BNCAP_DATA", "BNCAP_MODELS")
KAGGLE_INPUT = Path("/kaggle/input")
KAGGLE_KINDS = ("datasets", "notebooks", "models", "competitions")


def resolve_variables() -> None:
    """Make the folders named in :data:`VARIABLES` absolute, in this process and those that it starts."""
    for name in VARIABLES:
        folders = _named(name)
        os.environ.pop(name, None)
        if folders:
            os.environ[name] = os.pathsep.join(str(folder.expanduser().absolute()) for folder in folders)


def _named(variable: str) -> list[Path]:
    return [Path(part) for part in os.environ.get(variable, "").split(os.pathsep) if part]


resolve_variables()


def artifacts_root() -> Path:
    """The folder that this run's steps are made in: ``artifacts/``, or ``artifacts/trial-<key>/`` of a trial."""
    return _standard_root() / os.environ.get(TRIAL, "")


def _standard_root() -> Path:
    return Path(os.environ.get("BNCAP_ARTIFACTS") or ROOT / "artifacts")


def kaggle_inputs() -> list[Path]:
    """The folders of what is attached to a Kaggle kernel, sorted; none elsewhere.

    In both layouts, ``<slug>`` and ``<kind>/<owner>/<slug>``; a model adds framework, variation and version.
    """
    if not KAGGLE_INPUT.is_dir():
        return []
    found = []
    for folder in sorted(KAGGLE_INPUT.iterdir()):
        if folder.name in KAGGLE_KINDS:
            found += sorted(folder.glob("*/*"))
            found += sorted(folder.glob("*/*/*/*/*")) if folder.name == "models" else []
        else:
            found.append(folder)
    return [folder for folder in found if folder.is_dir()]


def input_roots() -> list[Path]:
    """Artefact roots that are only read: those of ``BNCAP_INPUTS``, then those among Kaggle's inputs.

    In a trial the folders of that trial in them, then the standard root, then the inputs themselves.
    """
    named = _named("BNCAP_INPUTS")
    candidates = [*named, *kaggle_inputs()]
    nested = [folder / "artifacts" if (folder / "artifacts").is_dir() else folder for folder in candidates]
    roots = [folder for folder in nested if folder in named or folder.name == "artifacts"]
    trial = os.environ.get(TRIAL, "")
    return [*(root / trial for root in roots), _standard_root(), *roots] if trial else roots


def model_folders() -> list[Path]:
    """Folders that may hold models under their hub names."""
    return [*_named("BNCAP_MODELS"), *kaggle_inputs()]


def relative_step(folder: Path) -> Path | None:
    """``folder`` below the artefact root, or the input root, that it lies in; None elsewhere."""
    for root in (artifacts_root(), *input_roots()):
        if folder.is_relative_to(root):
            return folder.relative_to(root)
    return None


def short_name(path: Path) -> str:
    """``path`` below the artefact root where it lies there, else its last part: for messages and manifests."""
    return (relative_step(Path(path)) or Path(Path(path).name)).as_posix()


def step_dir(profile: str, step: str, variant: str, seed: int) -> Path:
    """``artifacts/<profile>/<NN_step>/<variant>-s<seed>``; if it is not there, a finished one in an input root."""
    relative = Path(profile, step, f"{variant}-s{seed}")
    own = artifacts_root() / relative
    if own.exists():
        return own
    return next((root / relative for root in input_roots() if (root / relative / MANIFEST).is_file()), own)


def figures_dir(profile: str) -> Path:
    """``figures/<profile>``, or ``figures/<profile>/trial-<key>`` of a trial, which is created here."""
    folder = Path(os.environ.get("BNCAP_FIGURES") or ROOT / "figures") / profile / os.environ.get(TRIAL, "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = "set BNCAP_FIGURES to a folder that can be written"
        raise BncapError(f"{folder} cannot be made ({error.strerror}); {remedy}") from error
    return folder


def dataset_roots(config: Config) -> list[Path]:
    """Folders with the files of the data sets, in the order of the search.

    ``data.source`` "mini": the mini world; "own": the folders of the pictures and of the captions file; "coco": those
    of ``BNCAP_DATA``, or Kaggle's inputs and the folders in them.
    """
    if config.data.source == "mini":
        return [step_dir(config.profile, "00_mini_world", "world", config.data.seed)]
    if config.data.source == "own":
        return _own_pictures(config)
    named = _named("BNCAP_DATA")
    inputs = [] if named else kaggle_inputs()
    roots = named + inputs + [child for folder in inputs for child in _folders_in(folder)]
    if not roots:
        raise BncapError("BNCAP_DATA is not set: point it at the folder that holds annotations/, train2014/, ...")
    return roots


def data_path(config: Config, name: str) -> Path:
    """The first file ``name`` of the data sets, such as "train2014/COCO_train2014_000000000009.jpg".

    If there is none: where it would be, in the first of :func:`dataset_roots` that has its uppermost folder.
    """
    return data_paths(config, [name])[name]


def data_paths(config: Config, names: Iterable[str]) -> dict[str, Path]:
    """:func:`data_path` of each of ``names``; the roots are listed once."""
    roots = tuple(dataset_roots(config))
    return {name: _locate(roots, name) for name in names}


def _locate(roots: tuple[Path, ...], name: str) -> Path:
    likely = _with_folder(roots, name.split("/", 1)[0]) or roots[:1]
    if len(likely) == 1:  # as mostly: no need to ask the disk for each of 120,000 pictures
        return likely[0] / name
    return next((root / name for root in likely if (root / name).exists()), likely[0] / name)


@functools.lru_cache(maxsize=256)
def _with_folder(roots: tuple[Path, ...], top: str) -> tuple[Path, ...]:
    return tuple(root for root in roots if (root / top).exists())


@functools.lru_cache(maxsize=256)
def _folders_in(folder: Path) -> tuple[Path, ...]:
    """Of one of Kaggle's inputs, which do not change."""
    return tuple(child for child in sorted(folder.iterdir()) if child.is_dir())


def _own_pictures(config: Config) -> list[Path]:
    data = config.data
    if not data.captions:
        raise BncapError("data.captions is not set: name the captions file with --captions FILE")
    beside = Path(data.captions).parent
    if data.images:
        return [Path(data.images), beside]
    return [*(folder for name in ("images", "Images", "pictures") if (folder := beside / name).is_dir()), beside]

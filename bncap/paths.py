"""Where things lie: artefacts, figures, data, models.

==================  =======================================================================
``BNCAP_ARTIFACTS``  folder of the artefacts (default ``artifacts/`` beside the package)
``BNCAP_FIGURES``    folder of the figures (default ``figures/`` beside the package)
``BNCAP_DATA``       folder with COCO and Flickr30k in their own layouts (profiles ``kaggle``, ``paper``)
``BNCAP_MODELS``     folder with models under their hub names, as on a machine without internet
==================  =======================================================================
"""

from __future__ import annotations

import os
from pathlib import Path

from bncap.errors import BncapError
from bncap.settings import Config

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
NOTEBOOKS = ROOT / "notebooks"


def artifacts_root() -> Path:
    return Path(os.environ.get("BNCAP_ARTIFACTS", ROOT / "artifacts"))


def short_name(path: Path) -> str:
    """``path`` below the artefact root where it lies there, else its last part: for messages and manifests."""
    path, root = Path(path), artifacts_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def step_dir(profile: str, step: str, variant: str, seed: int) -> Path:
    """``artifacts/<profile>/<NN_step>/<variant>-s<seed>``, made by :func:`bncap.artifacts.run_step`."""
    return artifacts_root() / profile / step / f"{variant}-s{seed}"


def figures_dir(profile: str) -> Path:
    """``figures/<profile>``, created; :class:`BncapError` if that cannot be."""
    folder = Path(os.environ.get("BNCAP_FIGURES", ROOT / "figures")) / profile
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BncapError(
            f"{folder} cannot be made ({error.strerror}); set BNCAP_FIGURES to a folder that can be written"
        ) from error
    return folder


def dataset_root(config: Config) -> Path:
    """Folder with ``annotations/``, ``train2014/``, ``val2014/`` and ``flickr30k/``."""
    if config.data.source == "mini":
        return step_dir(config.profile, "00_mini_world", "world", config.data.seed)
    if "BNCAP_DATA" not in os.environ:
        raise BncapError("BNCAP_DATA is not set: point it at the folder that holds annotations/, train2014/, ...")
    return Path(os.environ["BNCAP_DATA"])


def model_path(config: Config, name: str) -> str:
    """What ``from_pretrained`` is given for the component ``name``: a local folder, or the hub name itself."""
    if name.startswith("mini:"):
        part = name.removeprefix("mini:")
        if part == "encoder" and not config.world.retrain_encoder:
            return str(PACKAGE / "mini" / "checkpoints" / "maxvit_mini")
        return str(step_dir(config.profile, "00_mini_world", part, config.data.seed))
    local = Path(os.environ.get("BNCAP_MODELS", "/nonexistent")) / name
    return str(local) if local.is_dir() else name

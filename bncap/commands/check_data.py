"""Are the data sets that a notebook reads here?  A part of :mod:`bncap.commands.check`."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bncap.config import override
from bncap.errors import BncapError
from bncap.pipeline import paths
from bncap.settings import Config

OK, OTHER, MISSING = "ok", "other", "MISSING"
"""States of a finding: as it should be; it works and differs from what the results were made with; it will not work."""
WHENCE = "; COCO: cocodataset.org; Flickr30k: from its authors"


@dataclass(frozen=True)
class Need:
    """What a notebook uses: fields of ``config.components``, caption files, pictures, and a GPU at full size."""

    parts: tuple[str, ...] = ()
    captions: bool = False
    own_captions: bool = False
    pictures: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class Finding:
    what: str
    found: str
    state: str = OK
    remedy: str = ""


def of_data(config: Config, need: Need) -> list[Finding]:
    """Each file and folder of the data sets: found or missing."""
    if config.data.source == "mini" or not (need.captions or need.pictures or need.own_captions):
        return [Finding("data", "made by notebook 00" if config.data.source == "mini" else "none needed")]
    own = config.data.source == "own"
    try:
        findings = _own_data(config, need) if own else _coco_and_flickr(config, need)
        return findings or [Finding("data", "none needed")]
    except BncapError as error:
        return [Finding("data", "not found", MISSING, f"{error}{'' if own else WHENCE}")]


def _coco_and_flickr(config: Config, need: Need) -> list[Finding]:
    from bncap.data.splits import FLICKR_FOLDERS, OOD_FILES

    data = config.data
    coco = "COCO 2014 from cocodataset.org, unpacked into a folder of BNCAP_DATA (Kaggle: attach it with --data)"
    flickr = "Flickr30k from its authors, captions and pictures, into a folder of BNCAP_DATA (Kaggle: --data)"
    files = [data.train, *([data.held_out] if data.validation_images + data.test_images else [])]
    wanted = [("COCO", [name], coco) for name in files if need.captions]
    if need.pictures:
        folders = dict.fromkeys(match[1] for name in files if (match := re.search(r"captions_(\w+)\.json$", name)))
        wanted += [("COCO", [name], coco) for name in folders]
    if need.captions and data.ood_images:
        wanted.append(("Flickr30k", [data.ood] if data.ood else OOD_FILES, flickr))
    if need.pictures and data.ood_images and (not data.ood or "flickr30k" in data.ood):
        wanted.append(("Flickr30k", FLICKR_FOLDERS, flickr))
    found = [_found(config, what, names, remedy) for what, names, remedy in wanted]
    return found + ([_objects(config)] if "bertscore" in need.parts and need.pictures else [])


def _objects(config: Config) -> Finding:
    """Boxes of the test pictures, which no score of the paper needs."""
    from bncap.experiments.evaluate import noun_lexicon

    name = "annotations/instances_val2014.json"
    here = paths.data_path(config, name).is_file()
    if here and noun_lexicon(config):
        return Finding("objects", str(paths.data_path(config, name)))
    lacking = f"{name} is not here" if not here else f"no words for its categories in {config.data.lang}"
    return Finding("objects", f"{lacking}: no noun scores, no grounding", OTHER, "" if here else "it comes with COCO")


def _found(config: Config, what: str, names: Sequence[str], remedy: str) -> Finding:
    """The first of ``names`` that is there below a root of the data sets."""
    here = [path for name in names if (path := paths.data_path(config, name)).exists()]
    if here:
        return Finding(what, str(here[0]))
    return Finding(what, f"{' or '.join(names)}: not found", MISSING, remedy)


def _own_data(config: Config, need: Need) -> list[Finding]:
    findings = [_own_captions(config)] if need.captions or need.own_captions else []
    if need.pictures:
        folder = paths.dataset_roots(config)[0]
        state = OK if folder.is_dir() else MISSING
        findings.append(Finding("pictures", str(folder), state, "no such folder; name it with --images DIR"))
    return findings


def _own_captions(config: Config) -> Finding:
    """Reads them: what is wrong with the file is said here, and not by a notebook that has to start first."""
    from bncap.data.splits import read_splits

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the readers' remarks come when the captions are used
            splits = read_splits(override(config, ["data.check_images=False"]))  # the pictures' bytes can wait
    except BncapError as error:
        return Finding("captions", str(error), MISSING)
    return Finding("captions", f"{sum(map(len, splits.values())):,} in {config.data.captions}")

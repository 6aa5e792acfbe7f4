"""Main memory and disk: what there is, and what a configuration needs, worked out from its sizes.  All in GB of 10^9.

The figures of the ``kaggle`` profile, whose kernels have 31 GB of memory and keep 20 GB of output each:

========  ==========================================================================================================
notebook  what stays
========  ==========================================================================================================
01        414,113 captions, twice (shards, corpus), at 350 bytes with both languages: 0.3
02        80,000 pictures of 224 px as PNG, 90 kB each: 7.2; features of 49 x 768 fp16 of these, of the 0.7 as many
          real pictures that they belong to, and of 2,500 test pictures: 138,500 x 75 kB: 10.4
04        two models of 235 M parameters (trimmed vocabulary) in fp32: 1.9, and while one is trained its best weights,
          its checkpoint with AdamW's moments, and the next checkpoint beside it: 7 x 0.94: 6.6
05        features of the real pictures by ViT (196 x 768) and ResNet-50 (49 x 2,048), 58,500 x 502 kB: 29.3, and
          two smaller models
06, 07    as 04 with five and four models: 11.3, 10.3
========  ==========================================================================================================
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bncap.config import EXTENDED_NOTEBOOKS, FILTERS, READINGS
from bncap.pipeline import paths
from bncap.settings import Config

GB = 1e9
REAL_SHARE = 0.7
"""Real pictures per triplet: 80,000 draws of 330,000 accepted captions meet about 55,000 of COCO's pictures."""
TRAIN_PICTURES = 82_783
CAPTION_BYTES = 350 * 414_113 * 2
PNG_SHARE = 0.6
"""Of the raw bytes of a photograph's small PNG."""
FEATURE_BYTES = 49 * 768 * 2
PENULTIMATE_BYTES = 196 * 384 * 2
BASELINE_FEATURE_BYTES = (196 * 768 + 49 * 2048) * 2
DECODER_BYTES = 204e6 * 4
"""Twelve mBART-50 decoder layers and the bridge in fp32."""
VOCABULARY = {True: 30_000, False: 250_054}
"""Pieces by ``model.trim_vocabulary``; each is 1,024 numbers of 4 bytes."""
TRAINING_COPIES = 7
"""Of a model on disk while it is trained: the best weights, and two checkpoints of weights and two moments."""
MODELS = {"04": 2, "05": 2, "06": 5, "07": 5, "11": len(READINGS), "12": len(FILTERS)}
"""Models that a notebook trains, one after the other."""
SMALL = {"smoke": (2, 0.1), "mini": (6, 1.0)}
"""Memory and disk of all notebooks together with the mini components: measured 5.2 and 0.5 in profile mini."""


def memory_here() -> float:
    """Physical memory, or the limit of the container where that is lower."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_container_limits()]) / GB


def memory_needed(config: Config, real: bool) -> float:
    """With real components, two processes, one a GPU, that each load Kandinsky's 3.5 G parameters in fp16, and 2 GB."""
    return 16.0 if real else _small(config)[0]


def disk_free(folder: Path) -> float:
    return shutil.disk_usage(folder).free / GB


def disk_made(profile: str, notebook: str | None = None) -> float:
    """What the steps of ``profile``, or of one notebook, take up already, here and in the inputs of a kernel."""
    roots = [root / profile for root in (paths.artifacts_root(), *paths.input_roots())]
    files = (file for root in roots for file in root.glob(f"{notebook or '[0-9][0-9]'}_*/*/**/*"))
    return sum(file.stat().st_size for file in files if file.is_file()) / GB


def disk_needed(config: Config, real: bool, notebook: str | None = None) -> float:
    """For one notebook; for all of them their sum, or on Kaggle, where each has a kernel of its own, the largest."""
    if not real:
        return _small(config)[1]
    kept, passing = ({n: f(config, n) / GB for n in (*MODELS, "01", "02")} for f in (_kept, _passing))
    if notebook:
        return kept.get(notebook, 0.1) + passing.get(notebook, 0.0)
    kept = {number: size for number, size in kept.items() if number not in EXTENDED_NOTEBOOKS}
    if paths.KAGGLE_INPUT.is_dir():
        return max(kept[n] + passing[n] for n in kept)
    return sum(kept.values()) + max(passing.values())


def _kept(config: Config, notebook: str) -> float:
    """Bytes that stay when ``notebook`` is through."""
    triplets = config.data.triplets
    tested = config.data.validation_images + config.data.test_images + config.data.ood_images
    seen = REAL_SHARE * triplets + tested
    if notebook == "01":
        return CAPTION_BYTES
    if notebook == "02":
        drawn = 0 if config.components.synthesiser == "none" else triplets
        side = config.synthesis.stored_side or config.synthesis.side
        features = FEATURE_BYTES + PENULTIMATE_BYTES * config.features.penultimate
        return drawn * side**2 * 3 * PNG_SHARE + (drawn + seen) * features
    models = MODELS[notebook] * max(len(config.experiment.seeds), config.experiment.n_seeds)
    features = {
        "05": seen * BASELINE_FEATURE_BYTES,
        "11": (triplets + seen) * (FEATURE_BYTES + PENULTIMATE_BYTES),  # for multi-scale alignment
        "12": (min(len(FILTERS) * REAL_SHARE * triplets, TRAIN_PICTURES) + tested) * FEATURE_BYTES,
    }
    return models * _model(config) + features.get(notebook, 0)


def _passing(config: Config, notebook: str) -> float:
    """Bytes that are on disk besides while ``notebook`` runs."""
    return TRAINING_COPIES * _model(config) if notebook in MODELS else 0


def _model(config: Config) -> float:
    return DECODER_BYTES + VOCABULARY[config.model.trim_vocabulary] * 1024 * 4


def _small(config: Config) -> tuple[float, float]:
    return SMALL["smoke" if config.data.triplets < 200 else "mini"]


def _container_limits() -> list[int]:
    """Limits of memory, bytes, that control groups of either version set; empty without."""
    files = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                files.append(Path(f"/sys/fs/cgroup{group}/memory.max"))
            elif "memory" in controllers.split(","):
                files.append(Path(f"/sys/fs/cgroup/memory{group}/memory.limit_in_bytes"))
    except OSError:
        pass  # not Linux
    found = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in found if text.isdecimal()]

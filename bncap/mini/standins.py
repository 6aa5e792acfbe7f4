"""Stand-ins for the hub's checkpoints: tiny, random, of the same classes, in the same files under the same names.

With ``BNCAP_MODELS`` set to the folder that ``python -m bncap.mini.standins DIR`` makes, the profiles ``kaggle`` and
``paper`` run offline through the loading code of the real components.  The configurations are the published ones but
for their sizes, and the tokenizers are trained on captions of the mini world.  They know nothing: no score that they
give means anything.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from bncap.mini import standins_kandinsky, standins_text, standins_translators
from bncap.mini.standins_text import ParallelTexts

VISION = {
    "timm/maxvit_base_tf_224.in1k": {
        "embed_dim": (16, 16, 32, 64),
        "depths": (1, 1, 1, 1),
        "stem_width": 8,
        "transformer_dim_head": 8,
        "num_classes": 16,
    },
    "timm/vit_base_patch16_224.augreg_in21k": {"embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 16},
    "timm/resnet50.a1_in1k": {"layers": (1, 1, 1, 1), "channels": (8, 8, 12, 16), "num_classes": 16},
}
"""timm's models and what is smaller in them; timm reads these sizes as ``model_args`` of ``config.json``."""


def save_vision(folder: Path, sizes: dict) -> None:
    """A timm model named as the last part of ``folder``: ``config.json`` and ``model.safetensors``."""
    import timm
    from timm.models import save_for_hf

    save_for_hf(timm.create_model(folder.name, **sizes), str(folder), safe_serialization=True)


def _builders(seed: int) -> dict[str, Callable[[Path], None]]:
    """Hub name -> what fills its folder."""
    texts = ParallelTexts(seed)
    builders = {name: lambda folder, sizes=sizes: save_vision(folder, sizes) for name, sizes in VISION.items()}
    for name, save in {**standins_text.MODELS, **standins_translators.MODELS, **standins_kandinsky.MODELS}.items():
        builders[name] = lambda folder, save=save: save(folder, texts)
    return builders


def build_standins(folder: Path, seed: int = 42) -> list[Path]:
    """Make every stand-in below ``folder``, at ``<folder>/<hub name>``; returns their folders in a fixed order.

    The same seed gives the same bytes.  Leaves torch's global random state as it was.
    """
    from bncap.pipeline.loading import quiet_loading

    made = []
    for name, save in _builders(seed).items():
        target = Path(folder) / name
        target.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]), quiet_loading():
            torch.manual_seed(seed)
            save(target)
        made.append(target)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Tiny random stand-ins for the hub's checkpoints (about 10 seconds).")
    parser.add_argument("folder", type=Path, help="where BNCAP_MODELS will point")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    try:
        made = build_standins(arguments.folder, arguments.seed)
    except OSError as error:
        parser.exit(1, f"error: {error}; name a folder that can be written\n")
    for path in made:
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"{path.relative_to(arguments.folder).as_posix():45} {size / 1e6:6.2f} MB")


if __name__ == "__main__":
    main()

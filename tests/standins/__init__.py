"""Stand-ins for the hub's checkpoints: tiny random models of the same classes, in the same files and folders.

With ``BNCAP_MODELS`` set to the folder that ``python -m tests.standins DIR`` makes, the profiles ``kaggle`` and
``paper`` run offline through the loading code of the real components.  The configurations are the published ones with
smaller sizes; the tokenizers are trained on captions of the mini world.  Scores of these models have no meaning.
"""

from __future__ import annotations

from pathlib import Path

import torch

from bncap.pipeline.hub import quiet_loading

from .files import ParallelTexts
from .kandinsky import save_decoder, save_prior
from .language_models import save_bert, save_gpt2, save_labse, save_mbart
from .translators import save_marian_bn, save_marian_inc, save_nllb, save_t5

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
"""Models of timm and their smaller sizes, which timm reads as ``model_args`` of ``config.json``."""
OTHERS = {
    "facebook/mbart-large-50": save_mbart,
    "sentence-transformers/LaBSE": save_labse,
    "bert-base-multilingual-cased": save_bert,
    "flax-community/gpt2-bengali": save_gpt2,
    "Helsinki-NLP/opus-mt-en-inc": save_marian_inc,
    "shhossain/opus-mt-en-to-bn": save_marian_bn,
    "csebuetnlp/banglat5_nmt_en_bn": save_t5,
    "facebook/nllb-200-distilled-600M": save_nllb,
    "kandinsky-community/kandinsky-2-1-prior": save_prior,
    "kandinsky-community/kandinsky-2-1": save_decoder,
}
"""Hub name -> function (folder, texts) that writes the stand-in."""


def build_standins(folder: Path, seed: int = 42) -> list[Path]:
    """Write every stand-in to ``<folder>/<hub name>``; returns their folders in a fixed order.

    The same seed gives the same bytes.  Leaves torch's global random state as it was.
    """
    texts = ParallelTexts(seed)
    made = [Path(folder) / name for name in (*VISION, *OTHERS)]
    for target, name in zip(made, (*VISION, *OTHERS), strict=True):
        target.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]), quiet_loading():
            torch.manual_seed(seed)
            if name in VISION:
                save_vision(target, VISION[name])
            else:
                OTHERS[name](target, texts)
    return made


def save_vision(folder: Path, sizes: dict) -> None:
    """The timm model named as the last part of ``folder``: ``config.json`` and ``model.safetensors``."""
    import timm
    from timm.models import save_for_hf

    save_for_hf(timm.create_model(folder.name, **sizes), str(folder), safe_serialization=True)

from __future__ import annotations

from collections.abc import Mapping

from bncap.config import BASELINES, MAIN
from bncap.experiments import paper
from bncap.experiments.diagnostics import encoder_accuracy as accuracy  # noqa: F401


def apart(measured: Mapping[str, Mapping[str, float]]) -> str:
    """What Table 1 of the mini world compares beside the decoders, from what :func:`accuracy` gives."""
    named = ((name, measured[name]) for name in map(paper.label, (MAIN, *BASELINES)))
    told = "; ".join(f"{name} {a['real']:.1f} % in domain and {a['ood']:.1f} % out of it" for name, a in named)
    return (
        f"Table 1 compares encoders as much as decoders, since those of the baselines were pretrained far less. The "
        f"frozen encoders tell the kind of an object, cell by cell: {told}."
    )

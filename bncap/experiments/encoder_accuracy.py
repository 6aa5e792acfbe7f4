"""How well the frozen encoders of Table 1 see, where that was measured: in the mini world."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bncap.config import BASELINES, MAIN
from bncap.experiments import paper
from bncap.pipeline import artifacts, hub
from bncap.settings import Config

STYLES = ("real", "ood", "synthetic")


def accuracy(config: Config) -> dict[str, dict[str, float]]:
    """How well the three frozen encoders of the mini world tell kinds: per cent of object cells, by style of picture.

    Keys are the captioners of Table 1, then ``real``, ``ood`` and ``synthetic``.  Raises BncapError where notebook 00
    has not been run.
    """
    parts = config.components
    named = {MAIN: parts.encoder, "vit_gpt2": parts.vit, "cnn_lstm": parts.cnn}
    found = {}
    for variant, name in named.items():
        folder = Path(hub.path(config, name))
        if (folder / "card.json").is_file():  # the encoder that ships with the package
            kinds = {style: a["kind"] for style, a in artifacts.read_json(folder / "card.json")["accuracy"].items()}
        else:
            figures = artifacts.read_json(artifacts.require(folder) / "figures.json")
            kinds = {style: figures[f"kind_{style}"] for style in STYLES}
        found[paper.label(variant)] = {style: round(100 * kinds[style], 2) for style in STYLES}
    return found


def apart(measured: Mapping[str, Mapping[str, float]]) -> str:
    """What Table 1 of the mini world compares beside the decoders, from what :func:`accuracy` gives."""
    named = ((name, measured[name]) for name in map(paper.label, (MAIN, *BASELINES)))
    told = "; ".join(f"{name} {a['real']:.1f} % in domain and {a['ood']:.1f} % out of it" for name, a in named)
    return (
        f"Table 1 compares encoders as much as decoders, since those of the baselines were pretrained far less. The "
        f"frozen encoders tell the kind of an object, cell by cell: {told}."
    )

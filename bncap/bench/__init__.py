"""Benchmarks: ours and the plain reading in turn, as tables and JSON.  ``python -m bncap bench``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from bncap.bench.harness import Result, save, table
from bncap.errors import BncapError
from bncap.pipeline import paths

PAGE = "page"
"""Beside the benchmarks: the page and the figure that are made from their files."""
BENCHES = {
    "step": "a training step of the full objective against the plain reading",
    "ot": "the OT loss, forward and backward, against POT in a loop and geomloss",
    "decode": "beam search over cached features against generating from pixels",
    "features": "random reads of cached features against decoding the JPEGs",
    "data": "414,113 captions to shards and back",
    "mini": "the whole miniature, started again, and with one training value changed",
    "growth": "how time and memory grow with triplets, batch, tokens, patches and vocabulary",
}
"""Name -> what is measured; ``bncap.bench.<name>.run(size, device, repeats)`` gives a :class:`Result`."""
SIZES = ("mini", "full")


def run(name: str, size: str, device: str, repeats: int, out: Path | None = None) -> Result:
    """Measure ``name``, print its table and write ``<name>-<size>-<device>.json`` to ``out`` (``figures/bench``)."""
    from bncap.device import keep_freed_memory

    keep_freed_memory()  # as training does, and for all contenders alike
    result = importlib.import_module(f"bncap.bench.{name}").run(size, device, repeats)
    print(table(result))
    print(f"written to {paths.short_name(save(result, out or paths.figures_dir('bench')))}")
    return result


def run_named(names: Sequence[str], size: str, device: str | None, repeats: int, out: Path | None = None) -> None:
    """What ``python -m bncap bench`` does: :func:`run` each of ``names``, or all in order and then the page.

    Args:
        device: ``"cpu"`` or ``"cuda"``; None for the GPU if there is one.
        out: folder to write to; None for ``figures/bench``.

    Raises :class:`BncapError` for a name that there is not, a GPU that there is not, and no repeat.
    """
    from bncap.device import default_device

    for name in names:
        if name not in (*BENCHES, PAGE):
            raise BncapError(f"there is no bench {name!r}; there are {', '.join((*BENCHES, PAGE))}")
    if repeats < 1:
        raise BncapError("--repeats must be at least 1")
    here = default_device().type
    if device == "cuda" and here != "cuda":
        raise BncapError("--device cuda: torch finds no GPU here; leave the option out to measure the processor")
    for name in names or (*BENCHES, PAGE):
        if name == PAGE:
            from bncap.bench import page

            print(f"written to {page.write(out or paths.figures_dir('bench'))}")
        else:
            run(name, size, device or here, repeats, out)

"""``python -m bncap publish``: the finished results of a profile, copied to ``figures/published/`` to be committed.

A run writes ``figures/<profile>/``, which git ignores.  What the repository shows is ``figures/published/``, which only
this command writes: figures, tables, report, ``results.json``, executed notebooks, and ``numbers.json`` with numbers
that the documents quote.  A number in a document stands between ``<!--name-->`` and ``<!--/-->``, and is renewed here.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bncap.commands import runner
from bncap.config import BASE, MAIN
from bncap.errors import BncapError
from bncap.pipeline import artifacts, paths
from bncap.report.tables import format_interval

PUBLISHED = paths.ROOT / "figures" / "published"
NUMBERS = "numbers.json"
DOCUMENTS = ("README.md", "notebooks/README.md", "figures/README.md")
"""Where numbers may be quoted; below the root of the repository."""
KEPT = ("README.md", "notebooks")
"""What in ``figures/published/`` is no figure of a run."""
NOTEBOOK_BYTES = 6e6
"""Limit for all published notebooks together."""
WIDTHS = (1000, 700, 500)
"""Widths in pixels that pictures in notebooks are scaled down to, until they meet the limit."""


def publish(profile: str = "mini", folder: Path = PUBLISHED, root: Path = paths.ROOT) -> dict[str, str]:
    """Copy the results of the standard run of ``profile`` to ``folder``, and renew the numbers in ``root``'s documents.

    Returns the numbers by name.  Raises :class:`BncapError` for profile ``own``, for a notebook that is not up to date,
    and for a number that a document quotes and the results lack.
    """
    if profile == "own":
        raise BncapError(
            "profile own shows your photographs and is never published; copy files yourself if you want to"
        )
    request = runner.Request(profile, 42)
    notebooks = runner.select(extended=True)
    stale = [notebook.stem for notebook in notebooks if not runner.is_current(request, notebook, {})]
    if stale:
        raise BncapError(
            f"{', '.join(stale)}: not run, or not since the settings, code or inputs changed; "
            f"first run: ./run_all.sh --profile {profile} --extended"
        )
    figures = paths.figures_dir(profile)
    numbers = quoted_numbers(artifacts.read_json(figures / "results.json"))
    documents = {root / name: (root / name).read_text("utf-8") for name in DOCUMENTS if (root / name).is_file()}
    for path, text in documents.items():
        unknown = [name for name in marked(text) if name not in numbers]
        if unknown:
            raise BncapError(f"{path.name} quotes {', '.join(unknown)}; {NUMBERS} has {', '.join(numbers)}")
    commit = artifacts.git_commit().replace("+", " with changes")  # before files of the repository are replaced
    _copy_figures(figures, folder)
    kind = f"The published report: a run of profile {profile}, copied by <code>bncap publish</code> at {commit}."
    report = (folder / "report.html").read_text("utf-8")
    artifacts.write_text(folder / "report.html", fill(report, {"kind": kind}))
    executed = [runner.executed_path(request, notebook) for notebook in notebooks]
    _write_notebooks(executed, figures.parent, folder / "notebooks")
    artifacts.write_json(folder / NUMBERS, numbers)
    for path, text in documents.items():
        artifacts.write_text(path, fill(text, numbers))
    return numbers


def quoted_numbers(results: Mapping[str, Any]) -> dict[str, str]:
    """Differences with 95 % intervals by the names that documents use.

    ``bleu4`` and ``attention_in_box`` (out of domain), ``patch_distance``: the full objective less cross-entropy alone;
    ``reading/<variant>``: BLEU-4 out of domain of the paper read otherwise, less the full objective.
    """
    pair = {"variant": MAIN, "against": BASE}
    share = {**pair, "split": "ood", "measure": "share", "source": "generated"}
    distance = {**pair, "set": "all", "metric": "centroid_distance"}
    numbers = {
        "bleu4": format_interval(_only(results["pairs"], {**pair, "split": "ood", "metric": "B4"})),
        "attention_in_box": format_interval(_only(results["grounding"]["differences"], share), digits=1),
        "patch_distance": format_interval(_only(results["alignment"]["differences"], distance)),
    }
    found = (results["readings"] or {}).get("found", {"readings": [], "scores": []})
    for reading in found["readings"]:
        if reading["trained"] and reading["against"][0] == MAIN:
            score = {"variant": reading["variant"], "against": MAIN, "split": "ood", "metric": "B4"}
            numbers[f"reading/{reading['variant']}"] = format_interval(_only(found["scores"], score))
    return numbers


def marked(text: str) -> dict[str, str]:
    """What stands in ``text`` between ``<!--name-->`` and ``<!--/-->``, by name."""
    return dict(re.findall(r"<!--([\w/]+)-->(.*?)<!--/-->", text, re.S))


def fill(text: str, values: Mapping[str, str]) -> str:
    """``text`` with the values put between their markers."""
    pattern = re.compile(r"(<!--([\w/]+)-->).*?(<!--/-->)", re.S)
    return pattern.sub(lambda m: m[1] + values.get(m[2], m[0][len(m[1]) : -len(m[3])]) + m[3], text)


def _only(records: Iterable[Mapping[str, Any]], same: Mapping[str, str]) -> Mapping[str, Any]:
    matching = [record for record in records if same.items() <= record.items()]
    if len(matching) != 1:
        raise BncapError(f"results.json has {len(matching)} records of {dict(same)}, not 1; run notebook 09 again")
    return matching[0]


def _copy_figures(figures: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.is_file() and old.name not in KEPT:
            old.unlink()
    for path in sorted(figures.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)


def _write_notebooks(executed: Iterable[Path], figures: Path, folder: Path) -> None:
    """Write executed notebooks with their pictures scaled down, and without this machine's paths and times."""
    books = {path.name: json.loads(path.read_text("utf-8")) for path in executed}
    for width in WIDTHS:
        texts = {name: _shrink(book, width, figures) for name, book in books.items()}
        if sum(len(text.encode()) for text in texts.values()) <= NOTEBOOK_BYTES:
            break
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in texts.items():
        artifacts.write_text(folder / name, text)


def _shrink(book: dict[str, Any], width: int, figures: Path) -> str:
    cells = [{**c, "metadata": {k: v for k, v in c["metadata"].items() if k == "tags"}} for c in book["cells"]]
    for cell in cells:
        if "outputs" in cell:
            outputs = cell["outputs"]
            cell["outputs"] = [out | {"data": _scaled(out["data"], width)} if "data" in out else out for out in outputs]
    places = {paths.artifacts_root(): "artifacts", figures: "figures", paths.ROOT: ".", sys.prefix: "python"}
    kept = {**book, "cells": cells, "metadata": {"kernelspec": book["metadata"]["kernelspec"]}}
    text = json.dumps(kept, indent=1, ensure_ascii=False) + "\n"
    for path, short in places.items():
        text = text.replace(str(path), short)
    return text


def _scaled(data: dict[str, Any], width: int) -> dict[str, Any]:
    """The output without widgets, its picture at most ``width`` pixels wide in 128 colours."""
    from PIL import Image  # only for pictures

    data = {kind: value for kind, value in data.items() if "widget" not in kind}
    if "image/png" in data:
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        picture.thumbnail((width, 10 * width))
        stream = io.BytesIO()
        picture.quantize(128).save(stream, "PNG", optimize=True)
        data["image/png"] = base64.b64encode(stream.getvalue()).decode()
    return data

"""The whole miniature as its user starts it: anew, once more, and with one training value changed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bncap.bench.harness import Ratio, Result, Row, progress
from bncap.errors import BncapError
from bncap.pipeline import paths

CHANGED = ("--set", "train.weight_decay=0.02", "--to", "04")
"""One training value, and the first notebook that trains: those behind it depend on it likewise."""
TRAINS = "04"
MOST_SECONDS, MOST_AGAIN = 480, 20
TOOK = re.compile(r"(\d\d)_\w+: (\d+) s")


@dataclass(frozen=True)
class Start:
    """One ``python -m bncap run``: its wall time, that of each notebook by its name, and the steps that it made."""

    seconds: float
    notebooks: dict[str, float]
    made: tuple[str, ...]


def run(size: str, device: str, repeats: int) -> Result:
    """``./run_all.sh`` after set-up in a folder of its own: once from nothing, ``repeats`` times again, once changed.

    The miniature has one size, "mini", whatever ``size`` says.  Raises :class:`BncapError` for a run that fails.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        whole = start("mini", root, device)
        again = [start("mini", root, device) for _ in range(repeats)]
        changed = start("mini", root, device, CHANGED)
    rows = [Row(f"notebook {notebook}", (seconds,)) for notebook, seconds in whole.notebooks.items()]
    rows.append(Row("the whole miniature", (whole.seconds,)))
    rows.append(Row("started again", tuple(s.seconds for s in again), note=_said(again[0])))
    rows.append(Row(" ".join(CHANGED), (changed.seconds,), note=_said(changed)))
    foreign = [step for step in changed.made if step[:2] != TRAINS]
    return Result(
        "mini",
        "mini",
        device,
        f"./run_all.sh after set-up, worker processes: {os.environ.get('BNCAP_JOBS', 'one a processor')}",
        tuple(rows),
        (
            Ratio("seconds of the whole miniature", whole.seconds, MOST_SECONDS, True, _longest(whole)),
            Ratio("seconds when started again", rows[-2].median, MOST_AGAIN, most=True),
            Ratio("steps made again when started again", float(sum(len(s.made) for s in again)), 0, most=True),
            Ratio("steps made anew that do not depend on the changed value", float(len(foreign)), 0, most=True),
        ),
        {"made": whole.made, "made_after_change": changed.made, "notebooks_after_change": changed.notebooks},
    )


def start(profile: str, root: Path, device: str, options: Sequence[str] = ()) -> Start:
    """Run the notebooks of ``profile`` with artefacts and figures below ``root``, in a process of its own."""
    command = [sys.executable, "-m", "bncap", "run", "--profile", profile, *options]
    environment = os.environ | {
        "BNCAP_ARTIFACTS": str(root / "artifacts"),
        "BNCAP_FIGURES": str(root / "figures"),
        "TQDM_DISABLE": "1",
    }
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    before, lines = _manifests(root), []
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        for line in process.stdout:
            lines.append(line.rstrip())
            progress(lines[-1].removesuffix(" ..."))
    seconds = time.perf_counter() - begun
    if process.returncode:
        raise BncapError(f"bench mini: {' '.join(command[1:])} failed: {' | '.join(lines[-3:])}")
    made = (step for step, stamp in _manifests(root).items() if before.get(step) != stamp)
    return Start(seconds, notebook_seconds(lines), tuple(sorted(made)))


def notebook_seconds(lines: Sequence[str]) -> dict[str, float]:
    """Notebook -> seconds, of the lines that a run prints; those that were up to date are not in it."""
    return {match[0].partition(":")[0]: float(match[2]) for line in lines if (match := TOOK.fullmatch(line))}


def _manifests(root: Path) -> dict[str, int]:
    """Finished steps -> when their manifests were written, in nanoseconds."""
    found = (root / "artifacts").glob(f"*/[0-9][0-9]_*/*/{paths.MANIFEST}")
    return {f"{m.parts[-3]}/{m.parts[-2]}": m.stat().st_mtime_ns for m in found}


def _longest(begun: Start) -> str:
    """Where it takes too long: in which notebooks."""
    longest = sorted(begun.notebooks.items(), key=lambda entry: -entry[1])[:3]
    return ", ".join(f"{name} {taken:.0f} s" for name, taken in longest) if begun.seconds > MOST_SECONDS else ""


def _said(begun: Start) -> str:
    if not begun.made:
        return "nothing made"
    counts = Counter(step.partition("/")[0] for step in begun.made)
    return "made " + ", ".join(f"{count} in {step}" for step, count in counts.items())

"""The text of the notebooks that :mod:`bncap.kaggle.kernels` generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIND = '''\
import os
import shutil
import sys


def attached(slug):
    """The folder of an attached dataset or kernel, in the old layout of Kaggle's inputs or the new one."""
    found = [INPUT / slug, *sorted(INPUT.glob(f"*/*/{slug}"))]
    return next((folder for folder in found if folder.is_dir()), None)


source, package = attached(PACKAGE), SCRATCH / "package"
if source is None:
    raise FileNotFoundError(f"attach the dataset {USER}/{PACKAGE} to this kernel: Add Input, Your Work, Datasets")
shutil.rmtree(package, ignore_errors=True)
package.mkdir(parents=True)
for item in sorted(source.iterdir()):
    if item.is_dir():
        shutil.copytree(item, package / item.name)
    elif item.suffix in (".zip", ".tar"):  # a folder that Kaggle left packed
        shutil.unpack_archive(item, package / item.stem)
    else:
        shutil.copy(item, package)
'''

SET = """\
os.environ.update({
    "BNCAP_ARTIFACTS": str(ARTIFACTS),
    "BNCAP_FIGURES": str(WORKING / "figures"),
    "HF_HOME": str(SCRATCH / "huggingface"),
    "TORCH_HOME": str(SCRATCH / "torch"),
    "XDG_CACHE_HOME": str(SCRATCH / "cache"),
    "MPLCONFIGDIR": str(SCRATCH / "matplotlib"),
    "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]),
})
if not INTERNET:
    os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(package))
from bncap.kaggle import session as kaggle_session

kaggle_session.take_over(attached(SLUG))
"""

SHOW = """\
from IPython.display import Image, display

for figure in sorted((WORKING / "figures").rglob("*.png")):
    display(Image(filename=str(figure), width=900))
"""


def notebook(
    *,
    title: str,
    names: Mapping[str, str],
    internet: bool,
    command: Sequence[str],
    check: Sequence[str],
    gathers: bool,
    discards: str,
    attach: Sequence[str],
) -> dict[str, Any]:
    """A notebook in the JSON of format 4.5.

    Args:
        names: the variables USER, SLUG and PACKAGE of the first code cell.
        command, check: arguments for ``python -m bncap``.
        gathers: copy the figures of the attached kernels first.
        discards: step folders that are too large for the output, as a pattern of names; "": none.
        attach: what the user has still to attach by hand.
    """
    settings = [
        "from pathlib import Path",
        "",
        'INPUT, WORKING, SCRATCH = Path("/kaggle/input"), Path("/kaggle/working"), Path("/tmp/bncap")',
        *(f"{name} = {value!r}" for name, value in names.items()),
        'ARTIFACTS = SCRATCH / "artifacts"  # too large for the output'
        if discards
        else 'ARTIFACTS = WORKING / "artifacts"',
        f"INTERNET = {internet}",
        *(f"# attach: {line}" for line in attach),
    ]
    run = ["kaggle_session.gather_figures()"] if gathers else []
    run.append(f"kaggle_session.run({list(command)!r}, package)")
    run += [f'kaggle_session.keep(WORKING / "artifacts", without={discards!r})'] if discards else []
    cells = [
        _markdown(_introduction(title, names, command, attach)),
        _code("\n".join(settings)),
        _code(FIND),
        _code(SET),
        _code("kaggle_session.install_missing(INTERNET, SCRATCH)"),
        _code(f"kaggle_session.run({list(check)!r}, package)"),
        _code("\n".join(run)),
    ]
    if command[0] == "run":
        cells.append(_code(SHOW))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    numbered = [{"id": f"cell-{i:02}", **cell} for i, cell in enumerate(cells)]
    return {"cells": numbered, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def going_on(user: str, slug: str) -> list[str]:
    """What to do when the time of a session was not enough, as lines of markdown."""
    return [
        "A kernel that says *time is up* has kept all it made in its output. To go on, attach that output and start "
        f'the next version: write `"{user}/{slug}"` into `kernel_sources` of its `kernel-metadata.json` (`python -m '
        "bncap kaggle ... --resume` does so for all kernels) and push it again; or in Kaggle's editor, Add Input, Your "
        "Work, this notebook, and Save Version. Kaggle knows a kernel's output only after its first run, which is why "
        "the first push is without it. Start a kernel that reads this one only when it has run to its end.",
    ]


def _introduction(title: str, names: Mapping[str, str], command: Sequence[str], attach: Sequence[str]) -> str:
    lines = [
        f"# {title}",
        "",
        f"Made by `python -m bncap kaggle`. It runs `python -m bncap {' '.join(command)}` with the package in the "
        f"dataset `{names['USER']}/{names['PACKAGE']}`. Artefacts and figures go to the output, everything else to a "
        "scratch folder; packages that are missing are installed, torch and torchvision stay as they are.",
        "",
        *going_on(names["USER"], names["SLUG"]),
    ]
    if attach:
        lines += ["", "Attach before it runs:", "", *(f"- {line}" for line in attach)]
    return "\n".join(lines)


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str) -> dict[str, Any]:
    source = text.rstrip("\n").splitlines(keepends=True)
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source}

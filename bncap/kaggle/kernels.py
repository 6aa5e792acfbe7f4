"""``python -m bncap kaggle``: a dataset with the package, and a kernel folder for each notebook.

A push to Kaggle uploads one file, so each kernel is ``kernel.ipynb`` with its own settings, and the package is a
dataset.  Kernels read each other's artefacts as Kaggle's own outputs: each has those it reads as its sources.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bncap.commands import runner
from bncap.commands.check import NEEDS
from bncap.config import get_config
from bncap.errors import BncapError
from bncap.pipeline import artifacts, paths
from bncap.settings import Config

TEMPLATE = Path(__file__).with_name("kernel.ipynb")
PACKAGE_SLUG = "bncap-package"
PACKAGE_PARTS = ("bncap", "notebooks", "requirements.txt", "pyproject.toml", "run_all.sh", "README.md", "LICENSE")
TOO_LARGE = {"05": "features-*"}
"""Step folders of a notebook that do not fit into the 20 GB of a kernel's output: 29 GB of features."""
SESSION_MINUTES = 720
"""After which Kaggle ends a session and drops its output."""
READS = {
    "01": ("00",),
    "02": ("00", "01"),
    "04": ("00", "01", "02"),
    "05": ("00", "01", "02", "04"),
    "06": ("00", "01", "02", "04", "05"),
    "07": ("00", "01", "02", "04"),
    "08": ("00", "01", "02", "04", "06"),
    "09": ("00", "01", "02", "04", "05", "06", "07", "08"),
    "10": ("00", "01", "02", "04"),
}
"""Notebook -> those whose artefacts it reads."""
README = """# bncap on Kaggle

Run these in this folder, with `pip install kaggle` and its token in place. Kernels of one stage can run side by side;
start a stage when all kernels of the stages before have finished.

```bash
{commands}
```

A kernel that prints *Time is up* keeps what it made in its output. To continue, write the folders again with
`python -m bncap kaggle ... --resume`, which attaches each kernel's own last output, and push that kernel again.{note}
"""


@dataclass(frozen=True)
class Export:
    """Options of the kernels, as ``python -m bncap kaggle --help`` explains them.

    ``data`` and ``models`` name datasets "owner/slug", models also "owner/model/framework/variation/version".
    """

    user: str
    profile: str = "kaggle"
    overrides: tuple[str, ...] = ()
    gpu: str = "NvidiaTeslaT4"
    internet: bool = True
    translation_kernels: int = 0
    synthesis_kernels: int = 0
    minutes: int = 690
    data: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    resume: bool = False


@dataclass(frozen=True)
class Kernel:
    """A kernel: its slug, the notebook whose needs it has, its command, the slugs of the kernels that it reads."""

    slug: str
    notebook: str
    command: tuple[str, ...]
    sources: tuple[str, ...]


def write_kernels(export: Export, out: Path) -> list[Path]:
    """Write the dataset with the package, the kernels, and ``README.md`` with the push commands into ``out``.

    Returns the folder of the dataset, then those of the kernels in the order in which they can run.

    Raises :class:`BncapError` for a wrong option, and for a folder in ``out`` that this command has not written.
    """
    config = get_config(export.profile, export.overrides)
    _check(export, config)
    kernels = _plan(export, config)
    readme = out / "README.md"
    if readme.is_file() and not readme.read_text("utf-8", "replace").startswith(README[:10]):
        raise BncapError(f"{readme} is of something else; name another folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BncapError(f"--out {out} cannot be made ({error.strerror}); name a folder that can be") from error
    folders = [_write_package(export.user, out)]
    for kernel in kernels:
        folder = _empty_folder(out / kernel.slug, "kernel-metadata.json")
        artifacts.write_json(folder / "kernel-metadata.json", _metadata(export, kernel))
        artifacts.write_json(folder / f"{kernel.slug}.ipynb", _notebook(export, kernel))
        folders.append(folder)
    note = ""
    if "00" not in {kernel.notebook for kernel in kernels}:
        note = f" There is no kernel for notebook 00: profile {export.profile} needs no mini world."
    artifacts.write_text(readme, README.format(commands=_commands(kernels), note=note))
    return folders


def _check(export: Export, config: Config) -> None:
    if not re.fullmatch(r"[a-z0-9]+(?:[_-][a-z0-9]+)*", export.user):
        raise BncapError(f"--user {export.user}: write the name as in kaggle.com/<name>, in small letters")
    for name, count, most in (
        ("translation", export.translation_kernels, config.data.shards),
        ("synthesis", export.synthesis_kernels, 99),
    ):
        if not 0 <= count <= most:
            raise BncapError(f"--{name}-kernels {count}: from 0 to {most}")
    if not 0 < export.minutes < SESSION_MINUTES:
        raise BncapError(f"--minutes {export.minutes}: a session ends after {SESSION_MINUTES}; name fewer, such as 690")
    captions = config.data.captions
    if config.data.source == "own" and not captions.startswith(f"{paths.KAGGLE_INPUT}/"):
        raise BncapError(
            f"data.captions={captions or '(not set)'}: a kernel has no such file; upload it with its pictures as a "
            f"dataset and name it as it lies there, such as --captions {paths.KAGGLE_INPUT}/mine/captions.csv"
        )
    for option, sources, slashes in (("data", export.data, (1,)), ("models", export.models, (1, 4))):
        for source in sources:
            if source.count("/") not in slashes:
                raise BncapError(
                    f"--{option} {source}: write owner/dataset, as in kaggle.com/datasets/owner/dataset"
                    + (", or owner/model/framework/variation/version" if option == "models" else "")
                )


def _plan(export: Export, config: Config) -> list[Kernel]:
    """The kernels in the order in which they can run; 00 is left out where no mini world is needed."""
    components = vars(config.components).values()
    needs_world = config.data.source == "mini" or any(str(each).startswith("mini:") for each in components)
    slugs = {
        path.name[:2]: f"bncap-{path.stem.replace('_', '-')}"
        for path in runner.select(own=config.data.source == "own")
        if needs_world or path.name[:2] != "00"
    }
    count, shards, parts = export.translation_kernels, config.data.shards, export.synthesis_kernels
    bounds = [shards * i // count for i in range(count + 1)] if count else []
    helpers = {
        "01": {
            f"bncap-01-translation-{i}-of-{count}": ("translate", "--shards", ",".join(map(str, range(first, end))))
            for i, (first, end) in enumerate(pairwise(bounds), 1)
        },
        "02": {
            f"bncap-02-synthesis-{i}-of-{parts}": ("synthesise", "--shard", f"{i}/{parts}") for i in range(1, parts + 1)
        },
    }
    kernels: list[Kernel] = []
    for number, slug in slugs.items():
        reads = tuple(slugs[n] for n in READS.get(number, ()) if n in slugs)
        shared = helpers.get(number, {})
        kernels += [Kernel(name, number, command, reads) for name, command in shared.items()]
        # the pictures stay in the output of the kernel that drew them, and notebook 04 shows some
        sources = (*reads, *shared, *(helpers["02"] if number == "04" else ()))
        kernels.append(Kernel(slug, number, ("run", "--only", number), sources))
    return kernels


def _metadata(export: Export, kernel: Kernel) -> dict[str, Any]:
    need = NEEDS[kernel.notebook]
    inputs = (*export.data, *export.models) if need.parts or need.captions or need.pictures else ()
    sources = [*kernel.sources, *([kernel.slug] if export.resume else [])]
    return {
        "id": f"{export.user}/{kernel.slug}",
        "title": kernel.slug.replace("-", " "),
        "code_file": f"{kernel.slug}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": need.gpu,
        "enable_tpu": False,
        "enable_internet": export.internet,
        "machine_shape": export.gpu if need.gpu else "",
        "dataset_sources": [f"{export.user}/{PACKAGE_SLUG}", *(each for each in inputs if each.count("/") == 1)],
        "kernel_sources": [f"{export.user}/{slug}" for slug in sources],
        "model_sources": [each for each in inputs if each.count("/") == 4],
        "competition_sources": [],
    }


def _notebook(export: Export, kernel: Kernel) -> dict[str, Any]:
    """The template with this kernel's title and settings."""
    options = ["--profile", export.profile, *(part for each in export.overrides for part in ("--set", each))]
    check = ["check", "--only", kernel.notebook, *(["--download"] if export.internet else []), *options]
    command = [*kernel.command, *options, "--minutes", str(export.minutes)]
    names = export.user, kernel.slug, PACKAGE_SLUG
    settings = {
        'USER, SLUG, PACKAGE = "user", "slug", "package"': f"USER, SLUG, PACKAGE = {names!r}",
        "INTERNET = True": f"INTERNET = {export.internet}",
        'CHECK = ["check"]': f"CHECK = {check!r}",
        'COMMAND = ["run"]': f"COMMAND = {command!r}",
        'TOO_LARGE = ""': f"TOO_LARGE = {TOO_LARGE.get(kernel.notebook, '')!r}",
    }
    notebook: dict[str, Any] = json.loads(TEMPLATE.read_text("utf-8"))
    introduction, first = notebook["cells"][:2]
    introduction["source"] = [
        f"# {kernel.slug.replace('-', ' ')}\n\n",
        f"Written by `python -m bncap kaggle`. Runs `python -m bncap {' '.join(command)}` with the package in the "
        f"dataset `{export.user}/{PACKAGE_SLUG}`. Missing packages are installed; torch stays as it is.",
    ]
    lines = "".join(first["source"]).splitlines()
    first["source"] = "\n".join(settings.get(line, line) for line in lines).splitlines(keepends=True)
    return notebook


def _write_package(user: str, out: Path) -> Path:
    folder = _empty_folder(out / PACKAGE_SLUG, "dataset-metadata.json")
    for name in PACKAGE_PARTS:
        source = paths.ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        else:
            shutil.copy(source, folder / name)
    metadata: dict[str, Any] = {"id": f"{user}/{PACKAGE_SLUG}", "title": PACKAGE_SLUG.replace("-", " ")}
    metadata["description"] = "The package and the notebooks of bncap. MIT licence, in the file LICENSE."
    metadata["licenses"] = [{"name": "other"}]  # MIT is not among those that Kaggle names
    artifacts.write_json(folder / "dataset-metadata.json", metadata)
    return folder


def _empty_folder(folder: Path, marker: str) -> Path:
    """``folder``, made again; what an earlier call wrote there, which has a ``marker`` file, is removed."""
    if folder.exists() and any(folder.iterdir()) and not (folder / marker).is_file():
        raise BncapError(f"{folder} holds something else; name another folder with --out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _commands(kernels: Sequence[Kernel]) -> str:
    """The push commands, stage by stage."""
    stages: dict[str, int] = {}
    for kernel in kernels:
        stages[kernel.slug] = 1 + max((stages[slug] for slug in kernel.sources), default=0)
    lines = [f"kaggle datasets create -p {PACKAGE_SLUG} --dir-mode zip   # after a change: datasets version"]
    for stage in sorted(set(stages.values())):
        lines += [f"# stage {stage}", *(f"kaggle kernels push -p {slug}" for slug in stages if stages[slug] == stage)]
    return "\n".join(lines)

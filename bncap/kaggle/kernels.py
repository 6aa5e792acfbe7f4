"""Kernels and a dataset for Kaggle, ready for ``kaggle datasets create`` and ``kaggle kernels push``.

A push uploads one file, so each kernel is a thin generated notebook, and the package travels as a dataset.  The kernels
hand their artefacts on as Kaggle's own outputs: each has those it reads as its sources.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bncap.commands import runner
from bncap.commands.check import NEEDS
from bncap.config import OWN_NOTEBOOKS, get_config
from bncap.errors import BncapError
from bncap.kaggle import cells
from bncap.pipeline import artifacts, paths
from bncap.settings import Config

PACKAGE_SLUG = "bncap-package"
PACKAGE_FILES = ("requirements.txt", "pyproject.toml", "run_all.sh", "README.md", "LICENSE")
PACKAGE_FOLDERS = ("bncap", "notebooks")
README_TITLE = "# On Kaggle"
DISCARDS = {"05": "features-*"}
"""Step folders that do not fit into the 20 GB of a kernel's output; see :mod:`bncap.commands.resources`."""
SESSION_MINUTES = 720
"""After which Kaggle ends a session, and drops what it had made."""
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


@dataclass(frozen=True)
class Export:
    """What the kernels are to be.

    Args:
        user: Kaggle user name, as in the address of the profile page.
        overrides: settings such as "train.epochs=2", handed to every kernel.
        gpu: Kaggle's name of the machine; "NvidiaTeslaT4" is the one with two T4.
        internet: whether the kernels may fetch packages and models.
        translation_kernels, synthesis_kernels: kernels that share the work of notebooks 01 and 02; 0: none beside them.
        minutes: after which a kernel stops cleanly; a session of Kaggle's ends after 720.
        data, models: what is attached besides: datasets "owner/slug"; for models also
            "owner/model/framework/variation/version".
        resume: attach each kernel's own output too, so that it goes on; Kaggle has that only once the kernel has run.
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

    def arguments(self, *command: str) -> tuple[str, ...]:
        """For ``python -m bncap``: ``command`` with the profile and the settings."""
        return (*command, "--profile", self.profile, *(part for o in self.overrides for part in ("--set", o)))


@dataclass(frozen=True)
class Kernel:
    """A kernel: its title, the notebook whose needs it has, its command, the titles of the kernels that it reads."""

    title: str
    notebook: str
    command: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def slug(self) -> str:
        return slug(self.title)


def slug(title: str) -> str:
    """Kaggle's name in addresses for a title of small letters, digits and spaces."""
    return title.replace(" ", "-")


def write_kernels(export: Export, out: Path) -> list[Path]:
    """Write the dataset with the package, a kernel for each notebook, and ``README.md`` with the order into ``out``.

    Returns the folder of the dataset, then those of the kernels in the order in which they can run.

    Raises :class:`BncapError` for a wrong name or number, and for folders in ``out`` that are not of this making.
    """
    config = get_config(export.profile, export.overrides)
    _check(export, config)
    kernels = _plan(export, config)
    _make_out(out)
    folders = [_write_package(export.user, out)]
    for kernel in kernels:
        folder = _emptied(out / kernel.slug, "kernel-metadata.json")
        notebook = cells.notebook(
            title=kernel.title,
            names={"USER": export.user, "SLUG": kernel.slug, "PACKAGE": PACKAGE_SLUG},
            internet=export.internet,
            command=export.arguments(*kernel.command, "--minutes", str(export.minutes)),
            check=export.arguments("check", "--only", kernel.notebook, *(["--download"] if export.internet else [])),
            gathers=kernel.notebook == "09",
            discards=DISCARDS.get(kernel.notebook, ""),
            attach=_to_attach(export, config) if _uses(kernel) else [],
        )
        artifacts.write_json(folder / "kernel-metadata.json", _metadata(export, kernel))
        artifacts.write_json(folder / f"{kernel.slug}.ipynb", notebook)
        folders.append(folder)
    artifacts.write_text(out / "README.md", _readme(export, kernels))
    return folders


def _make_out(out: Path) -> None:
    """Make the folder ``out``; refused if it holds a README of something else, which would be written over."""
    readme = out / "README.md"
    if readme.is_file() and not readme.read_text("utf-8", "replace").startswith(README_TITLE):
        raise BncapError(f"{readme} is of something else; name another folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BncapError(f"--out {out} cannot be made ({error.strerror}); name a folder that can be") from error


def _metadata(export: Export, kernel: Kernel) -> dict[str, Any]:
    need = NEEDS[kernel.notebook]
    attached = (*export.data, *export.models) if _uses(kernel) else ()
    own = [kernel.slug] if export.resume else []
    return {
        "id": f"{export.user}/{kernel.slug}",
        "title": kernel.title,
        "code_file": f"{kernel.slug}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": need.gpu,
        "enable_tpu": False,
        "enable_internet": export.internet,
        "machine_shape": export.gpu if need.gpu else "",
        "dataset_sources": [f"{export.user}/{PACKAGE_SLUG}", *(s for s in attached if s.count("/") == 1)],
        "kernel_sources": [f"{export.user}/{name}" for name in (*map(slug, kernel.sources), *own)],
        "model_sources": [s for s in attached if s.count("/") == 4],
        "competition_sources": [],
    }


def _plan(export: Export, config: Config) -> list[Kernel]:
    """The kernels in the order in which they can run; 00 is left out where no mini world is needed."""
    stems = {n.name[:2]: n.stem for n in runner.select()}
    if config.data.source == "own":
        stems = {number: stems[number] for number in OWN_NOTEBOOKS}
    if not _needs_mini(config):
        stems.pop("00", None)
    titles = {number: f"bncap {stem.replace('_', ' ')}" for number, stem in stems.items()}
    helpers = {"01": _translators(export, config.data.shards), "02": _synthesisers(export)}
    kernels: list[Kernel] = []
    for number, title in titles.items():
        read = tuple(titles[n] for n in READS.get(number, ()) if n in titles)
        own = helpers.get(number, {})
        kernels += [Kernel(name, number, command, read) for name, command in own.items()]
        # the pictures stay in the output of the kernel that drew them, and 04 shows some
        shared = (*own, *(helpers["02"] if number == "04" else ()))
        kernels.append(Kernel(title, number, ("run", "--only", number), (*read, *shared)))
    return kernels


def _translators(export: Export, shards: int) -> dict[str, tuple[str, ...]]:
    """Title -> command of the kernels that share the shards of notebook 01 in contiguous runs."""
    count = export.translation_kernels
    bounds = [shards * i // count for i in range(count + 1)] if count else []
    mine = [",".join(map(str, range(a, b))) for a, b in pairwise(bounds)]
    return {f"bncap 01 translation {i} of {count}": ("translate", "--shards", m) for i, m in enumerate(mine, 1)}


def _synthesisers(export: Export) -> dict[str, tuple[str, ...]]:
    count = export.synthesis_kernels
    numbers = range(1, count + 1)
    return {f"bncap 02 synthesis {i} of {count}": ("synthesise", "--shard", f"{i}/{count}") for i in numbers}


def _needs_mini(config: Config) -> bool:
    return config.data.source == "mini" or any(str(v).startswith("mini:") for v in vars(config.components).values())


def _uses(kernel: Kernel) -> bool:
    """Whether the kernel opens data sets or models from outside."""
    need = NEEDS[kernel.notebook]
    return bool(need.parts) or need.captions or need.pictures


def _write_package(user: str, out: Path) -> Path:
    folder = _emptied(out / PACKAGE_SLUG, "dataset-metadata.json")
    for name in PACKAGE_FOLDERS:
        for file in sorted((paths.ROOT / name).rglob("*")):
            relative = file.relative_to(paths.ROOT)
            if file.is_file() and not any(part.startswith((".", "__pycache__")) for part in relative.parts):
                (folder / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / relative)
    for name in PACKAGE_FILES:
        shutil.copy(paths.ROOT / name, folder / name)
    metadata = {
        "id": f"{user}/{PACKAGE_SLUG}",
        "title": PACKAGE_SLUG.replace("-", " "),
        "description": "The package and the notebooks of bncap. MIT licence, in the file LICENSE.",
        "licenses": [{"name": "other"}],  # MIT is not among those that Kaggle names
    }
    artifacts.write_json(folder / "dataset-metadata.json", metadata)
    return folder


def _emptied(folder: Path, marker: str) -> Path:
    """``folder``, made; what an earlier call wrote there, which has a ``marker`` file, is removed."""
    if folder.exists() and any(folder.iterdir()) and not (folder / marker).is_file():
        raise BncapError(f"{folder} holds something else; name another folder with --out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _check(export: Export, config: Config) -> None:
    if not re.fullmatch(r"[a-z0-9]+(?:[_-][a-z0-9]+)*", export.user):
        raise BncapError(f"--user {export.user}: write the name as in kaggle.com/<name>, in small letters")
    if not 0 <= export.translation_kernels <= config.data.shards:
        raise BncapError(
            f"--translation-kernels {export.translation_kernels}: from 0 to the {config.data.shards} shards"
        )
    if not 0 <= export.synthesis_kernels <= 99:
        raise BncapError(f"--synthesis-kernels {export.synthesis_kernels}: from 0 to 99")
    if not 0 < export.minutes < SESSION_MINUTES:
        raise BncapError(f"--minutes {export.minutes}: a session ends after {SESSION_MINUTES}; name fewer, such as 690")
    captions = config.data.captions
    if config.data.source == "own" and not captions.startswith(f"{paths.KAGGLE_INPUT}/"):
        raise BncapError(
            f"data.captions={captions or '(not set)'}: a kernel has no such file; upload it with its pictures as a "
            f"dataset and name it as it lies there, such as --captions {paths.KAGGLE_INPUT}/mine/captions.csv"
        )
    name = r"[A-Za-z0-9_.-]+"
    for source in export.data:
        if not re.fullmatch(f"{name}/{name}", source):
            raise BncapError(f"--data {source}: write owner/dataset, as in kaggle.com/datasets/owner/dataset")
    for source in export.models:
        if not re.fullmatch(rf"{name}/{name}(?:/{name}/{name}/[0-9]+)?", source):
            raise BncapError(f"--models {source}: write owner/dataset, or owner/model/framework/variation/version")


def _to_attach(export: Export, config: Config) -> list[str]:
    """What the user still has to attach by hand, for the text of a kernel."""
    lines = []
    if not export.data and config.data.source == "coco":
        lines.append("datasets with COCO 2014 (`annotations/`, `train2014/`, `val2014/`) and Flickr30k (`flickr30k/`)")
    if not export.data and config.data.source == "own":
        lines.append(f"a dataset with `{config.data.captions}` and its pictures")
    if not export.models and not export.internet:
        lines.append("a dataset with the models in folders named as on the hub (`facebook/mbart-large-50/` and so on)")
    return lines


def _readme(export: Export, kernels: list[Kernel]) -> str:
    """The commands in their order; kernels of one stage may run side by side."""
    stage: dict[str, int] = {}
    for kernel in kernels:
        stage[kernel.title] = 1 + max((stage[title] for title in kernel.sources), default=0)
    lines = [
        README_TITLE, "", "Run these in this folder, with `pip install kaggle` and its token in place.", "",
        "```bash", f"kaggle datasets create -p {PACKAGE_SLUG} --dir-mode zip   # after a change: datasets version",
    ]  # fmt: skip
    for number in sorted(set(stage.values())):
        lines += ["", f"# stage {number}" + (": when all of the stages before have finished" if number > 1 else "")]
        lines += [f"kaggle kernels push -p {kernel.slug}" for kernel in kernels if stage[kernel.title] == number]
    lines += ["```", "", *cells.going_on(export.user, "SLUG")]
    if "00" not in {kernel.notebook for kernel in kernels}:
        lines += ["", f"There is no kernel for notebook 00: profile {export.profile} needs no mini world."]
    return "\n".join(lines) + "\n"

"""Notebooks from the command line: papermill runs them in order, and those that are up to date are left out."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bncap.commands import check
from bncap.config import EXTENDED_NOTEBOOKS, OWN_NOTEBOOKS, get_config
from bncap.errors import BncapError, OutOfTime
from bncap.experiments import extended
from bncap.pipeline import artifacts, deadline, files, paths, trials

REPORT = "09"


@dataclass(frozen=True)
class Request:
    """What papermill hands to each notebook."""

    profile: str
    seed: int
    overrides: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The same request as arguments of ``python -m bncap run``."""
        seed = [] if self.seed == 42 else ["--seed", str(self.seed)]
        return ["--profile", self.profile, *seed, *(part for o in self.overrides for part in ("--set", o))]

    def digest(self, notebook: Path) -> str:
        """What the notebook's outputs depend on besides its inputs: settings, its own cells, and the package's code.

        After a change of code a notebook runs again, and leaves out the steps whose settings and inputs are the same.
        """
        resolved = get_config(self.profile, self.overrides).as_dict()
        known = [resolved, self.seed, artifacts.file_hash(notebook), _code_hash()]
        if notebook.name.startswith(REPORT):  # which shows what the notebooks that seldom run have left
            known += [artifacts.file_hash(path) for path in extended.result_files(self.profile)]
        source = json.dumps(known, sort_keys=True)
        return hashlib.sha256(source.encode()).hexdigest()


def select(
    first: str | None = None,
    last: str | None = None,
    only: str | None = None,
    own: bool = False,
    extended: bool = False,
) -> list[Path]:
    """Notebooks whose two-digit numbers lie between ``first`` and ``last``, or are in ``only`` ("04,06").

    With ``own`` data those of :data:`bncap.config.OWN_NOTEBOOKS` alone.  Those of
    :data:`bncap.config.EXTENDED_NOTEBOOKS` run before the report, and only where asked for.
    """
    notebooks = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"), key=_turn)
    if not notebooks:
        raise BncapError(f"no notebooks in {paths.NOTEBOOKS}: run from a clone of the repository")
    known = [notebook.name[:2] for notebook in notebooks]
    for number in [first, last, *(only.split(",") if only else [])]:
        if number is not None and number not in known:
            raise BncapError(f"there is no notebook {number!r}; there are {', '.join(known)}")
    wanted = only.split(",") if only else [n for n in known if (first or "00") <= n <= (last or "99")]
    if not wanted:
        raise BncapError(f"there is no notebook from {first} to {last}; exchange the two")
    if not (only or extended or first in EXTENDED_NOTEBOOKS or last in EXTENDED_NOTEBOOKS):
        wanted = [n for n in wanted if n not in EXTENDED_NOTEBOOKS]
    usual = OWN_NOTEBOOKS if own else known
    unusable = [n for n in wanted if n not in usual]
    if unusable and (only or len(unusable) == len(wanted)):
        raise BncapError(
            f"notebook {unusable[0]} compares variants on a second test set, which data of your own do not have; "
            f"with these run {', '.join(usual)}"
        )
    return [n for n in notebooks if n.name[:2] in wanted and n.name[:2] in usual]


def run(request: Request, notebooks: Sequence[Path], *, force: bool = False) -> None:
    """Execute ``notebooks`` in order.  The first that fails raises :class:`BncapError` in three lines: where, what,
    and how to go on.  Two runs over the same executed notebooks or figures wait for each other.

    Raises :class:`OutOfTime` when the minutes of the run are used up, between notebooks or within one.
    """
    config = get_config(request.profile, request.overrides)  # a wrong setting stops here, not within a notebook
    trials.select_folders(config, request.seed)
    checked: dict[Path, str] = {}
    looked = False
    with files.locked(_root(request) / "notebooks"), files.locked(paths.figures_dir(request.profile)):
        for notebook in notebooks:
            if not force and is_current(request, notebook, checked):
                print(f"{notebook.stem}: up to date", flush=True)
                continue
            deadline.check(f"notebook {notebook.stem}, which has not begun")
            if not looked:  # not before a notebook has to run: a second start with nothing to do is quick
                for wanted in notebooks:
                    check.ensure(config, wanted.name[:2])
                looked = True
            print(f"{notebook.stem}: running ...", flush=True)
            start = time.monotonic()
            before = _figures(request.profile)
            with files.full_disk_named(executed_path(request, notebook)):
                _record_path(request, notebook).unlink(missing_ok=True)  # it would vouch for a half executed notebook
                _execute(request, notebook)
                changed = [name for name, stamp in _figures(request.profile).items() if before.get(name) != stamp]
                _record(request, notebook, changed)
            checked.clear()
            print(f"{notebook.stem}: {time.monotonic() - start:.0f} s", flush=True)


def executed_path(request: Request, notebook: Path) -> Path:
    return paths.artifacts_root() / request.profile / "notebooks" / notebook.name


def _execute(request: Request, notebook: Path) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError

    os.environ.pop("JUPYTER_PATH", None)  # a foreign kernel specification must not take the place of this environment
    output = executed_path(request, notebook)
    output.parent.mkdir(parents=True, exist_ok=True)
    how_to_go_on = (
        f"everything finished is kept; the executed notebook is {output}; "
        f"go on with: {shlex.join(['./run_all.sh', *request.arguments(), '--from', notebook.name[:2]])}"
    )
    parameters = {"PROFILE": request.profile, "SEED": request.seed, "OVERRIDES": list(request.overrides)}
    try:
        papermill.execute_notebook(
            str(notebook),
            str(output),
            parameters=parameters,
            kernel_name="python3",
            cwd=str(notebook.parent),
            progress_bar=sys.stderr.isatty(),
            log_output=False,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # an error is told below
            shutdown_kernel="immediate",  # when asked politely one with torch in it takes seconds
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == OutOfTime.__name__:
            raise OutOfTime(f"{notebook.stem}: {error.evalue.strip()}") from None
        code = [line for line in error.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        raise BncapError(
            f"{notebook.name} failed in code cell {error.exec_count - 1}: {code[0].strip()}\n"  # papermill adds one
            f"{error.ename}: {error.evalue.strip().splitlines()[0] if error.evalue.strip() else '(no message)'}\n"
            f"{how_to_go_on}"
        ) from None
    except DeadKernelError:
        raise BncapError(
            f"{notebook.name}: its Python process ended abruptly, most likely for lack of memory\n"
            f"{how_to_go_on} --jobs 1"
        ) from None


def _record(request: Request, notebook: Path, figures: Sequence[str]) -> None:
    """Note what the notebook saw and made, so that a later start can tell whether it is up to date."""
    steps = {str(f.relative_to(_root(request))): artifacts.fingerprint(f) for f in _steps_up_to(request, notebook)}
    folder = paths.figures_dir(request.profile)
    artifacts.write_json(
        _record_path(request, notebook),
        {
            "key": request.digest(notebook),
            "steps": steps,
            "figures": {name: artifacts.file_hash(folder / name) for name in sorted(figures)},
        },
    )


def is_current(request: Request, notebook: Path, checked: dict[Path, str]) -> bool:
    """Whether the notebook has run with these settings, this code and these inputs, and its outputs are as it left them.

    ``checked`` remembers the fingerprints of step folders between calls.
    """
    path = _record_path(request, notebook)
    if not path.is_file() or not executed_path(request, notebook).is_file():
        return False
    record = artifacts.read_json(path)
    if not isinstance(record, dict) or record.get("key") != request.digest(notebook):
        return False
    for name, fingerprint in record["steps"].items():
        folder = _root(request) / name
        if not artifacts.is_finished(folder):
            return False
        if folder not in checked:
            checked[folder] = artifacts.fingerprint(folder)
        if checked[folder] != fingerprint:
            return False
    figures = paths.figures_dir(request.profile)
    return all(
        (figures / name).is_file() and artifacts.file_hash(figures / name) == sha
        for name, sha in record["figures"].items()
    )


@functools.cache
def _code_hash() -> str:
    sources = sorted([*paths.PACKAGE.rglob("*.py"), *paths.PACKAGE.rglob("*.html")])
    return hashlib.sha256("".join(artifacts.file_hash(file) for file in sources).encode()).hexdigest()


def _turn(notebook: Path) -> tuple[str, bool, str]:
    """What notebooks are sorted by when they run."""
    number = notebook.name[:2]
    return (REPORT if number in EXTENDED_NOTEBOOKS else number), number == REPORT, number


def _root(request: Request) -> Path:
    return paths.artifacts_root() / request.profile


def _record_path(request: Request, notebook: Path) -> Path:
    return executed_path(request, notebook).with_suffix(".json")


def _steps_up_to(request: Request, notebook: Path) -> list[Path]:
    manifests = _root(request).glob(f"[0-9][0-9]_*/*/{artifacts.MANIFEST}")
    steps = (m.parent for m in manifests if not m.parent.name.startswith("."))  # not the results put aside
    return sorted(step for step in steps if step.parent.name[:2] <= notebook.name[:2])


def _figures(profile: str) -> dict[str, tuple[int, int]]:
    folder = paths.figures_dir(profile)
    drawn = (p for p in folder.iterdir() if p.is_file())  # not those of trials in the folders below
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in drawn}

"""``python -m bncap run``: papermill executes the notebooks in order, without those that are up to date."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bncap.commands import check
from bncap.config import EXTENDED_NOTEBOOKS, OWN_NOTEBOOKS, get_config
from bncap.errors import BncapError, OutOfTime
from bncap.experiments import estimates
from bncap.pipeline import artifacts, code, deadline, files, paths, workers

if TYPE_CHECKING:
    from papermill import PapermillExecutionError

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

    def key(self, notebook: Path) -> str:
        """Hash of what the outputs depend on besides the inputs: settings, the notebook, the code that it imports."""
        return self._digest(notebook, code.SOURCES.code_hash(_imports(notebook)))

    def quick_key(self, notebook: Path) -> str:
        """As :meth:`key`, of every byte of the package: the same only if the key is, and known in no time."""
        return self._digest(notebook, _package_hash())

    def _digest(self, notebook: Path, hashes: dict[str, str] | str) -> str:
        settings = get_config(self.profile, self.overrides).as_dict()
        parts = [settings, self.seed, artifacts.file_hash(notebook), hashes]
        if notebook.name.startswith(REPORT):  # which shows the last results of the extended notebooks
            parts += [artifacts.file_hash(path) for path in estimates.extended_files(self.profile)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def select(
    first: str | None = None,
    last: str | None = None,
    only: str | None = None,
    own: bool = False,
    extended: bool = False,
) -> list[Path]:
    """Notebooks whose two-digit numbers lie between ``first`` and ``last``, or are in ``only`` ("04,06").

    With ``own`` data those of ``OWN_NOTEBOOKS`` alone.  Those of ``EXTENDED_NOTEBOOKS`` run before the report, and only
    on request.
    """
    notebooks = {path.name[:2]: path for path in sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"), key=_position)}
    if not notebooks:
        raise BncapError(f"no notebooks in {paths.NOTEBOOKS}: run from a clone of the repository")
    named = only.split(",") if only else []
    for number in [first, last, *named]:
        if number is not None and number not in notebooks:
            raise BncapError(f"there is no notebook {number!r}; there are {', '.join(notebooks)}")
    chosen = [n for n in notebooks if (n in named if named else (first or "00") <= n <= (last or "99"))]
    if not chosen:
        raise BncapError(f"there is no notebook from {first} to {last}; exchange the two")
    if not (named or extended or first in EXTENDED_NOTEBOOKS or last in EXTENDED_NOTEBOOKS):
        chosen = [n for n in chosen if n not in EXTENDED_NOTEBOOKS]
    usable = [n for n in chosen if not own or n in OWN_NOTEBOOKS]
    if len(usable) < len(chosen) and (named or not usable):
        refused = next(n for n in chosen if n not in usable)
        raise BncapError(
            f"notebook {refused} compares variants on a second test set, which data of your own do not have; "
            f"with these run {', '.join(OWN_NOTEBOOKS)}"
        )
    return [notebooks[n] for n in usable]


def run(request: Request, notebooks: Sequence[Path], *, force: bool = False) -> None:
    """Execute ``notebooks`` in order, without those that are up to date.

    ``force`` executes them all and makes the steps of their numbers again, once: the same forced run, started again
    after an interruption, continues.  Two runs over the same folders wait for each other.  Raises :class:`BncapError`
    for the first notebook that fails: which line, which error, and how to continue; and :class:`OutOfTime`.
    """
    config = get_config(request.profile, request.overrides)  # a wrong setting stops here, not within a notebook
    artifacts.select_folders(config, request.seed)
    checked: dict[Path, str] = {}
    prepared = False
    forced = f"--only {','.join(each.name[:2] for each in notebooks)} --force" if force else ""
    with (
        files.locked(_root(request) / "notebooks"),
        files.locked(paths.figures_dir(request.profile)),
        _forced_steps(request, notebooks if force else ()) as token,
    ):
        for notebook in notebooks:
            if is_current(request, notebook, checked, token):
                print(f"{notebook.stem}: up to date", flush=True)
                continue
            deadline.check(f"notebook {notebook.stem}, which has not begun")
            if not prepared:  # not before a notebook has to run: a second start with nothing to do is quick
                for each in notebooks:
                    check.require(config, each.name[:2], quiet=True)
                prepared = True
            print(f"{notebook.stem}: running ...", flush=True)
            start = time.monotonic()
            before = _figures(request.profile)
            with files.full_disk_named(executed_path(request, notebook)):
                _record_path(request, notebook).unlink(missing_ok=True)  # no record of a half executed notebook
                _execute(request, notebook, forced or f"--from {notebook.name[:2]}")
                changed = [name for name, stamp in _figures(request.profile).items() if before.get(name) != stamp]
                _record(request, notebook, changed, token)
            checked.clear()
            print(f"{notebook.stem}: {time.monotonic() - start:.0f} s", flush=True)


@contextmanager
def _forced_steps(request: Request, notebooks: Sequence[Path]) -> Iterator[str]:
    """Within this context the steps of ``notebooks`` are made again, once; yields the run's token, "" without any.

    The token is kept on disk until all are made, so that the same command continues an interrupted run.
    """
    if not notebooks:
        yield ""
        return
    note, numbers = _root(request) / "forced.json", ",".join(notebook.name[:2] for notebook in notebooks)
    earlier = artifacts.read_json(note) if note.is_file() else {}
    token = earlier["token"] if earlier.get("notebooks") == numbers else secrets.token_hex(4)
    artifacts.write_json(note, {"notebooks": numbers, "token": token})
    os.environ[artifacts.FORCE_VARIABLE] = f"{token}:{numbers}"
    try:
        yield token
        note.unlink()
    finally:
        os.environ.pop(artifacts.FORCE_VARIABLE, None)


def executed_path(request: Request, notebook: Path) -> Path:
    return paths.artifacts_root() / request.profile / "notebooks" / notebook.name


def _execute(request: Request, notebook: Path, rest: str) -> None:
    """Execute one notebook; ``rest`` are the options with which the run continues after an error."""
    import papermill  # heavy
    from nbclient.exceptions import DeadKernelError

    os.environ.pop("JUPYTER_PATH", None)  # a foreign kernel specification must not take the place of this environment
    output = executed_path(request, notebook)
    output.parent.mkdir(parents=True, exist_ok=True)
    remedy = (
        f"everything finished is kept; the executed notebook is {output}; "
        f"continue with: {shlex.join(['./run_all.sh', *request.arguments()])} {rest}"
    )
    parameters = {"PROFILE": request.profile, "SEED": request.seed, "OVERRIDES": list(request.overrides)}
    options = ["--IPKernelApp.log_level=CRITICAL"]  # errors are reported below
    if workers.__name__ in code.SOURCES.code_hash(
        _imports(notebook)
    ):  # the workers' libraries load while the kernel loads its own
        options.append(f"--IPKernelApp.exec_lines=__import__({workers.__name__!r}, fromlist=['preload']).preload()")
    try:
        papermill.execute_notebook(
            str(notebook), str(output), parameters=parameters, kernel_name="python3", cwd=str(notebook.parent),
            progress_bar=sys.stderr.isatty(), extra_arguments=options,
            shutdown_kernel="immediate",  # when asked politely one with torch in it takes seconds
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        if error.ename == OutOfTime.__name__:
            raise OutOfTime(f"{notebook.stem}: {error.evalue.strip()}") from None
        message = error.evalue.strip() or "(no message)"
        if error.ename != BncapError.__name__:
            message = message.splitlines()[0]
        place = f"code cell {error.exec_count - 1}: {_failing_line(error)}"  # papermill adds one
        raise BncapError(f"{notebook.name} failed in {place}\n{error.ename}: {message}\n{remedy}") from None
    except DeadKernelError:
        raise BncapError(
            f"{notebook.name}: its Python process ended abruptly, most likely for lack of memory\n{remedy} --jobs 1"
        ) from None


def _failing_line(error: PapermillExecutionError) -> str:
    """The line of the cell that raised ``error``, from IPython's traceback."""
    lines = error.source.splitlines()
    traceback = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
    number = re.search(r"Cell In\[\d+\], line (\d+)", traceback)
    index = int(number[1]) - 1 if number else 0
    return lines[index].strip() if index < len(lines) else ""


def _record(request: Request, notebook: Path, figures: Sequence[str], token: str) -> None:
    """Write which steps the notebook could read and which figures it wrote, for :func:`is_current`."""
    steps = {str(f.relative_to(_root(request))): artifacts.fingerprint(f) for f in _steps_up_to(request, notebook)}
    folder = paths.figures_dir(request.profile)
    record = {"key": request.key(notebook), "quick_key": request.quick_key(notebook), "forced": token, "steps": steps}
    record["figures"] = {name: artifacts.file_hash(folder / name) for name in sorted(figures)}
    artifacts.write_json(_record_path(request, notebook), record)


def is_current(request: Request, notebook: Path, checked: dict[Path, str], token: str = "") -> bool:
    """Whether the notebook has run with these settings, code and inputs, and its outputs are as it left them.

    ``checked`` keeps fingerprints of step folders between calls; ``token`` is that of the forced run it must be from.
    """
    path = _record_path(request, notebook)
    if not path.is_file() or not executed_path(request, notebook).is_file():
        return False
    record = artifacts.read_json(path)
    if not isinstance(record, dict) or not {"key", "quick_key", "steps", "figures"} <= set(record):
        return False
    if token and record.get("forced") != token:
        return False
    if record["quick_key"] != request.quick_key(notebook) and record["key"] != request.key(notebook):
        return False
    for name, fingerprint in record["steps"].items():
        folder = _root(request) / name
        if folder not in checked and artifacts.is_finished(folder):
            checked[folder] = artifacts.fingerprint(folder)
        if checked.get(folder) != fingerprint:
            return False
    figures = paths.figures_dir(request.profile)
    return all(
        (figures / name).is_file() and artifacts.file_hash(figures / name) == sha
        for name, sha in record["figures"].items()
    )


@functools.cache
def _package_hash() -> str:
    sources = sorted(path for path in paths.PACKAGE.rglob("*") if path.suffix in (".py", ".html"))
    return hashlib.sha256("".join(artifacts.file_hash(path) for path in sources).encode()).hexdigest()


def _imports(notebook: Path) -> set[str]:
    """Names of the modules that the notebook's cells import."""
    names = set()
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = re.sub(r"^\s*[%!].*$", "", "".join(cell["source"]), flags=re.M)  # IPython's own commands
            with suppress(SyntaxError):  # reported when the cell is executed
                names |= code.imported_names(source)
    return names


def _position(notebook: Path) -> tuple[str, bool, str]:
    """What notebooks are sorted by when they run: the extended ones come right before the report."""
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


def status_table(profile: str) -> str:
    """One line a step folder: state, wall time, size, peak memory; :class:`BncapError` for a profile without any."""
    root = paths.artifacts_root() / profile
    folders = sorted(f for f in root.glob("[0-9][0-9]_*/*") if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise BncapError(f"nothing has been run in profile {profile}; start with: ./run_all.sh --profile {profile}")
    header = f"{'step':<52} {'state':<12} {'seconds':>8} {'MB':>8} {'peak MB':>8}"
    return "\n".join([header, *(_status_line(root, folder) for folder in folders)])


def _status_line(root: Path, folder: Path) -> str:
    name = folder.relative_to(root).as_posix()
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    state, manifest = "unfinished", {}
    if artifacts.is_finished(folder):
        with suppress(BncapError):
            state = "unreadable"
            manifest = artifacts.read_manifest(folder)
            state = "changed"
            artifacts.check_outputs(folder)
            state = "finished"
    if not manifest:
        return f"{name:<52} {state:<12} {'':>8} {size:>8.1f}"
    seconds, peak = manifest.get("seconds", 0.0), manifest.get("peak_memory_bytes", 0) / 1e6
    return f"{name:<52} {state:<12} {seconds:>8.1f} {size:>8.1f} {peak:>8.0f}"

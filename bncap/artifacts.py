"""Steps and their folders: what is finished is skipped, what is interrupted goes on, what has changed is made again.

A step writes only its own folder.  ``manifest.json`` is written last and atomically, so its presence means that the
folder is complete.  ``.working.json`` stands in a folder under construction and says for which settings.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bncap.errors import BncapError
from bncap.guards import full_disk_named, locked
from bncap.paths import ROOT, artifacts_root, model_path, short_name
from bncap.settings import Config

MANIFEST = "manifest.json"
WORKING = ".working.json"
RECORDED_PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "diffusers", "sentence-transformers", "bert-score", "sacrebleu",
    "nltk", "scikit-learn", "umap-learn", "numpy", "matplotlib",
)  # fmt: skip


def run_step(
    folder: Path,
    *,
    settings: dict[str, Any],
    inputs: Sequence[Path] = (),
    build: Callable[[Path], None],
    config: Config | None = None,
    quiet: bool = False,
) -> Path:
    """Make ``folder`` by ``build(folder)`` unless a matching, intact manifest says that it is there already.

    ``settings`` are the configuration values that the step depends on; the whole ``config`` that it was made with is
    only recorded.  ``inputs`` are finished step folders or plain files.  Work interrupted under the same settings and
    inputs is left for ``build`` to go on from; anything else is put aside in ``<folder>.previous`` until the new one is
    complete.  Two runs on one folder wait for each other.

    Raises :class:`BncapError` for a missing input, an input or output that changed under its manifest, a full disk, and
    a folder that cannot be written.
    """
    sources = {short_name(path): fingerprint(path) for path in inputs}
    key = _digest({"settings": settings, "inputs": sources})
    with full_disk_named(folder), locked(folder):
        if is_finished(folder) and read_manifest(folder)["key"] == key:
            check_outputs(folder)
            if not quiet:
                print(f"{short_name(folder)}: up to date")
            return folder
        _prepare(folder, key, quiet)
        start = time.monotonic()
        build(folder)
        seconds = time.monotonic() - start
        record = {"key": key, "settings": settings, "inputs": sources, "seconds": round(seconds, 3)}
        if config is not None:
            record |= {"config": config.as_dict(), "config_sha256": _digest(config.as_dict())}
        _write_manifest(folder, record)
        (folder / WORKING).unlink(missing_ok=True)
        shutil.rmtree(_previous(folder), ignore_errors=True)
    if not quiet:
        print(f"{short_name(folder)}: made in {time.monotonic() - start:.1f} s")
    return folder


def component_inputs(config: Config, name: str) -> list[Path]:
    """What a step that loads the component ``name`` depends on: the step folder that made it, or a local folder's
    weights.  Nothing for one in the hub's cache: its name among the step's settings has to do.
    """
    folder = Path(model_path(config, name))
    if folder.is_relative_to(artifacts_root()):
        return [folder]
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def require(folder: Path) -> Path:
    """``folder``, if it is finished; else a :class:`BncapError` with the command that makes it."""
    if not is_finished(folder):
        profile, step = folder.parts[-3], folder.parts[-2]
        raise BncapError(
            f"{short_name(folder)} is missing or unfinished; make it with: "
            f"./run_all.sh --profile {profile} --only {step[:2]} (--to {step[:2]} if what it needs is missing as well)"
        )
    return folder


def fingerprint(path: Path) -> str:
    """SHA-256 that stands for the bytes of a file, or of the outputs of a finished step folder, which are checked."""
    if path.is_file():
        return file_hash(path)
    check_outputs(require(path))
    outputs = read_manifest(path)["outputs"]
    return _digest({name: record["sha256"] for name, record in outputs.items()})


def check_outputs(folder: Path) -> None:
    """Raise :class:`BncapError` if an output is gone or differs from the manifest."""
    for name, record in read_manifest(folder)["outputs"].items():
        path = folder / name
        remedy = f"delete {short_name(folder)} and start again to make it anew"
        if not path.is_file():
            raise BncapError(f"{short_name(path)} is gone though its manifest lists it; {remedy}")
        stat = path.stat()
        touched = stat.st_size != record["bytes"] or stat.st_mtime_ns != record["mtime_ns"]
        if touched and file_hash(path) != record["sha256"]:
            raise BncapError(f"{short_name(path)} was changed after it was finished; {remedy}")


def file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished step folder; :class:`BncapError` if it is not what :func:`run_step` wrote."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not {"key", "outputs"} <= set(manifest):
        raise BncapError(f"{short_name(folder / MANIFEST)} is no manifest; delete {short_name(folder)} and start again")
    return manifest


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BncapError(f"{short_name(path)} is not readable JSON ({error}); delete it and make it again") from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 so that a reader finds the old file or the whole new one."""
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _prepare(folder: Path, key: str, quiet: bool) -> None:
    """Leave in ``folder`` only unfinished work for ``key``; the rest goes to ``.previous``."""
    working = folder / WORKING
    resumes = working.is_file() and not is_finished(folder) and read_json(working)["key"] == key
    if folder.exists() and not resumes:
        if not quiet and is_finished(folder):
            print(f"{short_name(folder)}: settings or inputs changed, making it anew")
        # an unfinished leftover must not push out the last complete result
        if is_finished(folder) or not _previous(folder).exists():
            shutil.rmtree(_previous(folder), ignore_errors=True)
            folder.rename(_previous(folder))
        else:
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(working, {"key": key})


def _write_manifest(folder: Path, record: dict[str, Any]) -> None:
    profile, step = folder.parts[-3], folder.parts[-2]
    variant, _, seed = folder.name.rpartition("-s")
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    outputs = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        stat = path.stat()
        outputs[path.relative_to(folder).as_posix()] = {
            "sha256": file_hash(path),
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }
    manifest = {
        **record,
        "profile": profile,
        "step": step,
        "variant": variant,
        "seed": int(seed),
        "outputs": outputs,
        "peak_memory_bytes": peak * 1024,
        "commit": git_commit(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(folder / MANIFEST, manifest)


@functools.cache
def git_commit() -> str:
    """The commit of the working tree, with ``+`` if files of it are changed; "unknown" outside a checkout."""
    try:
        run = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
        commit = run(["git", "rev-parse", "HEAD"]).stdout.strip()
        return commit + ("+" if run(["git", "status", "--porcelain", "-uno"]).stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def package_versions() -> dict[str, str]:
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

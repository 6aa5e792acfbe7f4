"""Steps and their folders: what is finished is skipped, what is interrupted goes on, what has changed is made again.

A step writes only its own folder.  ``manifest.json`` is written last and atomically, so its presence means that the
folder is complete.  ``unfinished.json`` stands in a folder under construction and says for which settings.
"""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bncap.errors import BncapError
from bncap.pipeline.files import atomic, read_csv, read_json, write_csv, write_json, write_text  # noqa: F401  used from here
from bncap.pipeline.hashes import file_hash, remembered_hash
from bncap.pipeline.locks import full_disk_named, locked
from bncap.pipeline.paths import MANIFEST, artifacts_root, input_roots, relative_step, short_name
from bncap.pipeline.provenance import git_commit, package_versions
from bncap.settings import Config

WORKING = "unfinished.json"


def run_step(
    folder: Path,
    *,
    settings: dict[str, Any],
    inputs: Sequence[Path] = (),
    components: Sequence[str] = (),
    build: Callable[[Path], None],
    config: Config | None = None,
    quiet: bool = False,
) -> Path:
    """Make ``folder`` by ``build(folder)`` unless a matching, intact manifest says that it is there already.

    ``settings`` are the configuration values that the step depends on; the whole ``config`` that it was made with is
    only recorded.  ``inputs`` are finished step folders or plain files, ``components`` names of pretrained parts, whose
    bytes count.  Work interrupted under the same settings and inputs is left for ``build`` to go on from; anything else
    is put aside in ``<folder>.previous`` until the new one is complete.  Two runs on one folder wait for each other.

    Returns the finished folder: ``folder``, or if that lies in a read-only input root and does not match, or was left
    unfinished there, its counterpart in the artefact root.

    Raises :class:`BncapError` for a missing input, an input or output that changed under its manifest, a full disk, and
    a folder that cannot be written.
    """
    step = Step(settings, inputs, components, config)
    if is_finished(folder) and read_manifest(folder)["key"] == step.key and not folder.is_relative_to(artifacts_root()):
        return _up_to_date(folder, quiet)  # no lock: an input root cannot be written
    folder = _writable(folder)
    with full_disk_named(folder), locked(folder):
        if is_finished(folder) and read_manifest(folder)["key"] == step.key:
            return _up_to_date(folder, quiet)
        _take_over(folder, step.key)
        _prepare(folder, step.key, quiet)
        start = time.monotonic()
        build(folder)
        seconds = time.monotonic() - start
        _write_manifest(folder, step.record() | {"seconds": round(seconds, 3)})
        (folder / WORKING).unlink(missing_ok=True)
        shutil.rmtree(_previous(folder), ignore_errors=True)
    if not quiet:
        print(f"{short_name(folder)}: made in {time.monotonic() - start:.1f} s")
    return folder


class Step:
    """What a step is made from, and the key that stands for it.

    Arguments as those of :func:`run_step`; naming components needs ``config``.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        inputs: Sequence[Path] = (),
        components: Sequence[str] = (),
        config: Config | None = None,
    ) -> None:
        from bncap.pipeline import hub

        named = {name: hub.find(config, name) for name in dict.fromkeys(components) if name not in hub.BUILT_IN}
        made = {name: part.folder for name, part in named.items() if part.is_step}
        self.settings, self.config = settings, config
        self.components = {name: part.record() for name, part in named.items() if name not in made}
        self.inputs = _fingerprints([*inputs, *made.values()])
        files = {name: record["files"] for name, record in self.components.items()}
        self.key = _digest({"settings": settings, "inputs": self.inputs, "components": files})

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        parts = {"key": self.key, "settings": self.settings, "inputs": self.inputs, "components": self.components}
        if self.config is not None:
            parts |= {"config": self.config.as_dict(), "config_sha256": _digest(self.config.as_dict())}
        return parts


def require_step(folder: Path, step: Step, what: str) -> Path:
    """``folder``, if it is finished and was made from what ``step`` says; else a :class:`BncapError`.

    ``what`` names it for the user, such as "shard 3 of the translations".
    """
    manifest = read_manifest(require(folder))
    if manifest["key"] != step.key:
        differing = [f"{k}={v!r}, not {step.settings[k]!r}" for k, v in manifest["settings"].items()
                     if k in step.settings and step.settings[k] != v]  # fmt: skip
        raise BncapError(
            f"{what} is foreign: {short_name(folder)} was made from other settings or inputs"
            f"{' (' + '; '.join(differing) + ')' if differing else ''}; delete that folder, or use the settings it has"
        )
    return folder


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def require(folder: Path) -> Path:
    """``folder``, if it is finished and as it was then; else a :class:`BncapError` with the command that makes it."""
    if not is_finished(folder):
        profile, step = folder.parts[-3], folder.parts[-2]
        which = "--captions FILE" if profile == "own" else f"--profile {profile}"
        raise BncapError(
            f"{short_name(folder)} is missing or unfinished; make it with: "
            f"./run_all.sh {which} --only {step[:2]} (--to {step[:2]} if what it needs is missing as well)"
        )
    check_outputs(folder)
    return folder


def fingerprint(path: Path) -> str:
    """SHA-256 that stands for the bytes of a file, or of the outputs of a finished step folder, which are checked."""
    if path.is_file():
        return remembered_hash(path)
    outputs = read_manifest(require(path))["outputs"]
    return _digest({name: record["sha256"] for name, record in outputs.items()})


def _fingerprints(paths: Iterable[Path]) -> dict[str, str]:
    """Name -> fingerprint of each path; a further file of the same name is told apart by a prime."""
    found: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        name = short_name(path)
        while name in found:
            name += "'"
        found[name] = fingerprint(path)
    return found


def check_outputs(folder: Path) -> None:
    """Raise :class:`BncapError` if an output is gone or differs from the manifest."""
    for name, record in read_manifest(folder)["outputs"].items():
        path = folder / name
        remedy = f"delete {short_name(folder)} and start again to make it anew"
        if not path.is_file():
            raise BncapError(f"{short_name(path)} is gone though its manifest lists it; {remedy}")
        stat = path.stat()
        touched = stat.st_size != record["bytes"] or stat.st_mtime_ns != record["mtime_ns"]
        if touched and remembered_hash(path) != record["sha256"]:
            raise BncapError(f"{short_name(path)} was changed after it was finished; {remedy}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished step folder; :class:`BncapError` if it is not what :func:`run_step` wrote."""
    manifest = read_json(folder / MANIFEST)
    parts = ("key", "settings", "outputs")
    kinds = tuple(type(manifest.get(part)) for part in parts) if isinstance(manifest, dict) else ()
    if kinds != (str, dict, dict) or not all(
        isinstance(record, dict) and {"sha256", "bytes", "mtime_ns"} <= set(record)
        for record in manifest["outputs"].values()
    ):
        raise BncapError(f"{short_name(folder / MANIFEST)} is no manifest; delete {short_name(folder)} and start again")
    return manifest


def _up_to_date(folder: Path, quiet: bool) -> Path:
    check_outputs(folder)
    if not quiet:
        print(f"{short_name(folder)}: up to date")
    return folder


def _writable(folder: Path) -> Path:
    """The counterpart of ``folder`` in the artefact root, if it lies in an input root."""
    relative = relative_step(folder)
    return artifacts_root() / relative if relative is not None else folder


def _take_over(folder: Path, key: str) -> None:
    """Copy work that an earlier session left unfinished for ``key`` in an input root, if ``folder`` is not there."""
    relative = relative_step(folder)
    if folder.exists() or relative is None:
        return
    for root in input_roots():
        left = root / relative
        if _unfinished_key(left) == key:
            print(f"{short_name(folder)}: going on from the work in {root}")
            fresh = folder.with_name(f".{folder.name}.copy")  # half a copy would pass for work that is done
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(left, fresh)
            fresh.rename(folder)
            return


def _prepare(folder: Path, key: str, quiet: bool) -> None:
    """Leave in ``folder`` only unfinished work for ``key``; the rest goes to ``.previous``."""
    if folder.exists() and _unfinished_key(folder) != key:
        if not quiet and is_finished(folder):
            print(f"{short_name(folder)}: settings or inputs changed, making it anew")
        # an unfinished leftover must not push out the last complete result
        if is_finished(folder) or not _previous(folder).exists():
            shutil.rmtree(_previous(folder), ignore_errors=True)
            folder.rename(_previous(folder))
        else:
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / WORKING, {"key": key})


def _unfinished_key(folder: Path) -> str | None:
    """The key of the work that ``folder`` was left with; None if it is finished or holds none."""
    note = folder / WORKING
    if is_finished(folder) or not note.is_file():
        return None
    content = read_json(note)
    if not isinstance(content, dict) or not isinstance(content.get("key"), str):
        raise BncapError(f"{short_name(note)} is not what was written there; delete {short_name(folder)} to start anew")
    return content["key"]


def _write_manifest(folder: Path, record: dict[str, Any]) -> None:
    profile, step = folder.parts[-3], folder.parts[-2]
    variant, _, seed = folder.name.rpartition("-s")
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    outputs = {}
    made = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and p != folder / WORKING]
    for path in sorted(made):
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


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

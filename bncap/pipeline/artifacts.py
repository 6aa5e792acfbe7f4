"""Steps and their folders: what is finished is reused, what is interrupted continues, what has changed is made again.

A step writes only its own folder, ``artifacts/<profile>/<NN_step>/<variant>-s<seed>``.  ``manifest.json`` is written
last and atomically, so that its presence means complete.  ``unfinished.json`` stands in a folder under construction,
with the key of the work.  The manifest holds

================================  =====================================================================================
``key``                           SHA-256 over ``settings``, ``inputs``, the components' files and ``code``
``settings``                      the configuration values that the result depends on
``inputs``                        step folder or file -> SHA-256 of its content
``components``                    pretrained part -> ``source``, ``revision`` and ``files`` (path -> SHA-256)
``code``                          module of bncap -> hash of the code that computed the result (:mod:`.code`)
``config``, ``config_sha256``     the whole configuration; not part of the key
``profile step variant seed``     what the folder's path says
``outputs``                       file -> ``sha256``, ``bytes`` and ``mtime_ns``
``seconds peak_memory_bytes``     what it cost
``commit python packages``        versions of the repository, of Python and of the main libraries
``finished``                      local time, ISO 8601
``forced``                        only of a step made under ``run --force``: the token of that run
================================  =====================================================================================

A run with other settings or seeds than those of its profile is a trial: it writes ``artifacts/trial-<key>/<profile>/``
and ``figures/<profile>/trial-<key>/``, and reads what the standard run has made already with the same settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bncap.config import get_config
from bncap.errors import BncapError
from bncap.pipeline import hub
from bncap.pipeline.code import SOURCES, git_commit, package_versions
from bncap.pipeline.files import (  # noqa: F401  steps read and write their files by these
    atomic,
    file_hash,
    full_disk_named,
    locked,
    read_csv,
    read_json,
    remembered_hash,
    write_csv,
    write_json,
    write_text,
)
from bncap.pipeline.paths import MANIFEST, TRIAL, artifacts_root, figures_dir, input_roots, relative_step, short_name
from bncap.settings import Config

WORKING = "unfinished.json"
FORCE_VARIABLE = "BNCAP_FORCE"
"""Environment variable with the steps that one run makes again: ``<token>:04,06``, its token and their numbers."""
SEED = 42
"""The standard first seed: the default of the notebooks' SEED and of ``--seed``."""
OWN_DATA = ("captions", "images", "lang", "max_rejected")
"""Fields of ``config.data`` that name a user's data: with profile ``own`` they make no trial."""


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
    bytes count.  The code that counts is found from ``build``, see :mod:`bncap.pipeline.code`.  Work interrupted under
    the same key is left for ``build`` to continue; anything else is put aside in ``.<folder>.previous`` until the new
    one is complete.  Two runs on one folder wait for each other.  ``quiet`` leaves out all but the reason for which a
    finished step is made again.

    Returns the finished folder: ``folder``, or if that lies in a read-only input root and does not match, or was left
    unfinished there, its counterpart in the artefact root.

    Raises :class:`BncapError` for a missing input, an input or output that changed under its manifest, a full disk, and
    a folder that cannot be written.
    """
    step = Step(settings, inputs, components, config, build=build)
    if not folder.is_relative_to(artifacts_root()) and step.is_current(folder):
        return _up_to_date(folder, quiet)  # no lock: an input root cannot be written
    folder = _writable(folder)
    with full_disk_named(folder), locked(folder):
        if step.is_current(folder):
            return _up_to_date(folder, quiet)
        _take_over(folder, step)
        _prepare(folder, step)
        start = time.monotonic()
        build(folder)
        seconds = time.monotonic() - start
        _write_manifest(folder, step.record(folder) | {"seconds": round(seconds, 3)})
        (folder / WORKING).unlink(missing_ok=True)
        shutil.rmtree(_previous(folder), ignore_errors=True)
    if not quiet:
        print(f"{short_name(folder)}: made in {time.monotonic() - start:.1f} s")
    return folder


class Step:
    """What a step is made from, and the key that stands for it.

    Arguments as those of :func:`run_step`, of which ``build`` is not called; naming components needs ``config``.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        inputs: Sequence[Path] = (),
        components: Sequence[str] = (),
        config: Config | None = None,
        *,
        build: Callable[..., None],
    ) -> None:
        named: dict[str, hub.Component] = {}
        for name in sorted(set(components) - set(hub.BUILT_IN)):
            assert config is not None, f"the component {name} needs the configuration that names it"
            named[name] = hub.find(config, name)
        made = {name: part.folder for name, part in named.items() if part.is_step}
        self.settings, self.config = settings, config
        self.components = {name: part.record() for name, part in named.items() if name not in made}
        self.inputs = _fingerprints([*inputs, *made.values()])
        self.code = SOURCES.step_code(build)
        files = {name: record["files"] for name, record in self.components.items()}
        self.key = _digest({"settings": settings, "inputs": self.inputs, "components": files, "code": self.code})

    def is_current(self, folder: Path) -> bool:
        """Whether ``folder`` is finished, was made from this, and is not to be made again by ``run --force``."""
        if not is_finished(folder):
            return False
        manifest = read_manifest(folder)
        return manifest["key"] == self.key and _force_token(folder) in (None, manifest.get("forced"))

    def changes(self, manifest: Mapping[str, Any]) -> str:
        """What differs from a finished step's ``manifest``, in one line; "" for none."""
        before, now = _flatten(manifest["settings"]), _flatten(self.settings)
        parts = [f"setting {k} ({before.get(k)!r}, now {now.get(k)!r})" for k in _differing(before, now)]
        parts += [f"input {name}" for name in _differing(manifest.get("inputs", {}), self.inputs)]
        files = {name: record["files"] for name, record in self.components.items()}
        old_files = {name: record["files"] for name, record in manifest.get("components", {}).items()}
        parts += [f"component {name}" for name in _differing(old_files, files)]
        modules = _differing(manifest.get("code", {}), self.code)
        if modules:
            more = f" and {len(modules) - 3} more modules" if len(modules) > 3 else ""
            parts.append(f"the code of {', '.join(modules[:3])}{more}")
        return "; ".join(parts)

    def record(self, folder: Path) -> dict[str, Any]:
        """For the manifest of ``folder``."""
        record = {"key": self.key, "settings": self.settings, "inputs": self.inputs}
        record |= {"components": self.components, "code": self.code}
        if self.config is not None:
            record |= {"config": self.config.as_dict(), "config_sha256": _digest(self.config.as_dict())}
        token = _force_token(folder)
        return record | ({"forced": token} if token else {})


def require_step(folder: Path, step: Step, what: str) -> Path:
    """``folder``, if it is finished and was made from what ``step`` says; else a :class:`BncapError`.

    ``what`` names it for the user, such as "shard 3 of the translations".
    """
    manifest = read_manifest(require(folder))
    if manifest["key"] != step.key:
        raise BncapError(
            f"{what} is foreign: {short_name(folder)} was made from other settings, inputs or code "
            f"({step.changes(manifest)}); delete that folder, or use what it was made from"
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
        remedy = f"delete {short_name(folder)} and start again"
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


def _take_over(folder: Path, step: Step) -> None:
    """Copy work that an earlier session left unfinished for ``step`` in an input root, if ``folder`` is not there."""
    relative = relative_step(folder)
    if folder.exists() or relative is None:
        return
    for root in input_roots():
        left = root / relative
        if _can_continue(left, step, folder):
            print(f"{short_name(folder)}: continuing the work in {root}")
            fresh = folder.with_name(f".{folder.name}.copy")  # half a copy would pass for work that is done
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(left, fresh)
            fresh.rename(folder)
            return


def _prepare(folder: Path, step: Step) -> None:
    """Leave in ``folder`` only unfinished work for ``step``; the rest goes to ``.previous``."""
    if folder.exists() and not _can_continue(folder, step, folder):
        if is_finished(folder):
            changes = step.changes(read_manifest(folder))
            reason = f"{changes} changed" if changes else "--force asks for it"
            print(f"{short_name(folder)}: made again because {reason}")
        # an unfinished leftover must not push out the last complete result
        if is_finished(folder) or not _previous(folder).exists():
            shutil.rmtree(_previous(folder), ignore_errors=True)
            folder.rename(_previous(folder))
        else:
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / WORKING, {"key": step.key, "forced": _force_token(folder)})


def _can_continue(left: Path, step: Step, folder: Path) -> bool:
    """Whether ``left`` holds unfinished work for ``step``; a forced step continues only what its own run began."""
    note = left / WORKING
    if is_finished(left) or not note.is_file():
        return False
    content = read_json(note)
    if not isinstance(content, dict) or not isinstance(content.get("key"), str):
        raise BncapError(
            f"{short_name(note)} is not what was written there; delete {short_name(left)} to start from nothing"
        )
    return content["key"] == step.key and _force_token(folder) in (None, content.get("forced"))


def _force_token(folder: Path) -> str | None:
    """The token of a run that makes the step in ``folder`` again; None if there is no such run."""
    token, _, numbers = os.environ.get(FORCE_VARIABLE, "").partition(":")
    return token if folder.parent.name[:2] in numbers.split(",") and token else None


def _write_manifest(folder: Path, record: dict[str, Any]) -> None:
    profile, step = folder.parts[-3], folder.parts[-2]
    variant, _, seed = folder.name.rpartition("-s")
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
        "peak_memory_bytes": _peak_memory(),
        "commit": git_commit(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(folder / MANIFEST, manifest)


def _peak_memory() -> int:
    """Bytes that this process, or one that it started, had in memory at most."""
    import resource  # not on native Windows, where the command line has to start to refuse it

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak if sys.platform == "darwin" else peak * 1024


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``section.field`` -> value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names whose values differ or that are in one of the two alone, as JSON has them."""
    return sorted(k for k in before.keys() | now.keys() if _digest(before.get(k)) != _digest(now.get(k)))


def select_folders(config: Config, seed: int = SEED) -> None:
    """Choose the folders that this process, and those that it starts, write: the standard ones or those of a trial.

    Every notebook and command calls it once, right after its configuration is resolved.  A trial prints where its
    figures go.  The choice is kept in the environment variable ``BNCAP_TRIAL``.
    """
    changes = differences(config, seed)
    text = json.dumps([config.profile, changes], sort_keys=True, ensure_ascii=False)
    os.environ[TRIAL] = f"trial-{hashlib.sha256(text.encode()).hexdigest()[:6]}" if changes else ""
    if changes:
        folder = figures_dir(config.profile)
        write_json(folder / "trial.json", {"profile": config.profile, "differs": changes})
        listed = ", ".join(f"{name}={value}" for name, value in list(changes.items())[:4])
        more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
        print(f"trial of profile {config.profile} ({listed}{more}): figures go to {folder}", flush=True)


def differences(config: Config, seed: int = SEED) -> dict[str, Any]:
    """``{"section.field": value}`` of what differs from the profile's standard run; also ``SEED`` and ``seeds``."""
    standard = get_config(config.profile)
    if config.profile == "own":
        standard = get_config("own", [f"data.{name}={getattr(config.data, name)}" for name in OWN_DATA])
    ours, theirs = (_flat(each) for each in (config, standard))
    changes = {name: value for name, value in ours.items() if value != theirs[name]}
    if config.seeds(seed) != standard.seeds(SEED):
        changes["seeds"] = list(config.seeds(seed))
    if seed != SEED and seed not in config.seeds(seed)[:1]:
        changes["SEED"] = seed
    return changes


def _flat(config: Config) -> dict[str, Any]:
    """``{"section.field": value}``, without the fields that only say which seeds there are."""
    sections = {name: section for name, section in config.as_dict().items() if isinstance(section, dict)}
    flat = {f"{name}.{field}": value for name, section in sections.items() for field, value in section.items()}
    return {name: value for name, value in flat.items() if name not in ("experiment.seeds", "experiment.n_seeds")}

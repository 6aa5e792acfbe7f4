"""Steps and their folders: what is finished is reused, what is interrupted continues, what has changed is made again.

A step writes only its own folder, ``artifacts/<profile>/<NN_step>/<variant>-s<seed>``.  ``manifest.json`` is written
last and atomically, so that its presence means complete; its fields are listed in ``figures/README.md``.
``unfinished.json`` holds the key of work under way.

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
)  # fmt: skip
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

    ``settings`` are the values that the step depends on; ``config`` is only recorded.  ``inputs`` are finished step
    folders or plain files, ``components`` names of pretrained parts: their bytes count, and so does the code of
    ``build``, see :mod:`bncap.pipeline.code`.  Work interrupted under the same key is left for ``build`` to continue;
    anything else is put aside in ``.<folder>.previous`` until the new one is complete.  Two runs on one folder wait for
    each other.  ``quiet`` prints only why a finished step is made again.

    Returns ``folder``, or its counterpart in the artefact root if it does not match in a read-only input root.  Raises
    :class:`BncapError` for a missing input, an input or output that changed, a full disk, a folder that is read-only.
    """
    step = Step(settings, inputs, components, config, build=build)
    if not folder.is_relative_to(artifacts_root()) and step.is_current(folder):
        return _up_to_date(folder, quiet)
    relative = relative_step(folder)
    folder = artifacts_root() / relative if relative else folder  # an input root cannot be written
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
        shutil.rmtree(folder.with_name(f".{folder.name}.previous"), ignore_errors=True)
    if not quiet:
        print(f"{short_name(folder)}: made in {time.monotonic() - start:.1f} s")
    return folder


class Step:
    """What a step is made from, and the key that stands for it; arguments as those of :func:`run_step`."""

    def __init__(
        self, settings: dict[str, Any], inputs: Sequence[Path] = (), components: Sequence[str] = (),
        config: Config | None = None, *, build: Callable[..., None],
    ) -> None:  # fmt: skip
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
        record = {name: getattr(self, name) for name in ("key", "settings", "inputs", "components", "code")}
        if self.config is not None:
            record |= {"config": self.config.as_dict(), "config_sha256": _digest(self.config.as_dict())}
        token = _force_token(folder)
        return record | ({"forced": token} if token else {})


def require_step(folder: Path, step: Step, what: str) -> Path:
    """``folder``, if it was made from ``step``; else a :class:`BncapError` that calls it ``what``."""
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
        profile, step, _ = folder.parts[-3:]
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
    """The manifest of a finished step folder; :class:`BncapError` if it is none."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not {"key", "settings", "outputs"} <= set(manifest):
        raise BncapError(f"{short_name(folder / MANIFEST)} is no manifest; delete {short_name(folder)} and start again")
    return manifest


def _up_to_date(folder: Path, quiet: bool) -> Path:
    check_outputs(folder)
    if not quiet:
        print(f"{short_name(folder)}: up to date")
    return folder


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
    previous = folder.with_name(f".{folder.name}.previous")
    if folder.exists() and not _can_continue(folder, step, folder):
        if is_finished(folder):
            changes = step.changes(read_manifest(folder))
            reason = f"{changes} changed" if changes else "--force asks for it"
            print(f"{short_name(folder)}: made again because {reason}")
        # an unfinished leftover must not push out the last complete result
        if is_finished(folder) or not previous.exists():
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
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
    if not isinstance(content, dict) or "key" not in content:
        raise BncapError(f"{short_name(note)} is no note of unfinished work; delete {short_name(left)} to start again")
    return content["key"] == step.key and _force_token(folder) in (None, content.get("forced"))


def _force_token(folder: Path) -> str | None:
    """The token of a run that makes the step in ``folder`` again; None if there is no such run."""
    token, _, numbers = os.environ.get(FORCE_VARIABLE, "").partition(":")
    return token if folder.parent.name[:2] in numbers.split(",") and token else None


def _write_manifest(folder: Path, record: dict[str, Any]) -> None:
    profile, step, name = folder.parts[-3:]
    variant, _, seed = name.rpartition("-s")
    outputs = {}
    written = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and p != folder / WORKING]
    for path in sorted(written):
        stat = path.stat()
        made = {"sha256": file_hash(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        outputs[path.relative_to(folder).as_posix()] = made
    record |= {"profile": profile, "step": step, "variant": variant, "seed": int(seed), "outputs": outputs}
    record |= {"commit": git_commit(), "python": platform.python_version(), "packages": package_versions()}
    record |= {"peak_memory_bytes": _peak_memory(), "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_json(folder / MANIFEST, record)


def _peak_memory() -> int:
    """Bytes that this process, or one that it started, had in memory at most."""
    import resource  # not on native Windows, where the command line has to start to refuse it

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak if sys.platform == "darwin" else peak * 1024


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

    Notebooks and commands call it once their configuration is resolved.  ``BNCAP_TRIAL`` keeps the choice.
    """
    changes = _differences(config, seed)
    os.environ[TRIAL] = f"trial-{_digest([config.profile, changes])[:6]}" if changes else ""
    if changes:
        folder = figures_dir(config.profile)
        write_json(folder / "trial.json", {"profile": config.profile, "differs": changes})
        listed = ", ".join(f"{name}={value}" for name, value in list(changes.items())[:4])
        more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
        print(f"trial of profile {config.profile} ({listed}{more}): figures go to {folder}", flush=True)


def _differences(config: Config, seed: int) -> dict[str, Any]:
    """``{"section.field": value}`` of what differs from the profile's standard run; also ``SEED`` and ``seeds``."""
    standard = get_config(config.profile)
    if config.profile == "own":
        standard = get_config("own", [f"data.{name}={getattr(config.data, name)}" for name in OWN_DATA])
    ours, theirs = (_flatten(each.as_dict()) for each in (config, standard))
    seeds = ("experiment.seeds", "experiment.n_seeds")  # compared below, as what they amount to
    changes = {name: value for name, value in ours.items() if value != theirs[name] and name not in seeds}
    if config.seeds(seed) != standard.seeds(SEED):
        changes["seeds"] = list(config.seeds(seed))
    if seed != SEED and seed not in config.seeds(seed)[:1]:
        changes["SEED"] = seed
    return changes

"""Trials: runs with other settings or seeds than those of their profile write folders of their own.

The standard run of a profile writes ``artifacts/<profile>/`` and ``figures/<profile>/``.  Any other run is a trial: it
writes ``artifacts/trial-<key>/<profile>/`` and ``figures/<profile>/trial-<key>/``, and reads what the standard run has
made already with the same settings.  ``trial.json`` beside the figures lists what differs.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from bncap.config import get_config
from bncap.pipeline import paths
from bncap.pipeline.files import write_json
from bncap.settings import Config

SEED = 42
"""The standard first seed: the default of the notebooks' SEED and of ``--seed``."""
OWN_DATA = ("captions", "images", "lang", "max_rejected")
"""Fields of ``config.data`` that name a user's data: with profile ``own`` they make no trial."""


def select_folders(config: Config, seed: int = SEED) -> None:
    """Choose the folders that this process, and those that it starts, write: the standard ones or those of a trial.

    Every notebook and command calls it once, right after its configuration is resolved.  A trial prints where its
    figures go.  The choice is kept in the environment variable ``BNCAP_TRIAL``.
    """
    changes = differences(config, seed)
    text = json.dumps([config.profile, changes], sort_keys=True, ensure_ascii=False)
    os.environ[paths.TRIAL] = f"trial-{hashlib.sha256(text.encode()).hexdigest()[:6]}" if changes else ""
    if changes:
        folder = paths.figures_dir(config.profile)
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

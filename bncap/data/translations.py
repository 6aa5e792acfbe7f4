"""Translating and verifying in shards, each a step of its own, so that several machines can share the work.

``01_data_build/translations.03of10-s42`` holds ``rows.csv``: the fourth tenth of the training captions, in their order,
with their translations and cosines; ``translations.heldout`` and ``translations.ood`` hold those of the other splits.
What is accepted is not decided here: another threshold translates nothing again.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from bncap.data.readers import Caption
from bncap.data.splits import read_splits
from bncap.data.translate import Translator, load_translator
from bncap.data.verify import Verifier
from bncap.errors import BncapError
from bncap.pipeline import artifacts, deadline, hub
from bncap.pipeline.paths import MANIFEST, artifacts_root, step_dir
from bncap.settings import Config
from bncap.text import iso, language_name

HEADER = ("caption_id", "image_id", "lang", "en", "target", "similarity")
"""Columns of ``rows.csv``; ``similarity`` is empty where the text was in the target language already."""
ENGLISH = "en"
BATCHES = 10
"""Batches translated at once, so that the translator can sort them by length; then they are written down."""


def shard_names(config: Config) -> list[str]:
    """The names of the training captions' shards, such as "00of10"."""
    return [f"{number:02d}of{config.data.shards:02d}" for number in range(config.data.shards)]


def assign_shards(config: Config, splits: Mapping[str, Sequence[Caption]]) -> dict[str, Sequence[Caption]]:
    """Shard -> its captions: train in contiguous runs, sizes at most one apart; then "heldout" and "ood", if any.

    "heldout" is validation and test together, by caption id.
    """
    train, names = splits["train"], shard_names(config)
    ends = [len(train) * n // len(names) for n in range(len(names) + 1)]
    shards = {name: train[ends[n] : ends[n + 1]] for n, name in enumerate(names)}
    held_out = sorted([*splits["validation"], *splits["test"]], key=lambda caption: caption.caption_id)
    return shards | {name: captions for name, captions in (("heldout", held_out), ("ood", splits["ood"])) if captions}


def build_shards(
    config: Config, numbers: Sequence[int] | None = None, splits: Mapping[str, Sequence[Caption]] | None = None
) -> list[Path]:
    """Make the shards ``numbers`` (from 0; None: all of :func:`assign_shards`), or find them finished; their folders.

    An interrupted shard goes on after its last chunk.  A number that is named is made for these settings whatever is
    there.  With None, a finished shard of other settings is refused, for hours of work may be in it, unless none fits:
    then the settings were changed, and all are made again.  ``splits``: if :func:`read_splits` was called already.

    Raises :class:`BncapError` for a number that there is not, a foreign shard, and a caption without an English side,
    and :class:`OutOfTime` after a chunk.
    """
    shards = assign_shards(config, splits or read_splits(config))
    if numbers is not None:
        if wrong := [n for n in numbers if n not in range(config.data.shards)]:
            raise BncapError(f"there is no shard {wrong[0]}: with data.shards={config.data.shards} they are numbered "
                             f"from 0 to {config.data.shards - 1}")  # fmt: skip
        names = shard_names(config)
        shards = {names[n]: shards[names[n]] for n in dict.fromkeys(numbers)}
    recipes = {name: _recipe(config, name, captions) for name, captions in shards.items()}
    if numbers is None:
        _refuse_foreign(config, recipes)
    models = _Models(config)
    folders: list[Path] = []
    for name, captions in shards.items():
        if folders and not artifacts.is_finished(_folder(config, name)):
            deadline.check(f"the translations, {len(folders)} of {len(shards)} shards")
        build = functools.partial(_translate_shard, models, name, captions)
        folders.append(artifacts.run_step(_folder(config, name), build=build, **recipes[name]))
    return folders


def read_shard(folder: Path) -> pd.DataFrame:
    """The rows of a finished shard, columns as in :data:`HEADER`, all of them text."""
    return pd.read_csv(artifacts.require(folder) / "rows.csv", dtype=str, keep_default_na=False)


def english_side(caption: Caption) -> str:
    """The English text of ``caption``, or "" if it has none."""
    return caption.text if iso(caption.lang) == ENGLISH else caption.english


def is_translated(caption: Caption, lang: str) -> bool:
    """Whether ``caption`` needs a translation into ``lang``: False if it is in that language already.

    Raises :class:`BncapError` if it does but has no English side.
    """
    if iso(caption.lang) == iso(lang):
        return False
    if not english_side(caption):
        raise BncapError(
            f"caption {caption.caption_id} of {caption.image} is in {language_name(caption.lang)} and has no English "
            f"side to translate into {language_name(lang)}; add it (column english), or set data.lang={caption.lang}"
        )
    return True


class _Models:
    """Translator and verifier, each loaded when it is first needed, once for all shards."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @functools.cached_property
    def translator(self) -> Translator:
        return load_translator(self.config)

    @functools.cached_property
    def verifier(self) -> Verifier:
        return Verifier(hub.path(self.config, self.config.components.verifier))

    def translate(self, captions: Sequence[Caption]) -> list[tuple]:
        """Rows of :data:`HEADER` for one chunk."""
        lang = self.config.data.lang
        translated: dict[int, tuple[str, str]] = {}
        chosen = [i for i, caption in enumerate(captions) if is_translated(caption, lang)]
        if chosen:
            en = [english_side(captions[i]) for i in chosen]
            target = self.translator.translate(en)
            # rounded here, so that every decision follows from the number that is written
            similarity = self.verifier.similarity(en, target).astype(np.float64).round(6)
            translated = {i: (text, f"{s:.6f}") for i, text, s in zip(chosen, target, similarity, strict=True)}
        return [
            (c.caption_id, c.image_id, c.lang, english_side(c), *translated.get(i, (c.text, "")))
            for i, c in enumerate(captions)
        ]


def _translate_shard(models: _Models, name: str, captions: Sequence[Caption], folder: Path) -> None:
    """Write ``rows.csv``, by way of a file for each chunk, from which an interrupted start continues.

    Only whole chunks are kept: batches, and with them the last bits of the cosines, are then those of a run without
    interruption.
    """
    size = BATCHES * models.config.data.translation_batch
    chunks = []
    made = 0
    slow = any(is_translated(caption, models.config.data.lang) for caption in captions)
    with tqdm(
        desc=f"translate, verify {name}", total=len(captions), unit="caption", leave=False, disable=not slow
    ) as bar:
        for start in range(0, len(captions), size):
            chunks.append(folder / f"chunk_{start // size:04d}.csv")
            if not chunks[-1].is_file():
                if made:
                    deadline.check(f"{_title(name)}, {start:,} of {len(captions):,} captions")
                artifacts.write_csv(chunks[-1], HEADER, models.translate(captions[start : start + size]))
                made += 1
            bar.update(min(size, len(captions) - start))
    with artifacts.atomic(folder / "rows.csv") as temporary, temporary.open("wb") as stream:
        stream.write(f"{','.join(HEADER)}\n".encode())
        for chunk in chunks:
            stream.write(chunk.read_bytes().partition(b"\n")[2])
    for chunk in chunks:
        chunk.unlink()


def _recipe(config: Config, name: str, captions: Sequence[Caption]) -> dict[str, Any]:
    """What a shard is made from, as arguments of :class:`Step` and :func:`run_step`: its captions, not their files,
    so that a caption that is mended in one shard leaves the others as they are."""
    data, parts = config.data, config.components
    digest = hashlib.sha256()
    for c in captions:
        digest.update("\x1f".join((str(c.caption_id), c.image_id, c.lang, c.text, c.english, "\n")).encode())
    settings: dict[str, Any] = {
        "shard": name, "lang": data.lang, "captions": len(captions), "captions_sha256": digest.hexdigest(),
    }  # fmt: skip
    components = []
    # a list, not any(): each caption is checked before hours are spent on those before it
    if True in [is_translated(caption, data.lang) for caption in captions]:
        if data.source == "own" and "mini:" in (parts.translator[:5], parts.verifier[:5]):
            raise BncapError(
                f"{data.captions} has captions to be translated into {language_name(data.lang)}, but the mini "
                "translator and verifier know the mini world alone; name others, such as Helsinki-NLP/opus-mt-en-inc "
                "by components.translator and sentence-transformers/LaBSE by components.verifier, or set data.lang to "
                "the language that the captions are in"
            )
        components = [parts.translator, parts.verifier]
        settings |= {"translator": parts.translator, "verifier": parts.verifier}
        settings |= {"translation_batch": data.translation_batch}
        if parts.translator.startswith("mini:"):
            settings |= {"fault_rate": config.world.fault_rate, "seed": data.seed}
    return {"settings": settings, "components": components, "config": config}


def _refuse_foreign(config: Config, recipes: Mapping[str, dict[str, Any]]) -> None:
    """Refuse what :func:`build_shards` refuses: of the training shards that are translated; others are quickly made."""
    translated = [name for name in shard_names(config) if recipes[name]["components"]]
    steps = {
        name: artifacts.Step(**recipes[name], build=_translate_shard)
        for name in translated
        if artifacts.is_finished(_folder(config, name))
    }
    foreign = [
        name for name, step in steps.items() if artifacts.read_manifest(_folder(config, name))["key"] != step.key
    ]
    fits = len(foreign) < len(steps)
    for name in foreign:
        if fits or not _folder(config, name).is_relative_to(artifacts_root()):
            artifacts.require_step(_folder(config, name), steps[name], _title(name))
    for name in foreign:  # unfinished from here on, so that an interruption does not leave a mixture
        (_folder(config, name) / MANIFEST).unlink()


def _folder(config: Config, name: str) -> Path:
    return step_dir(config.profile, "01_data_build", f"translations.{name}", config.data.seed)


def _title(name: str) -> str:
    number = name.partition("of")[0]
    return f"shard {int(number)} of the translations" if number.isdecimal() else f"the translations of {name}"

"""The corpus: captions translated and verified in shards, and the accepted pairs of all splits (Sec. 4.2.1, 4.2.2).

Each shard is a step of its own, so that several machines can share the work: ``01_data_build/translations.03of10-s42``
holds ``rows.csv``, the fourth tenth of the training captions with their translations and cosines;
``translations.heldout`` and ``translations.ood`` hold those of the other splits.  What is accepted is decided when they
are merged: another threshold translates nothing again.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from bncap.data.images import check_rejects, inspect_pictures, read_pictures
from bncap.data.pairs import PAIR_COLUMNS
from bncap.data.readers import Caption
from bncap.data.splits import SPLITS, caption_files, check_disjoint, read_splits
from bncap.data.translate import Translator, load_translator
from bncap.data.verify import THRESHOLDS, Verifier, accept_pairs, calibrate_threshold, measure_filter
from bncap.errors import BncapError
from bncap.mini.models import MiniTranslator
from bncap.pipeline import artifacts, deadline, hub
from bncap.pipeline.paths import MANIFEST, artifacts_root, dataset_roots, step_dir
from bncap.settings import Config
from bncap.text import iso, language_name

STEP = "01_data_build"
HEADER = ("caption_id", "image_id", "lang", "en", "target", "similarity")
"""Columns of ``rows.csv``; ``similarity`` is empty where the text was in the target language already."""
SHARD_COLUMNS = ("caption_id", "image_id", "en", "target", "similarity", "valid")
"""Columns of ``shards/*.csv`` and ``evaluation/*.csv``, which list every caption with its translation."""
BATCHES = 10
"""Batches translated at once, so that the translator can sort them by length; then they are written down."""


def build_corpus(config: Config) -> Path:
    """Make, or find finished, the step ``01_data_build/corpus-s<seed>``: pictures, shards, then the merged pairs.

    Raises :class:`BncapError` for missing or malformed data, splits that share a picture, too many unusable pictures, a
    foreign shard, and a split without an accepted pair; :class:`bncap.errors.OutOfTime` between two chunks of work.
    """
    data = config.data
    splits = read_splits(config)
    inputs = dataset_roots(config) if data.source == "mini" else list(caption_files(config).values())
    hashes = None
    if data.check_images:
        inputs.append(inspect_pictures(config, splits))
        pictures = read_pictures(inputs[-1])
        check_rejects(pictures, data.max_rejected, inputs[-1] / "rejected.csv")
        hashes = {picture.image: picture.sha256 for picture in pictures if not picture.reason}
        check_disjoint(splits, hashes)
        _check_pictures(splits, hashes, inputs[-1] / "rejected.csv")
    else:
        print("data.check_images=False: the pictures are not inspected, and the splits are compared by ids alone")
    shards = dict(zip(assign_shards(config, splits), build_shards(config, splits=splits), strict=True))
    names = ("source", "lang", "seed", "threshold", "reject_copies", "check_images", "own_share")
    settings = {name: getattr(data, name) for name in (*names, "validation_images", "test_images", "ood_images")}
    return artifacts.run_step(
        step_dir(config.profile, STEP, "corpus", data.seed),
        settings=settings,
        inputs=[*inputs, *shards.values()],
        build=functools.partial(_merge, config, splits, shards, hashes),
        config=config,
    )


def find_valid(
    en: Iterable[str], target: Iterable[str], similarity: np.ndarray, threshold: float, *, reject_copies: bool
) -> np.ndarray:
    """(N,) bool, True for a pair to train on or to compare with; ``similarity`` is NaN where nothing was translated.

    What a human wrote in the target language is valid; an empty translation is not at any threshold, nor, with
    ``reject_copies``, the caption itself: its cosine is 1, and Eq. 4 is blind to it.
    """
    usable = [
        bool(text) and not (reject_copies and text.strip() == caption.strip())
        for caption, text in zip(en, target, strict=True)
    ]
    return np.isnan(similarity) | (accept_pairs(similarity, threshold) & np.array(usable, dtype=bool))


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

    A number that is named is made for these settings whatever is there.  With None, a finished shard of other settings
    is refused, for hours of work may be in it, unless none fits: then the settings were changed, and all are made
    again.  ``splits``: if :func:`read_splits` was called already.

    Raises :class:`BncapError` for a number that there is not, a foreign shard, and a caption without an English side;
    :class:`bncap.errors.OutOfTime` after a chunk, from which the next start continues.
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


def _merge(
    config: Config,
    splits: Mapping[str, Sequence[Caption]],
    shards: Mapping[str, Path],
    hashes: Mapping[str, str] | None,
    folder: Path,
) -> None:
    """Write the corpus step's files.  ``hashes``: picture -> SHA-256 of the usable ones; None: unknown."""
    tables = []
    for name, captions in assign_shards(config, splits).items():
        tables.append(_verify_shard(config, splits, captions, shards[name], hashes))
        number = name.partition("of")[0]
        listed = f"shards/shard_{number}.csv" if number.isdecimal() else f"evaluation/{name}.csv"
        _write_table(folder / listed, tables[-1], SHARD_COLUMNS)
    table = pd.concat(tables, ignore_index=True).sort_values("split", kind="stable")  # in the order of SPLITS
    _write_table(folder / "corpus.csv", table[table.used], PAIR_COLUMNS)
    for split, captions in splits.items():
        images = sorted({(c.image, c.image_id) for c in captions if hashes is None or c.image in hashes})
        listed_images = ((image_id, image, hashes[image] if hashes else "") for image, image_id in images)
        artifacts.write_csv(folder / "splits" / f"{split}.csv", ("image_id", "image", "sha256"), listed_images)

    groups = {split: table[table.split == split] for split in SPLITS}
    verified = {split: group[group.similarity != ""] for split, group in groups.items()}
    cosines = {split: group.similarity.astype(float).to_numpy() for split, group in verified.items()}
    shares = [
        (f"{threshold:.2f}", split, f"{accept_pairs(cosines[split], threshold).mean():.6f}")
        for split in SPLITS
        for threshold in THRESHOLDS
        if len(cosines[split])
    ]
    artifacts.write_csv(folder / "acceptance.csv", ("threshold", "split", "accepted"), shares)
    counts: dict[str, object] = {"threshold": config.data.threshold, "lang": config.data.lang}
    counts["files"] = {part: path.name for part, path in caption_files(config).items()}
    counts["splits"] = {split: _count(group) for split, group in groups.items()}
    faulty = {split: group.fault.notna().to_numpy() for split, group in verified.items()}
    if _knows_faults(config) and not faulty["validation"].all():
        # of a split without a faultless pair the recall is undefined
        curves = {split: measure_filter(cosines[split], faulty[split]) for split in SPLITS if not faulty[split].all()}
        quality = pd.concat(curves, names=["split"]).reset_index("split")
        rows = [(split, *(f"{value:.6g}" for value in point)) for split, *point in quality.itertuples(index=False)]
        artifacts.write_csv(folder / "filter_quality.csv", list(quality), rows)
        _write_table(folder / "faults.csv", table[table.fault.notna()], ("split", "caption_id", "fault"))
        counts["calibrated_threshold"] = calibrate_threshold(cosines["validation"], faulty["validation"])
    artifacts.write_json(folder / "counts.json", counts)
    _check_pairs(config, groups, folder)


def _verify_shard(
    config: Config,
    splits: Mapping[str, Sequence[Caption]],
    captions: Sequence[Caption],
    shard: Path,
    hashes: Mapping[str, str] | None,
) -> pd.DataFrame:
    """A row for each caption: those of the shard, and image, split, given, synthetic, valid, used, fault.

    ``valid``: the pair is accepted; ``used``: its picture can be used, too; ``given``: the data set's own split;
    ``fault``: what is wrong with the translation, None for nothing, or where that is not known.
    """
    table = read_shard(shard)
    split_of = {caption.image: split for split in SPLITS[1:] for caption in splits[split]}
    table["image"] = [caption.image for caption in captions]
    table["split"] = pd.Categorical([split_of.get(caption.image, "train") for caption in captions], SPLITS)
    table["given"] = [caption.split for caption in captions]
    table["synthetic"] = [c.synthetic if hashes is None or c.synthetic in hashes else "" for c in captions]
    cosine = table.similarity.replace("", "nan").astype(float).to_numpy()
    data = config.data
    valid = find_valid(table.en, table.target, cosine, data.threshold, reject_copies=data.reject_copies)
    table["valid"] = valid.astype(int)
    table["used"] = valid & np.array([hashes is None or c.image in hashes for c in captions], dtype=bool)
    faults: Sequence[str | None] = [None] * len(table)
    if _knows_faults(config):
        faults = cast(MiniTranslator, load_translator(config)).faults(list(table.en))
    table["fault"] = pd.Series(faults, dtype=object).where(table.similarity != "", None)
    return table


def _knows_faults(config: Config) -> bool:
    """Whether the translator knows its own faults; one of the real world does not."""
    return config.components.translator.startswith("mini:")


def _count(group: pd.DataFrame) -> dict[str, float | str]:
    """The record of one split in ``counts.json``."""
    accepted, images = int(group.valid.sum()), group.image.nunique()
    return {
        "captions": len(group),
        "verified": int((group.similarity != "").sum()),  # the others are in the target language already
        "accepted": accepted,
        "accepted_share": round(accepted / len(group), 4) if len(group) else 0.0,
        "without_picture": accepted - int(group.used.sum()),  # accepted, but the picture is unusable
        "images": images,
        "images_dropped": images - group.image[group.used].nunique(),  # those without any pair
        "given_split": ", ".join(sorted(set(group.given) - {""})),
    }


def _write_table(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    artifacts.write_csv(path, columns, table[[*columns]].itertuples(index=False, name=None))


def _check_pictures(splits: Mapping[str, Sequence[Caption]], usable: Collection[str], rejected: Path) -> None:
    """Refuse a split without a usable picture: all of a small one may be less than ``data.max_rejected``."""
    for split, captions in splits.items():
        if captions and not any(caption.image in usable for caption in captions):
            raise BncapError(
                f"no picture of the {split} split can be used, such as {captions[0].image}; {rejected} says why"
            )


def _check_pairs(config: Config, groups: Mapping[str, pd.DataFrame], folder: Path) -> None:
    for split, group in groups.items():
        fault = f"{folder / 'corpus.csv'} has no pair of the {split} split: "
        if len(group) and not group.valid.any():
            raise BncapError(
                f"{fault}none of {len(group)} captions reaches data.threshold={config.data.threshold}; lower it "
                "(acceptance.csv beside it has the shares) and start again"
            )
        if len(group) and not group.used.any():
            raise BncapError(f"{fault}none of its pictures can be used (pictures-s{config.data.seed}/rejected.csv)")


def _english_side(caption: Caption) -> str:
    return caption.text if iso(caption.lang) == "en" else caption.english


def _needs_translation(caption: Caption, lang: str) -> bool:
    """Whether ``caption`` is not in ``lang`` already; :class:`BncapError` if it is not and has no English side."""
    if iso(caption.lang) == iso(lang):
        return False
    if not _english_side(caption):
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
        translated: dict[int, tuple[str, str]] = {}
        chosen = [i for i, caption in enumerate(captions) if _needs_translation(caption, self.config.data.lang)]
        if chosen:
            en = [_english_side(captions[i]) for i in chosen]
            target = self.translator.translate(en)
            # rounded here, so that every decision follows from the number that is written
            similarity = self.verifier.similarity(en, target).astype(np.float64).round(6)
            translated = {i: (text, f"{s:.6f}") for i, text, s in zip(chosen, target, similarity, strict=True)}
        return [
            (c.caption_id, c.image_id, c.lang, _english_side(c), *translated.get(i, (c.text, "")))
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
    slow = any(_needs_translation(caption, models.config.data.lang) for caption in captions)
    title = f"translate, verify {name}"
    with tqdm(desc=title, total=len(captions), unit="caption", leave=False, disable=not slow) as bar:
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
    if True in [_needs_translation(caption, data.lang) for caption in captions]:
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
    steps = {}
    for name in shard_names(config):
        folder = _folder(config, name)
        if recipes[name]["components"] and artifacts.is_finished(folder):
            steps[name] = folder, artifacts.Step(**recipes[name], build=_translate_shard)
    foreign = {
        name: (folder, step)
        for name, (folder, step) in steps.items()
        if artifacts.read_manifest(folder)["key"] != step.key
    }
    for name, (folder, step) in foreign.items():
        if len(foreign) < len(steps) or not folder.is_relative_to(artifacts_root()):
            artifacts.require_step(folder, step, _title(name))
    for folder, _ in foreign.values():  # unfinished from here on, so that an interruption does not leave a mixture
        (folder / MANIFEST).unlink()


def _folder(config: Config, name: str) -> Path:
    return step_dir(config.profile, STEP, f"translations.{name}", config.data.seed)


def _title(name: str) -> str:
    number = name.partition("of")[0]
    return f"shard {int(number)} of the translations" if number.isdecimal() else f"the translations of {name}"

"""Captions of a user's pictures, with the attention of each word; export of a captioner as a plain checkpoint."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bncap.config import BASE, MAIN, get_config
from bncap.decoders.decode import WordAttention, caption, word_attention
from bncap.encoders.features import Encoder, open_picture
from bncap.errors import BncapError
from bncap.experiments.runs import TRAINING
from bncap.experiments.samples import seen_picture
from bncap.model import Captioner, load_captioner
from bncap.pipeline import artifacts, hub, paths
from bncap.pipeline.hub import quiet_loading
from bncap.settings import Config, override

if TYPE_CHECKING:
    from bncap.report.attention import Example

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Files of a folder that are taken for pictures; a file named by itself may have any suffix."""


@dataclass(frozen=True)
class Captioned:
    """A picture with its caption, score and log-probability in nats (see :class:`bncap.decoders.decode.Caption`), and
    the attention of its words."""

    picture: Path
    text: str
    score: float
    log_probability: float
    words: tuple[WordAttention, ...]


def caption_pictures(
    pictures: Sequence[Path],
    profile: str | None = None,
    run: Path | None = None,
    beams: int | None = None,
    attention_png: Path | None = None,
    overrides: str | Iterable[str] = (),
) -> list[Captioned]:
    """Caption picture files of any size and mode, and those in folders (sorted, not below), with a trained captioner.

    Args:
        profile: look for the newest run in this profile only.
        run: folder of a training run; by default the newest finished one of the main model, whose name goes to stderr.
        beams: instead of ``decode.beams``.
        attention_png: draw the attention of each word into this file.

    Raises :class:`BncapError` for a named file that is no picture, a folder without any, a run that is not there, and
    an ``attention_png`` that cannot be written; a file in a folder that does not decode is reported on stderr and left
    out.
    """
    files = [file for path in pictures for file in _picture_files(Path(path))]
    if not files:
        raise BncapError("no picture was named")
    if attention_png is not None:
        _check_attention(attention_png, len(files))
    model, record, config = _load(profile, run)
    config = override(override(config, overrides), [] if beams is None else [f"decode.beams={beams}"])
    encoder = Encoder(hub.path(config, record["encoder"]))
    captioned: list[Captioned] = []
    for start in range(0, len(files), config.features.batch):  # opened a batch at a time: a folder may be larger
        opened = [(file, open_picture(file)) for file in files[start : start + config.features.batch]]
        features = encoder([image for _, image in opened])[-1]  # (B, S, C)
        captions = caption(model, features, config.decode, config.model.max_tokens)
        for (file, _), f, c in zip(opened, features, captions, strict=True):
            words = word_attention(model, f, c.text, config.model.max_tokens)
            captioned.append(Captioned(file, c.text, c.score, c.log_probability, tuple(words)))
    if attention_png is not None:
        from bncap.report.attention import draw_examples  # heavy, and not needed for captions alone

        draw_examples(list_examples(captioned, encoder), attention_png)
    return captioned


def list_examples(captioned: Sequence[Captioned], encoder: Encoder) -> list[Example]:
    """The pictures as ``encoder`` sees them, with caption, words, and name and score, as
    :mod:`bncap.report.attention` shows them."""
    from bncap.report.attention import Example  # heavy, and not needed for captions alone

    return [
        Example(seen_picture(encoder, open_picture(c.picture)), c.text, c.words, f"{c.picture.name}, {c.score:.2f}")
        for c in captioned
    ]


def export(folder: Path, profile: str | None = None, run: Path | None = None) -> Path:
    """Write a trained captioner's decoder with its whole vocabulary as transformers' own classes load it; the folder.

    ``bridge.safetensors`` beside it has what leads from patch features to it.  Arguments as :func:`caption_pictures`.
    Raises :class:`BncapError` for a ``folder`` that cannot be made, or that holds anything but an earlier export.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "bridge.safetensors").is_file():
        raise BncapError(f"--out {folder} holds something else; name a new folder")
    model, record, config = _load(profile, run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BncapError(f"--out {folder} cannot be made ({error.strerror}); name a folder that can be") from error
    with quiet_loading():  # saving has a bar as well
        model.export(folder, hub.path(config, record["pretrained"]))
    return folder


def _load(profile: str | None, run: Path | None) -> tuple[Captioner, dict, Config]:
    """The captioner of ``run``, or else the newest, whose name goes to stderr; its record, and the settings that the
    run was made with: its manifest's, or the profile's for weights that were copied without it."""
    if profile is not None:
        get_config(profile)  # names the profiles there are
    weights = _weights_folder(run) if run else newest_run(profile)
    if run is None:
        print(f"model: {paths.short_name(weights.parent)}", file=sys.stderr)
    model, record = load_captioner(weights)
    if not all(isinstance(record.get(name), str) for name in ("profile", "encoder", "pretrained")):
        lacks = f"{weights / 'captioner.json'} lacks profile, encoder or pretrained"
        raise BncapError(f"{lacks}: it does not say which encoder the model has; train it again")
    manifest = weights.parent / artifacts.MANIFEST
    made_with = artifacts.read_json(manifest).get("config") if manifest.is_file() else None
    return model, record, Config.from_dict(made_with) if made_with else get_config(record["profile"])


def newest_run(profile: str | None = None) -> Path:
    """The best weights of the main model's training run that was finished last, of any profile unless one is named.

    Cross-entropy alone stands in where no main model was trained.
    """
    for variant in (MAIN, BASE):
        runs = [
            manifest
            for root in (paths.artifacts_root(), *paths.input_roots())
            for manifest in root.glob(f"{profile or '*'}/{TRAINING}/{variant}.weights-s*/{artifacts.MANIFEST}")
        ]
        if runs:
            return max(runs, key=lambda manifest: (_finished(manifest), manifest)).parent / "best"
    raise BncapError(
        f"no trained model under {profile or paths.artifacts_root().name}; make one with: "
        f"./run_all.sh --profile {profile or 'mini'} --to 04, or name a run with --run"
    )


def _finished(manifest: Path) -> str:
    record = artifacts.read_json(manifest)
    if not isinstance(record, dict) or not isinstance(record.get("finished"), str):
        raise BncapError(f"{paths.short_name(manifest)} is no manifest; delete that folder, or name a run with --run")
    return record["finished"]


def report_lines(captioned: Sequence[Captioned], as_json: bool) -> list[str]:
    """A line with picture, log-probability and caption for each, and one with each word's strongest patch; or one JSON
    object."""
    lines = []
    for f in captioned:
        if as_json:
            words = [{"word": w.word, "weights": [round(float(v), 6) for v in w.weights]} for w in f.words]
            numbers = {"score": round(f.score, 6), "log_probability": round(f.log_probability, 6)}
            record = {"picture": str(f.picture), "caption": f.text, **numbers, "words": words}
            lines.append(json.dumps(record, ensure_ascii=False))
            continue
        lines.append(f"{f.picture}  {f.log_probability:.2f}  {f.text}")
        if f.words:
            patches = ", ".join("{} {}-{}".format(word.word, *word.strongest_patch()) for word in f.words)
            lines.append(f"  strongest patch of each word (row-column): {patches}")
    return lines


def _picture_files(path: Path) -> list[Path]:
    """The pictures that ``path`` means, itself or those in it; all have been opened once, so that none fails later."""
    if path.is_file():
        open_picture(path)
        return [path]
    if not path.is_dir():
        raise BncapError(f"{path} is missing; name a picture file or a folder of them")
    files = []
    for file in sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file()):
        try:
            open_picture(file)
            files.append(file)
        except BncapError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not files:
        raise BncapError(f"{path} has no picture that decodes, with a suffix of {' '.join(SUFFIXES)}")
    return files


def _check_attention(png: Path, count: int) -> None:
    """:class:`BncapError` if ``count`` pictures cannot be drawn into ``png``; checked before any captioning."""
    from bncap.report.attention import MAX_PICTURES  # loads heavy libraries

    if count > MAX_PICTURES:
        raise BncapError(f"attention can be drawn for 1 to {MAX_PICTURES} pictures at a time, not {count}; name fewer")
    if png.suffix != ".png" or png.is_dir():
        raise BncapError(f"{png} is no name of a PNG file; write one such as words.png after --attention")
    try:
        png.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(png.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise BncapError(f"{png} cannot be written; name a file in a folder that can be after --attention")


def _weights_folder(run: Path) -> Path:
    """The folder with ``captioner.json`` that ``run`` means: itself, its ``best/``, or its scored run's weights."""
    variant, dash, seed = run.name.rpartition("-s")
    for folder in (run, run / "best", run.with_name(f"{variant}.weights{dash}{seed}") / "best"):
        if (folder / "captioner.json").is_file():
            return folder
    raise BncapError(f"{run} holds no trained captioner (captioner.json); name a folder such as {MAIN}.weights-s42")

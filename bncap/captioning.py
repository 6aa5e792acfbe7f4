"""Captions for anybody's pictures: files and folders in, captions and where their words look out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bncap import artifacts, paths
from bncap.config import MAIN, get_config
from bncap.decode import Caption, WordAttention, caption, word_attention
from bncap.errors import BncapError
from bncap.experiments import TRAINING
from bncap.features import Encoder, open_picture
from bncap.model import Captioner, load_captioner
from bncap.samples import seen_picture
from bncap.settings import Config, override

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Files of a folder that are taken for pictures; a file named by itself may have any suffix."""


@dataclass(frozen=True)
class Captioned:
    """A picture with its caption, the caption's score (nats a token, see :class:`Caption`) and its words' attention."""

    picture: Path
    text: str
    score: float
    words: tuple[WordAttention, ...]


def caption_pictures(
    pictures: Sequence[Path],
    profile: str,
    run: Path | None = None,
    beams: int | None = None,
    attention_png: Path | None = None,
    overrides: Iterable[str] = (),
) -> list[Captioned]:
    """Caption picture files of any size and mode, and those in folders (sorted, not below), with a trained captioner.

    Args:
        run: folder of a training run; by default the newest finished one of the main model, whose name goes to stderr.
        beams: instead of ``decode.beams``.
        attention_png: draw where each word looks into this file.

    Raises :class:`BncapError` for a named file that is no picture, a folder without any, and a run that is not there;
    a file in a folder that does not decode is reported on stderr and left out.
    """
    config = override(get_config(profile, overrides), [] if beams is None else [f"decode.beams={beams}"])
    if config.decode.beams < 1:
        raise BncapError("the number of beams must be at least 1")
    opened = list(_open_all(pictures))
    weights = _weights_folder(run) if run else newest_run(profile)
    if run is None:
        print(f"model: {weights.parent.parent.name}/{weights.parent.name}", file=sys.stderr)
    model, _ = load_captioner(weights)
    encoder = Encoder(paths.model_path(config, config.components.encoder))
    found = []
    for start in range(0, len(opened), config.features.batch):
        found += _caption_batch(model, encoder, opened[start : start + config.features.batch], config)
    if attention_png is not None:
        from bncap.plot_attention import Example, draw_examples

        seen = (seen_picture(encoder, image) for _, image in opened)
        examples = [Example(i, f.text, f.words, f.picture.name) for i, f in zip(seen, found, strict=True)]
        draw_examples(examples, attention_png)
    return found


def newest_run(profile: str) -> Path:
    """The best weights of the main model's training run that was finished last."""
    runs = (paths.artifacts_root() / profile / TRAINING).glob(f"{MAIN}.weights-s*/{artifacts.MANIFEST}")
    dated = sorted((artifacts.read_json(manifest)["finished"], manifest.parent) for manifest in runs)
    if not dated:
        raise BncapError(
            f"no trained model under {profile}/{TRAINING}; make one with: "
            f"./run_all.sh --profile {profile} --to 04, or name a run with --run"
        )
    return dated[-1][1] / "best"


def report_lines(found: Sequence[Captioned], as_json: bool) -> list[str]:
    """A line with picture, score and caption for each, and one with each word's strongest patch; or one JSON object."""
    if as_json:
        return [json.dumps(_record(f), ensure_ascii=False) for f in found]
    lines = []
    for f in found:
        lines.append(f"{f.picture}  {f.score:.3f}  {f.text}")
        if f.words:
            looks = ", ".join(f"{word.word} {'-'.join(map(str, strongest(word)))}" for word in f.words)
            lines.append(f"  looks most at (row-column of the patches): {looks}")
    return lines


def strongest(word: WordAttention) -> tuple[int, int]:
    """Row and column, counted from 1, of the patch that a word looks at most."""
    row, column = divmod(int(word.weights.argmax()), round(len(word.weights) ** 0.5))
    return row + 1, column + 1


def _record(found: Captioned) -> dict:
    words = [{"word": w.word, "weights": [round(float(v), 6) for v in w.weights]} for w in found.words]
    return {"picture": str(found.picture), "caption": found.text, "score": round(found.score, 6), "words": words}


def _open_all(pictures: Sequence[Path]) -> Iterator[tuple[Path, Image.Image]]:
    if not pictures:
        raise BncapError("no picture was named")
    for path in map(Path, pictures):
        if path.is_dir():
            yield from _open_folder(path)
        elif path.is_file():
            yield path, open_picture(path)
        else:
            raise BncapError(f"{path} is missing; name a picture file or a folder of them")


def _open_folder(folder: Path) -> Iterator[tuple[Path, Image.Image]]:
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
    opened = 0
    for file in files:
        try:
            yield file, open_picture(file)
            opened += 1
        except BncapError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not opened:
        raise BncapError(f"{folder} has no picture that decodes, with a suffix of {' '.join(SUFFIXES)}")


def _weights_folder(run: Path) -> Path:
    """The folder with ``captioner.json`` that ``run`` means: itself, its ``best/``, or its scored run's weights."""
    variant, dash, seed = run.name.rpartition("-s")
    for folder in (run, run / "best", run.with_name(f"{variant}.weights{dash}{seed}") / "best"):
        if (folder / "captioner.json").is_file():
            return folder
    raise BncapError(f"{run} holds no trained captioner (captioner.json); name a folder such as {MAIN}.weights-s42")


def _caption_batch(
    model: Captioner, encoder: Encoder, opened: list[tuple[Path, Image.Image]], config: Config
) -> list[Captioned]:
    features = encoder([image for _, image in opened])[-1]  # (B, S, C)
    captions: list[Caption] = caption(model, features, config.decode, config.model.max_tokens)
    return [
        Captioned(path, c.text, c.score, tuple(word_attention(model, f, c.text, config.model.max_tokens)))
        for (path, _), f, c in zip(opened, features, captions, strict=True)
    ]

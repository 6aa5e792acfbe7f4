"""Synthetic pictures of the verified captions, each with a sidecar from which it can be made again (Sec. 4.2.3)."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from bncap.artifacts import atomic, file_hash, package_versions, read_json, run_step, write_csv, write_json
from bncap.corpus import Pair, read_corpus
from bncap.errors import BncapError
from bncap.paths import model_path, step_dir
from bncap.prompts import Truncation, english_part, joint_prompt, target_part, truncate
from bncap.settings import Config, Synthesis, override
from bncap.text import language_name

VERSIONED = ("torch", "diffusers", "transformers", "numpy")
TRIPLETS_HEADER = ("caption_id", "image_id", "image", "synthetic", "en", "bn")


@dataclass(frozen=True)
class Synthesiser:
    """A text-to-image model: ``draw(prompts, negative_prompt, seeds)`` gives one RGB picture for each prompt.

    ``count_tokens`` is the length of a text in its tokens, special tokens left out; ``components`` says in words what
    it is made of, for the sidecars.
    """

    draw: Callable[[list[str], str, list[int]], list[Image.Image]]
    count_tokens: Callable[[str], int]
    components: dict[str, str]


@dataclass(frozen=True)
class Request:
    """A picture to be drawn: for which pair, from which prompt and seed, and its place in the batch."""

    pair: Pair
    prompt: str
    seed: int
    position: int
    cut: Truncation


def load_synthesiser(config: Config) -> Synthesiser:
    """The synthesiser that the configuration names.  Raises :class:`BncapError` if it is not to be had."""
    parts = config.components
    if parts.synthesiser == "mini:synthesiser":
        from bncap.mini.synthesiser import MiniSynthesiser

        painter = MiniSynthesiser()
        return Synthesiser(painter.draw, count_words, {"synthesiser": painter.name})
    from bncap.kandinsky import KandinskySynthesiser

    kandinsky = KandinskySynthesiser(
        model_path(config, parts.synthesiser_prior), model_path(config, parts.synthesiser), config.synthesis.side
    )
    names = {"synthesiser": parts.synthesiser, "synthesiser_prior": parts.synthesiser_prior}
    return Synthesiser(kandinsky.draw, kandinsky.count_tokens, names | kandinsky.components)


def count_words(text: str) -> int:
    """Words of ``text``: the tokens of the mini synthesiser, which reads no subwords."""
    return len(text.split())


def image_seed(seed: int, caption_id: int) -> int:
    """Seed of one picture, in [0, 2^32).

    The paper's "fixed seed (42)" is read as the seed that all of these derive from: one seed for every picture would
    start them all from the same noise, and seeds counted in drawing order would change with the set drawn.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}|{caption_id}".encode()).digest()[:4], "big")


def draw_pairs(pairs: Sequence[Pair], triplets: int, captions_per_image: int, seed: int) -> list[Pair]:
    """``triplets`` training pairs drawn at random, at most ``captions_per_image`` of one image, by caption id.

    Fewer if there are no more.  A larger ``triplets`` contains what a smaller one draws.
    """
    order = sorted((pair for pair in pairs if pair.split == "train"), key=lambda pair: pair.caption_id)
    random.Random(seed).shuffle(order)
    taken: dict[str, int] = {}
    drawn = []
    for pair in order:
        if len(drawn) < triplets and taken.get(pair.image_id, 0) < captions_per_image:
            taken[pair.image_id] = taken.get(pair.image_id, 0) + 1
            drawn.append(pair)
    return sorted(drawn, key=lambda pair: pair.caption_id)


def fit_prompt(en: str, target: str, settings: Synthesis, lang: str, count_tokens: Callable[[str], int]) -> Truncation:
    """The two captions cut so that their joint prompt keeps within the encoders' 77 tokens.

    The shares of 37 and 40 are read as those of the prompt's two sentences with their fixed words, and one of the two
    special tokens each: 37 + 40 = 77.
    """
    language = language_name(lang)
    return truncate(
        en,
        target,
        settings.english_tokens,
        settings.target_tokens,
        lambda text: 1 + count_tokens(english_part(text)),
        lambda text: 1 + count_tokens(target_part(text, language)),
    )


def build_images(config: Config) -> Path:
    """Draw a picture for each of ``data.triplets`` accepted training pairs: ``02_synthesis/images-s<seed>``.

    Pictures that are there, whole and from the same prompt are kept, so an interrupted run goes on where it was.
    """
    data, parts = config.data, config.components
    corpus = step_dir(config.profile, "01_data_build", "corpus", data.seed)
    settings = {
        "triplets": data.triplets,
        "captions_per_image": data.captions_per_image,
        "lang": data.lang,
        "seed": data.seed,
        "synthesis": asdict(config.synthesis),
        "synthesiser": parts.synthesiser,
        "synthesiser_prior": parts.synthesiser_prior,
    }
    folder = step_dir(config.profile, "02_synthesis", "images", data.seed)
    return run_step(folder, settings=settings, inputs=[corpus], build=partial(_build, config, corpus), config=config)


def regenerate(sidecar_path: Path, config: Config) -> bytes:
    """The PNG file of a picture, drawn again from its sidecar; ``config`` only says where the models are.

    The prompt fills a batch of the size and is read at the place that it had at first, as the batch's shape decides
    how a GPU rounds.  Raises :class:`BncapError` if the models are not those of the sidecar.
    """
    record = read_json(sidecar_path)
    synthesiser = load_synthesiser(override(config, [f"synthesis.side={record['side']}"]))
    if synthesiser.components != record["components"]:
        raise BncapError(
            f"{sidecar_path.name} was drawn by {record['components']}, the configuration has "
            f"{synthesiser.components}; use the same models to make the same picture"
        )
    batch = record["batch"]
    pictures = synthesiser.draw([record["prompt"]] * batch, record["negative_prompt"], [record["seed"]] * batch)
    return _png(pictures[record["position"]])


def _build(config: Config, corpus: Path, folder: Path) -> None:
    data, settings = config.data, config.synthesis
    accepted = [pair for pair in read_corpus(corpus) if pair.split == "train"]
    pairs = draw_pairs(accepted, data.triplets, data.captions_per_image, data.seed)
    if not pairs:
        raise BncapError(f"{corpus.name} has no accepted training pair; lower data.threshold and make it again")
    synthesiser = load_synthesiser(config)
    requests = [_request(pair, i % settings.batch, config, synthesiser) for i, pair in enumerate(pairs)]
    with tqdm(total=len(requests), desc="synthetic pictures", unit="picture") as bar:
        for start in range(0, len(requests), settings.batch):
            batch = requests[start : start + settings.batch]
            if not all(_is_whole(folder, request) for request in batch):
                _draw_batch(folder, batch, synthesiser, settings)
            bar.update(len(batch))
    rows = [(p.caption_id, p.image_id, p.image, f"images/{p.caption_id}.png", p.en, p.bn) for p in pairs]
    write_csv(folder / "triplets.csv", TRIPLETS_HEADER, rows)
    counts = {
        "accepted_train_pairs": len(accepted),
        "triplets_wanted": data.triplets,
        "triplets": len(pairs),
        "real_images": len({pair.image_id for pair in pairs}),
        "prompts_cut": sum(bool(request.cut.cut_en or request.cut.cut_target) for request in requests),
    }
    write_json(folder / "counts.json", counts)


def _request(pair: Pair, position: int, config: Config, synthesiser: Synthesiser) -> Request:
    cut = fit_prompt(pair.en, pair.bn, config.synthesis, config.data.lang, synthesiser.count_tokens)
    prompt = joint_prompt(cut.en, cut.target, language_name(config.data.lang))
    return Request(pair, prompt, image_seed(config.synthesis.seed, pair.caption_id), position, cut)


def _draw_batch(folder: Path, batch: Sequence[Request], synthesiser: Synthesiser, settings: Synthesis) -> None:
    """Draw one batch and write it; the last one is filled up with its last request, as all have the same shape."""
    full = [*batch, *[batch[-1]] * (settings.batch - len(batch))]
    pictures = synthesiser.draw([r.prompt for r in full], settings.negative_prompt, [r.seed for r in full])
    for request, picture in zip(batch, pictures, strict=False):
        content = _png(picture)
        path = folder / "images" / f"{request.pair.caption_id}.png"
        with atomic(path) as temporary:
            temporary.write_bytes(content)
        record = _sidecar(request, synthesiser, settings) | {"image_sha256": hashlib.sha256(content).hexdigest()}
        write_json(path.with_suffix(".json"), record)


def _sidecar(request: Request, synthesiser: Synthesiser, settings: Synthesis) -> dict[str, Any]:
    return {
        "caption_id": request.pair.caption_id,
        "prompt": request.prompt,
        "prompt_sha256": hashlib.sha256(request.prompt.encode()).hexdigest(),
        "cut_en": request.cut.cut_en,
        "cut_target": request.cut.cut_target,
        "negative_prompt": settings.negative_prompt,
        "seed": request.seed,
        "side": settings.side,
        "batch": settings.batch,
        "position": request.position,
        "components": synthesiser.components,
        "packages": {name: package_versions()[name] for name in VERSIONED},
    }


def _is_whole(folder: Path, request: Request) -> bool:
    path = folder / "images" / f"{request.pair.caption_id}.png"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return False
    record = read_json(path.with_suffix(".json"))
    return (record["prompt"], record["seed"]) == (request.prompt, request.seed) and record["image_sha256"] == file_hash(
        path
    )


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()

"""Beam search: ours over cached features with the trimmed vocabulary against ``generate`` of the whole from pixels."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bncap import precision
from bncap.bench import ceiling, contenders
from bncap.bench.harness import Result, Row, alternate, progress
from bncap.commands.random_models import MINI, Sizes
from bncap.model import Captioner
from bncap.settings import Decode

if TYPE_CHECKING:
    from plain_reading import PlainReading

FASTER = 4
"""Times as fast as the plain reading, wanted at full size."""
NEVER = -1e9
"""Logit of a piece that is not to be chosen."""
SEARCH = Decode()


@dataclass(frozen=True)
class Setting:
    sizes: Sizes
    pictures: int
    tokens: int


SETTINGS = {"full": Setting(Sizes(), 16, 24), "mini": Setting(MINI, 16, 16)}


def run(size: str, device: str, repeats: int) -> Result:
    """Both with the same weights, among the same pieces and without the end, so that every search is of full length."""
    setting, kinds = SETTINGS[size], contenders.precisions(device)
    progress("decode: building both")
    plain = contenders.plain_reading(setting.sizes, setting.tokens, device).eval()
    given = contenders.pictures(plain, setting.pictures, setting.sizes.side, device)
    model = contenders.captioner(setting.sizes, given.features.shape[2], device).eval()
    kept = contenders.give_weights(model, plain)
    forbid(model, plain.mbart.final_logits_bias, kept)
    features = given.features.half()
    searches: dict[str, Callable[[], Tensor]] = {
        f"ours, {kind}": partial(ours, model, features, setting.tokens, kind) for kind in kinds
    }
    for kind in kinds:
        searches[f"plain, {kind}"] = partial(from_pixels, plain, given.real, setting.tokens, kind)
    progress("decode: one search of each")
    found: dict[str, Tensor] = {}
    operations = {
        name: contenders.operations(lambda name=name, search=search: found.update({name: search()}))
        for name, search in searches.items()
    }
    same = kept.to(device)[found["ours, fp32"]].eq(found["plain, fp32"]).all(1).sum()
    progress(f"decode: {repeats} of each in turn")
    seconds = alternate(searches, repeats, device, warmup=False)
    rows = [
        Row(name, times, setting.pictures / statistics.median(times), "pictures/s") for name, times in seconds.items()
    ]
    floors = {name: _floor(model, name, count, setting.tokens, device) for name, count in operations.items()}
    details = {
        "operations": operations,
        "floor_seconds": floors,
        "equal_captions": f"{int(same)} of {setting.pictures}, ours in fp32 from float16 features, plain in fp32",
    }
    text = (
        f"{setting.pictures} pictures, {SEARCH.beams} beams, {setting.tokens} tokens each (the end is forbidden until "
        f"then, to both); ours: {setting.sizes.trimmed:,} pieces, cached features; plain: "
        f"{setting.sizes.decoder['vocab_size']:,} pieces, {setting.sizes.encoder} from pixels; "
        f"{torch.get_num_threads()} threads"
    )
    ratios = contenders.ratios(rows, "pictures/s", device, FASTER if size == "full" else None, floors)
    return Result("decode", size, device, text, tuple(rows), tuple(ratios), details)


@torch.no_grad()
def ours(model: Captioner, features: Tensor, tokens: int, kind: str) -> Tensor:
    """(B, T) rows of the trimmed vocabulary."""
    with precision.autocast(features.device, kind):
        return model.generate(model.bridge(features), SEARCH, tokens)[0]


def from_pixels(plain: PlainReading, pixels: Tensor, tokens: int, kind: str) -> Tensor:
    """(B, T) ids, by the library's own search with the same settings."""
    with precision.autocast(pixels.device, kind):
        return plain.generate(
            pixels,
            num_beams=SEARCH.beams,
            length_penalty=SEARCH.length_penalty,
            no_repeat_ngram_size=SEARCH.no_repeat_ngram,
            max_new_tokens=tokens,
            early_stopping=False,
            do_sample=False,
        )


@torch.no_grad()
def forbid(model: Captioner, bias: Tensor, kept: Tensor) -> None:
    """Forbid the end, until it is forced, to both, and to the plain reading (bias (1, V)) what ours lacks."""
    end = model.decoder.config.eos_token_id
    model.decoder.final_logits_bias[:, end] = NEVER
    bias.fill_(NEVER)
    bias[:, kept.to(bias.device)] = 0
    bias[:, end] = NEVER


def _floor(model: Captioner, name: str, operations: int, tokens: int, device: str) -> float:
    """Seconds at the ceilings measured here: of the counted operations, or of reading the decoder's layers a token."""
    products = operations / ceiling.gemm_flops(device, precision.DTYPES[name.split(", ")[1]])
    read = sum(parameter.nbytes for parameter in model.layers.parameters()) * tokens
    return max(products, read / ceiling.copy_bytes(device))

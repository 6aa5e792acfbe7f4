"""Synthetic pictures drawn a second time from their sidecars and compared with those that are kept."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from bncap.errors import BncapError
from bncap.pipeline import artifacts, paths
from bncap.settings import Config, Synthesis, override
from bncap.synthesis.generate import drawing_versions
from bncap.synthesis.shards import MEMBER, STEP, Pictures, encode_picture
from bncap.synthesis.text_to_image import Synthesiser, load_synthesiser

STEPS = ("prior_steps", "steps", "guidance")


def audit_pictures(config: Config, n: int, seed: int = 0) -> tuple[list[str], bool]:
    """Draw ``n`` of the kept pictures again, chosen by ``seed``; a table as lines, and whether all are the same.

    The same means equal PNG files, to the byte, which another GPU or other versions of the packages may not give: the
    table ends with what is not as it was.  Raises :class:`BncapError` if there is no picture that was drawn, and if the
    models are not those of the sidecars.
    """
    if n < 1:
        raise BncapError(f"--n {n}: at least one picture has to be drawn again")
    folder = paths.step_dir(config.profile, STEP, "images", config.data.seed)
    table = artifacts.read_csv(artifacts.require(folder) / "triplets.csv")
    names = [row["synthetic"] for row in table if MEMBER.fullmatch(row["synthetic"])]
    if not names:
        raise BncapError(f"{paths.short_name(folder)} lists no picture that was drawn: there is nothing to draw again")
    chosen = sorted(np.random.default_rng(seed).permutation(len(names))[:n])
    store = Pictures(config)
    kept = [store.find(names[i]).read() for i in chosen]
    records = [store.sidecar(names[i]) for i in chosen]
    synthesiser, settings = same_synthesiser(records, config)
    rows, same = [("caption_id", "picture", "largest difference")], 0
    for record, old, new in zip(records, kept, regenerate(records, synthesiser, settings), strict=True):
        same += old == new
        verdict = "same" if old == new else "differs"
        rows.append((str(record["caption_id"]), verdict, f"{largest_difference(old, new)} of 255"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append(f"{same} of {len(kept)} pictures drawn again are the same to the byte")
    return lines + _circumstances(records, synthesiser), same == len(kept)


def same_synthesiser(records: Sequence[dict[str, Any]], config: Config) -> tuple[Synthesiser, Synthesis]:
    """The synthesiser that drew what the sidecars ``records`` speak of, and its settings.

    ``config`` only says where the models are.  Raises :class:`BncapError` if they are not those of the sidecars, which
    must have been drawn under the same settings.
    """
    fields = {name: records[0][name] for name in ("side", "stored_side", "batch")}
    fields |= {name: records[0]["sampling"][name] for name in STEPS if name in records[0]["sampling"]}
    config = override(config, [f"synthesis.{name}={value}" for name, value in fields.items()])
    synthesiser = load_synthesiser(config)
    for record in records:
        if record["components"] != synthesiser.components:
            raise BncapError(
                f"picture {record['caption_id']} was drawn by {record['components']}, the configuration has "
                f"{synthesiser.components}; use the same models to make the same picture"
            )
    return synthesiser, config.synthesis


def regenerate(records: Sequence[dict[str, Any]], synthesiser: Synthesiser, settings: Synthesis) -> list[bytes]:
    """The PNG files of pictures, drawn again from their sidecars.

    Each prompt is drawn at the place in a batch of the size that it had at first, as these decide how a GPU rounds;
    its neighbours there do not.
    """
    waiting: dict[int, list[int]] = {}
    for i, record in enumerate(records):
        waiting.setdefault(record["position"], []).append(i)
    drawn: dict[int, bytes] = {}
    while any(waiting.values()):
        batch = {position: queue.pop(0) for position, queue in waiting.items() if queue}
        filler = next(iter(batch.values()))  # for the places that no picture waits for
        full = [records[batch.get(position, filler)] for position in range(settings.batch)]
        again = synthesiser.draw([r["prompt"] for r in full], full[0]["negative_prompt"], [r["seed"] for r in full])
        drawn |= {i: encode_picture(again[position], settings.stored_side) for position, i in batch.items()}
    return [drawn[i] for i in range(len(records))]


def largest_difference(first: bytes, second: bytes) -> int:
    """Largest difference of two PNG files, in levels of 255; 255 if they are not of one size."""
    a, b = (np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.int16) for content in (first, second))
    return int(np.abs(a - b).max()) if a.shape == b.shape else 255


def _circumstances(records: Sequence[dict[str, Any]], synthesiser: Synthesiser) -> list[str]:
    """A line on what differs here from where the pictures were drawn, and may change their bytes; none if all agree."""
    here = drawing_versions() | {
        name: synthesiser.sampling[name] for name in ("arithmetic",) if name in synthesiser.sampling
    }
    there = [record["packages"] | record["sampling"] for record in records]
    other = {f"{name} {then.get(name)}" for then in there for name in here if then.get(name) != here[name]}
    if not other:
        return []
    now = sorted(f"{name} {value}" for name, value in here.items() if any(then.get(name) != value for then in there))
    return [f"drawn with {', '.join(sorted(other))}; here: {', '.join(now)}"]

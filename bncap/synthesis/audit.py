"""Synthetic pictures drawn a second time from their sidecars and compared with those that are kept."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from PIL import Image

from bncap.errors import BncapError
from bncap.pipeline import artifacts, paths
from bncap.settings import Config, Synthesis, override
from bncap.synthesis.generate import drawing_versions
from bncap.synthesis.shards import MEMBER, STEP, Member, PictureStore, encode_picture
from bncap.synthesis.text_to_image import Synthesiser, load_synthesiser

STEPS = ("prior_steps", "steps", "guidance")


def audit_pictures(config: Config, n: int, seed: int = 0) -> tuple[list[str], bool]:
    """Draw ``n`` of the kept pictures again, chosen by ``seed``; a table as lines, and whether all are the same.

    The same means equal PNG files, to the byte; the table ends with what is not as it was, such as the GPU.  Raises
    :class:`BncapError` if no picture was drawn, and if the models are not those of the sidecars.
    """
    if n < 1:
        raise BncapError(f"--n {n}: at least one picture has to be drawn again")
    folder = paths.step_dir(config.profile, STEP, "images", config.data.seed)
    triplets = artifacts.read_csv(artifacts.require(folder) / "triplets.csv")
    names = [row["synthetic"] for row in triplets if MEMBER.fullmatch(row["synthetic"])]
    if not names:
        raise BncapError(f"{paths.short_name(folder)} lists no picture that was drawn: there is nothing to draw again")
    chosen = sorted(np.random.default_rng(seed).permutation(len(names))[:n])
    store = PictureStore(config)
    members = [cast(Member, store.find(names[i])) for i in chosen]
    kept = [member.read() for member in members]
    records = [member.read_sidecar() for member in members]
    synthesiser, settings = load_same_synthesiser(records, config)
    again = regenerate_pictures(records, synthesiser, settings)
    same = [old == new for old, new in zip(kept, again, strict=True)]
    table = pd.DataFrame(
        {
            "caption_id": [record["caption_id"] for record in records],
            "picture": ["same" if equal else "differs" for equal in same],
            "largest difference": [f"{measure_difference(o, n)} of 255" for o, n in zip(kept, again, strict=True)],
        }
    )
    lines = table.to_string(index=False).splitlines()
    lines.append(f"{sum(same)} of {len(kept)} pictures drawn again are the same to the byte")
    return lines + _describe_differences(records, synthesiser), all(same)


def load_same_synthesiser(records: Sequence[dict[str, Any]], config: Config) -> tuple[Synthesiser, Synthesis]:
    """The synthesiser that drew the pictures of the sidecars ``records``, all under the same settings; and these.

    ``config`` says where the models are.  Raises :class:`BncapError` if they are not those of the sidecars.
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


def regenerate_pictures(
    records: Sequence[dict[str, Any]], synthesiser: Synthesiser, settings: Synthesis
) -> list[bytes]:
    """The PNG files of pictures, drawn again from their sidecars.

    Each is drawn at its first place in a batch of the same size: these decide how a GPU rounds, not its neighbours.
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


def measure_difference(first: bytes, second: bytes) -> int:
    """Largest difference of two PNG files, in levels of 255; 255 if they are not of one size."""
    a, b = (np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.int16) for content in (first, second))
    return int(np.abs(a - b).max()) if a.shape == b.shape else 255


def _describe_differences(records: Sequence[dict[str, Any]], synthesiser: Synthesiser) -> list[str]:
    """A line on what differs here from where the pictures were drawn; none if all agree."""
    here = drawing_versions() | {key: value for key, value in synthesiser.sampling.items() if key == "arithmetic"}
    recorded = [record["packages"] | record["sampling"] for record in records]
    before = {f"{name} {then.get(name)}" for then in recorded for name in here if then.get(name) != here[name]}
    if not before:
        return []
    now = sorted(f"{name} {value}" for name, value in here.items() if any(then.get(name) != value for then in recorded))
    return [f"drawn with {', '.join(sorted(before))}; here: {', '.join(now)}"]

"""Known attention maps give known shares, intervals are those of a plain bootstrap, and boxes those of a pixel mask."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image

from bncap import stats
from bncap.config import get_config
from bncap.decoders import decode
from bncap.decoders.decode import WordAttention
from bncap.errors import BncapError
from bncap.experiments import grounding
from bncap.experiments.estimates import first
from bncap.experiments.grounding import View, cover_patches, find_view, mass_inside, pointing_game
from bncap.metrics import Nouns
from bncap.mini.grammar import NOUN_LEXICON_BN
from bncap.pipeline import artifacts, paths

SEEDS = (5, 6)
SIDE = 3
WHOLE = View(0, 0, 112, 112)
CELL = 112 / SIDE
HOMES = {"ce_real": "04_training", "pal": "06_ablations", "pal_infonce_ot": "04_training"}
IMAGES = [f"val2014/{i}.png" for i in range(5)]
# the kinds of conftest's sentences, but that the first picture has no ball
OBJECTS = [["cat"], ["bird", "tree"], ["table", "car"], ["flower"], ["cat"]]


def box_of(patch, inside=True):
    """A box that is exactly one patch of the grid; or one beyond the right edge."""
    return [CELL * (patch % SIDE) + (0 if inside else 200), CELL * (patch // SIDE), CELL, CELL]


def make_step(folder, files):
    return artifacts.run_step(folder, settings={}, build=files, quiet=True)


def write_instances(folder):
    kinds = sorted({kind for found in OBJECTS for kind in found})
    (folder / "annotations").mkdir()
    annotations = [
        {"image_id": i, "category_id": kinds.index(kind), "bbox": box_of((2 * i + k) % SIDE**2)}
        for i, found in enumerate(OBJECTS)
        for k, kind in enumerate(found)
    ]
    annotations.append({"image_id": 3, "category_id": kinds.index("cat"), "bbox": box_of(0, inside=False)})
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(5)],
        "categories": [{"id": i, "name": kind} for i, kind in enumerate(kinds)],
        "annotations": annotations,
    }
    (folder / "annotations" / "instances_val2014.json").write_text(json.dumps(content), "utf-8")


@pytest.fixture
def world(artifacts_dir, captioner, mbart_folder, sentences):
    """Finished inputs of the step: five pictures whose captions are conftest's sentences; none out of domain."""
    settings = ["experiment.seeds=(5,6)", f"components.decoder={mbart_folder}", "decode.batch=2", "model.max_tokens=50"]
    config = get_config("smoke", settings)
    features = np.random.default_rng(0).normal(size=(5, SIDE**2, 12)).astype(np.float16)

    def write_features(folder):
        np.save(folder / "test.npy", features)
        artifacts.write_csv(folder / "test.csv", ["row", "id"], enumerate(IMAGES))

    def write_pictures(folder):
        artifacts.write_csv(
            folder / "images.csv",
            ("image", "width", "height", "bytes", "sha256"),
            [(i, 112, 112, 1, "") for i in IMAGES],
        )
        artifacts.write_csv(folder / "rejected.csv", ("image", "reason"), [])

    def write_captions(folder):
        rows = [(image, text, text) for image, text in zip(IMAGES, sentences, strict=True)]
        artifacts.write_csv(folder / "captions_test.csv", ("image", "caption", "reference"), rows)

    make_step(paths.step_dir("smoke", "00_mini_world", "world", 42), write_instances)
    make_step(paths.step_dir("smoke", "01_data_build", "pictures", 42), write_pictures)
    make_step(paths.step_dir("smoke", "02_synthesis", "features", 42), write_features)
    for seed in SEEDS:
        for variant, home in HOMES.items():
            make_step(
                paths.step_dir("smoke", home, f"{variant}.weights", seed), lambda f: captioner.save(f / "best", {})
            )
            make_step(paths.step_dir("smoke", home, variant, seed), write_captions)
    return config


def attend_by(monkeypatch, map_of):
    """Every word of the captions attends as ``map_of(picture number)`` says."""
    seen = iter(range(10**6))

    def word_attentions(model, features, texts, max_tokens):
        return [
            [WordAttention(word, map_of(number % len(IMAGES))) for word in text.split()]
            for text, number in ((text, next(seen)) for text in texts)
        ]

    monkeypatch.setattr(decode, "word_attentions", word_attentions)


def read_words(folder):
    return pd.read_csv(folder / "words.csv")


def test_nouns_count_where_their_object_has_a_box_that_is_seen(world, capsys):
    folder = grounding.build_grounding(world, SEEDS[0])
    words = read_words(folder)
    generated = words[(words["variant"] == "pal") & (words["source"] == "generated")]
    expected = [("ball", 0), ("bird", 1), ("table", 1), ("car", 1), ("flower", 1), ("house", 0), ("cat", 1)]
    assert list(zip(generated["kind"], generated["counted"], strict=True)) == expected
    assert list(generated["word"])[2:5] == ["টেবিলের", "গাড়ি", "ফুলের"]
    assert generated[generated["counted"] == 0][list(grounding.MEASURE_COLUMNS)].isna().all(axis=None)
    # only three of the counted ones have another kind beside them; the cat beyond the edge of the fourth is not seen
    assert list(generated.dropna(subset="share_other")["kind"]) == ["bird", "table", "car"]
    np.testing.assert_allclose(generated["share_chance"].dropna(), 1 / 9, atol=1e-6)
    assert artifacts.read_json(folder / "splits.json") == {"images": {"test": 5}, "without_boxes": ["ood"]}
    assert "ood split; it is left out" in capsys.readouterr().out


def test_an_attention_that_lies_in_the_box_gives_one_and_none_of_the_other_object(world, monkeypatch):
    attend_by(monkeypatch, lambda i: np.eye(SIDE**2, dtype=np.float32)[2 * i % SIDE**2])
    words = read_words(grounding.build_grounding(world, SEEDS[0])).query("counted == 1")
    first = words[words["kind"] != "car"]  # the car has the second box of its picture
    assert (first[["share", "pointing"]] == 1).all(axis=None)
    assert (first[["share_other", "pointing_other"]].dropna() == 0).all(axis=None)
    car = words[words["kind"] == "car"]
    assert (car[["share", "pointing"]] == 0).all(axis=None)
    assert (car[["share_other", "pointing_other"]] == 1).all(axis=None)


def test_what_is_found_in_batches_is_what_each_caption_gives_alone(captioner, sentences):
    features = torch.randn(5, 9, 12, generator=torch.Generator().manual_seed(0))
    nouns, config = Nouns(NOUN_LEXICON_BN), get_config("mini", ["decode.batch=4"])
    found = list(grounding.attend_nouns(captioner, nouns, IMAGES, features, sentences, config))
    assert [(noun.image, noun.kind) for noun in found][2:4] == [(IMAGES[2], "table"), (IMAGES[2], "car")]
    alone = decode.word_attention(captioner, features[2], sentences[2], config.model.max_tokens)
    assert alone[0].word == "টেবিলের"
    np.testing.assert_allclose(found[2].map, alone[0].weights, atol=1e-6)
    assert found[2].map.sum() == pytest.approx(1, abs=1e-5)


def test_measures_agree_with_sums_over_a_mask_of_patches():
    rng = np.random.default_rng(1)
    there = {"cat": [(0, 0, 56, 40)], "dog": [(70, 70, 30, 30)], "bus": [(10, 60, 50, 50)]}
    scene = grounding.cover_objects([(kind, box) for kind, found in there.items() for box in found], WHOLE, 7)
    found = [grounding.NounAttention("a", "-", kind, rng.dirichlet(np.ones(49))) for kind in ("cat", "dog", "cat")]
    values = pd.DataFrame(grounding.measure_nouns(found, {"a": scene}), columns=grounding.MEASURE_COLUMNS)
    mean_map = np.mean([noun.map for noun in found], axis=0)
    for row, noun in zip(values.to_dict("records"), found, strict=True):
        own, (one, two) = scene[noun.kind][0], [scene[k][0] for k in scene if k != noun.kind]
        assert row["share"] == pytest.approx(sum(noun.map[p] * own[p] for p in range(49)))
        assert row["share_other"] == pytest.approx((noun.map @ one + noun.map @ two) / 2)
        assert row["share_mean_map"] == pytest.approx(mean_map @ own)
        assert row["share_centre"] == pytest.approx(grounding.centre_map(7) @ own)
        assert row["pointing"] == scene[noun.kind][1][noun.map.argmax()]


def made_up_words(rng, images, seed):
    """Nouns of some pictures of ``images``, from none to three each."""
    rows = []
    for variant in grounding.VARIANTS:
        for source in grounding.SOURCES:
            for image in rng.integers(images - 3, size=2 * images):
                values = rng.random(len(grounding.MEASURE_COLUMNS)).round(6)
                other = rng.random() < 0.5
                cells = [
                    "" if "other" in n and not other else v
                    for n, v in zip(grounding.MEASURE_COLUMNS, values, strict=True)
                ]
                rows.append([variant, "test", source, f"{image}.png", "বল", "ball", 1, *cells])
            blank = [""] * len(grounding.MEASURE_COLUMNS)
            rows.append([variant, "test", source, "0.png", "গাছ", "tree", 0, *blank])
    return rows


@pytest.fixture
def measured(artifacts_dir):
    """Finished steps of made-up words of 12 pictures."""
    rng = np.random.default_rng(3)
    for seed in SEEDS:

        def files(folder, seed=seed):
            header = (*grounding.WORD_COLUMNS, *grounding.MEASURE_COLUMNS)
            artifacts.write_csv(folder / "words.csv", header, made_up_words(rng, 12, seed))
            artifacts.write_json(folder / "splits.json", {"images": {"test": 12}, "without_boxes": ["ood"]})

        make_step(paths.step_dir("smoke", grounding.STEP, "grounding", seed), files)
    return get_config("smoke", ["experiment.seeds=(5,6)"])


def plain_bootstrap(config, column, variant, first_seed):
    """Value and replicates of a column, by loops over samples, seeds and pictures."""
    drawn = stats.resamples(12, len(SEEDS), seed=first_seed)
    tables = []
    for seed in SEEDS:
        words = read_words(paths.step_dir("smoke", grounding.STEP, "grounding", seed))
        words = words[(words["variant"] == variant) & (words["source"] == "generated")]
        tables.append((words, column(words)))
    folders = [paths.step_dir("smoke", grounding.STEP, "grounding", seed) for seed in SEEDS]
    order = list(dict.fromkeys(image for folder in folders for image in read_words(folder)["image"]))  # of all variants
    value = np.mean([values.mean() for _, values in tables])
    replicates = []
    for counts, seeds in zip(drawn.items[:200], drawn.seeds[:200], strict=True):
        total = 0.0
        for (words, values), times in zip(tables, seeds, strict=True):
            weights = np.array([counts[order.index(image)] for image in words["image"]]) * values.notna()
            mean = (weights * values.fillna(0)).sum() / weights.sum() if weights.sum() else np.nan
            total += times * mean
        replicates.append(total / len(SEEDS))
    return value, np.array(replicates)


def test_intervals_are_those_of_a_plain_bootstrap_over_images_and_seeds(measured, monkeypatch):
    whole = stats.resamples

    def first_200(*args, **kwargs):
        drawn = whole(*args, **kwargs)
        return stats.Resamples(drawn.items[:200], drawn.seeds[:200])

    with monkeypatch.context() as patched:
        patched.setattr(stats, "resamples", first_200)
        found = grounding.summarise_grounding(measured, 5)
    place = {"variant": "pal", "split": "test", "source": "generated"}
    cases = [
        (first(found["rows"], **place, measure="share"), "value", lambda w: w["share"]),
        (first(found["rows"], **place, measure="pointing_other"), "value", lambda w: w["pointing_other"]),
        (
            first(found["differences"], **place, measure="share", against="other"),
            "difference",
            lambda w: w["share"] - w["share_other"],
        ),
    ]
    for record, name, column in cases:
        value, replicates = plain_bootstrap(measured, column, "pal", 5)
        assert record[name] == pytest.approx(100 * value, abs=1e-3)
        np.testing.assert_allclose(
            [record["low"], record["high"]], 100 * np.nanquantile(replicates, [0.025, 0.975]), atol=1e-3
        )
    own, base = (plain_bootstrap(measured, lambda w: w["share"], v, 5) for v in ("pal", "ce_real"))
    record = first(found["differences"], **place, measure="share", against="ce_real")
    assert record["difference"] == pytest.approx(100 * (own[0] - base[0]), abs=1e-3)


def test_differences_stay_paired_where_one_variant_names_no_noun_in_a_picture(artifacts_dir):
    """PAL says what CE says, but nothing of the first picture: all that differs is that picture's weight."""
    values = [0.9, 0.1, 0.5, 0.2, 0.8, 0.3]

    def files(folder):
        rows = [
            [variant, "test", source, f"{i}.png", "বল", "ball", 1, *[value] * len(grounding.MEASURE_COLUMNS)]
            for variant in grounding.VARIANTS
            for source in grounding.SOURCES
            for i, value in enumerate(values)
            if (variant, i) != ("pal", 0)
        ]
        artifacts.write_csv(folder / "words.csv", (*grounding.WORD_COLUMNS, *grounding.MEASURE_COLUMNS), rows)
        artifacts.write_json(folder / "splits.json", {"images": {"test": len(values)}, "without_boxes": ["ood"]})

    make_step(paths.step_dir("smoke", grounding.STEP, "grounding", 5), files)
    found = grounding.summarise_grounding(get_config("smoke", ["experiment.seeds=(5,)"]), 5)
    replicates = []
    for counts in stats.resamples(len(values), 1, seed=5).items:
        drawn = [i for i, times in enumerate(counts) for _ in range(int(times))]
        rest = [values[i] for i in drawn if i != 0]
        if rest:
            replicates.append(np.mean(rest) - np.mean([values[i] for i in drawn]))
    place = {"variant": "pal", "against": "ce_real", "source": "generated", "measure": "share"}
    record = first(found["differences"], **place)
    assert record["difference"] == pytest.approx(100 * (np.mean(values[1:]) - np.mean(values)), abs=1e-3)
    np.testing.assert_allclose(
        [record["low"], record["high"]], 100 * np.quantile(replicates, [0.025, 0.975]), atol=1e-3
    )


def test_the_records_say_how_many_of_the_named_nouns_count(measured):
    found = grounding.summarise_grounding(measured, 5)
    row = first(found["rows"], variant="pal", source="generated", measure="share")
    assert (row["words"], row["named"], row["images"], row["seeds"]) == (48, 50, 12, 2)
    assert row["counted"] == 96
    assert found["without_boxes"] == ["ood"]
    assert {d["against"] for d in found["differences"] if d["variant"] == "ce_real"} == set(grounding.AGAINST)
    assert json.loads(json.dumps(found)) == found


def test_a_seed_without_a_single_noun_makes_numbers_unknown_not_wrong(artifacts_dir):
    def files(folder):
        artifacts.write_csv(folder / "words.csv", (*grounding.WORD_COLUMNS, *grounding.MEASURE_COLUMNS), [])
        artifacts.write_json(folder / "splits.json", {"images": {"test": 3}, "without_boxes": []})

    make_step(paths.step_dir("smoke", grounding.STEP, "grounding", 5), files)
    config = get_config("smoke", ["experiment.seeds=(5,)"])
    found = grounding.summarise_grounding(config, 5)
    assert {row["value"] for row in found["rows"]} == {None}
    assert grounding.write_grounding(config, found).is_file()


def test_a_picture_that_the_annotations_do_not_list_is_named(world):
    def files(folder):
        artifacts.write_csv(
            folder / "captions_test.csv", ("image", "caption", "reference"), [("val2014/9.png", "-", "-")]
        )

    folder = paths.step_dir("smoke", "04_training", "ce_real", SEEDS[0])
    (folder / "manifest.json").unlink()
    make_step(folder, files)
    with pytest.raises(BncapError, match="9.png"):
        grounding.build_grounding(world, SEEDS[0])


GRID = 7


def mask_shares(boxes, view, side, pixels=28):
    """Share of each patch in the union, by counting the middles of ``pixels`` x ``pixels`` little squares a patch."""
    steps = (np.arange(side * pixels) + 0.5) / (side * pixels)
    x = view.left + steps * (view.right - view.left)
    y = view.top + steps * (view.bottom - view.top)
    mask = np.zeros((len(y), len(x)), dtype=bool)
    for left, top, width, height in boxes:
        mask |= ((y >= top) & (y < top + height))[:, None] & ((x >= left) & (x < left + width))[None]
    return mask.reshape(side, pixels, side, pixels).mean(axis=(1, 3)).ravel()


def test_shares_of_patches_are_those_of_a_pixel_mask():
    rng = np.random.default_rng(0)
    for _ in range(30):
        view = View(*rng.uniform(-20, 40, 2), *rng.uniform(100, 180, 2))
        corners = rng.uniform(-30, 150, (rng.integers(1, 5), 2))
        boxes = [(x, y, *rng.uniform(1, 120, 2)) for x, y in corners]
        covered, centres = cover_patches(boxes, view, GRID)
        expected = mask_shares(boxes, view, GRID)
        np.testing.assert_allclose(covered, expected, atol=0.08)  # the mask errs by a line of pixels on each edge
        assert covered.mean() == pytest.approx(expected.mean(), abs=0.01)
        np.testing.assert_array_equal(centres, mask_shares(boxes, view, GRID, pixels=1) == 1)


def test_a_uniform_map_holds_exactly_chance_and_one_that_lies_inside_holds_all():
    covered, centres = (part[None] for part in cover_patches([(10, 20, 50, 60)], View(0, 0, 112, 112), GRID))
    uniform = np.full((1, GRID**2), 1 / GRID**2)
    assert mass_inside(uniform, covered)[0] == pytest.approx(50 * 60 / 112**2, abs=1e-12)
    assert pointing_game(uniform, centres)[0] == centres.mean()
    inside = np.where(covered == 1, 1.0, 0.0)
    inside /= inside.sum()
    assert mass_inside(inside, covered)[0] == pytest.approx(1, abs=1e-12)
    assert pointing_game(inside, centres)[0] == 1
    assert pointing_game(1 - (covered > 0), centres)[0] == 0


def coordinates(width, height):
    """A picture whose red says how far to the right, whose green how far down, each 0 to 255."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return Image.fromarray((255 * np.stack([x, y, 0 * x], axis=-1)).round().astype(np.uint8))


@pytest.mark.parametrize("size", [(200, 200), (320, 200), (150, 390), (97, 61)])
@pytest.mark.parametrize(
    "settings",
    [{"crop_pct": 1.0}, {"crop_pct": 0.875}, {"crop_pct": 0.95, "crop_mode": "squash"}],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_the_view_is_what_the_transform_leaves_of_a_picture(size, settings):
    transform = timm.data.create_transform(
        (3, 112, 112), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", **settings
    )
    view = find_view(transform, size)
    red, green, _ = transform(coordinates(*size)).numpy()  # each (112, 112), 0 to 1
    steps = (np.arange(112) + 0.5) / 112
    inner = slice(4, -4)  # at its rim a resized picture repeats itself
    for seen, low, high, length in ((red[56], view.left, view.right, size[0]), (green[:, 56], *view_rows(view, size))):
        expected = (low + steps * (high - low)) / length
        np.testing.assert_allclose(seen[inner], expected[inner], atol=0.006)


def view_rows(view, size):
    return view.top, view.bottom, size[1]


def test_the_view_of_a_bordered_picture_reaches_beyond_it():
    transform = timm.data.create_transform((3, 112, 112), crop_pct=1.0, crop_mode="border")
    assert find_view(transform, (200, 100)) == View(0, -50, 200, 150)


def test_a_transform_of_unknown_geometry_is_refused():
    transform = timm.data.create_transform((3, 112, 112), crop_border_pixels=4)
    with pytest.raises(BncapError, match="TrimBorder"):
        find_view(transform, (200, 200))


def test_a_box_is_cropped_to_what_the_encoder_sees():
    view = grounding.View(left=10, top=20, right=110, bottom=120)
    assert grounding.crop_box((60, 70, 20, 10), view, (50, 50)) == (25, 25, 10, 5)

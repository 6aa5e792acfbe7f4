"""Pairs for each verification threshold: which are accepted, how many are drawn, what is faulty among them."""

from __future__ import annotations

import dataclasses

import pytest
from fake_runs import finish

from bncap import metrics
from bncap.config import BASE, get_config
from bncap.data.pairs import Pair
from bncap.errors import BncapError
from bncap.experiments import evaluate, filters
from bncap.experiments.runs import inputs_of, run_dir
from bncap.pipeline import artifacts, paths
from bncap.synthesis.generate import TRIPLETS_HEADER, draw_pairs

CONFIG = get_config("smoke", ["data.threshold=0.7", "train.batch=16", "data.captions_per_image=5"])
IMAGES = 24


def similarity(image, k):
    return (-0.5, 0.3, 0.5, 0.6, 0.9)[k] if image % 2 else (0.1, 0.45, 0.8, 0.85, 0.95)[k]


PAIRS = [
    Pair(10 * image + k, str(image), f"train2014/{image}.jpg", "train", f"A ball {image} {k}.", f"বল {image} {k}।",
         similarity(image, k))
    for image in range(IMAGES)
    for k in range(5)
]  # fmt: skip


def write_corpus(pairs=PAIRS, faults=True):
    table = [(p.caption_id, p.image_id, p.en, p.target, p.similarity, 1) for p in pairs]
    header = ("caption_id", "image_id", "en", "target", "similarity", "valid")
    splits = sorted({(p.image_id, p.image, "") for p in pairs if p.image_id != "3"})  # a picture that cannot be used
    accepted = [dataclasses.astuple(p) for p in pairs if p.similarity >= 0.7 and p.image_id != "3"]
    files = {
        "shards/shard_00.csv": [header, *table[:50]],
        "shards/shard_01.csv": [header, *table[50:]],
        "splits/train.csv": [("image_id", "image", "sha256"), *splits],
        "corpus.csv": [[field.name for field in dataclasses.fields(Pair)], *accepted],
    }
    if faults:
        files["faults.csv"] = [("split", "caption_id", "fault")] + [
            ("train", p.caption_id, "truncated") for p in pairs if p.similarity < 0.6
        ]
    finish(paths.step_dir("smoke", "01_data_build", "corpus", 42), files)


def write_triplets():
    usable = [p for p in PAIRS if p.similarity >= 0.7 and p.image_id != "3"]
    rows = [(p.caption_id, p.image_id, p.image, "", p.en, p.target) for p in draw_pairs(usable, 40, 5, 42)]
    finish(inputs_of(CONFIG, BASE).triplets, {"triplets.csv": [TRIPLETS_HEADER, *rows]})


@pytest.fixture
def drawn(artifacts_dir):
    write_corpus()
    return filters.build_pairs(CONFIG)


def counts_of(name):
    return artifacts.read_json(inputs_of(CONFIG, name).triplets / "counts.json")


def ids_of(name):
    return [int(row["caption_id"]) for row in artifacts.read_csv(inputs_of(CONFIG, name).triplets / "triplets.csv")]


def test_every_threshold_trains_on_as_many_pairs_all_of_which_it_accepts(drawn):
    by_id = {pair.caption_id: pair for pair in PAIRS}
    assert list(drawn) == ["filter0.0", "filter0.4", "filter0.55", "filter0.7"]
    for name in drawn:
        ids = ids_of(name)
        assert len(ids) == len(set(ids)) == 40 == counts_of(name)["pairs"]
        assert min(by_id[i].similarity for i in ids) >= filters.threshold_of(name)
        assert "3" not in {by_id[i].image_id for i in ids}


def test_the_counts_are_those_of_the_candidates(drawn):
    usable = [pair for pair in PAIRS if pair.image_id != "3"]
    for name in drawn:
        passed = [p.similarity for p in usable if p.similarity >= filters.threshold_of(name)]
        counts = counts_of(name)
        assert (counts["candidates"], counts["accepted"]) == (len(usable), len(passed))
        faulty = 100 * sum(value < 0.6 for value in passed) / len(passed)
        assert counts["faulty_accepted"] == pytest.approx(faulty, abs=0.01)
    assert counts_of("filter0.7")["faulty_pairs"] == 0 < counts_of("filter0.0")["faulty_pairs"]


def test_the_default_threshold_draws_the_pairs_of_the_default_corpus(drawn):
    write_triplets()
    assert filters.twin_of_base(CONFIG) == "filter0.7"
    assert filters.drawn_filters(CONFIG) == list(drawn)


def test_a_threshold_that_accepts_too_little_is_left_out_and_says_so(artifacts_dir, capsys):
    write_corpus([p for p in PAIRS if p.similarity < 0.7])  # of which 57, 34, 11 and 0 of 68 pass; a batch is 16
    assert list(filters.build_pairs(CONFIG)) == ["filter0.0", "filter0.4"] == filters.drawn_filters(CONFIG)
    said = capsys.readouterr().out
    assert "filter0.55: 11 of 68" in said and "filter0.7: 0 of 68" in said


def test_where_nothing_can_be_compared_the_remedy_is_named(artifacts_dir):
    write_corpus([dataclasses.replace(p, similarity=0.2) for p in PAIRS])
    with pytest.raises(BncapError, match="fewer than two"):
        filters.build_pairs(CONFIG)


def test_copies_and_empty_translations_are_accepted_at_no_threshold():
    odd = [dataclasses.replace(PAIRS[0], target="", similarity=1.0), dataclasses.replace(PAIRS[1], target=PAIRS[1].en)]
    human = dataclasses.replace(PAIRS[2], similarity=None)
    assert filters.accepted_pairs(CONFIG, [*odd, human], -1.0) == [human]
    lenient = get_config("smoke", ["data.reject_copies=False"])
    assert filters.accepted_pairs(lenient, odd, -1.0) == odd[1:]


def write_run(name, seed, gain):
    images = [f"{i:02d}.jpg" for i in range(12)]
    texts = [f"একটি লাল বল {'আছে' if i % 3 < gain else 'নেই'} ঘাসের উপর" for i in range(12)]
    scored = metrics.per_caption(texts, [["একটি লাল বল আছে ঘাসের উপর"]] * 12)

    def build(folder):
        scores = {split: metrics.of_corpus(scored) | {"images": 12} for split in ("test", "ood")}
        artifacts.write_json(folder / "scores.json", scores)
        for split in scores:
            evaluate.write_caption_scores(folder, split, images, scored, None)

    artifacts.run_step(run_dir(CONFIG, name, seed), settings={"gain": gain}, build=build, quiet=True)


def test_what_is_measured_are_means_differences_and_the_twin(drawn):
    write_triplets()
    for place, name in enumerate((*drawn, BASE)):
        for seed in CONFIG.seeds(42):
            write_run(name, seed, min(place, 3))
    found = filters.summarise_filters(CONFIG, 42)
    assert [record["threshold"] for record in found["pairs"]] == [0, 0.4, 0.55, 0.7]
    means = {(r["filter"], r["split"], r["metric"]): r["mean"] for r in found["scores"]}
    for record in found["differences"]:
        if record["metric"] in ("B4", "METEOR"):
            key = record["split"], record["metric"]
            expected = means[record["variant"], *key] - means["filter0.0", *key]
            assert record["difference"] == pytest.approx(expected, abs=1e-4) and record["against"] == "filter0.0"
    assert {(r["variant"], r["against"]) for r in found["twin"]} == {("filter0.7", BASE)}
    assert {r["difference"] for r in found["twin"] if r["metric"] == "B4"} == {0}
    rows = artifacts.read_csv(filters.write_filters(CONFIG, found))
    assert len(rows) == len(found["scores"]) and {row["threshold"] for row in rows} == {"0.0", "0.4", "0.55", "0.7"}
    assert rows[0]["difference"] == ""

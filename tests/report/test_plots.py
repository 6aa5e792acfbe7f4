"""The method's figures, drawn from small made-up files of the steps that they read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bncap.config import get_config
from bncap.decoders.decode import WordAttention
from bncap.errors import BncapError
from bncap.experiments import samples
from bncap.pipeline import artifacts, paths
from bncap.report import plot_alignment, plot_attention, plot_pipeline, plot_training

BENGALI = "একটি লাল ক্ষুদ্র বল এবং তার ডান পাশে একটি নীল পাখি আছে।"


def make_step(folder, files):
    return artifacts.run_step(folder, settings={}, build=files, quiet=True)


def write_samples(folder):
    rng = np.random.default_rng(0)

    def weights():
        values = rng.random(49)
        return (values / values.sum()).tolist()

    names = [f"pictures/{i}.png" for i in range(4)]
    (folder / "pictures").mkdir()
    for name in names:
        Image.fromarray(rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)).save(folder / name)
    words = [{"word": word, "weights": weights()} for word in BENGALI.split()]
    kept = [w if w > 0.02 else 0 for w in weights()]
    captions = [
        {
            "split": split, "picture": names[i], "caption": BENGALI, "reference": BENGALI, "meteor": 41.5,
            "rank": 1 + 8 * (i % 2), "of": 9,
            "words": words if i == 2 else words[:3], "weights": kept,
        }
        for i, split in enumerate(("test", "test", "ood", "ood"))
    ]  # fmt: skip
    sides = {"stem": (56, 0), "stage 1": (28, 7), "stage 2": (14, 7), "stage 3": (7, 7)}
    stages = [{"name": n, "side": side, "channels": 32, "window": window} for n, (side, window) in sides.items()]
    triplet = {
        "en": "a red ball to the left of a small blue bird on the green grass",
        "target": BENGALI, "prompt": BENGALI * 2,
        "similarity": 0.81, "threshold": 0.55, "real": names[0], "synthetic": names[1], "weights": kept,
    }  # fmt: skip
    maps = {n: rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for n, (side, _) in sides.items()}
    np.savez(folder / "stages.npz", **maps, real=maps["stage 3"], synthetic=maps["stage 3"])
    record = {"lang": "bn", "captions": captions, "stages": stages, "triplet": triplet}
    (folder / "samples.json").write_text(json.dumps(record))


@pytest.fixture
def saved(artifacts_dir):
    return make_step(paths.step_dir("smoke", "04_training", "samples", 42), write_samples)


@pytest.mark.parametrize(
    ("draw", "with_pdf"),
    [
        (plot_attention.fig1_patches, True),
        (plot_pipeline.fig2_pipeline, True),
        (plot_attention.attention_figure, False),
        (plot_training.caption_gallery, False),
    ],
)
def test_figures_of_the_method_are_drawn_from_saved_samples_with_every_letter(saved, tmp_path, recwarn, draw, with_pdf):
    png = draw(saved, tmp_path / "a")
    assert Image.open(png).width > 1000
    assert png.with_suffix(".pdf").is_file() == with_pdf
    assert not [w for w in recwarn if "missing from font" in str(w.message)]


def test_fig1_has_a_panel_for_every_word_of_a_caption_of_more_than_a_row(saved, tmp_path, monkeypatch):
    record = json.loads((saved / "samples.json").read_text())
    record["captions"][0] = record["captions"][2]
    monkeypatch.setattr(plot_attention, "read_json", lambda path: record)
    titles = []
    draw = plot_attention.show_attention
    monkeypatch.setattr(plot_attention, "show_attention", lambda *given: (titles.append(given[-1]), draw(*given)))
    tall = Image.open(plot_attention.fig1_patches(saved, tmp_path / "a")).height
    words = BENGALI.split()
    assert len(words) > plot_attention.WORDS_A_ROW + 1 and titles[-len(words) :] == words
    record["captions"][0] = record["captions"][1]
    assert tall > Image.open(plot_attention.fig1_patches(saved, tmp_path / "b")).height


def test_convergence_draws_each_seed_and_needs_finished_runs(artifacts_dir, tmp_path):
    config = get_config("smoke")

    def files(folder):
        rows = [(i, 1, 4 - i / 50, 5 - i / 50) for i in range(1, 100)]
        artifacts.write_csv(folder / "steps.csv", ["step", "epoch", "ce", "total"], rows)
        artifacts.write_csv(folder / "validation.csv", ["epoch", "step", "ce"], [(1, 50, 3), (2, 99, 2)])

    for variant in ("ce_real", "pal_infonce_ot"):
        make_step(paths.step_dir("smoke", "04_training", f"{variant}.weights", 42), files)
    assert plot_training.convergence(config, [42], tmp_path / "c").with_suffix(".pdf").is_file()
    with pytest.raises(BncapError, match=r"weights-s43 is missing.*--only 04"):
        plot_training.convergence(config, [42, 43], tmp_path / "c")


def test_a_moving_average_is_the_mean_over_its_window_and_over_less_at_the_ends():
    values = np.array([1.0, 2, 4, 8, 16])
    assert plot_training.moving_average(values, 3).tolist() == pytest.approx([1.5, 7 / 3, 14 / 3, 28 / 3, 12])


def test_the_umap_figure_is_drawn_from_points_and_summary_to_the_same_bytes(artifacts_dir, tmp_path):
    def files(folder):
        rng = np.random.default_rng(0)
        rows = [
            (*state, domain, i % 2, *rng.normal(size=2))
            for state in plot_alignment.PANELS
            for domain in ("real", "synthetic")
            for i in range(20)
        ]
        artifacts.write_csv(folder / "points.csv", ("model", "moment", "domain", "relevant", "x", "y"), rows)
        metrics = ("umap_centroid_distance", "umap_mmd_rbf")
        keys = ["/".join((*s, n, m)) for s in plot_alignment.PANELS for n in ("all", "relevant") for m in metrics]
        artifacts.write_json(folder / "summary.json", dict.fromkeys(keys, 0.5))

    folder = make_step(paths.step_dir("smoke", "08_umap_mmd", "analysis", 42), files)
    first, second = (plot_alignment.umap_panels(folder, tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".pdf").read_bytes() == second.with_suffix(".pdf").read_bytes()


def test_attention_of_no_picture_or_too_many_is_refused(tmp_path):
    word = WordAttention("বল", np.full(49, 1 / 49))
    example = plot_attention.Example(Image.new("RGB", (56, 56)), "বল", [word])
    for examples in ([], [example] * (plot_attention.MOST + 1)):
        with pytest.raises(BncapError, match="1 to 20"):
            plot_attention.draw_examples(examples, tmp_path / "x.png")


def test_the_attention_figure_shows_every_saved_picture_with_split_rank_and_score(saved, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot_attention, "draw_examples", lambda examples, path: drawn.extend(examples))
    plot_attention.attention_figure(saved, tmp_path / "a")
    assert [example.note for example in drawn] == [
        f"{where}, rank {rank} of 9, METEOR 41.5" for where in ("in domain", "out of domain") for rank in (1, 9)
    ]
    assert [len(example.words) for example in drawn] == [3, 3, len(BENGALI.split()), 3]


def test_under_each_word_stands_the_share_of_its_strongest_patch(tmp_path, monkeypatch):
    peaked = np.full(49, 0.75 / 48)
    peaked[5] = 0.25
    kept = []
    monkeypatch.setattr(plot_attention, "save", lambda fig, path: kept.append(fig))
    words = [WordAttention("বল", peaked)] * (plot_attention.WORDS_A_ROW + 1)
    plot_attention.draw_examples([plot_attention.Example(Image.new("RGB", (56, 56)), "বল", words)], tmp_path / "x")
    axes = [axis for axis in kept[0].axes if axis.get_xlabel()]
    assert [(axis.get_title(), axis.get_xlabel()) for axis in axes] == [("বল", "25%")] * len(words)
    assert "an even share is 2%" in "".join(text.get_text() for axis in kept[0].axes for text in axis.texts)


def test_heat_is_0_at_an_even_share_and_1_at_the_strongest_patch_of_three_shares_or_more():
    assert plot_attention.heat([0.25] * 4).tolist() == [0, 0, 0, 0]
    assert plot_attention.heat([1, 0, 0, 0]).tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert plot_attention.heat([0.5, 0.25, 0.25, 0]).tolist() == pytest.approx([0.5, 0, 0, -0.5])  # two shares: diffuse


def test_attention_heats_its_own_patch_and_an_even_share_heats_none():
    import matplotlib.pyplot as plt

    image = Image.new("RGB", (56, 56), "white")
    peaked = np.zeros(49)
    peaked[3 * 7 + 5] = 1
    for weights in (peaked, np.full(49, 1 / 49)):
        _, axis = plt.subplots()
        plot_attention.show_attention(axis, image, weights)
        heat = np.asarray(axis.images[-1].get_array())
        rows, columns = np.nonzero(heat > 0.6)
        assert (rows.size > 100) == (weights is peaked)
        assert set(rows // 32) <= {3}
        assert set(columns // 32) <= {5}
        plt.close("all")


def test_principal_colours_part_two_kinds_of_patches_and_keep_their_places():
    maps = torch.zeros(1, 49, 8)
    maps[0, :14] = torch.tensor([3.0, 1, 0, 0, 0, 0, 0, 0])  # two rows of cells
    maps += 0.01 * torch.randn(maps.shape, generator=torch.Generator().manual_seed(0))
    colours = samples.principal_colours(maps)[0].astype(int)
    assert colours.shape == (7, 7, 3)
    assert colours[:2, :, 0].min() > 240
    assert colours[2:, :, 0].max() < 15

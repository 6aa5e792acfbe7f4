"""Figures, drawn from small made-up files and records: what they show, and the same bytes from the same data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fake_runs import make_evidence, make_readings, make_runs
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from bncap.config import MAIN, VARIANTS, get_config
from bncap.errors import BncapError
from bncap.experiments import samples
from bncap.pipeline import artifacts, paths
from bncap.report import attention, figures_alignment, figures_data, figures_method, figures_results, tables

BENGALI = "একটি লাল ক্ষুদ্র বল এবং তার ডান পাশে একটি নীল পাখি আছে।"
PROMPT_COLUMNS = ("caption_id", "en_words", "target_words", "prior_prompt", "decoder_prompt", "target_words_kept")
LONG_PROMPTS = [(i, 9, 6, 60 + 10 * i, 40 + i, 4) for i in range(10)]  # by the prior eight of ten are over 77


@pytest.fixture(autouse=True)
def close_figures():
    with plt.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def texts(monkeypatch):
    """All texts of the figures that are written."""
    drawn, save = [], Figure.savefig

    def record_texts(figure, *args, **kwargs):
        drawn.extend(text.get_text() for text in figure.findobj(Text) if text.get_visible())
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", record_texts)
    return drawn


def make_step(folder, build):
    return artifacts.run_step(folder, settings={}, build=build, quiet=True)


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
        (figures_method.draw_patches, True),
        (figures_method.draw_pipeline, True),
        (figures_method.draw_captions, False),
        (attention.draw_samples, False),
    ],
)
def test_figures_of_the_method_are_drawn_from_saved_samples_with_every_letter(saved, tmp_path, capsys, draw, with_pdf):
    png = draw(saved, tmp_path / "a")
    assert Image.open(png).width > 1000
    assert png.with_suffix(".pdf").is_file() == with_pdf
    assert "no installed font" not in capsys.readouterr().err


def test_the_attention_of_each_saved_word_is_drawn_with_split_rank_and_score(saved, tmp_path, texts):
    attention.draw_samples(saved, tmp_path / "a")
    for split in ("in domain", "out of domain"):
        assert sum(f"{split}, rank 9 of 9, METEOR 41.5" in text for text in texts) == 1
    assert sum(text in BENGALI.split() for text in texts) == 3 * 3 + len(BENGALI.split())
    examples = attention.read_examples(saved)
    assert [len(example.words) for example in examples] == [3, 3, len(BENGALI.split()), 3]
    assert attention.render_samples(saved).count("<form") == 4


def test_convergence_needs_finished_runs(artifacts_dir, tmp_path):
    config = get_config("smoke")

    def build(folder):
        rows = [(i, 1, 4 - i / 50, 5 - i / 50) for i in range(1, 100)]
        artifacts.write_csv(folder / "steps.csv", ["step", "epoch", "ce", "total"], rows)
        artifacts.write_csv(folder / "validation.csv", ["epoch", "step", "ce"], [(1, 50, 3), (2, 99, 2)])

    for variant in ("ce_real", "pal_infonce_ot"):
        make_step(paths.step_dir("smoke", "04_training", f"{variant}.weights", 42), build)
    assert figures_results.draw_convergence(config, [42], tmp_path / "c").with_suffix(".pdf").is_file()
    with pytest.raises(BncapError, match=r"weights-s43 is missing.*--only 04"):
        figures_results.draw_convergence(config, [42, 43], tmp_path / "c")


def test_the_umap_figure_is_drawn_from_points_and_summary_to_the_same_bytes(artifacts_dir, tmp_path):
    def build(folder):
        rng = np.random.default_rng(0)
        rows = [
            (*state, domain, i % 2, *rng.normal(size=2))
            for state in figures_alignment.STATES
            for domain in ("real", "synthetic")
            for i in range(20)
        ]
        artifacts.write_csv(folder / "points.csv", ("model", "moment", "domain", "relevant", "x", "y"), rows)
        metrics = ("umap_centroid_distance", "umap_mmd_rbf")
        keys = ["/".join((*s, n, m)) for s in figures_alignment.STATES for n in ("all", "relevant") for m in metrics]
        artifacts.write_json(folder / "summary.json", dict.fromkeys(keys, 0.5))

    folder = make_step(paths.step_dir("smoke", "08_umap_mmd", "analysis", 42), build)
    first, second = (figures_alignment.draw_umap(folder, tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".pdf").read_bytes() == second.with_suffix(".pdf").read_bytes()


def test_principal_colours_part_two_kinds_of_patches_and_keep_their_places():
    maps = torch.zeros(1, 49, 8)
    maps[0, :14] = torch.tensor([3.0, 1, 0, 0, 0, 0, 0, 0])  # two rows of cells
    maps += 0.01 * torch.randn(maps.shape, generator=torch.Generator().manual_seed(0))
    colours = samples.principal_colours(maps)[0].astype(int)
    assert colours.shape == (7, 7, 3)
    assert colours[:2, :, 0].min() > 240 and colours[2:, :, 0].max() < 15


def test_scores_have_a_panel_for_each_known_metric_and_the_same_bytes_twice(artifacts_dir, tmp_path, texts):
    config = get_config("smoke")
    make_runs(config)
    frame = tables.read_table("table3_ablations", config, 42)
    first, second = (figures_results.draw_scores(frame, tmp_path / name).read_bytes() for name in "ab")
    assert first == second and "noun precision (0–100)" in texts and "PAL" in texts
    texts.clear()
    figures_results.draw_scores(frame.drop(columns="noun_precision"), tmp_path / "c")
    assert "noun precision (0–100)" not in texts
    assert figures_results.draw_scores(tables.read_table("table4_sensitivity", config, 42), tmp_path / "d").is_file()


def test_differences_name_a_variant_that_is_new(tmp_path, texts, monkeypatch):
    monkeypatch.setitem(VARIANTS, "pal_ot", VARIANTS["pal"])
    monkeypatch.setitem(figures_results.paper.ALL_VARIANTS, "pal_ot", VARIANTS["pal"])
    record = {"against": "ce_real", "split": "ood", "difference": 1.0, "low": 0.5, "high": 1.5, "excludes_zero": True}
    records = [{**record, "variant": v, "metric": m} for v in ("pal_ot", "cnn_lstm") for m in ("B4", "METEOR")]
    figures_results.draw_differences(records, tmp_path / "a")
    assert {"PAL", "CNN + LSTM", "out of domain", "+1.00"} <= set(texts) and "in domain" not in texts


def test_grounding_is_drawn_with_and_without_boxes(tmp_path, texts):
    content = make_evidence()["grounding"]
    first, second = (figures_alignment.draw_grounding(content, tmp_path / name).read_bytes() for name in "ab")
    assert first == second and "PAL, out of domain" in texts and "reference captions" in texts
    assert figures_alignment.draw_grounding({"rows": [], "differences": []}, tmp_path / "c").is_file()


def test_readings_are_drawn_with_their_losses_and_the_flagged_ones(tmp_path, texts):
    content = make_readings()
    assert figures_results.draw_readings(content, tmp_path / "a").is_file()
    assert figures_results.draw_reading_losses(content, tmp_path / "b").is_file()
    assert {"τ on probabilities", "the gap, difference in %"} <= set(texts)


def make_row(dimension, group, measure, value, split="ood"):
    bounds = {"value": value, "low": None if value is None else value - 2, "high": None if value is None else value + 2}
    same = {"variant": MAIN, "split": split, "dimension": dimension, "group": group, "measure": measure}
    return {**same, **bounds, "pictures": 9, "asked": 9}


KINDS = [make_row("object", kind, "named", value) for kind, value in (("ball", 40), ("cup", 80), ("hat", None))]
NUMBERS = [make_row("number", n, measure, 50) for n in ("1", "2") for measure in ("named", "B4")]
RELATIONS = [make_row("relation", name, "relation_right", 25) for name in ("left", "right")]


def test_errors_are_drawn_by_group_from_the_best_to_the_worst(tmp_path, texts):
    guesses = [{"variant": MAIN, "split": "ood", "measure": "relation_right", "value": 30.0}]
    path = figures_results.draw_error_groups({"rows": KINDS + NUMBERS + RELATIONS, "guesses": guesses}, tmp_path / "a")
    assert Image.open(path).size[0] == pytest.approx(7.6 * 200, abs=2)
    assert [text for text in texts if text in ("ball", "cup", "hat")] == ["cup", "ball"] and "left" in texts
    texts.clear()
    figures_results.draw_error_groups({"rows": KINDS + NUMBERS, "guesses": []}, tmp_path / "b")
    assert not any("Relation" in text or "Colour" in text for text in texts)


def test_a_confusion_has_a_column_for_each_kind_and_one_for_what_is_left_out(tmp_path, texts):
    records = [
        {"variant": MAIN, "split": split, "pictures": "all", "there": there, "said": said, "share": 50.0, "times": 4}
        for split in ("test", "ood")
        for there, said in (("ball", "cup"), ("ball", "ball"), ("cup", "(left out)"))
    ]
    assert figures_results.draw_confusion(records, tmp_path / "confusion").is_file()
    assert texts.count("(left out)") == 2 and "Out of domain" in texts


def test_the_filter_is_drawn_with_and_without_known_faults(tmp_path, texts):
    pairs = [
        {"filter": f"filter{t}", "threshold": t, "accepted": 90, "candidates": 100, "pairs": 40,
         "faulty_accepted": faulty, "faulty_pairs": faulty + 1}
        for t, faulty in ((0.0, 10.0), (0.7, 2.0))
    ]  # fmt: skip
    same = {"variant": "filter0.7", "against": "filter0.0", "low": -1.0, "high": 2.0, "excludes_zero": False}
    differences = [{**same, "split": split, "metric": "B4", "difference": 1.0} for split in ("test", "ood")]
    figures_results.draw_filter({"pairs": pairs, "differences": differences}, tmp_path / "filter")
    assert "Faulty translations (%)" in texts and "BLEU-4 less that of τ = 0" in texts
    texts.clear()
    unknown = [{**record, "faulty_accepted": None, "faulty_pairs": None} for record in pairs]
    figures_results.draw_filter({"pairs": unknown, "differences": differences}, tmp_path / "filter")
    assert "Pairs accepted (%)" in texts and "Faulty translations (%)" not in texts


def test_lengths_are_drawn_for_each_variant_beside_the_references(tmp_path, texts):
    records = make_evidence()["diversity"]
    first, second = (figures_results.draw_lengths(records, tmp_path / name).read_bytes() for name in "ab")
    assert first == second and {"CE (Real-only)", "PAL", "references", "42 % distinct\n12 words"} <= set(texts)


def draw_prompts(rows, tmp_path):
    folder = paths.step_dir("smoke", "02_synthesis", "images", 42)
    make_step(folder, lambda target: artifacts.write_csv(target / "prompts.csv", PROMPT_COLUMNS, rows))
    return figures_data.draw_prompts(folder, "Bengali", tmp_path / "prompts")


def test_each_tokenizer_has_its_share_of_prompts_that_are_too_long(artifacts_dir, tmp_path, texts):
    draw_prompts([*LONG_PROMPTS, (10, 3, 3, 50, 30, 3)], tmp_path)
    assert {"prior (CLIP): 72.7% over", "decoder (XLM-R): 0.0% over"} <= set(texts)
    assert f"{43 / 63:.1%} of the Bengali words survive" in texts and " 77" in texts


def test_each_weight_is_written_in_its_cell_beside_its_name_and_zeros_are_left_white():
    fig = figures_method.draw_weights({"attention": [0.5, 0.25, 0.25], "kept": torch.tensor([1.0, 0.0, 0.0])})
    (axis,) = fig.axes
    assert [text.get_text() for text in axis.texts] == ["0.5", "0.25", "0.25", "1"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["attention", "kept"]


def test_each_matrix_has_its_title_and_a_colour_scale_of_its_own():
    panels = {"cost": np.eye(2), "plan": np.array([[0.2, 0.4], [0.4, 1e-9]])}
    fig = figures_method.draw_matrices(panels, ["a", "b"], ["c", "d"])
    assert [axis.get_title() for axis in fig.axes] == ["cost", "plan"]
    assert [axis.collections[0].get_clim()[1] for axis in fig.axes] == [1.0, 0.4]
    assert [text.get_text() for text in fig.axes[1].texts] == ["0.2", "0.4", "0.4", "≈ 0"]


def test_curves_carry_their_values_levels_and_the_setting():
    x = np.array([0.1, 1.0, 10.0])
    panel = figures_method.Curves("ε", "loss", x, {"package": x, "by hand": 2 * x}, {"limit": 5.0}, mark=0.05)
    fig = figures_method.draw_curves([panel, panel])
    lines = {line.get_label(): line.get_xydata() for line in fig.axes[0].lines}
    assert np.array_equal(lines["by hand"], np.stack([x, 2 * x], axis=1))
    assert set(lines["this profile, 0.05"][:, 0]) == {0.05}
    assert fig.axes[0].get_xscale() == "log" and fig.axes[0].texts[0].get_text() == "limit"

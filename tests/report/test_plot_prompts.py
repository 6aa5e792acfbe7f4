"""The figure of the prompts' lengths and of the words that survive, from numbers known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from bncap.pipeline import artifacts, paths
from bncap.report import plot_prompts
from bncap.report.plot_prompts import prompts_figure

COLUMNS = ("caption_id", "en_words", "target_words", "prior_prompt", "decoder_prompt", "target_words_kept")
LONG = [(i, 9, 6, 60 + 10 * i, 40 + i, 4) for i in range(10)]  # by the prior eight of ten are over 77


@pytest.fixture
def figure(artifacts_dir, monkeypatch, tmp_path):
    """Draws rows of ``prompts.csv`` and returns the figure's two axes."""
    drawn = []
    monkeypatch.setattr(plot_prompts, "save", lambda fig, path: drawn.append(fig) or path)

    def draw(rows, columns=COLUMNS):
        folder = paths.step_dir("smoke", "02_synthesis", "images", 42)
        write = lambda f: artifacts.write_csv(f / "prompts.csv", columns, rows)  # noqa: E731
        artifacts.run_step(folder, settings={"rows": str(rows)}, build=write)
        prompts_figure(folder, "Bengali", tmp_path / "prompts")
        return drawn[-1].axes

    return draw


def test_each_tokenizer_has_its_share_of_prompts_that_are_too_long(figure):
    lengths, _ = figure(LONG)
    labels = [text.get_text() for text in lengths.get_legend().get_texts()]
    assert labels == ["prior (CLIP): 80.0% over", "decoder (XLM-R): 0.0% over"]
    assert [line.get_xdata()[0] for line in lengths.lines] == [77]
    assert "tokens" in lengths.get_xlabel() and lengths.get_xlim()[1] > 150


def test_the_words_that_survive_are_counted_by_the_length_of_the_caption(figure):
    _, words = figure([*LONG, (10, 3, 3, 50, 30, 3)])
    heights = {}
    for bar in words.patches:
        heights.setdefault(round(bar.get_x() + bar.get_width() / 2), []).append(bar.get_height())
    assert heights[6] == [40, 20] and heights[3] == [3, 0] and sum(map(sum, heights.values())) == 63
    assert words.get_title() == f"{43 / 63:.1%} of the Bengali words survive"


def test_prompts_that_are_all_short_keep_the_line_in_sight(figure):
    columns = ("caption_id", "target_words", "words_prompt", "target_words_kept")
    lengths, words = figure([(i, 5, 20 + i, 5) for i in range(8)], columns)
    assert lengths.get_xlim()[1] > 77 and "words" in lengths.get_xlabel()
    assert words.get_title() == "100.0% of the Bengali words survive"
    assert words.get_ylim()[1] > 40


def test_the_same_prompts_make_the_same_file(artifacts_dir, tmp_path):
    folder = paths.step_dir("smoke", "02_synthesis", "images", 42)
    artifacts.run_step(folder, settings={}, build=lambda f: artifacts.write_csv(f / "prompts.csv", COLUMNS, LONG))
    files = [prompts_figure(folder, "Hindi", tmp_path / name).read_bytes() for name in "ab"]
    assert files[0] == files[1] and np.frombuffer(files[0][:4], np.uint8).tolist() == [0x89, 0x50, 0x4E, 0x47]

"""What notebook 03's pictures show, read back from the figures."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from bncap.report.plot_objective import Curves, draw_curves, draw_matrices, draw_weights  # noqa: E402


@pytest.fixture(autouse=True)
def _style_and_figures_end_with_the_test():
    with plt.rc_context():
        yield
    plt.close("all")


def test_each_weight_is_written_in_its_cell_beside_its_name_and_zeros_are_left_white():
    fig = draw_weights({"attention": [0.5, 0.25, 0.25], "kept": torch.tensor([1.0, 0.0, 0.0])})
    (ax,) = fig.axes
    assert [t.get_text() for t in ax.texts] == ["0.5", "0.25", "0.25", "1", "0", "0"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["attention", "kept"]
    assert ax.images[0].get_array().mask.tolist() == [[False] * 3, [False, True, True]]


def test_each_matrix_has_its_title_and_a_colour_scale_of_its_own():
    fig = draw_matrices({"cost": np.eye(2), "plan": np.array([[0.2, 0.4], [0.4, 1e-9]])}, ["a", "b"], ["c", "d"])
    assert [ax.get_title() for ax in fig.axes] == ["cost", "plan"]
    assert [ax.images[0].get_clim()[1] for ax in fig.axes] == [1.0, 0.4]
    assert [t.get_text() for t in fig.axes[1].texts] == ["0.2", "0.4", "0.4", "≈ 0"]


def test_curves_carry_their_values_levels_and_the_setting():
    x = np.array([0.1, 1.0, 10.0])
    panel = Curves("ε", "loss", x, {"package": x, "by hand": 2 * x}, {"limit": 5.0}, mark=0.05)
    fig = draw_curves([panel, panel])
    assert len(fig.axes) == 2
    lines = {line.get_label(): line.get_xydata() for line in fig.axes[0].lines}
    assert np.array_equal(lines["by hand"], np.stack([x, 2 * x], axis=1))
    assert set(lines["this profile, 0.05"][:, 0]) == {0.05}
    assert fig.axes[0].get_xscale() == "log" and fig.axes[0].texts[0].get_text() == "limit"


def test_no_text_is_cut_off_at_the_edge():
    fig = draw_weights({"a rather long name of a row": [0.5, 0.5], "b": [1.0, 0.0]})
    fig.canvas.draw()
    width, height = fig.canvas.get_width_height()
    for label in (*fig.axes[0].get_yticklabels(), *fig.axes[0].get_xticklabels()):
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height

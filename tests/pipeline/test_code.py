import functools
import importlib
import sys
import textwrap

import pytest

from bncap.pipeline import code

FILES = {
    "__init__": "",
    "runs": '''
        """Two steps."""
        import json
        from pack import losses, plots
        from pack.settings import VARIANTS
        SHARE = 0.5
        def helper(): return SHARE
        def build(folder): return losses.pal(helper())
        def draw(folder): return plots.draw()
        class Shard:
            def run(self):
                def make(folder): return self.text()
                return make
            def text(self):
                from pack import text
                return text.normalise("a")
    ''',
    "losses": '''
        """Losses."""
        from pack.sinkhorn import plan
        SCALE = 1
        """Of nothing."""
        def pal(x):
            """Eq. 10."""
            return plan(x) * SCALE  # a comment
    ''',
    "sinkhorn": "def plan(x):\n    from pack import lazy\n    return lazy.value(x)\n",
    "lazy": "import pack.settings\ndef value(x): return x\n",
    "plots": "def draw(): return 1\n",
    "settings": "VARIANTS = {}\n",
    "text": "def normalise(x): return x\n",
    "other": "import pack.runs\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a package of :data:`FILES` with changes; gives its sources and its module ``runs``."""

    def write(**changes):
        for name, content in (FILES | changes).items():
            path = tmp_path / "pack" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(content))
        for name in [name for name in sys.modules if name.partition(".")[0] == "pack"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        tree = code.SourceTree(tmp_path / "pack", neutral=["pack.settings"])
        return tree, importlib.import_module("pack.runs")

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "pack"]:
        del sys.modules[name]


def step_code(package, build="build", **changes):
    tree, runs = package(**changes)
    return tree.step_code(getattr(runs, build))


def test_the_code_of_a_step_is_what_its_build_function_reaches(package):
    assert list(step_code(package)) == ["pack.lazy", "pack.losses", "pack.runs", "pack.sinkhorn"]
    assert list(step_code(package, "draw")) == ["pack.plots", "pack.runs"]


def test_a_build_function_within_a_method_counts_with_its_class_and_a_partial_as_its_function(package):
    tree, runs = package()
    assert list(tree.step_code(runs.Shard().run())) == ["pack.runs", "pack.text"]
    assert tree.step_code(functools.partial(runs.build, 1)) == tree.step_code(runs.build)


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("losses", "SCALE = 1", "SCALE = 2"),
        ("losses", "plan(x) * SCALE", "2 * plan(x) * SCALE"),
        ("sinkhorn", "lazy.value(x)", "lazy.value(-x)"),
        ("lazy", "return x", "return x + 1"),
        ("runs", "SHARE = 0.5", "SHARE = 0.6"),
        ("runs", "import losses, plots", "import lazy as losses, plots"),
    ],
)
def test_an_edit_of_what_computes_the_result_counts(package, name, old, new):
    before = step_code(package)
    after = step_code(package, **{name: FILES[name].replace(old, new)})
    assert after[f"pack.{name}"] != before[f"pack.{name}"]


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("losses", "# a comment", "# another"),
        ("losses", "Eq. 10.", "Equation 10."),
        ("losses", "Of nothing.", "Of something."),
        ("losses", "plan(x) * SCALE", "(plan(x)\n                    * SCALE)"),
        ("losses", '"""Losses."""', ""),
        ("runs", "import losses, plots", "import plots, losses"),
        ("runs", "return plots.draw()", "return 2"),
        ("plots", "return 1", "return 2"),
        ("settings", "{}", "{1: 2}"),
        ("other", "import", "import json\nimport"),
    ],
)
def test_other_edits_do_not_count(package, name, old, new):
    assert old in FILES[name]
    assert step_code(package) == step_code(package, **{name: FILES[name].replace(old, new)})


def test_the_hash_for_a_notebook_counts_the_settings(package):
    tree, _ = package()
    first = tree.code_hash(["pack.losses", "numpy", "pack.losses.pal"])
    assert list(first) == ["pack.lazy", "pack.losses", "pack.settings", "pack.sinkhorn"]
    assert package(settings="VARIANTS = 1")[0].code_hash(["pack.losses"]) != first


def test_a_file_beside_a_module_counts_where_the_module_names_it(package, tmp_path):
    named = {"plots": "TEMPLATE = 'page.html'\n"}
    package(**named)
    hashes = []
    for content in ("<p>", "<b>"):
        (tmp_path / "pack" / "page.html").write_text(content)
        hashes.append(package(**named)[0].code_hash(["pack.plots", "pack.text"]))
    assert hashes[0]["pack.plots"] != hashes[1]["pack.plots"] and hashes[0]["pack.text"] == hashes[1]["pack.text"]


def test_what_a_cell_imports():
    cell = "import numpy as np\nfrom bncap import losses\nfrom bncap.config import get_config as g\n"
    assert {"numpy", "bncap.losses", "bncap.config", "bncap.config.get_config"} <= code.imported_names(cell)


def test_training_depends_on_the_losses_and_neither_on_the_metrics_nor_on_figures_and_settings():
    from bncap.experiments import runs

    training = set(code.SOURCES.step_code(runs._train))
    assert {"bncap.losses", "bncap.sinkhorn", "bncap.train", "bncap.model", "bncap.text"} <= training
    assert not [name for name in training if name.startswith(("bncap.report", "bncap.pipeline", "bncap.config"))]
    assert "bncap.metrics" not in training
    scoring = set(code.SOURCES.step_code(runs._score))
    assert {"bncap.metrics", "bncap.decoders.decode", "bncap.model"} <= scoring
    assert not {"bncap.train", "bncap.objective", "bncap.experiments.training"} & scoring


def test_direct_dependencies_are_locked_and_test_tools_are_none_of_them():
    locked = code.locked_versions()
    assert code.installed_version("no-such-package") is None
    assert {"torch", "numpy", "pydantic"} <= set(locked) and not {"pytest", "ruff", "pot", "triton"} & set(locked)

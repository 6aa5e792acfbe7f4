import pytest

from bncap.config import get_config
from bncap.pipeline import artifacts, paths, trials


def select(profile, overrides=(), seed=42):
    trials.select_folders(get_config(profile, overrides), seed)
    return paths.figures_dir(profile), paths.artifacts_root()


def make(value, profile="smoke", step="04_training"):
    """A step of one setting; returns its folder."""
    return artifacts.run_step(
        paths.step_dir(profile, step, "x", 42),
        settings={"value": value},
        build=lambda folder: artifacts.write_text(folder / "value.txt", str(value)),
    )


def test_the_standard_run_writes_the_profiles_folders(artifacts_dir, tmp_path, capsys):
    assert select("smoke") == (tmp_path / "figures/smoke", artifacts_dir)
    assert select("smoke", ["train.epochs=1", "experiment.seeds=[42, 43]"])[1] == artifacts_dir, "the profile's own"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("overrides", "seed", "differs"),
    [
        (["train.epochs=3"], 42, {"train.epochs": 3}),
        ("train.epochs=3 loss.tau=0.5", 42, {"train.epochs": 3, "loss.tau": 0.5}),
        ([], 7, {"seeds": [7, 8]}),
        (["experiment.seeds=[1, 2]"], 1, {"seeds": [1, 2]}),
        (["experiment.n_seeds=1"], 42, {"seeds": [42]}),
    ],
)
def test_other_settings_or_seeds_are_a_trial_with_folders_of_its_own(artifacts_dir, tmp_path, overrides, seed, differs):
    figures, root = select("smoke", overrides, seed)
    assert figures.parent == tmp_path / "figures/smoke" and root.parent == artifacts_dir
    assert figures.name == root.name and figures.name.startswith("trial-")
    assert artifacts.read_json(figures / "trial.json") == {"profile": "smoke", "differs": differs}
    assert select("smoke", overrides, seed) == (figures, root) and select("smoke")[1] == artifacts_dir


def test_the_data_of_profile_own_are_part_of_its_standard_run(artifacts_dir, tmp_path):
    data = ["data.captions=/a/captions.csv", "data.images=/a/photos", "data.lang=hi_IN", "data.max_rejected=0.1"]
    assert select("own", data)[1] == artifacts_dir
    assert select("own", [*data, "train.epochs=2"])[1] != artifacts_dir
    assert select("kaggle", data)[1] != artifacts_dir


def test_a_trial_reuses_what_is_the_same_and_leaves_what_is_not(artifacts_dir, capsys):
    standard = make(1)
    select("smoke", ["train.epochs=3"])
    capsys.readouterr()
    assert make(1) == standard and "up to date" in capsys.readouterr().out
    ours = make(2)
    assert ours.is_relative_to(paths.artifacts_root()) and ours != standard
    assert make(2) == ours == paths.step_dir("smoke", "04_training", "x", 42)
    select("smoke")
    assert make(1) == standard and "up to date" in capsys.readouterr().out


def test_a_trial_goes_on_from_an_earlier_sessions_output(artifacts_dir, tmp_path, monkeypatch):
    select("smoke", ["train.epochs=3"])
    make(2)
    artifacts_dir.rename(tmp_path / "inputs")
    monkeypatch.setenv("BNCAP_INPUTS", str(tmp_path / "inputs"))
    assert make(2).is_relative_to(tmp_path / "inputs")

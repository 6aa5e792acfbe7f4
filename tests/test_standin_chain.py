"""The real component classes from end to end: profile ``kaggle`` over data in COCO's layout, on tiny stand-ins."""

import json

import pytest

from bncap.__main__ import main
from bncap.commands import check, runner
from bncap.config import get_config
from bncap.mini.world import build_world
from bncap.pipeline import artifacts, paths

pytestmark = pytest.mark.chain

NOTEBOOKS = "01,02,04,05,06,07,08,09"
WORLD = ("world.train_images=24", "world.validation_images=6", "world.test_images=10", "world.ood_images=10")
SMALL = (
    "data.shards=2", "data.threshold=-1.0", "data.triplets=24", "data.captions_per_image=2", "data.validation_images=6",
    "data.test_images=8", "data.ood_images=8", "data.translation_batch=64", "synthesis.side=64",
    "synthesis.stored_side=64", "synthesis.prior_steps=2", "synthesis.steps=2", "synthesis.batch=4",
    "synthesis.shard=10", "features.batch=16", "features.penultimate=True", "model.multi_scale=True", "train.epochs=2",
    "train.batch=12", "train.accumulation=2", "train.learning_rate=0.01", "train.bridge_learning_rate=0.01",
    "decode.beams=2", "model.max_tokens=16", "experiment.umap_pairs=8",
)  # fmt: skip
"""Sizes alone: what runs is what the profile ``kaggle`` runs."""
OPTIONS = ["--profile", "kaggle", *(part for value in SMALL for part in ("--set", value))]


@pytest.fixture(scope="module")
def chain(tmp_path_factory, standins):
    """The folder of artefacts and figures after the notebooks have run on the stand-ins: a trial, for its sizes."""
    folder = tmp_path_factory.mktemp("kaggle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNCAP_ARTIFACTS", str(folder / "artifacts"))
        patch.setenv("BNCAP_FIGURES", str(folder / "figures"))
        patch.setenv("BNCAP_TRIAL", "")
        patch.setenv("BNCAP_MODELS", str(standins))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("BNCAP_DATA", str(build_world(get_config("smoke", WORLD))))
        # the machine for which the profile is meant: these sizes need a fraction of it
        patch.setattr(check, "_memory_and_disk", lambda *_: [])
        runner.run(runner.Request("kaggle", 42, SMALL), runner.select(only=NOTEBOOKS))
        yield folder


def settings_of(chain, step):
    return artifacts.read_json(paths.artifacts_root() / "kaggle" / step / "manifest.json")


def test_every_notebook_has_run_and_its_tables_and_figures_are_there(chain):
    done = sorted(path.name[:2] for path in (paths.artifacts_root() / "kaggle/notebooks").glob("*.ipynb"))
    assert done == NOTEBOOKS.split(",")
    names = {path.name for path in paths.figures_dir("kaggle").iterdir()}
    assert {"table1_baselines.csv", "table2_main.csv", "table3_ablations.csv", "fig3_umap.png", "prompts.png",
            "acceptance.png", "captions.png", "report.html", "results.json"} <= names  # fmt: skip


@pytest.mark.parametrize(
    ("step", "names"),
    [
        ("01_data_build/translations.00of02-s42", {"Helsinki-NLP/opus-mt-en-inc", "sentence-transformers/LaBSE"}),
        (
            "02_synthesis/pictures.0000of0003-s42",
            {"kandinsky-community/kandinsky-2-1", "kandinsky-community/kandinsky-2-1-prior"},
        ),
        ("02_synthesis/features-s42", {"timm/maxvit_base_tf_224.in1k"}),
        ("04_training/pal_infonce_ot.weights-s42", {"facebook/mbart-large-50"}),
        ("04_training/pal_infonce_ot-s42", {"bert-base-multilingual-cased"}),
        ("05_baselines/vit_gpt2.weights-s42", {"flax-community/gpt2-bengali"}),
        ("05_baselines/features-cnn-s42", {"timm/resnet50.a1_in1k"}),
    ],
)
def test_each_step_says_which_components_it_loaded_from_where_with_which_bytes(chain, step, names):
    components = settings_of(chain, step)["components"]
    assert set(components) == names
    for record in components.values():
        assert record["source"] == "BNCAP_MODELS"
        assert any(name.endswith(".safetensors") and len(sha) == 64 for name, sha in record["files"].items())


def test_the_decoder_was_trained_with_a_trimmed_vocabulary(chain, standins):
    run = paths.artifacts_root() / "kaggle/04_training/pal_infonce_ot.weights-s42/best"
    pieces = json.loads((run / "decoder/config.json").read_text())["vocab_size"]
    whole = json.loads((standins / "facebook/mbart-large-50/config.json").read_text())["vocab_size"]
    assert 50 < pieces < whole


def test_a_finished_run_keeps_no_state_of_training(chain):
    run = paths.artifacts_root() / "kaggle/04_training/ce_real.weights-s42"
    assert {path.name for path in run.iterdir()} == {
        "best", "initial", "manifest.json", "steps.csv", "validation.csv"
    }  # fmt: skip


def test_an_audit_draws_pictures_again_to_the_byte(chain, capsys):
    assert main(["audit", "--n", "3", *OPTIONS]) == 0
    assert capsys.readouterr().out.count("same") >= 3


def test_a_picture_is_captioned_by_the_newest_run_whatever_its_profile(chain, capsys):
    picture = sorted((chain / "artifacts/smoke/00_mini_world/world-s42/val2014").glob("*.jpg"))[0]
    assert main(["caption", str(picture), "--json", "--beams", "2"]) == 0
    captured = capsys.readouterr()
    assert "kaggle/04_training/pal_infonce_ot.weights-s42" in captured.err
    record = json.loads(captured.out)
    assert record["log_probability"] < 0 and all(len(word["weights"]) == 49 for word in record["words"])

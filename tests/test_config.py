import dataclasses
import json

import pytest

from bncap.config import BASELINES, FILTERS, PROFILES, READINGS, REFERENCES, SENSITIVITY, VARIANTS, get_config
from bncap.errors import BncapError
from bncap.settings import Config, Train, override, split_overrides


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_resolves(profile):
    assert get_config(profile).profile == profile


def test_the_paper_profile_holds_the_papers_values():
    config = get_config("paper")
    loss = config.loss
    assert (loss.lambda_pal, loss.alpha, loss.beta, loss.tau, loss.rho) == (0.5, 0.3, 0.5, 1.0, 0.5)
    assert (loss.temperature, loss.epsilon, loss.n_iters, config.model.last_k) == (0.07, 0.05, 30, 2)
    assert (config.data.threshold, config.data.triplets, config.data.shards) == (0.55, 80_000, 10)
    assert config.train.epochs == 6
    assert (config.synthesis.seed, config.synthesis.side, config.data.translation_batch) == (42, 768, 128)


def test_kaggle_changes_no_term_of_the_objective():
    assert get_config("kaggle").loss == get_config("paper").loss


@pytest.mark.parametrize(
    ("assignment", "value"),
    [("train.epochs=2", 2), ("loss.tau=2", 2.0), ("train.learning_rate=1e-4", 1e-4), ("loss.keep=count", "count")]
    + [(f"model.checkpointing={text}", True) for text in ("true", "True")]
    + [("data.captions=a b=c.csv", "a b=c.csv")],
)
def test_an_override_takes_the_fields_type(assignment, value):
    section, field = assignment.split("=")[0].split(".")
    result = getattr(getattr(get_config("mini", [assignment]), section), field)
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize("text", ["(7,8,)", "[7, 8]", "7,8"])
def test_several_seeds_can_be_given(text):
    assert get_config("mini", [f"experiment.seeds={text}"]).seeds(42) == (7, 8)


def test_seeds_default_to_consecutive_numbers():
    assert get_config("mini", ["experiment.seeds=7"]).seeds(42) == (7,)
    assert get_config("mini", ["experiment.n_seeds=2"]).seeds(42) == (42, 43)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epoch=2", "train.epochs"),
        ("trian.epochs=2", "section.field=value"),
        ("train.epochs", "section.field=value"),
        ("train.epochs=two", "train.epochs=two.* integer"),
        ("train.epochs=2.5", "train.epochs=2.5.* integer"),
        ("model.checkpointing=maybe", "model.checkpointing=maybe.* boolean"),
        ("loss.rho=0", "loss.rho=0.* greater than 0"),
        ("loss.rho=1.5", "loss.rho=1.5.* less than or equal to 1"),
        ("data.threshold=1.01", "data.threshold=1.01.* 1"),
        ("data.lang=xx_XX", "data.lang=xx_XX.*tl_XX"),
        ("loss.ce_on=synthetic", r"loss.ce_on=synthetic.*'real\+synthetic'"),
        ("loss.tau=1e999", "loss.tau=1e999.* finite"),
        ("decode.beams=0", "decode.beams=0.* greater than"),
        ("experiment.seeds=1.5", "experiment.seeds.* integer"),
        ("experiment.seeds=(42,42)", "experiment.seeds.*distinct"),
        ("model.multi_scale=True", "features.penultimate"),
    ],
)
def test_a_bad_override_is_refused_by_name(assignment, message):
    with pytest.raises(BncapError, match=message):
        get_config("mini", [assignment])


def test_settings_of_one_rule_may_come_in_any_order():
    assert get_config("mini", ["model.multi_scale=True", "features.penultimate=True"]).model.multi_scale


def test_an_unknown_profile_is_refused():
    with pytest.raises(BncapError, match="huge.*mini"):
        get_config("huge")


def test_a_section_refuses_unknown_fields_and_values_out_of_range():
    for wrong in ({"epoch": 2}, {"epochs": 0}):
        with pytest.raises(ValueError, match="epoch"):
            Train(**wrong)


def test_a_configuration_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_config("mini").train.epochs = 3


def test_variants_differ_from_the_main_model_only_in_the_loss():
    main = get_config("mini")
    for variant in (*VARIANTS.values(), *SENSITIVITY.values()):
        changed = override(main, variant.overrides)
        assert dataclasses.replace(changed, loss=main.loss) == main


def test_table_3_has_seven_rows_and_the_matched_one():
    assert len(VARIANTS) == 8 and VARIANTS["pal_infonce_ot"].overrides == ()
    assert len(SENSITIVITY) == 4


def changed(before, after):
    """Fields, ``section.name``, in which two configurations differ."""
    sections = before.as_dict().keys() - {"profile"}
    values = [{f"{s}.{name}": v for s in sections for name, v in c.as_dict()[s].items()} for c in (before, after)]
    return {name for name in values[0] if values[0][name] != values[1][name]}


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("profile", ["mini", "paper"])
def test_a_reading_changes_one_place_of_the_row_that_it_is_an_alternative_to(profile, name):
    row = name.removesuffix("_syn")
    base = override(get_config(profile), VARIANTS[row].overrides if row in VARIANTS else ())
    fields = changed(base, override(get_config(profile), READINGS[name].overrides))
    if row in VARIANTS:
        assert fields == {"loss.ce_on"}
    elif name == "multi_scale":
        assert fields == {"features.penultimate", "model.multi_scale"}
    else:
        assert len(fields) == 1 and fields.pop().partition(".")[0] in ("loss", "model")


def test_every_setting_of_the_objective_that_is_a_reading_is_run_and_no_run_has_two_names():
    numbers = {"lambda_pal", "alpha", "beta", "tau", "rho", "temperature", "epsilon", "n_iters"}
    settings = {field.partition("=")[0] for reading in READINGS.values() for field in reading.overrides}
    open_places = {f.name for f in dataclasses.fields(get_config("mini").loss)} - numbers
    assert {f"loss.{name}" for name in open_places} <= settings
    assert len({variant.label for variant in READINGS.values()}) == len(READINGS)
    assert not set(READINGS) & {*VARIANTS, *BASELINES, *SENSITIVITY, *REFERENCES, *FILTERS}


def test_as_dict_holds_every_section():
    assert set(get_config("mini").as_dict()) == {f.name for f in dataclasses.fields(Config)}


def test_a_saved_configuration_comes_back_whatever_fields_have_gone_since():
    config = get_config("smoke", ["experiment.seeds=(1, 2)", "train.epochs=3", "data.lang=hi_IN"])
    saved = json.loads(json.dumps(config.as_dict()))
    saved["train"]["gone"] = saved["gone"] = 1
    assert Config.from_dict(saved) == config


@pytest.mark.parametrize(
    ("text", "assignments"),
    [
        ("", []),
        ("train.epochs=1", ["train.epochs=1"]),
        ("train.epochs=1 loss.tau=0.5", ["train.epochs=1", "loss.tau=0.5"]),
        ("train.epochs=1, loss.tau = 0.5", ["train.epochs=1", "loss.tau = 0.5"]),
        ("experiment.seeds=[1, 2],train.epochs=1", ["experiment.seeds=[1, 2]", "train.epochs=1"]),
        ("data.captions=my photos, x.y=1.csv", ["data.captions=my photos, x.y=1.csv"]),
    ],
)
def test_one_string_is_split_before_each_assignment(text, assignments):
    assert split_overrides(text) == assignments
    assert get_config("mini", text) == get_config("mini", assignments)

import pytest
from small_data import Verifier, config_for, fake_models, write_own

from bncap.config import get_config
from bncap.data.corpus import HEADER, assign_shards, build_shards, read_shard
from bncap.data.readers import Caption
from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import artifacts, deadline
from bncap.pipeline.paths import step_dir


def folder_of(name):
    return step_dir("paper", "01_data_build", f"translations.{name}", 42)


def read_rows(folder):
    return read_shard(folder).values.tolist()


def use_other_artefacts(root, monkeypatch, name):
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(root.parent / name))


def edit_captions(root, old, new):
    path = root / "annotations" / "captions_train2014.json"
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")


def test_shards_are_contiguous_runs_that_hold_every_caption_once(root, translator):
    config = config_for(root)
    folders = build_shards(config)
    names = ["00of03", "01of03", "02of03", "heldout", "ood"]
    assert [folder.name for folder in folders] == [f"translations.{name}-s42" for name in names]
    rows = [read_rows(folder) for folder in folders]
    assert [len(shard) for shard in rows] == [13, 13, 14, 10, 6]
    assert [int(row[0]) for shard in rows[:3] for row in shard] == list(range(20, 60))
    assert [int(row[0]) for row in rows[3]] == sorted(int(row[0]) for row in rows[3])
    assert rows[0][0] == ["20", "10", "en_XX", "good 10", "GOOD 10", "0.900000"]
    assert tuple(read_shard(folders[0])) == HEADER


def test_only_the_shards_that_are_named_are_made_and_others_later(root, translator):
    config = config_for(root)
    made = build_shards(config, [2, 0, 2])
    assert [folder.name for folder in made] == ["translations.02of03-s42", "translations.00of03-s42"]
    assert len(translator.calls) == 13 + 14 and not folder_of("heldout").exists()
    translator.calls.clear()
    build_shards(config)
    assert len(translator.calls) == 13 + 10 + 6
    assert Verifier.loaded == 2
    with pytest.raises(BncapError, match="there is no shard 3: with data.shards=3 they are numbered from 0 to 2"):
        build_shards(config, [3])


def test_neither_model_is_loaded_for_what_is_finished_nor_for_captions_in_the_target_language(tmp_path, monkeypatch):
    translator = fake_models(monkeypatch)
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path / "artifacts"))
    path = write_own(tmp_path, 12)
    # neither of these two exists: they are not even looked for
    names = ("components.translator=/nowhere/a", "components.verifier=/nowhere/b", f"data.captions={path}")
    folders = build_shards(get_config("own", (*names, "data.lang=hi")))
    rows = [row for folder in folders for row in read_rows(folder)]
    assert len(rows) == 24 and {tuple(row[i] for i in (2, 3, 5)) for row in rows} == {("hi_IN", "", "")}
    assert all(row[4].startswith("चित्र ") for row in rows)
    assert translator.calls == [] and Verifier.loaded == 0


def test_captions_of_several_languages_are_translated_from_their_english_side_or_not_at_all(root, translator):
    texts = [("good", "en_XX", ""), ("ভাল", "bn_IN", "fine"), ("gut", "de_DE", "good"), ("শুধু", "bn_IN", "")]
    captions = [Caption(i, str(i), f"{i}.jpg", text, lang, english) for i, (text, lang, english) in enumerate(texts)]
    splits = {"train": captions, "validation": [], "test": [], "ood": []}
    (folder,) = build_shards(config_for(root, "data.shards=1"), splits=splits)
    assert [row[2:] for row in read_rows(folder)] == [
        ["en_XX", "good", "GOOD", "0.900000"],
        ["bn_IN", "fine", "ভাল", ""],
        ["de_DE", "good", "GOOD", "0.900000"],
        ["bn_IN", "", "শুধু", ""],
    ]
    splits["train"] = [*captions, Caption(17, "9", "9.jpg", "gut", "de_DE")]
    with pytest.raises(BncapError, match=r"caption 17 of 9.jpg is in German and has no English side .* Bengali"):
        build_shards(config_for(root, "data.shards=2"), splits=splits)


def test_an_interrupted_shard_continues_after_its_last_chunk_to_the_same_bytes(root, translator, monkeypatch):
    config = config_for(root, "data.shards=1", "data.translation_batch=1")  # chunks of 10
    expected = (build_shards(config, [0])[0] / "rows.csv").read_bytes()
    translate = translator.translate

    def fail_in_the_third_chunk(captions):
        if "good 20" in captions:
            raise KeyboardInterrupt
        return translate(captions)

    use_other_artefacts(root, monkeypatch, "again")
    monkeypatch.setattr(translator, "translate", fail_in_the_third_chunk)
    with pytest.raises(KeyboardInterrupt):
        build_shards(config, [0])
    monkeypatch.setattr(translator, "translate", translate)
    translator.calls.clear()
    (folder,) = build_shards(config, [0])
    assert len(translator.calls) == 20
    assert (folder / "rows.csv").read_bytes() == expected
    assert not list(folder.glob("chunk*"))


def test_when_time_is_up_a_chunk_more_is_done_each_time_until_all_is(root, translator, monkeypatch):
    config = config_for(root, "data.shards=2", "data.translation_batch=1")
    expected = [folder.joinpath("rows.csv").read_bytes() for folder in build_shards(config)]
    use_other_artefacts(root, monkeypatch, "again")
    monkeypatch.setenv(deadline.VARIABLE, "1")
    with pytest.raises(OutOfTime, match="shard 0 of the translations, 10 of 20 captions"):
        build_shards(config)
    with pytest.raises(OutOfTime, match="the translations, 1 of 4 shards"):
        build_shards(config)
    for _ in range(2):
        with pytest.raises(OutOfTime):
            build_shards(config)
    monkeypatch.delenv(deadline.VARIABLE)
    assert [folder.joinpath("rows.csv").read_bytes() for folder in build_shards(config)] == expected


def test_a_foreign_shard_is_refused_by_name_and_is_left_as_it_is(root, translator):
    config, other = config_for(root), config_for(root, "data.translation_batch=64")
    build_shards(other, [1])
    build_shards(config, [0])
    before = (folder_of("01of03") / artifacts.MANIFEST).read_bytes()
    translator.calls.clear()
    with pytest.raises(BncapError, match=r"shard 1 of the translations is foreign: .*_batch .64, now 128"):
        build_shards(config)
    assert translator.calls == [] and (folder_of("01of03") / artifacts.MANIFEST).read_bytes() == before
    build_shards(config, [1])  # named, it is made anew
    build_shards(config)


def test_a_foreign_shard_of_an_earlier_session_is_refused_though_none_is_there_that_fits(root, translator, monkeypatch):
    build_shards(config_for(root, "data.translation_batch=64"), [1])
    monkeypatch.setenv("BNCAP_INPUTS", str(root.parent / "artifacts"))
    use_other_artefacts(root, monkeypatch, "now")
    with pytest.raises(BncapError, match="shard 1 of the translations is foreign"):
        build_shards(config_for(root))


def test_assign_shards_earlier_sessions_are_used_where_they_are(root, translator, monkeypatch):
    config = config_for(root)
    build_shards(config, [0])
    monkeypatch.setenv("BNCAP_INPUTS", str(root.parent / "artifacts"))
    use_other_artefacts(root, monkeypatch, "now")
    translator.calls.clear()
    folders = build_shards(config)
    assert len(translator.calls) == 13 + 14 + 10 + 6
    assert [folder.is_relative_to(root.parent / "now") for folder in folders] == [False, True, True, True, True]


def test_settings_that_changed_for_all_shards_make_all_anew_even_with_an_interruption(root, translator, monkeypatch):
    build_shards(config_for(root))
    changed = config_for(root, "data.translation_batch=64")
    monkeypatch.setenv(deadline.VARIABLE, "1")
    with pytest.raises(OutOfTime):
        build_shards(changed)
    monkeypatch.delenv(deadline.VARIABLE)
    translator.calls.clear()
    build_shards(changed)
    assert len(translator.calls) == 13 + 14 + 10 + 6


def test_a_caption_that_was_mended_makes_its_own_shard_foreign_and_no_other(root, translator):
    build_shards(config_for(root))
    edit_captions(root, "wrong 17", "mended 17")
    with pytest.raises(BncapError, match="shard 1 of the translations is foreign: .*captions_sha256"):
        build_shards(config_for(root))
    translator.calls.clear()
    build_shards(config_for(root), [1])
    assert len(translator.calls) == 13 and "mended 17" in translator.calls


@pytest.mark.parametrize("named", ["components.translator=identity", f"components.verifier={__file__}"])
def test_the_mini_translator_and_verifier_are_refused_for_captions_of_ones_own(tmp_path, monkeypatch, named):
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path / "artifacts"))
    path = write_own(tmp_path, 12, header="image,caption,lang", word="dog", lang=",en_XX")
    with pytest.raises(BncapError, match=r"captions\.csv .*the mini translator and verifier know the mini world alone"):
        build_shards(get_config("own", (f"data.captions={path}", "data.lang=hi_IN", named)))


def test_a_shard_may_be_empty_where_captions_are_few(root):
    caption = Caption(1, "1", "1.jpg", "ভাল", "bn_IN")
    shards = assign_shards(config_for(root), {"train": [caption], "validation": [], "test": [], "ood": []})
    assert [len(captions) for captions in shards.values()] == [0, 0, 1]
    folders = build_shards(config_for(root), splits={"train": [caption], "validation": [], "test": [], "ood": []})
    assert [len(read_rows(folder)) for folder in folders] == [0, 0, 1]

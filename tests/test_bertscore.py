import shutil
from dataclasses import replace

import pytest

from bncap.bertscore import load_bertscore
from bncap.errors import BncapError
from bncap.metrics import score
from bncap.text import normalise, tokenise

HYPOTHESES = ["একটি লাল বল আছে।", "দুটি গাছ", "নদী পাশে সবুজ বল নদী", "মন্ত্র", "বলটি গাছের পাশে আছে ।"]
REFERENCES = [
    ["একটি সবুজ বল আছে।"],
    ["দুটি সবুজ গাছ আছে", "নদী", "গাছ"],
    ["নদী", "ক্ষুদ্র বাড়ি নদীর উপরে"],
    ["ক্ষুদ্র মন্ত্র।", "মন্ত্র আছে"],
    ["একটি বল গাছের পাশে", "লাল বলটি গাছটির পাশে আছে।", "লাল", "বল"],
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of a tiny random BERT, its tokenizer saved with and without model_max_length."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    words = tokenise("একটি দুটি লাল সবুজ বল গাছ নদী বাড়ি ক্ষুদ্র মন্ত্র পাশে উপরে আছে ।", "bn")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, "##টি", "##র", "##ের"]
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=len(pieces), max_position_embeddings=48, **shape))
    folders = {}
    for name, options in {"with": {"model_max_length": 48}, "without": {}}.items():
        folders[name] = tmp_path_factory.mktemp("store") / f"tiny-bert-{name}"
        vocabulary = {piece: i for i, piece in enumerate(pieces)}
        tokenizer = BertTokenizer(vocabulary, do_lower_case=False, strip_accents=False, **options)
        tokenizer.save_pretrained(folders[name])
        model.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def scorer(checkpoints):
    return load_bertscore(checkpoints["without"], num_layers=2)


@pytest.mark.parametrize("tokenizer", ["with", "without"])
def test_identical_captions_have_a_bertscore_of_100(checkpoints, tokenizer):
    encoder = load_bertscore(checkpoints[tokenizer], num_layers=2)
    captions = ["একটি লাল বল আছে।", "সবুজ গাছ", "ক্ষুদ্র মন্ত্র " * 60]
    assert score(captions, [[c] for c in captions], bertscore=encoder)["BERT-F1"] == pytest.approx(100, abs=1e-3)
    assert encoder.max_length == 48


@pytest.mark.parametrize("layers", [1, 2])
def test_bertscore_equals_the_packages_own_scorer(checkpoints, layers):
    from bert_score import BERTScorer

    package = BERTScorer(str(checkpoints["with"]), num_layers=layers, nthreads=0, device="cpu")
    candidates = [normalise(caption, "bn") for caption in HYPOTHESES]
    expected = package.score(candidates, [[normalise(ref, "bn") for ref in refs] for refs in REFERENCES])[2].tolist()
    encoder = load_bertscore(checkpoints["with"], num_layers=layers)
    assert encoder.f1(HYPOTHESES, REFERENCES) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 5


def test_a_pair_scored_before_does_not_change_the_next(scorer):
    encoder = replace(scorer, batch_size=1)
    for caption, refs in zip(HYPOTHESES, REFERENCES, strict=True):
        single = max(encoder.f1([caption], [[ref]])[0] for ref in refs)
        assert encoder.f1([caption] * 5, [refs] * 5) == [single] * 5


@pytest.mark.parametrize("captions", [["", "বল"], ["বল"] * 5, ["বল", "গাছ"], ["।", "!"], ["", ""]])
def test_empty_repeated_and_one_word_captions_score_without_a_crash(captions, scorer):
    scores = score(captions, [["একটি বল আছে", "বল"]] * len(captions), bertscore=scorer)
    assert 0 <= scores["BERT-F1"] <= 100.001
    assert score(["বল"], [[""]], bertscore=scorer)["BERT-F1"] == 0


def test_the_signature_names_tools_versions_and_the_model_but_no_path(scorer, checkpoints):
    signature = score(HYPOTHESES, REFERENCES, lang="bn_IN", bertscore=scorer)["signature"]
    for part in ("lang:bn|norm:bncap-", "nrefs:1-4", "sacrebleu:", "nltk:", "match:exact+stem", "bert-score:0.3.13"):
        assert part in signature
    assert "tiny-bert-without|layer:2" in signature
    assert str(checkpoints["without"].parent) not in signature and "/" not in signature


def test_wrong_encoders_are_errors_with_a_remedy(checkpoints, tmp_path):
    with pytest.raises(BncapError, match="give num_layers"):
        load_bertscore(checkpoints["with"])
    with pytest.raises(BncapError, match="layers 1 to 2, not 9"):
        load_bertscore(checkpoints["with"], num_layers=9)
    with pytest.raises(BncapError, match="BERTScore model cannot be loaded"):
        load_bertscore(tmp_path, num_layers=2)


@pytest.mark.parametrize(
    ("file", "size"),
    [("config.json", 0), ("model.safetensors", 0), ("model.safetensors", 5000), ("tokenizer.json", 250)],
)
def test_a_damaged_checkpoint_is_one_line_with_its_folder(checkpoints, tmp_path, file, size):
    folder = shutil.copytree(checkpoints["with"], tmp_path / "bert")
    (folder / file).write_bytes((folder / file).read_bytes()[:size])
    with pytest.raises(BncapError, match=rf"^{folder}: the BERTScore model cannot be loaded \(.+\); .+$"):
        load_bertscore(folder, num_layers=2)


def test_a_checkpoint_that_lacks_weights_is_an_error(checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoints["with"], tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layer.1" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BncapError, match=r"half lacks weights, such as \S*layer\.1"):
        load_bertscore(folder, num_layers=2)

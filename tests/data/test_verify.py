import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score
from sklearn.metrics.pairwise import cosine_similarity

from bncap.data.verify import THRESHOLDS, Verifier, accept_pairs, calibrate_threshold, cosine, measure_filter
from bncap.errors import BncapError


def test_cosine_of_known_vectors():
    en = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    bn = np.array([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [4.0, 3.0]])
    np.testing.assert_allclose(cosine(en, bn), [1.0, 0.0, -1.0, 0.96], atol=1e-12)


def test_cosine_agrees_with_scikit_learn_and_ignores_length():
    rng = np.random.default_rng(0)
    en, bn = rng.normal(size=(2, 20, 7))
    np.testing.assert_allclose(cosine(en, bn), np.diag(cosine_similarity(en, bn)), atol=1e-12)
    np.testing.assert_allclose(cosine(3 * en, 0.1 * bn), cosine(en, bn), atol=1e-12)


def test_cosine_never_leaves_its_range_and_refuses_what_has_no_direction():
    vectors = np.random.default_rng(1).normal(size=(500, 5)).astype(np.float32)
    assert np.abs(cosine(vectors, vectors)).max() <= 1
    with pytest.raises(ValueError, match="row 1 has an embedding of length 0"):
        cosine(np.array([[1.0], [0.0]]), np.ones((2, 1)))
    with pytest.raises(ValueError, match="of one shape"):
        cosine(np.ones((2, 3)), np.ones((3, 3)))


def test_a_pair_at_the_threshold_is_accepted():
    assert accept_pairs(np.array([0.5499, 0.55, 0.56]), 0.55).tolist() == [False, True, True]


@pytest.mark.parametrize("threshold", [-1.01, 55, float("nan")])
def test_a_threshold_that_is_no_cosine_is_an_error(threshold):
    with pytest.raises(ValueError, match="is not a cosine"):
        accept_pairs(np.zeros(2), threshold)


def test_quality_counts_faultless_pairs_as_the_ones_to_find():
    similarity, faulty = np.array([0.9, 0.8, 0.6, 0.4]), np.array([False, True, False, False])
    row = measure_filter(similarity, faulty).set_index("threshold").loc[0.5]
    assert (row.accepted, row.precision, row.recall) == (0.75, 2 / 3, 2 / 3)


def test_quality_agrees_with_scikit_learn_at_every_threshold():
    rng = np.random.default_rng(2)
    similarity, faulty = rng.uniform(-0.2, 1, 300), rng.random(300) < 0.3
    for row in measure_filter(similarity, faulty).itertuples():
        taken = similarity >= row.threshold
        assert row.precision == pytest.approx(precision_score(~faulty, taken))
        assert row.recall == pytest.approx(recall_score(~faulty, taken))
        assert row.f1 == pytest.approx(f1_score(~faulty, taken))
        assert row.accepted == taken.mean()


def test_quality_where_nothing_is_accepted_and_where_nothing_is_good():
    row = measure_filter(np.array([0.1, 0.2]), np.array([False, True])).iloc[-1]
    assert (row.accepted, row.precision, row.recall, row.f1) == (0, 1, 0, 0)
    with pytest.raises(ValueError, match="every pair is faulty"):
        measure_filter(np.array([0.1]), np.array([True]))


def test_calibration_takes_the_middle_of_the_gap_between_good_and_faulty():
    assert THRESHOLDS[0] == 0.3 and THRESHOLDS[-1] == 0.9 and 0.55 in THRESHOLDS and len(THRESHOLDS) == 61
    similarity = np.array([0.9, 0.8, 0.7, 0.5, 0.1])
    faulty = np.array([False, False, False, True, True])
    assert calibrate_threshold(similarity, faulty) == pytest.approx(0.605, abs=0.006)


def test_verifier_gives_the_cosines_of_a_saved_sentence_transformer(tmp_path):
    folder = save_encoder(tmp_path / "encoder")
    similarity = Verifier(str(folder)).similarity(["red", "red", "red blue"], ["লাল", "নীল", "লাল নীল"])
    assert similarity.dtype == np.float32
    np.testing.assert_allclose(similarity, [1, 0, 5 / 26**0.5], atol=1e-6)


def test_an_empty_side_has_the_lowest_similarity(tmp_path):
    verifier = Verifier(str(save_encoder(tmp_path / "encoder")))
    assert verifier.similarity(["red", "red", " "], ["", "লাল", "লাল"]).tolist() == [-1.0, 1.0, -1.0]
    assert verifier.similarity([], []).shape == (0,)


@pytest.mark.parametrize(
    ("file", "keep"),
    [
        ("modules.json", 0), ("tokenizer.json", 0), ("2_Dense/model.safetensors", 0), ("model.safetensors", 0.5),
    ],
)  # fmt: skip
def test_a_verifier_with_a_missing_or_truncated_file_is_one_line_that_names_it(labse, tmp_path, file, keep):
    folder = shutil.copytree(labse, tmp_path / "labse")
    path = folder / file
    content = path.read_bytes()
    path.unlink()
    if keep:
        path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(BncapError, match="verifier") as error:
        Verifier(str(folder))
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_verifier_of_labses_modules_pools_the_first_token_and_normalises(labse):
    verifier = Verifier(str(labse))
    vectors = verifier.encoder.encode(["red", "নীল blue"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    bert, dense = verifier.encoder[0].model, verifier.encoder[2].linear
    with torch.inference_mode():
        first = bert(torch.tensor([[2, 8, 7, 3]])).last_hidden_state[:, 0]
        expected = torch.nn.functional.normalize(torch.tanh(dense(first)))
    np.testing.assert_allclose(vectors[1], expected[0].numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def labse(tmp_path_factory):
    """A tiny random encoder of LaBSE's modules: BERT, its first token, dense with tanh, unit length."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    bert = tmp_path_factory.mktemp("bert")
    (bert / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\nলাল\nblue\nনীল", "utf-8")
    BertTokenizerFast(str(bert / "vocab.txt"), strip_accents=False).save_pretrained(bert)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=9, max_position_embeddings=32, **sizes)).save_pretrained(bert)
    parts = [Transformer(str(bert)), Pooling(16, pooling_mode="cls"), Dense(16, 16), Normalize()]
    folder = tmp_path_factory.mktemp("labse")
    SentenceTransformer(modules=parts, device="cpu").save(str(folder), create_model_card=False)
    return folder


def save_encoder(path):
    """A bag of words in which red = লাল is one axis and blue = নীল the other."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"red": 0, "লাল": 1, "blue": 2, "নীল": 3, "?": 4}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    embedding = StaticEmbedding(tokenizer, embedding_dim=2)
    embedding.embedding.weight.data = torch.tensor([[1.0, 0], [2, 0], [0, 1], [0, 3], [1, 1]])
    SentenceTransformer(modules=[embedding], device="cpu").save(str(path), create_model_card=False)
    return path

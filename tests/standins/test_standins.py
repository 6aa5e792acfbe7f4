"""Each real component by its hub name, through the project's own loading code, on tiny random checkpoints."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from bncap.batches import Batch
from bncap.bertscore import load_bertscore
from bncap.chunked_cross_entropy import IGNORED
from bncap.config import get_config
from bncap.decoders.baselines import BASELINES, build_baseline
from bncap.encoders.features import Encoder
from bncap.mini.grammar import draw_parallel_captions
from bncap.model import build_captioner, load_captioner
from bncap.objective import compute_terms, term_weights
from bncap.pipeline import hub
from bncap.settings import Decode, override
from bncap.text import normalise
from standins import build_standins

ENGLISH, BENGALI = map(list, zip(*draw_parallel_captions(3, 64), strict=True))
TRANSLATORS = (
    "Helsinki-NLP/opus-mt-en-inc",
    "shhossain/opus-mt-en-to-bn",
    "csebuetnlp/banglat5_nmt_en_bn",
    "facebook/nllb-200-distilled-600M",
)


@pytest.fixture(autouse=True)
def offline(standins, monkeypatch):
    monkeypatch.setenv("BNCAP_MODELS", str(standins))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def kaggle(*overrides):
    return get_config("kaggle", overrides)


def path_of(name, config=None):
    return hub.path(config or kaggle(), name)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_weights(standins, tmp_path):
    def hashes(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    before = torch.get_rng_state()
    build_standins(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before)
    assert hashes(tmp_path / "again") == hashes(standins)
    build_standins(tmp_path / "other", seed=43)
    first, other = hashes(standins), hashes(tmp_path / "other")
    weights = [name for name in first if name.endswith(".safetensors")]
    assert len(weights) >= 15 and all(first[name] != other[name] for name in weights)


def test_every_component_of_the_profile_kaggle_is_there_with_finite_weights(standins):
    from safetensors.torch import load_file

    components = kaggle().components
    names = [getattr(components, f.name) for f in fields(components) if isinstance(getattr(components, f.name), str)]
    assert len(names) == 10
    for name in (*names, *TRANSLATORS):
        found = hub.find(kaggle(), name)
        assert (found.source, found.folder) == ("BNCAP_MODELS", standins / name)
        assert any(file.endswith(".json") for file in found.record()["files"])
    for file in sorted(standins.rglob("*.safetensors")):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values()), file


def pictures(count):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)) for _ in range(count)]


def test_maxvit_gives_49_patches_of_its_last_stage_and_196_of_the_one_before():
    encoder = Encoder(path_of(kaggle().components.encoder), penultimate=True)
    assert type(encoder.model).__name__ == "MaxxVit" and encoder.transform.transforms[-1].mean[0] == pytest.approx(
        0.485
    )
    fine, final = encoder(pictures(3))
    assert fine.shape == (3, 196, 32) and final.shape == (3, 49, 64)
    assert final.isfinite().all() and (final[0] - final[1]).abs().mean() > 0.01


@pytest.mark.parametrize(("part", "shape"), [("vit", (2, 196, 32)), ("cnn", (2, 49, 64))])
def test_the_baselines_encoders_give_spatial_maps(part, shape):
    found = Encoder(path_of(getattr(kaggle().components, part)))(pictures(2))[-1]
    assert found.shape == shape and (found[0] - found[1]).abs().mean() > 0.01


def a_batch(model, captions, channels):
    generator = torch.Generator().manual_seed(0)
    real, synthetic = (torch.randn(len(captions), 49, channels, generator=generator) for _ in range(2))
    count = len(captions)
    return Batch(real, synthetic, model.labels(captions, 32), torch.arange(count), torch.ones(count, dtype=torch.bool))


def losses_of_training(model, batch, loss, steps=3):
    """Of each step, in which every weight must get a finite gradient."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(steps):
        found = compute_terms(model.eval(), batch, loss)  # no dropout: the same batch again must cost less
        total = sum(weight * found[name] for name, weight in term_weights(loss).items())
        optimiser.zero_grad()
        total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimiser.step()
        totals.append(total.item())
    return totals


@pytest.mark.parametrize("trimmed", [False, True], ids=["whole", "trimmed"])
def test_the_mbart_decoder_learns_captions_in_the_forced_language_and_is_kept(trimmed, tmp_path):
    config = kaggle()
    torch.manual_seed(0)
    captions = BENGALI[:8]
    model = build_captioner(
        path_of(config.components.decoder), "bn_IN", channels=64, last_k=2, captions=captions if trimmed else None
    )
    batch = a_batch(model, captions, 64)
    assert set(compute_terms(model, batch, config.loss)) == {"ce", "pal", "infonce", "ot"}
    totals = losses_of_training(model, batch, config.loss)
    assert totals[-1] < totals[0]
    sequences, scores = model.generate(model.bridge(batch.real).detach(), Decode(beams=3), 12)
    assert sequences.shape[0] == 8 and scores.isfinite().all()
    whole = sequences if model.vocabulary is None else model.vocabulary.decode(sequences)
    assert set(model.tokenizer.convert_ids_to_tokens(whole[:, 1])) == {"bn_IN"}
    rows = model.decoder.get_input_embeddings().num_embeddings
    assert rows == model.decoder.config.vocab_size
    assert rows < len(model.tokenizer) if trimmed else rows == len(model.tokenizer)
    model.save(tmp_path / "run", {})  # with the search settings that the hub's config.json has
    again, _ = load_captioner(tmp_path / "run")
    assert torch.equal(again.generate(again.bridge(batch.real).detach(), Decode(beams=3), 12)[0], sequences)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_the_baselines_are_built_and_learn(name):
    config = override(kaggle(), BASELINES[name].overrides)
    torch.manual_seed(0)
    model = build_baseline(name, config, channels=64)
    batch = a_batch(model, BENGALI[:8], 64)
    assert batch.labels.ne(IGNORED).any(1).all()
    totals = losses_of_training(model, batch, config.loss)
    assert totals[-1] < totals[0]
    sequences, scores = model.generate(model.bridge(batch.real).detach(), Decode(beams=2), 12)
    assert len(sequences) == len(scores) == 8 and scores.isfinite().all()


def test_bertscore_at_layer_9_equals_the_packages_own():
    from bert_score import BERTScorer

    config = kaggle()
    path = path_of(config.components.bertscore)
    hypotheses, references = BENGALI[:6], [[text] for text in BENGALI[6:12]]
    package = BERTScorer(path, num_layers=9, nthreads=0, device="cpu")
    clean = [normalise(text, "bn") for text in hypotheses], [[normalise(t, "bn") for t in refs] for refs in references]
    expected = package.score(*clean)[2].tolist()
    scorer = load_bertscore(path, config.components.bertscore_layer)
    assert scorer.f1(hypotheses, references) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 6
    assert scorer.signature.startswith("bert-base-multilingual-cased|layer:9|")

import csv
import dataclasses
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bncap import objective, train
from bncap.batches import Batch, Triplets
from bncap.config import VARIANTS, get_config
from bncap.encoders.features import FeatureStore
from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import artifacts
from bncap.settings import override
from bncap.train import Validation

CONFIG = get_config("smoke", ["train.epochs=3", "train.batch=4", "train.unfreeze=0.5", "loss.n_iters=5"])
LENGTH = 32
MATCHED = VARIANTS["ce_real_matched"].overrides


def write_store(folder, triplets, seed=0, unpaired=()):
    """A feature folder and a synthesis folder of ``triplets`` captions, two a picture."""
    rng = np.random.default_rng(seed)
    store, images = folder / "smoke/02_synthesis/features-s42", folder / "smoke/02_synthesis/images-s42"
    pictures = [f"p{i // 2}" for i in range(triplets)]

    def features(target):
        for name, ids in {"train": sorted(set(pictures)), "synthetic": [str(i) for i in range(triplets)]}.items():
            np.save(target / f"{name}.npy", rng.normal(size=(len(ids), 5, 12)).astype(np.float16))
            artifacts.write_csv(target / f"{name}.csv", ["row", "id"], list(enumerate(ids)))

    def table(target):
        words = ["বল", "পাখি", "গাড়ি", "ঘর", "বিড়াল"]
        rows = [
            [i, pictures[i], pictures[i], "" if i in unpaired else f"{i}.png", "", f"একটি {words[i % 5]} আছে।"]
            for i in range(triplets)
        ]
        header = ["caption_id", "image_id", "image", "synthetic", "en", "target"]
        artifacts.write_csv(target / "triplets.csv", header, rows)

    artifacts.run_step(store, settings={"seed": seed}, build=features, quiet=True)
    artifacts.run_step(images, settings={"n": triplets, "unpaired": list(unpaired)}, build=table, quiet=True)
    return FeatureStore(store), images


@pytest.fixture
def data(artifacts_dir, captioner):
    def make(triplets=10, **options):
        store, images = write_store(artifacts_dir, triplets, unpaired=options.pop("unpaired", ()))
        return Triplets(images, store, lambda captions: captioner.labels(captions, LENGTH), **options)

    return make


@pytest.fixture
def validation(captioner):
    features = torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(5))
    return Validation(features, captioner.labels(["একটি লাল বল আছে।"] * 4, LENGTH))


def rows(path):
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_a_killed_run_goes_on_to_the_same_bytes(data, validation, captioner, tmp_path, monkeypatch):
    start, triplets = weights(captioner), data()
    train.train(captioner, triplets, validation, CONFIG, 7, tmp_path / "whole")
    captioner.load_state_dict(start, strict=False)
    calls = []

    def die(*arguments):
        calls.append(arguments)
        if len(calls) == 5:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return backward(*arguments)

    backward = train.backpropagate
    monkeypatch.setattr(train, "backpropagate", die)
    with pytest.raises(KeyboardInterrupt):
        train.train(captioner, triplets, validation, CONFIG, 7, tmp_path / "cut")
    monkeypatch.undo()
    captioner.load_state_dict(start, strict=False)
    train.train(captioner, triplets, validation, CONFIG, 7, tmp_path / "cut")
    for file in ("steps.csv", "validation.csv", "best.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes(), file


@pytest.mark.parametrize("step", [2, 3, 4], ids=["within an epoch", "at its last step", "in the next"])
def test_a_run_whose_time_is_up_goes_on_to_the_same_bytes(step, data, validation, captioner, tmp_path, monkeypatch):
    start, triplets = weights(captioner), data()
    train.train(captioner, triplets, validation, CONFIG, 7, tmp_path / "whole")
    expected = weights(captioner)
    train.put_weights(captioner, start)
    asked = iter(range(1, 100))
    monkeypatch.setattr(train.deadline, "reached", lambda: next(asked) >= step)
    with pytest.raises(OutOfTime, match=f"step {step} of 9"):
        train.train(captioner, triplets, validation, CONFIG, 7, tmp_path / "stopped")
    monkeypatch.undo()
    train.put_weights(captioner, start)  # as a new process would begin
    train.train(captioner, triplets, validation, CONFIG, 7, tmp_path / "stopped")
    assert all(torch.equal(expected[name], p) for name, p in weights(captioner).items())
    for name in ("steps.csv", "validation.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


def test_the_step_log_holds_raw_and_weighted_terms(data, validation, captioner, tmp_path):
    train.train(captioner, data(), validation, CONFIG, 7, tmp_path)
    log = rows(tmp_path / "steps.csv")
    assert [int(row["step"]) for row in log] == list(range(1, 10))  # 3 epochs of ceil(10 / 4) steps
    for row in log:
        parts = [float(row[f"weighted_{t}"]) for t in train.TERMS]
        assert sum(parts) == pytest.approx(float(row["total"]), rel=1e-4)
        assert float(row["weighted_pal"]) == pytest.approx(CONFIG.loss.lambda_pal * float(row["pal"]), rel=1e-4)
        assert float(row["grad_norm"]) > 0
    assert len(rows(tmp_path / "validation.csv")) == 3


def test_the_model_ends_with_its_best_epochs_weights(data, validation, captioner, tmp_path):
    found = train.train(captioner, data(), validation, CONFIG, 7, tmp_path)
    log = [float(row["ce"]) for row in rows(tmp_path / "validation.csv")]
    assert found["best_epoch"] == 1 + log.index(min(log))
    assert train.validation_ce(captioner, validation, 2) == pytest.approx(min(log), abs=1e-4)


def gradients(captioner, batch, extra, config, parts):
    """Raw terms and the gradient of each parameter for a batch in ``parts`` micro-batches."""
    captioner.zero_grad()
    split = override(config, [f"train.accumulation={parts}"])
    raw = train.backpropagate(captioner, batch, split, torch.amp.GradScaler("cpu", enabled=False), extra)
    return raw, {name: p.grad.clone() for name, p in captioner.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("parts", [2, 3, 4, 7])
@pytest.mark.parametrize(
    "overrides",
    [(), ("loss.ce_on=real+synthetic",), ("loss.weight_gradient=True", "loss.synthetic_masses=True"), MATCHED],
)
def test_micro_batches_accumulate_to_the_whole_batchs_gradient(data, captioner, overrides, parts):
    """Captions of several lengths, a last part that is smaller, captions without a pair, all four terms."""
    config = override(CONFIG, overrides)
    triplets = data(10, unpaired=(2, 6))
    batch = triplets.batch(np.array([0, 6, 2, 3, 4, 7, 9]))
    extra = triplets.batch(np.array([1, 2, 3, 8, 5, 6, 0])) if config.loss.ce_on == "real+real" else None
    captioner.decoder.activation_checkpointing_enable({"use_reentrant": False})
    raw, whole = gradients(captioner, batch, extra, config, 1)
    raw_split, split = gradients(captioner, batch, extra, config, parts)
    assert set(raw) == set(objective.term_weights(config.loss))
    torch.testing.assert_close(raw_split, raw, rtol=1e-4, atol=1e-6)
    assert split.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-3, atol=1e-5)


def test_nothing_is_held_back_when_unfreezing_takes_no_steps(captioner):
    assert train.layers_to_train(captioner, 0, 10, 0.0) == len(captioner.layers)
    assert [train.layers_to_train(captioner, step, 12, 0.5) for step in range(8)] == [1, 1, 2, 2, 3, 3, 3, 3]


def test_the_attention_is_not_pulled_by_the_alignment_terms_unless_asked(data, captioner):
    batch = data().batch(np.arange(6))
    query = captioner.layers[-1].encoder_attn.q_proj.weight

    def gradient(*overrides):
        captioner.zero_grad()
        loss = override(CONFIG, overrides).loss
        objective.compute_terms(captioner, batch, loss)["pal"].backward()
        return 0.0 if query.grad is None else float(query.grad.abs().sum())

    assert gradient() == 0
    assert gradient("loss.weight_gradient=True") > 0


def test_ce_on_synthetic_pictures_averages_over_both(data, captioner):
    loss = override(CONFIG, VARIANTS["ce_real_syn"].overrides).loss
    batch = data().batch(np.arange(6))
    swapped = dataclasses.replace(batch, real=batch.synthetic)
    alone = dataclasses.replace(loss, ce_on="real")
    both = (
        objective.compute_terms(captioner, batch, alone)["ce"]
        + objective.compute_terms(captioner, swapped, alone)["ce"]
    ) / 2
    torch.testing.assert_close(objective.compute_terms(captioner, batch, loss)["ce"], both)


def test_the_compute_matched_row_sees_as_many_further_real_captions(data):
    config = override(CONFIG, VARIANTS["ce_real_matched"].overrides)
    batches = list(train.epoch_batches(data(), config, 7, 0, torch.device("cpu"), 0))
    assert [len(b.labels) for b, _ in batches] == [len(e.labels) for _, e in batches] == [4, 4, 2]
    assert any(not torch.equal(b.real, e.real) for b, e in batches)


def test_a_triplet_without_a_synthetic_picture_trains_with_ce_alone(data, captioner):
    triplets = data(unpaired=(0, 1))
    unpaired = objective.compute_terms(captioner, triplets.batch(np.array([0, 1])), CONFIG.loss)
    assert set(unpaired) == {"ce"}
    mixed = objective.compute_terms(captioner, triplets.batch(np.array([0, 3])), CONFIG.loss)
    alone = objective.compute_terms(captioner, triplets.batch(np.array([3])), CONFIG.loss)
    torch.testing.assert_close(mixed["pal"], alone["pal"], rtol=1e-4, atol=1e-5)


def test_an_objective_of_pairs_without_a_pair_is_an_error(data):
    with pytest.raises(BncapError, match="pairs none of 10 captions"):
        data(unpaired=tuple(range(10)))


@pytest.mark.parametrize("variant", ["ce_real", "pal_infonce_ot"])
def test_a_loss_that_is_not_finite_stops_the_run(data, validation, captioner, tmp_path, variant):
    with torch.no_grad():
        captioner.bridge.norm.bias[0] = math.inf
    with pytest.raises(BncapError, match=r"not finite \(terms ce\)"):
        train.train(captioner, data(), validation, override(CONFIG, VARIANTS[variant].overrides), 7, tmp_path)


def test_a_gradient_that_is_not_finite_stops_the_run(data, validation, captioner, tmp_path):
    captioner.bridge.projection.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(BncapError, match=r"not finite \(terms gradient\); lower train.learning_rate"):
        train.train(captioner, data(), validation, CONFIG, 7, tmp_path)


def test_a_gpu_whose_memory_is_full_names_the_settings_that_help(data, validation, captioner, tmp_path, monkeypatch):
    def fill(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train, "backpropagate", fill)
    message = r"memory does not hold 4 captions: set train.accumulation \(now 1\) higher, or model.checkpointing=True"
    with pytest.raises(BncapError, match=message):
        train.train(captioner, data(), validation, CONFIG, 7, tmp_path)


def test_cross_entropy_alone_keeps_no_attention(data, validation, captioner, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(type(captioner.tap), "take", lambda tap: kept.append(dict(tap.weights)))
    train.train(captioner, data(), validation, override(CONFIG, VARIANTS["ce_real"].overrides), 7, tmp_path)
    assert kept and not any(kept)


def test_the_held_out_cross_entropy_is_that_of_the_logits(captioner, sentences):
    features = torch.randn(5, 5, 12, generator=torch.Generator().manual_seed(5))
    held_out = Validation(features, captioner.labels(list(sentences), LENGTH))
    logits, _ = captioner(captioner.bridge(features), held_out.labels)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), held_out.labels.flatten())
    for size in (1, 2, 5):
        assert train.validation_ce(captioner, held_out, size) == pytest.approx(expected.item(), rel=1e-5)


def test_a_scaled_gradient_that_overflows_skips_its_step_and_is_no_error(data, validation, captioner, tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38, backoff_factor=1e-36)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler)
        train.train(captioner, data(), validation, CONFIG, 7, tmp_path)
    norms, rates = (
        [float(row[name]) for row in rows(tmp_path / "steps.csv")] for name in ("grad_norm", "learning_rate")
    )
    assert not math.isfinite(norms[0]) and math.isfinite(norms[-1])
    assert rates[1] == rates[0] != rates[2]  # the schedule waits for the step that was left out
    assert all(p.isfinite().all() for p in captioner.parameters())


def test_a_damaged_checkpoint_is_named_and_its_removal_starts_the_run_again(data, validation, captioner, tmp_path):
    triplets, path = data(), tmp_path / train.LAST
    train.train(captioner, triplets, validation, CONFIG, 7, tmp_path)
    foreign = io.BytesIO()
    torch.save({"record": {}}, foreign)
    for content in (path.read_bytes()[:-100], b"", foreign.getvalue()):
        path.write_bytes(content)
        with pytest.raises(BncapError, match=r"last\.pt is no whole state of a training .*delete it"):
            train.train(captioner, triplets, validation, CONFIG, 7, tmp_path)
    train.remove_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["steps.csv", "validation.csv"]
    train.train(captioner, triplets, validation, CONFIG, 7, tmp_path)
    assert len(rows(tmp_path / "steps.csv")) == 9


def test_multi_scale_shares_each_weight_among_the_patches_below():
    """On the fine grid the synthetic picture equals the real one above and is its opposite below."""
    coarse, fine = torch.ones(1, 4, 1), torch.ones(1, 16, 1)
    below = torch.where(torch.arange(16) < 8, 1.0, -1.0).view(1, 16, 1)
    batch = Batch(coarse, -coarse, torch.ones(1, 1), torch.zeros(1), torch.tensor([True]), fine, below)
    model = SimpleNamespace(bridge=torch.nn.Identity(), penultimate_bridge=torch.nn.Identity())
    upper_half = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    loss = override(CONFIG, VARIANTS["pal"].overrides).loss
    found = objective.compute_alignment(model, batch, loss, coarse, upper_half)
    assert found["pal"] == pytest.approx((2 + 0) / 2)

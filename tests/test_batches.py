"""The order of an epoch, against a maximum flow as oracle, and what its batches hold."""

import itertools
import threading

import networkx
import numpy as np
import pytest
import torch

from bncap import batches
from bncap.batches import Triplets, bucketed
from bncap.chunked_cross_entropy import IGNORED
from bncap.encoders.features import FeatureStore
from bncap.pipeline import artifacts

CPU = torch.device("cpu")


def captions(count, pictures, seed=0):
    """Lengths and pictures of ``count`` captions."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(16, 4, count).round().astype(int), 4, 32), rng.integers(0, pictures, count)


def order_of(lengths, pictures, size, seed=0):
    return bucketed(lengths, pictures, size, np.random.default_rng(seed))


def repeats(order, pictures):
    return sum(len(rows) - len(set(pictures[rows])) for rows in order)


def fewest_repeats(pictures, size):
    """Captions that no assignment to batches keeps apart from another of their picture."""
    graph = networkx.DiGraph()
    for picture, count in zip(*np.unique(pictures, return_counts=True), strict=True):
        graph.add_edge("from", f"p{picture}", capacity=int(count))
        for batch, start in enumerate(range(0, len(pictures), size)):
            graph.add_edge(f"p{picture}", batch, capacity=1)
            graph.add_edge(batch, "to", capacity=min(size, len(pictures) - start))
    return len(pictures) - networkx.maximum_flow_value(graph, "from", "to")


@pytest.mark.parametrize(("count", "size"), [(1, 4), (3, 4), (4, 4), (10, 4), (12, 4), (300, 32), (2001, 32)])
def test_every_caption_comes_once_and_only_the_last_batch_is_smaller(count, size):
    order = order_of(*captions(count, count), size)
    assert sorted(np.concatenate(order)) == list(range(count))
    assert [len(rows) for rows in order] == [size] * (count // size) + [count % size] * bool(count % size)


def padded(order, lengths):
    """Positions that the batches take up, for each token."""
    return sum(lengths[rows].max() * len(rows) for rows in order) / lengths.sum()


def test_batches_hold_captions_of_about_one_length_in_no_order_of_length():
    lengths, pictures = captions(51_200, 16_000)
    order = order_of(lengths, pictures, 32)
    assert padded(order, lengths) < 1.05 < 1.4 < padded(np.arange(51_200).reshape(-1, 32), lengths)
    longest = np.array([lengths[rows].max() for rows in order])
    assert abs(np.corrcoef(longest, np.arange(len(order)))[0, 1]) < 0.1


@pytest.mark.parametrize("seed", range(150))
def test_where_pictures_are_too_few_the_fewest_possible_repeats_remain(seed):
    rng = np.random.default_rng(seed)
    count, size, kinds = rng.integers(1, 30), rng.integers(1, 9), rng.integers(1, 12)
    lengths, pictures = captions(count, kinds, seed)
    if seed % 3 == 0:  # one picture with most of the captions
        pictures[rng.random(count) < 0.6] = 0
    assert repeats(order_of(lengths, pictures, size, seed), pictures) == fewest_repeats(pictures, size)


def test_a_repaired_batch_stays_of_about_one_length():
    lengths, pictures = captions(51_200, 1000)
    order = order_of(lengths, pictures, 32)
    assert repeats(order, pictures) == 0 and padded(order, lengths) < 1.05


def words(texts):
    """A token for each letter."""
    return torch.nn.utils.rnn.pad_sequence([torch.arange(len(t)) for t in texts], True, IGNORED)


@pytest.fixture
def triplets(artifacts_dir):
    """Makes Triplets of eleven captions of 1 to 11 tokens, two a picture; the fourth has no synthetic picture."""
    rng = np.random.default_rng(0)
    pictures, captioned = [f"p{i // 2}" for i in range(11)], [i for i in range(11) if i != 3]
    arrays = {
        "train": rng.normal(size=(6, 4, 3)), "train.penultimate": rng.normal(size=(6, 16, 2)),
        "synthetic": rng.normal(size=(10, 4, 3)), "synthetic.penultimate": rng.normal(size=(10, 16, 2)),
    }  # fmt: skip

    def features(folder):
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values.astype(np.float16))
        for name, ids in {"train": sorted(set(pictures)), "synthetic": captioned}.items():
            artifacts.write_csv(folder / f"{name}.csv", ["row", "id"], list(enumerate(ids)))

    def table(folder):
        rows = [[i, p, "" if i == 3 else f"{i}.png", "x" * (i + 1)] for i, p in enumerate(pictures)]
        artifacts.write_csv(folder / "triplets.csv", ["caption_id", "image", "synthetic", "target"], rows)

    store, images = (artifacts_dir / f"smoke/02_synthesis/{name}-s1" for name in ("features", "images"))
    artifacts.run_step(store, settings={}, build=features, quiet=True)
    artifacts.run_step(images, settings={}, build=table, quiet=True)
    return lambda **options: Triplets(images, FeatureStore(store), words, **options), arrays


def test_a_batch_holds_the_features_that_belong_to_each_caption_as_they_are_stored(triplets):
    make, arrays = triplets
    data = make(penultimate=True)
    rows = np.array([7, 3, 0])
    batch = data.batch(rows)
    for name, real, synthetic in (
        ("", batch.real, batch.synthetic),
        (".penultimate", batch.real_penultimate, batch.synthetic_penultimate),
    ):
        assert real.dtype == synthetic.dtype == torch.float16
        assert np.array_equal(real.numpy(), arrays[f"train{name}"].astype(np.float16)[[3, 1, 0]])
        assert np.array_equal(synthetic.numpy()[[0, 2]], arrays[f"synthetic{name}"].astype(np.float16)[[6, 0]])
        assert not synthetic[1].any()
    assert batch.paired.tolist() == [True, False, True]
    assert batch.labels.shape == (3, 8) and batch.labels.ne(IGNORED).sum(1).tolist() == [8, 4, 1]
    part = batch.part(slice(1, 3))
    assert part.images.tolist() == [1, 0] and torch.equal(part.synthetic_penultimate, batch.synthetic_penultimate[1:])


def test_synthetic_pictures_are_read_only_where_there_are_some_and_they_are_wanted(triplets, monkeypatch):
    make, _ = triplets
    asked, take = [], FeatureStore.take
    monkeypatch.setattr(
        FeatureStore, "take", lambda self, name, rows, *rest: asked.append((name, len(rows))) or take(self, name, rows)
    )
    make().batch(np.array([3, 4, 5]))
    assert asked == [("train", 3), ("synthetic", 2)]
    asked.clear()
    batch = make(paired=False).batch(np.array([3, 4]))
    assert asked == [("train", 2)] and batch.synthetic is None and not batch.paired.any()
    assert batch.part(slice(1)).synthetic is None and batch.to(CPU).synthetic is None


def test_an_epochs_batches_are_known_in_number_and_skipped_unread(triplets, monkeypatch):
    data = triplets[0]()
    whole = list(data.batches(7, 0, 4, CPU))
    assert len(whole) == data.steps(4) == 3 and [len(b.labels) for b in whole] == [4, 4, 3]
    read, batch = [], data.batch
    monkeypatch.setattr(data, "batch", lambda rows: read.append(len(rows)) or batch(rows))
    rest = list(data.batches(7, 0, 4, CPU, skip=1))
    assert read == [4, 3]
    assert all(torch.equal(a.labels, b.labels) and torch.equal(a.real, b.real)
               for a, b in zip(whole[1:], rest, strict=True))  # fmt: skip
    assert list(data.batches(7, 0, 4, CPU, skip=3)) == []


def test_epochs_and_seeds_have_orders_of_their_own_that_come_again(triplets):
    data = triplets[0]()
    orders = {key: np.concatenate(data.epoch(*key, 4)).tolist() for key in itertools.product((7, 8), (0, 1))}
    assert len({tuple(order) for order in orders.values()}) == 4
    assert all(sorted(order) == list(range(11)) for order in orders.values())
    assert np.concatenate(data.epoch(7, 1, 4)).tolist() == orders[7, 1]


class Gpu:
    """Stands for a device with a driver of its own on a machine that has none."""

    type = "cuda"


@pytest.fixture
def gpu(monkeypatch):
    """Batches "for a GPU": pinned and moved in name only; the names of the threads that read them."""
    readers, batch = [], Triplets.batch

    def read(self, rows):
        readers.append(threading.current_thread())
        return batch(self, rows)

    monkeypatch.setattr(batches.Triplets, "batch", read)
    monkeypatch.setattr(batches.Batch, "pinned", lambda self: self)
    monkeypatch.setattr(batches.Batch, "to", lambda self, device: self)
    return readers


def test_a_background_thread_reads_the_same_batches_for_a_gpu(triplets, gpu):
    data = triplets[0]()
    for skip in (0, 2):
        plain = list(data.batches(7, 0, 4, CPU, skip))
        gpu.clear()
        ahead = list(data.batches(7, 0, 4, Gpu(), skip))
        assert set(gpu).isdisjoint({threading.main_thread()})
        for a, b in zip(plain, ahead, strict=True):
            assert torch.equal(a.real, b.real) and torch.equal(a.synthetic, b.synthetic)
            assert torch.equal(a.labels, b.labels) and torch.equal(a.images, b.images)

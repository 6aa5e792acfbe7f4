"""BERTScore with one encoder, read once: bert-score's matching, in a fixed order, of any caption and language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncap.errors import BncapError
from bncap.pipeline.hub import has_words, loading, require_weights
from bncap.text import normalise

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BertScore:
    """BERTScore of one encoder; made by :func:`load_bertscore`."""

    model: Any
    tokenizer: Any
    signature_name: str
    num_layers: int
    device: str
    max_length: int
    batch_size: int = 64
    references: dict[tuple[str, ...], dict] = field(default_factory=dict, repr=False, compare=False)

    @property
    def signature(self) -> str:
        """Model, layer and package versions, for the signature of a score; never a path."""
        versions = f"bert-score:{version('bert-score')}|transformers:{version('transformers')}"
        return f"{self.signature_name}|layer:{self.num_layers}|idf:no|rescale:no|{versions}"

    def f1(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]], lang: str = "bn") -> list[float]:
        """BERTScore-F1 of each caption against its best reference, about 0 to 1; 0 where either is empty.

        The greedy matching is bert-score's own.  Encoding is done here, over sentences in a fixed order: bert-score
        batches a set of strings, whose order changes from process to process, and its last digits with it.
        """
        candidates = [normalise(text, lang) for text in hypotheses]
        groups = [[normalise(text, lang) for text in refs] for refs in references]
        wanted = self._encode_references({ref for group in groups for ref in group})
        found = self._encode(set(candidates))
        pairs = {(candidate, ref) for candidate, group in zip(candidates, groups, strict=True) for ref in group}
        scores = _match(sorted(pairs), found, wanted)
        return [
            max(scores[candidate, ref] for ref in group) for candidate, group in zip(candidates, groups, strict=True)
        ]

    def _encode_references(self, sentences: Iterable[str]) -> dict:
        """As :meth:`_encode`; the two latest sets are kept, as every variant is scored against the same references."""
        key = tuple(sorted(sentences))
        if key not in self.references:
            while len(self.references) > 1:
                self.references.pop(next(iter(self.references)))
            self.references[key] = self._encode(key)
        return self.references[key]

    def _encode(self, sentences: Iterable[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Sentence -> embeddings (T, D) and weights (T,), 0 for the first and last special token, else 1."""
        import torch  # heavy

        texts = sorted(sentences)
        if not texts:
            return {}
        rows = self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]
        ordered = sorted(zip(rows, texts, strict=True), key=lambda pair: (len(pair[0]), pair[1]))  # little is padded
        special = torch.tensor([self.tokenizer.cls_token_id, self.tokenizer.sep_token_id])
        encoded = {}
        for start in range(0, len(ordered), self.batch_size):
            batch = ordered[start : start + self.batch_size]
            inputs = self.tokenizer.pad({"input_ids": [row for row, _ in batch]}, return_tensors="pt")
            with torch.inference_mode():
                hidden = self.model(**inputs.to(self.device))[0].cpu()
            for (row, text), vectors in zip(batch, hidden, strict=True):
                encoded[text] = (vectors[: len(row)], (~torch.isin(torch.tensor(row), special)).float())
        return encoded


def _match(pairs: Sequence[tuple[str, str]], found: dict, wanted: dict) -> dict[tuple[str, str], float]:
    """F1 of each (candidate, reference), those of equal lengths together; 0 where either is empty."""
    import torch  # heavy
    from bert_score.utils import greedy_cos_idf

    scores = dict.fromkeys(pairs, 0.0)
    shapes: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for candidate, ref in pairs:
        if candidate and ref:
            shapes.setdefault((len(found[candidate][1]), len(wanted[ref][1])), []).append((candidate, ref))
    for alike in shapes.values():
        sides = []
        for side in ([wanted[ref] for _, ref in alike], [found[candidate] for candidate, _ in alike]):
            vectors, weights = (torch.stack(part) for part in zip(*side, strict=True))
            sides += [vectors, torch.ones_like(weights), weights]
        scores |= zip(alike, greedy_cos_idf(*sides)[2].tolist(), strict=True)
    return scores


def load_bertscore(path: str | Path, num_layers: int | None = None, device: str = "cpu") -> BertScore:
    """The encoder for BERTScore in the folder ``path``, such as one of ``bert-base-multilingual-cased`` for Bengali.

    ``num_layers``: the layer whose states are compared; None takes bert-score's choice for a model that it knows by
    name.  The name is the folder's last part, in signatures too, so that they are the same on every machine.  Raises
    BncapError if the layer is not known or the model has fewer, or it cannot be read or is not whole.
    """
    from bert_score.utils import model2layers  # heavy
    from transformers import AutoConfig, AutoTokenizer

    name = Path(path).resolve().name
    with loading("BERTScore model", str(path)):
        config = AutoConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        if not has_words(tokenizer):
            raise BncapError(f"{path}: the BERTScore model lacks its vocabulary file; fetch it anew, whole")
        layers = model2layers.get(name) if num_layers is None else num_layers
        if layers is None:
            raise BncapError(f"bert-score knows no best layer for {name!r}; give num_layers")
        if not 1 <= layers <= config.num_hidden_layers:
            raise BncapError(f"{name!r} has layers 1 to {config.num_hidden_layers}, not {layers}; change num_layers")
        model = _read_layers(path, layers).eval().float().to(device)
    # A tokenizer saved without model_max_length says 1e30, which overflows.
    max_length = min(tokenizer.model_max_length, config.max_position_embeddings, 512)
    return BertScore(model, tokenizer, name, layers, device, max_length)


def _read_layers(path: str | Path, layers: int) -> torch.nn.Module:
    """The encoder up to ``layers``: with fewer in its configuration it is built, and its file read, only so far.

    What a file lacks is an error, where it would be random.
    """
    from transformers import AutoModel  # heavy

    options = {"num_hidden_layers": layers, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = AutoModel.from_pretrained(path, **options)
    require_weights(str(path), report, fresh=("pooler.",))
    return model

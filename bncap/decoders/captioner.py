"""Base class of all captioners, with the bridge, the tap of the cross-attention and beam search.

:class:`bncap.model.Captioner` is the main one; :mod:`bncap.decoders.baselines` has those that Table 1 compares with.
Shapes: B batch, T caption tokens, S patches, C channels of the encoder, D decoder width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)  # fmt: skip
from transformers.generation.utils import GenerateOutput
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bncap.chunked_cross_entropy import IGNORED
from bncap.errors import BncapError
from bncap.pipeline.artifacts import read_json, write_json
from bncap.settings import Decode

if TYPE_CHECKING:
    from bncap.decoders.mbart import Vocabulary

IMPLEMENTATION = "bncap_tapped"
"""Value of ``attn_implementation`` for a model whose attention is to be tapped."""


class Bridge(nn.Module):
    """Linear projection and LayerNorm from the encoder's channels to the decoder's width (Sec. 4.5)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """Eq. (3): E(x) = LN(reshape(F(x))^T W_p), with F(x) already flattened to patches.

        Args:
            features: (B, S, C) patch features of the frozen encoder, any float dtype.

        Returns:
            (B, S, D) patch tokens in the dtype of the weights, which is the decoder's.
        """
        return self.norm(self.projection(features.to(self.projection.weight.dtype)))


def _tapped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    tap = getattr(module, "tap", None)
    tapped = tap is not None and tap.open
    if not tapped and not _fused_is_slow(query):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if attention_mask is None and getattr(module, "is_causal", False):
        attention_mask = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scaling @ key.transpose(-2, -1)).float()  # (B, heads, T, S)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    weights = scores.softmax(-1)
    if tap is not None and tapped:
        tap.weights[module.layer_idx] = weights.mean(1)  # (B, T, S), before dropout
    mixed = nn.functional.dropout(weights, dropout, module.training).to(value.dtype) @ value  # (B, heads, T, d)
    return mixed.transpose(1, 2).contiguous(), None  # (B, T, heads, d)


def _fused_is_slow(query: Tensor) -> bool:
    """Whether PyTorch's fused kernel is a detour: in bfloat16 on a CPU its backward pass takes six times as long."""
    return query.requires_grad and query.device.type == "cpu" and query.dtype == torch.bfloat16


AttentionInterface.register(IMPLEMENTATION, _tapped_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


class Tap:
    """Keeps the latest weights of ``modules``, the cross-attention of some decoder layers, as means over heads.

    All other attention runs through PyTorch's fused kernel.  (``output_attentions=True`` returns nothing under SDPA,
    and the eager path keeps all maps of all layers, after dropout.)  The modules stay tapped after the forward pass, as
    activation checkpointing computes it a second time and must find the same operations.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self.weights: dict[int, Tensor] = {}
        self.open = True
        for module in modules:
            module.tap = self

    def take(self) -> Tensor | None:
        """Mean over the tapped layers and their heads, (B, T, S) float32, rows on the simplex; None while closed.

        Forgets the weights; to be called before ``backward()``, whose recomputation stores them again.
        """
        if not self.open:
            return None
        return torch.stack([self.weights.pop(index) for index in sorted(self.weights)]).mean(0)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Run the modules fused meanwhile, as their weights are not needed; ``backward()`` belongs inside."""
        before, self.open = self.open, False
        try:
            yield
        finally:
            self.open = before


class BeamCache(EncoderDecoderCache):
    """Keys and values of a beam search, which moves between beams of one picture: these share its memory's."""

    def __init__(self) -> None:
        super().__init__(DynamicCache(), DynamicCache())

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.self_attention_cache.reorder_cache(beam_idx)


class CaptionModel(nn.Module):
    """A bridge and a decoder, the two parts that are trained.

    Args:
        decoder: a model of the transformers library.
        tokenizer: the decoder's.
        bridge: from the encoder's channels to the decoder's width.
        vocabulary: what the decoder was trimmed to; None for its whole vocabulary.  Token ids are rows of the decoder's
            embedding throughout.

    Attributes:
        language_id: the target language's token, forced as the first generated one; :data:`IGNORED` for none.
        tap: where the cross-attention of Eq. 8 is kept; None if the decoder returns it in any case.
        penultimate_bridge: a second projection E^(p) (Sec. 4.1); None for none.
        fields: what ``captioner.json`` has to say of a captioner of this class.
    """

    def __init__(
        self,
        decoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        bridge: Bridge,
        vocabulary: Vocabulary | None,
    ) -> None:
        super().__init__()
        self.decoder, self.tokenizer, self.bridge, self.vocabulary = decoder, tokenizer, bridge, vocabulary
        self.language_id: int = IGNORED
        self.tap: Tap | None = None
        self.penultimate_bridge: Bridge | None = None
        self.fields: dict[str, Any] = {}

    @property
    def layers(self) -> Sequence[Any]:
        """The decoder's layers, the first one lowest."""
        raise NotImplementedError

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight (V, D) of the output layer, tied to the embedding, and its bias (V,) or None."""
        raise NotImplementedError

    @property
    def start_id(self) -> int:
        """The token that stands before every caption in the decoder's input."""
        raise NotImplementedError

    def labels(self, captions: Sequence[str], max_tokens: int) -> Tensor:
        """(N, T) int64 token ids up to the end token, cut to ``max_tokens``, padded with :data:`IGNORED`."""
        raise NotImplementedError

    def states(self, memory: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Teacher forcing up to the output layer: decoder states and attention at every position.

        Args:
            memory: (B, S, D) patch tokens E(x), the decoder's key-value memory.
            labels: (B, T) int64 as :meth:`labels` gives them.

        Returns:
            states (B, T, D); attention (B, T, S) float32, mean over the last K layers and their heads, or None while
            the tap is closed.  Values at padded positions have no meaning.
        """
        raise NotImplementedError

    def unfreeze_top(self, count: int) -> None:
        """Train the bridge and the top ``count`` decoder layers; with all of them, the embeddings as well."""
        raise NotImplementedError

    def forward(self, memory: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Teacher forcing: logits (B, T, V), and the attention of :meth:`states`."""
        states, attention = self.states(memory, labels)
        return nn.functional.linear(states, *self.head), attention

    def generation_inputs(self, memory: Tensor) -> dict[str, Any]:
        """What the decoder's ``generate`` needs beside the search settings, for (B, S, D) ``memory``."""
        start = torch.full((len(memory), 1), self.start_id, device=memory.device)  # (B, 1)
        return {"inputs": start, "encoder_hidden_states": memory}

    @torch.no_grad()
    def generate(self, memory: Tensor, decode: Decode, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Beam search over (B, S, D) ``memory`` with the language token forced (Sec. 4.5), by transformers.

        Args:
            max_tokens: the greatest length without the start token.

        Returns:
            token ids (B, T) padded; log-probability in nats of each caption over its length ** ``length_penalty`` (B,),
            forced tokens counting 0.
        """
        with self.untapped():
            output = self.decoder.generate(
                **self.generation_inputs(memory),
                num_beams=decode.beams,
                length_penalty=decode.length_penalty,
                no_repeat_ngram_size=decode.no_repeat_ngram,
                max_new_tokens=max_tokens,
                early_stopping=False,
                do_sample=False,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
                forced_bos_token_id=None if self.language_id == IGNORED else self.language_id,
                return_dict_in_generate=True,
                output_scores=True,
                output_logits=decode.beams == 1,
            )
        if decode.beams > 1:
            return output.sequences, output.sequences_scores
        return output.sequences, self._greedy_scores(output, decode)

    def _greedy_scores(self, output: GenerateOutput, decode: Decode) -> Tensor:
        """The scores (B,) of :meth:`generate` for one beam, for which transformers reports none."""
        tokens = output.sequences[:, 1:]  # (B, T)
        logits, allowed = torch.stack(output.logits, 1).float(), torch.stack(output.scores, 1)  # (B, T, V) each
        picked = logits.log_softmax(2).gather(2, tokens.unsqueeze(2)).squeeze(2)  # (B, T)
        forced = allowed.isfinite().sum(2).eq(1)
        real = caption_mask(tokens, self.tokenizer.eos_token_id)
        return picked.masked_fill(forced | ~real, 0).sum(1) / real.sum(1) ** decode.length_penalty

    def tap_attention(self, modules: Sequence[nn.Module], last_k: int) -> None:
        """Keep the weights of the last ``last_k`` cross-attentions ``modules``, one a layer; of all of them for 0."""
        if not 0 <= last_k <= len(modules):
            raise BncapError(f"model.last_k={last_k}: the decoder has {len(modules)} layers")
        self.fields["last_k"] = last_k
        self.tap = Tap(modules[-last_k:])

    def untapped(self) -> AbstractContextManager[None]:
        """A context without attention weights, where they are not needed: all attention runs fused."""
        return nullcontext() if self.tap is None else self.tap.closed()

    def bridges(self) -> dict[str, Tensor]:
        """The weights beside the decoder's, by name."""
        return {k: v.contiguous() for k, v in self.state_dict().items() if not k.startswith("decoder.")}

    def save(self, folder: Path, record: dict[str, Any]) -> None:
        """Write the whole captioner: ``decoder/`` as from the hub, and the files of :meth:`save_bridges`."""
        self.decoder.save_pretrained(folder / "decoder")
        self.tokenizer.save_pretrained(folder / "decoder")
        self.save_bridges(folder, record)

    def save_bridges(self, folder: Path, record: dict[str, Any]) -> None:
        """Write ``bridge.safetensors``, ``vocabulary.json`` if it was trimmed, and ``record`` as ``captioner.json``."""
        save_file(self.bridges(), folder / "bridge.safetensors")
        if self.vocabulary is not None:
            self.vocabulary.save(folder)
        write_json(folder / "captioner.json", {**self.fields, **record})

    def load_bridges(self, folder: Path, bridges: dict[str, Tensor]) -> None:
        """Take over the ``bridges`` that :meth:`save_bridges` wrote to ``folder``."""
        if {n: v.shape for n, v in self.bridges().items()} != {n: v.shape for n, v in bridges.items()}:
            path = folder / "bridge.safetensors"
            raise BncapError(f"{path} does not fit the decoder of {folder}; make the run again")
        self.load_state_dict(bridges, strict=False)


def read_captioner(folder: Path, **fields: type) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``captioner.json``, which must have the ``fields``, and the tensors of ``bridge.safetensors``.

    Raises :class:`BncapError` if there is no captioner, or one of another architecture, whose record lacks a field.
    """
    path = folder / "captioner.json"
    if not path.is_file():
        raise BncapError(f"{folder} holds no captioner (no captioner.json); name the folder of a finished run")
    record = read_json(path)
    if not isinstance(record, dict):
        raise BncapError(f"{path} is no record of a captioner; name the folder of a finished run")
    if not all(isinstance(record.get(name), kind) for name, kind in fields.items()):
        lacks = f"{path} lacks {' or '.join(fields)}: a captioner of another architecture"
        raise BncapError(f"{lacks}; name the folder of a finished run of this one")
    return record, read_tensors(folder / "bridge.safetensors")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; :class:`BncapError` with its name if it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BncapError(f"{path} cannot be read ({error}); delete {path.parent} and start again") from error


def caption_mask(tokens: Tensor, end: int) -> Tensor:
    """(B, T) bool: which of the generated ``tokens`` (B, T) are the caption, up to and with its first ``end``."""
    ends = tokens.eq(end).long()
    return (ends.cumsum(1) - ends).eq(0)


def shift_right(labels: Tensor, padding: int, start: int) -> Tensor:
    """Decoder inputs for ``labels`` (B, T): ``</s> lang w_1 ... w_n`` for ``lang w_1 ... w_n </s>``."""
    inputs = labels.masked_fill(labels.eq(IGNORED), padding)
    lengths = labels.ne(IGNORED).sum(1, keepdim=True)  # (B, 1)
    shifted = torch.cat([torch.full_like(inputs[:, :1], start), inputs[:, :-1]], dim=1)  # (B, T)
    return shifted.masked_fill(torch.arange(labels.shape[1], device=labels.device) >= lengths, padding)

"""Beam search over a memory of patches, one for every decoder: mBART's, GPT-2's and the LSTM.

It finds what ``generate`` of the transformers library finds with ``early_stopping=False``, and spares this:

- the beams of a picture look at one memory: its keys and values are computed, kept and read once, not once a beam;
- the first tokens, which all beams share, go through the decoder once a picture;
- a step copies the cached keys and values of the self-attention once, where the library reorders and then appends;
- the vocabulary is gone through for its best pieces and for the sum of the softmax, not written anew;
- a picture leaves the batch as soon as none of its beams can better the captions that have ended.

Shapes: B pictures, K beams, N = B K rows, T tokens, V vocabulary, S patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutput

from bncap.settings import Decode

IMPLEMENTATION = "bncap_beams"
"""Value of ``attn_implementation`` while beams are searched."""


@torch.no_grad()
def beam_search(
    decoder: PreTrainedModel,
    memory: Tensor,
    decode: Decode,
    max_tokens: int,
    *,
    start: int,
    end: int,
    padding: int,
    forced: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The caption of each picture with the highest log-probability over its length ** ``length_penalty``.

    Args:
        decoder: takes (N, T) ``input_ids``, or ``decoder_input_ids``, and the memory, and gives logits (N, T, V).
        memory: (B, S, D).
        max_tokens: the greatest length, the start not counted, at least 2.  If the decoder's ``generation_config``
            forces its end, the last of so many tokens is that, and costs nothing.
        start: the token that every caption begins with; not counted in its length.
        forced: the token behind it, which costs nothing either; None for none.

    Returns:
        token ids (B, T), ``padding`` behind the end; scores (B,) float32, log-probabilities in nats over lengths **
        ``length_penalty``.
    """
    device, beams = memory.device, decode.beams
    prompt = torch.tensor([start] if forced is None else [start, forced], device=device)
    sequences = prompt.expand(len(memory), 1, -1)  # (B, 1, T), then (B, K, T)
    scores = torch.zeros(len(memory), 1, device=device)
    ended = _Ended(len(memory), 1 + max_tokens, decode, padding, device)
    with _beams_share_memory(decoder):
        steps = _Steps(decoder, memory)
        while True:
            last = sequences.shape[2] == max_tokens
            if last and decoder.generation_config.forced_eos_token_id == end:
                best, tokens = scores, torch.full_like(scores, end, dtype=torch.int64)
                origins = torch.arange(scores.shape[1], device=device).expand_as(tokens)
            else:
                logits = steps(sequences.flatten(0, 1)).float()
                best, origins, tokens = _candidates(logits, sequences, scores, decode)  # (B, 2K) each
            longer = torch.cat([_pick(sequences, origins), tokens[..., None]], 2)  # (B, 2K, T + 1)
            over = torch.ones_like(tokens, dtype=torch.bool) if last else tokens.eq(end)
            ended.add(best.masked_fill(~over, -torch.inf), longer)
            scores, chosen = best.masked_fill(over, -torch.inf).topk(min(beams, best.shape[1]))
            go_on = ended.may_improve(scores[:, 0])
            if last or not go_on.any():
                return ended.captions()
            rows = origins.gather(1, chosen) + torch.arange(len(scores), device=device)[:, None] * sequences.shape[1]
            steps.go_on(rows[go_on].flatten(), go_on)
            sequences, scores = _pick(longer, chosen)[go_on], scores[go_on]
            ended.keep(go_on)


class _Ended:
    """The best caption of each picture so far, and the scores of its best K, by which its search is over or not."""

    def __init__(self, pictures: int, width: int, decode: Decode, padding: int, device: torch.device) -> None:
        self.decode = decode
        self.sequences = torch.full((pictures, width), padding, device=device)
        self.scores = torch.full((pictures,), -torch.inf, device=device)
        self.widths = torch.zeros(pictures, dtype=torch.int64, device=device)
        self.pictures = torch.arange(pictures, device=device)  # those still searched
        self.best = self.scores[:, None].repeat(1, decode.beams)  # (B, K), of those alone
        self.length = 0  # of the captions added last, without the start

    def add(self, log_probabilities: Tensor, sequences: Tensor) -> None:
        """Take (B, n, T) ``sequences`` of the pictures still searched; those that have not ended count -inf (B, n)."""
        self.length = sequences.shape[2] - 1
        # behind the first K none may end a caption: they are there to go on in the place of one that ends
        scores = self._scored(log_probabilities[:, : self.decode.beams])
        top, place = scores.max(1)
        better = top > self.best[:, 0]
        pictures = self.pictures[better]
        self.sequences[pictures, : self.length + 1] = sequences[better, place[better]]
        self.scores[pictures], self.widths[pictures] = top[better], self.length + 1
        self.best = torch.cat([self.best, scores], 1).topk(self.decode.beams).values

    def may_improve(self, running: Tensor) -> Tensor:
        """(B,) bool: whether the best of the sequences that go on, of log-probability ``running`` (B,), would now be
        among the best K; for one beam, whether none has ended."""
        if self.decode.beams == 1:
            return self.best[:, 0].isneginf()
        return self._scored(running) > self.best[:, -1]

    def keep(self, pictures: Tensor) -> None:
        """Go on with those of the pictures that are True (B,)."""
        self.pictures, self.best = self.pictures[pictures], self.best[pictures]

    def captions(self) -> tuple[Tensor, Tensor]:
        """Token ids (B, T) and scores (B,) of all pictures."""
        return self.sequences[:, : int(self.widths.max())], self.scores

    def _scored(self, log_probabilities: Tensor) -> Tensor:
        return log_probabilities / self.length**self.decode.length_penalty


def _candidates(logits: Tensor, sequences: Tensor, scores: Tensor, decode: Decode) -> tuple[Tensor, Tensor, Tensor]:
    """The 2K best continuations of (B, k, T) ``sequences`` with log-probabilities ``scores`` (B, k), best first.

    Returns:
        log-probability (B, 2K), the sequence that it continues (B, 2K), and its token (B, 2K).
    """
    highest = logits.amax(1, keepdim=True)  # as log_softmax does, to its last digit, but for the best alone
    normaliser = (logits - highest).exp_().sum(1, keepdim=True).log_()  # (N, 1)
    _ban_repeats(logits, sequences.flatten(0, 1), decode.no_repeat_ngram)
    wanted = 2 * decode.beams
    values, tokens = logits.topk(min(wanted, logits.shape[1]))  # (N, 2K)
    values = (values - highest - normaliser).unflatten(0, scores.shape) + scores[..., None]  # (B, k, 2K)
    best, places = values.flatten(1).topk(min(wanted, values[0].numel()))
    return best, places // values.shape[2], tokens.view(len(scores), -1).gather(1, places)


def _ban_repeats(logits: Tensor, sequences: Tensor, size: int) -> None:
    """Set the logits (N, V) of tokens that would repeat ``size`` tokens of (N, T) ``sequences`` to -inf."""
    if 0 < size <= sequences.shape[1]:
        windows = sequences.unfold(1, size, 1)  # (N, T - size + 1, size)
        latest = sequences[:, sequences.shape[1] + 1 - size :]
        row, place = windows[..., :-1].eq(latest[:, None]).all(2).nonzero(as_tuple=True)
        logits[row, windows[row, place, -1]] = -torch.inf


def _pick(sequences: Tensor, places: Tensor) -> Tensor:
    """(B, k, T) ``sequences`` at (B, n) ``places`` -> (B, n, T)."""
    return sequences.gather(1, places[..., None].expand(-1, -1, sequences.shape[2]))


class _Steps:
    """The decoder with what it keeps of the tokens before: called with all (N, T) tokens so far, of which it reads
    those that are new, it gives the logits (N, V) of the next.  N is B at first, then B K."""

    def __init__(self, decoder: PreTrainedModel, memory: Tensor) -> None:
        self.decoder, self.memory, self.read = decoder, memory, 0
        self.attends = decoder._supports_default_dynamic_cache()
        self.state = (
            EncoderDecoderCache(Cache(layer_class_to_replicate=_Moved), DynamicCache()) if self.attends else None
        )

    def __call__(self, sequences: Tensor) -> Tensor:
        tokens, self.read = sequences[:, self.read :], sequences.shape[1]
        if self.decoder.config.is_encoder_decoder:
            given = {"decoder_input_ids": tokens, "encoder_outputs": BaseModelOutput(self.memory)}
        else:
            given = {"input_ids": tokens, "encoder_hidden_states": self.memory}
        output = self.decoder(**given, past_key_values=self.state, use_cache=True)
        self.state = output.past_key_values
        return output.logits[:, -1]

    def go_on(self, rows: Tensor, pictures: Tensor) -> None:
        """Keep of the rows those of ``rows``, K for each picture that ``pictures`` (B,) has True."""
        if not self.attends:
            self.state.reorder_cache(rows)
            if len(rows) != len(self.memory) or not pictures.all():  # the LSTM has a memory, and its keys, for each row
                self.memory, self.state.keys = self.memory[rows], self.state.keys[rows]
            return
        self.state.self_attention_cache.reorder_cache(rows)
        if not pictures.all():
            self.memory = self.memory[pictures]
            for layer in self.state.cross_attention_cache.layers:
                layer.keys, layer.values = layer.keys[pictures], layer.values[pictures]


class _Moved(DynamicLayer):
    """Keys and values of one self-attention, (N, heads, T, d): the rows that go on are copied when the next token's are
    put behind them."""

    rows: Tensor | None = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.rows = beam_idx

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if self.rows is None:
            return super().update(key_states, value_states, *args, **kwargs)
        self.keys = self._appended(self.keys, key_states)
        self.values = self._appended(self.values, value_states)
        self.rows = None
        return self.keys, self.values

    def _appended(self, old: Tensor, new: Tensor) -> Tensor:
        length = old.shape[2]
        joined = new.new_empty(*new.shape[:2], length + new.shape[2], new.shape[3])
        torch.index_select(old, 0, self.rows, out=joined[:, :, :length])
        joined[:, :, length:] = new
        return joined


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs
) -> tuple[Tensor, None]:
    """Fused attention of queries (N, heads, 1, d) to keys (N, heads, T, d) or, K rows to one memory, (B, heads, S, d);
    of the first tokens, as the library has it."""
    if len(query) == len(key):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    together = query.view(len(key), -1, *query.shape[1:]).squeeze(3).transpose(1, 2)  # (B, heads, K, d)
    mixed = nn.functional.scaled_dot_product_attention(together, key, value, scale=kwargs.get("scaling"))
    return mixed.transpose(1, 2).flatten(0, 1)[:, None], None  # (N, 1, heads, d)


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


@contextmanager
def _beams_share_memory(decoder: PreTrainedModel) -> Iterator[None]:
    """Run the decoder's attention through :func:`_attention` meanwhile."""
    usual = decoder.config._attn_implementation
    decoder.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        decoder.set_attn_implementation(usual)

"""Beam search with a Hugging Face decoder, scores included."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bncap.settings import Decode


@torch.no_grad()
def search(decoder: nn.Module, decode: Decode, max_tokens: int, **options) -> tuple[Tensor, Tensor]:
    """What ``decoder.generate`` finds; ``options`` say what it attends to, its start, its end and what is forced.

    Returns:
        token ids (B, T) padded, their first column the start token; log-probability of each caption over its length **
        ``length_penalty`` (B,), in nats; with one beam, among the tokens that ``no_repeat_ngram`` leaves.
    """
    output = decoder.generate(
        do_sample=False,
        num_beams=decode.beams,
        length_penalty=decode.length_penalty,
        no_repeat_ngram_size=decode.no_repeat_ngram,
        max_new_tokens=max_tokens,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    if decode.beams > 1:
        return output.sequences, output.sequences_scores
    # one beam: the library adds no score up
    steps = decoder.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)  # (B, T - 1)
    ends = output.sequences[:, 1:].eq(options["eos_token_id"]).long()
    real = (ends.cumsum(1) - ends).eq(0)  # up to and with the first </s>
    return output.sequences, steps.masked_fill(~real, 0).sum(1) / real.sum(1) ** decode.length_penalty

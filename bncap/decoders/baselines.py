"""The two captioners that Table 1 compares with: ViT + GPT-2 and CNN + LSTM (Sec. 5.2).

Both are used as :class:`bncap.model.Captioner` is: cached features of a frozen encoder, the same bridge, trained by
:func:`bncap.train.train` with cross-entropy alone and decoded by :func:`bncap.decoders.decode.caption`.  Shapes:
B batch, T caption tokens, S patches, C channels of the encoder, D decoder width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationMixin,
    GPT2LMHeadModel,
    MBart50Tokenizer,
    MBartConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)  # fmt: skip
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

from bncap.chunked_cross_entropy import IGNORED
from bncap.config import BASELINES
from bncap.decoders.captioner import IMPLEMENTATION, BeamCache, Bridge, CaptionModel, read_captioner, shift_right
from bncap.decoders.mbart import Vocabulary, encode_labels, language_row, load_tokenizer
from bncap.errors import BncapError
from bncap.pipeline import hub
from bncap.pipeline.hub import has_words, loading, quiet_loading, require_weights
from bncap.settings import Config

LSTM_MAX_WIDTH = 512
"""Width of the LSTM: twice the main decoder's d_model, for its one layer, but no more than this."""


class VitGpt2Captioner(CaptionModel):
    """Bridge and GPT-2; the cross-attentions are new, everything else of the decoder is pretrained (:func:`load_gpt2`).

    A monolingual decoder with a vocabulary of its own: no language token, nothing trimmed.  ``channels``: C of the
    vision transformer; ``last_k``: as :class:`bncap.model.Captioner` has it.
    """

    decoder: GPT2LMHeadModel

    def __init__(
        self, decoder: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, channels: int, last_k: int = 2
    ) -> None:
        super().__init__(decoder, tokenizer, Bridge(channels, decoder.config.n_embd), None)
        self.tap_attention([block.crossattention for block in self.layers], last_k)

    @property
    def layers(self) -> Sequence[Any]:
        return self.decoder.transformer.h

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        return self.decoder.lm_head.weight, None

    @property
    def start_id(self) -> int:
        return self.tokenizer.bos_token_id

    def labels(self, captions: Sequence[str], max_tokens: int) -> Tensor:
        """(N, T) int64: ``w_1 ... w_n </s>``, cut to ``max_tokens``, padded with -100."""
        pieces = self.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([*p[: max_tokens - 1], self.tokenizer.eos_token_id]) for p in pieces]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)

    def states(self, memory: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        begin = torch.full_like(labels[:, :1], self.start_id)
        inputs = torch.cat([begin, labels[:, :-1]], dim=1)  # (B, T)
        inputs = inputs.masked_fill(labels.eq(IGNORED), self.tokenizer.pad_token_id)
        mask = torch.ones_like(inputs)  # the library warns where no mask is given
        output = self.decoder.transformer(inputs, attention_mask=mask, encoder_hidden_states=memory, use_cache=False)
        return output.last_hidden_state, None if self.tap is None else self.tap.take()

    def generation_inputs(self, memory: Tensor) -> dict[str, Any]:
        inputs = super().generation_inputs(memory)
        return inputs | {"attention_mask": torch.ones_like(inputs["inputs"]), "past_key_values": BeamCache()}

    def unfreeze_top(self, count: int) -> None:
        """Train the bridge, all cross-attentions and the top ``count`` layers; with all of them, the embeddings too."""
        self.decoder.requires_grad_(count >= len(self.layers))
        for block in self.layers:
            block.crossattention.requires_grad_(True)  # nothing pretrained to be kept
            block.ln_cross_attn.requires_grad_(True)
        for block in self.layers[len(self.layers) - min(count, len(self.layers)) :]:
            block.requires_grad_(True)
        self.decoder.transformer.ln_f.requires_grad_(True)

    @classmethod
    def load(cls, folder: Path) -> VitGpt2Captioner:
        """What :meth:`save` wrote, in evaluation mode."""
        record, bridges = read_captioner(folder, last_k=int)
        model = cls(*load_gpt2(str(folder / "decoder")), _channels(bridges), record["last_k"])
        model.load_bridges(folder, bridges)
        return model.eval()


class AttentionLstmConfig(PreTrainedConfig):
    """``vocab_size`` V; ``width`` D of memory, embedding, hidden state and attention; ``dropout`` as mBART-50's."""

    model_type = "attention_lstm"

    def __init__(self, vocab_size: int = 1, width: int = 1, dropout: float = 0.1, **kwargs: Any) -> None:
        self.vocab_size, self.width, self.dropout = vocab_size, width, dropout
        self.num_hidden_layers = 1
        super().__init__(**kwargs)


@dataclass
class State:
    """Where the LSTM is: ``hidden`` and ``cell`` (B, D), and the attention's keys of the memory (B, S, D)."""

    hidden: Tensor
    cell: Tensor
    keys: Tensor

    def reorder_cache(self, rows: Tensor) -> None:
        """Go on with the beams ``rows``; beams of one image share its keys."""
        self.hidden, self.cell = self.hidden[rows], self.cell[rows]


class AttentionLstm(PreTrainedModel, GenerationMixin):
    """Show, Attend and Tell (Xu et al. 2015) with soft attention: an LSTM that attends to patches as it writes.

    Embedding, additive attention, one LSTM cell and an output layer tied to the embedding:

        e_s = u^T tanh(W_k a_s + W_q h),  alpha = softmax(e),  z = sigmoid(w_g h) sum_s alpha_s a_s
        h', c' = LSTM([y, z], h, c),      p(next word) = softmax(Y tanh(W_o [h', z, y]) + b)

    a_s are the patch tokens, y the last word's row of the embedding Y.
    """

    config_class = AttentionLstmConfig

    def __init__(self, config: AttentionLstmConfig) -> None:
        super().__init__(config)
        width = config.width
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.first = nn.Linear(width, 2 * width)
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(width, width, bias=False)
        self.energy = nn.Linear(width, 1, bias=False)
        self.gate = nn.Linear(width, 1)
        self.cell = nn.LSTMCell(2 * width, width)
        self.output = nn.Linear(3 * width, width)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):  # torch's own draw, of deviation 1, saturates the tied softmax
            nn.init.normal_(module.weight, std=self.config.width**-0.5)

    def forward(
        self, input_ids: Tensor, encoder_hidden_states: Tensor, past_key_values: State | None = None, **unused: Any
    ) -> CausalLMOutputWithCrossAttentions:
        """One step for each of the (B, T) ``input_ids`` from ``past_key_values``, or from the start.

        Returns:
            ``logits`` (B, T, V), ``cross_attentions`` ((B, T, S) float32,), ``past_key_values`` after the last step.
        """
        features, attention, state = self.states(input_ids, encoder_hidden_states, past_key_values)
        return CausalLMOutputWithCrossAttentions(
            logits=nn.functional.linear(features, self.embedding.weight, self.bias),
            past_key_values=state,
            cross_attentions=(attention,),
        )

    def states(self, input_ids: Tensor, memory: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """Features for the output layer (B, T, D), attention (B, T, S) float32 and the state after the last step."""
        memory = memory.float()  # (B, S, D)
        state = state or self.begin(memory)
        words = self.dropout(self.embedding(input_ids) * self.config.width**0.5)  # (B, T, D)
        hidden, cell, keys = (part.float() for part in (state.hidden, state.cell, state.keys))
        steps = []
        with torch.autocast(memory.device.type, enabled=False):  # a recurrence in half precision drifts
            of_word, of_context = self.cell.weight_ih.chunk(2, 1)  # (4 D, D) each
            of_hidden = torch.cat([self.cell.weight_hh, self.query.weight, self.gate.weight])  # (5 D + 1, D)
            # What the words give to the LSTM's gates needs no recurrence.
            words_part = nn.functional.linear(words.float(), of_word, self.cell.bias_ih + self.cell.bias_hh)
            for word_part in words_part.unbind(1):  # (B, 4 D)
                hidden_part, query, gate = (hidden @ of_hidden.T).split(
                    [4 * self.config.width, self.config.width, 1], 1
                )
                energy = torch.tanh(keys + query.unsqueeze(1)) @ self.energy.weight[0]  # (B, S)
                attention = energy.softmax(1)
                context = torch.bmm(attention.unsqueeze(1), memory).squeeze(1)  # (B, D)
                gated = torch.sigmoid(gate + self.gate.bias) * context
                enter, keep, new, leave = (word_part + hidden_part).addmm(gated, of_context.T).chunk(4, 1)
                cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
                hidden = leave.sigmoid() * cell.tanh()
                steps.append((hidden, gated, attention))
        hiddens, contexts, attentions = (torch.stack(part, 1) for part in zip(*steps, strict=True))
        outputs = self.dropout(torch.cat([hiddens, contexts, words], -1))  # (B, T, 3 D)
        return self.dropout(torch.tanh(self.output(outputs))), attentions, State(hidden, cell, state.keys)

    def begin(self, memory: Tensor) -> State:
        """Hidden and cell state read off the mean patch."""
        hidden, cell = torch.tanh(self.first(memory.mean(1))).chunk(2, -1)
        return State(hidden, cell, self.key(memory))

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, encoder_hidden_states: Tensor, past_key_values: State | None = None, **unused: Any
    ) -> dict:
        """The last word alone once there is a state; called by ``generate``."""
        words = input_ids if past_key_values is None else input_ids[:, -1:]
        return {"input_ids": words, "encoder_hidden_states": encoder_hidden_states, "past_key_values": past_key_values}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `generate` is to make no key-value cache: a State takes its place


class CnnLstmCaptioner(CaptionModel):
    """Bridge and an LSTM with additive attention over the patches, trained from nothing (Show, Attend and Tell).

    The attention is part of the recurrence, so that there is nothing to tap.  ``tokenizer`` and ``vocabulary`` are the
    main model's; ``channels``: C of the convolutional network.
    """

    decoder: AttentionLstm
    tokenizer: MBart50Tokenizer

    def __init__(
        self, decoder: AttentionLstm, tokenizer: MBart50Tokenizer, channels: int, vocabulary: Vocabulary | None = None
    ) -> None:
        super().__init__(decoder, tokenizer, Bridge(channels, decoder.config.width), vocabulary)
        self.language_id = language_row(tokenizer, vocabulary, decoder.config.vocab_size)
        self.fields["lang"] = tokenizer.tgt_lang

    @property
    def layers(self) -> Sequence[nn.Module]:
        return [self.decoder.cell]

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        return self.decoder.embedding.weight, self.decoder.bias

    @property
    def start_id(self) -> int:
        return self.tokenizer.eos_token_id

    def labels(self, captions: Sequence[str], max_tokens: int) -> Tensor:
        """(N, T) int64: ``lang w_1 ... w_n </s>``, cut to ``max_tokens``, padded with -100."""
        return encode_labels(captions, max_tokens, self.tokenizer, self.vocabulary)

    def states(self, memory: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inputs = shift_right(labels, self.tokenizer.pad_token_id, self.start_id)
        states, attention, _ = self.decoder.states(inputs, memory)
        return states, attention

    def unfreeze_top(self, count: int) -> None:
        """Train everything whatever ``count`` is: no part is pretrained, so none is held back."""
        self.requires_grad_(True)

    @classmethod
    def load(cls, folder: Path) -> CnnLstmCaptioner:
        """What :meth:`save` wrote, in evaluation mode."""
        record, bridges = read_captioner(folder, lang=str)
        path = str(folder / "decoder")
        tokenizer = load_tokenizer(path, record["lang"])
        with loading("LSTM", path, AttentionLstmConfig.model_type):
            lstm, found = AttentionLstm.from_pretrained(path, ignore_mismatched_sizes=True, output_loading_info=True)
        require_weights(path, found)
        model = cls(lstm, tokenizer, _channels(bridges), Vocabulary.load(folder))
        model.load_bridges(folder, bridges)
        return model.eval()


def load_gpt2(path: str) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerBase]:
    """A GPT-2 with cross-attention, freshly drawn where the checkpoint has none, and its tokenizer.

    BOS and PAD fall back on EOS, as GPT-2 tokenizers often have no other mark; a mark beyond the checkpoint's embedding
    gets a row.  Raises :class:`BncapError` for another model, a missing EOS, and other missing weights.
    """
    from transformers import AutoTokenizer  # heavy

    with loading("GPT-2 tokenizer", path):
        tokenizer = AutoTokenizer.from_pretrained(path)
    if not has_words(tokenizer):
        raise BncapError(f"{path}: the GPT-2 tokenizer lacks its vocabulary file; make or fetch it again, whole")
    if tokenizer.eos_token is None:
        raise BncapError(f"{path}: the tokenizer has no EOS token; name another model by components.gpt2")
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.eos_token
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    with loading("GPT-2 decoder", path, "gpt2"):
        decoder, found = GPT2LMHeadModel.from_pretrained(
            path,
            add_cross_attention=True,
            attn_implementation=IMPLEMENTATION,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    require_weights(path, found, fresh=("crossattention", "ln_cross_attn"))
    if len(tokenizer) > decoder.config.vocab_size:
        with quiet_loading():  # else the library explains how it draws the new rows
            decoder.resize_token_embeddings(len(tokenizer))
    return decoder, tokenizer


def build_baseline(
    name: str, config: Config, channels: int, captions: Sequence[str] | None = None
) -> VitGpt2Captioner | CnnLstmCaptioner:
    """The untrained baseline ``name`` of :data:`BASELINES` over features of ``channels`` channels.

    What is not pretrained is drawn from torch's global generator, so seed it first.

    Args:
        captions: trim the main decoder's vocabulary, which the LSTM shares, to what these need; None leaves it whole.
    """
    if name == "vit_gpt2":
        decoder, tokenizer = load_gpt2(hub.path(config, config.components.gpt2))
        return VitGpt2Captioner(decoder, tokenizer, channels, config.model.last_k)
    if name == "cnn_lstm":
        path = hub.path(config, config.components.decoder)
        with loading("decoder's config.json", path, "mbart"):
            main = MBartConfig.from_pretrained(path)
        tokenizer = load_tokenizer(path, config.data.lang)
        vocabulary = None if captions is None else Vocabulary.of(captions, tokenizer)
        size = main.vocab_size if vocabulary is None else len(vocabulary)
        settings = AttentionLstmConfig(vocab_size=size, width=min(LSTM_MAX_WIDTH, 2 * main.d_model))
        return CnnLstmCaptioner(AttentionLstm(settings), tokenizer, channels, vocabulary)
    raise BncapError(f"unknown baseline {name!r}: choose one of {', '.join(BASELINES)}")


def load_baseline(name: str, folder: Path) -> VitGpt2Captioner | CnnLstmCaptioner:
    """The baseline ``name`` that its ``save`` wrote to ``folder``, in evaluation mode."""
    return (VitGpt2Captioner if name == "vit_gpt2" else CnnLstmCaptioner).load(folder)


def _channels(bridges: dict[str, Tensor]) -> int:
    """C of the encoder that the saved ``bridges`` belong to."""
    weight = bridges.get("bridge.projection.weight")
    return 1 if weight is None else weight.shape[1]

"""An LSTM that attends to patches as it writes: the decoder of the CNN + LSTM baseline.

Xu et al., *Show, Attend and Tell* (2015), with soft attention; it is a model of the transformers library only so that
one beam search, with the same rules, decodes all the captioners.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

from bncap.loading import loading, require_weights


class AttentionLstmConfig(PreTrainedConfig):
    """``vocab_size`` V; ``width`` D of memory, embedding, hidden state and attention; ``dropout`` as mBART-50's."""

    model_type = "attention_lstm"

    def __init__(self, vocab_size: int = 1, width: int = 1, dropout: float = 0.1, **kwargs) -> None:
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
    """Embedding, additive attention, one LSTM cell and an output layer tied to the embedding.

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
        self,
        input_ids: Tensor,
        encoder_hidden_states: Tensor,
        past_key_values: State | None = None,
        **unused,
    ) -> CausalLMOutputWithCrossAttentions:
        """One step for each of the (B, T) ``input_ids`` from ``past_key_values``, or from the start.

        Returns:
            ``logits`` (B, T, V), ``cross_attentions`` ((B, T, S) float32,), ``past_key_values`` after the last step.
        """
        memory = encoder_hidden_states  # (B, S, D)
        state = past_key_values or self.begin(memory)
        words = self.dropout(self.embedding(input_ids) * self.config.width**0.5)  # (B, T, D)
        attentions, outputs = [], []
        for word in words.unbind(1):
            energies = self.energy(torch.tanh(state.keys + self.query(state.hidden)[:, None]))  # (B, S, 1)
            attention = energies.squeeze(-1).float().softmax(-1)  # (B, S)
            seen = (attention[:, None].to(memory.dtype) @ memory).squeeze(1)  # (B, D)
            seen = torch.sigmoid(self.gate(state.hidden)) * seen
            hidden, cell = self.cell(torch.cat([word, seen], -1), (state.hidden, state.cell))
            state = State(hidden, cell, state.keys)
            attentions.append(attention)
            outputs.append(torch.cat([hidden, seen, word], -1))
        features = self.dropout(torch.tanh(self.output(self.dropout(torch.stack(outputs, 1)))))  # (B, T, D)
        return CausalLMOutputWithCrossAttentions(
            logits=nn.functional.linear(features, self.embedding.weight, self.bias),
            past_key_values=state,
            cross_attentions=(torch.stack(attentions, 1),),
        )

    def begin(self, memory: Tensor) -> State:
        """Hidden and cell state read off the mean patch."""
        hidden, cell = torch.tanh(self.first(memory.mean(1))).chunk(2, -1)
        return State(hidden, cell, self.key(memory))

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, encoder_hidden_states: Tensor, past_key_values: State | None = None, **unused
    ) -> dict:
        """The last word alone once there is a state; called by ``generate``."""
        words = input_ids if past_key_values is None else input_ids[:, -1:]
        return {
            "input_ids": words,
            "encoder_hidden_states": encoder_hidden_states,
            "past_key_values": past_key_values,
        }

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `generate` is to make no key-value cache: a State takes its place


def load_lstm(path: str) -> AttentionLstm:
    """What its ``save_pretrained`` wrote; :class:`BncapError` if that cannot be read, is not whole or another model."""
    with loading("LSTM", path, AttentionLstmConfig.model_type):
        model, found = AttentionLstm.from_pretrained(path, ignore_mismatched_sizes=True, output_loading_info=True)
    require_weights(path, found)
    return model

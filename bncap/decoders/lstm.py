"""An LSTM that attends to patches as it writes: the decoder of the CNN + LSTM baseline.

Xu et al., *Show, Attend and Tell* (2015), with soft attention; it is a model of the transformers library only so that
one beam search, with the same rules, decodes all the captioners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

from bncap.pipeline.loading import loading, require_weights


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


class Step(NamedTuple):
    """What one step of :class:`Recurrence` leaves for its backward pass; rows are captions."""

    hidden: Tensor
    seen: Tensor
    attention: Tensor
    shared: Tensor  # (B, S, D) tanh(W_k a_s + W_q h)
    context: Tensor
    gate: Tensor
    gates: tuple[Tensor, ...]  # of the cell, opened
    squashed: Tensor  # tanh(c')
    hidden_before: Tensor
    cell_before: Tensor


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
        features, attention, state = self.states(input_ids, encoder_hidden_states, past_key_values)
        return CausalLMOutputWithCrossAttentions(
            logits=nn.functional.linear(features, self.embedding.weight, self.bias),
            past_key_values=state,
            cross_attentions=(attention,),
        )

    def states(self, input_ids: Tensor, memory: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """What the output layer sees (B, T, D), the attention (B, T, S) float32 and the state after the last step."""
        cell, memory = self.cell, memory.float()  # (B, S, D)
        state = state or self.begin(memory)
        words = self.dropout(self.embedding(input_ids) * self.config.width**0.5)  # (B, T, D)
        from_word, from_seen = cell.weight_ih.split(self.config.width, 1)
        gates = nn.functional.linear(words, from_word, cell.bias_ih + cell.bias_hh)  # (B, T, 4 D)
        from_hidden = torch.cat([cell.weight_hh, self.query.weight, self.gate.weight])  # (5 D + 1, D)
        with torch.autocast(memory.device.type, enabled=False):
            hidden, seen, attention, last = Recurrence.apply(
                gates.float(), memory, state.keys.float(), state.hidden.float(), state.cell.float(), from_seen,
                from_hidden, self.energy.weight[0], self.gate.bias, torch.is_grad_enabled(),
            )  # fmt: skip
        outputs = self.dropout(torch.cat([hidden, seen, words], -1))
        features = self.dropout(torch.tanh(self.output(outputs)))  # (B, T, D)
        return features, attention, State(hidden[:, -1], last, state.keys)

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


class Recurrence(torch.autograd.Function):
    """The loop over the words of :class:`AttentionLstm` with its gradient written out, in float32.

    What does not depend on the last hidden state is computed outside, for all words at once; in the backward pass the
    gradients of the weights and of the memory are one product each over all steps, where autograd would add up a
    gradient of each step's.

    Args:
        gates: (B, T, 4 D) what words and biases give to the gates of the cell, in the order of ``nn.LSTMCell``.
        memory, keys: (B, S, D).
        hidden, cell: (B, D) before the first step.
        from_seen: (4 D, D) what is seen to the gates.
        from_hidden: (5 D + 1, D) the hidden state to the gates, the query W_q and the gate w_g.
        energy: (D,) u.
        gate_bias: (1,) of w_g.
        differentiable: keep what the backward pass needs.

    Returns:
        h' (B, T, D), z (B, T, D), alpha (B, T, S), and the last c' (B, D).
    """

    @staticmethod
    def forward(
        ctx,
        gates: Tensor,
        memory: Tensor,
        keys: Tensor,
        hidden: Tensor,
        cell: Tensor,
        from_seen: Tensor,
        from_hidden: Tensor,
        energy: Tensor,
        gate_bias: Tensor,
        differentiable: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        steps, width = [], len(energy)
        kept = keys.new_empty(gates.shape[1] if differentiable else 1, *keys.shape)
        seen_to, hidden_to = from_seen.t().contiguous(), from_hidden.t().contiguous()  # faster for the few rows of h
        for t, words in enumerate(gates.unbind(1)):
            before = hidden, cell
            given, query, gate = (hidden @ hidden_to).split((4 * width, width, 1), 1)
            shared = torch.add(keys, query.unsqueeze(1), out=kept[t % len(kept)]).tanh_()  # (B, S, D)
            attention = (shared @ energy).softmax(1)  # (B, S)
            context = torch.bmm(attention.unsqueeze(1), memory).squeeze(1)  # (B, D)
            gate = (gate + gate_bias).sigmoid()  # (B, 1)
            seen = gate * context
            enter, keep, content, leave = torch.addmm(given + words, seen, seen_to).chunk(4, 1)
            opened = enter.sigmoid(), keep.sigmoid(), content.tanh(), leave.sigmoid()
            cell = torch.addcmul(opened[1] * cell, opened[0], opened[2])
            squashed = cell.tanh()
            hidden = opened[3] * squashed
            steps.append(Step(hidden, seen, attention, shared, context, gate, opened, squashed, *before))
        if differentiable:
            ctx.steps = steps
            ctx.save_for_backward(memory, from_seen, from_hidden, energy)
        return *(torch.stack([step[i] for step in steps], 1) for i in range(3)), cell

    @staticmethod
    @once_differentiable
    def backward(ctx, d_hiddens: Tensor, d_seens: Tensor, d_attentions: Tensor, d_cell: Tensor) -> tuple:
        memory, from_seen, from_hidden, energy = ctx.saved_tensors
        d_keys, d_energy = torch.zeros_like(memory), torch.zeros_like(energy)
        d_hidden, d_cell = torch.zeros_like(d_cell), d_cell.clone()
        back, d_contexts, slope, one = [], [], torch.empty_like(memory), torch.ones_like(energy[0])
        for t, step in reversed(list(enumerate(ctx.steps))):
            enter, keep, content, leave = step.gates
            d_hidden = d_hidden + d_hiddens[:, t]
            d_cell = torch.addcmul(d_cell, d_hidden * leave, 1 - step.squashed.square())
            d_opened = torch.cat(
                [
                    d_cell * content * enter * (1 - enter),
                    d_cell * step.cell_before * keep * (1 - keep),
                    d_cell * enter * (1 - content.square()),
                    d_hidden * step.squashed * leave * (1 - leave),
                ],
                1,
            )  # (B, 4 D)
            d_cell = d_cell * keep
            d_seen = torch.addmm(d_seens[:, t], d_opened, from_seen)
            d_gate = (d_seen * step.context).sum(1, keepdim=True) * step.gate * (1 - step.gate)  # (B, 1)
            d_context = d_seen * step.gate
            d_attention = d_attentions[:, t] + torch.bmm(d_context.unsqueeze(1), memory.transpose(1, 2)).squeeze(1)
            d_energies = step.attention * (d_attention - (step.attention * d_attention).sum(1, keepdim=True))  # (B, S)
            d_energy += step.shared.flatten(0, 1).t() @ d_energies.flatten()
            torch.addcmul(one, step.shared, step.shared, value=-1, out=slope)  # (B, S, D), of tanh
            d_query = torch.bmm(d_energies.unsqueeze(1), slope).squeeze(1) * energy  # (B, D)
            d_keys.addcmul_(slope, d_energies.unsqueeze(2))
            back.append(torch.cat([d_opened, d_query, d_gate], 1))
            d_contexts.append(d_context)
            d_hidden = back[-1] @ from_hidden
        back, d_contexts = torch.stack(back[::-1], 1), torch.stack(d_contexts[::-1], 1)  # (B, T, 5 D + 1), (B, T, D)
        d_gates = back[..., : len(from_seen)].contiguous()  # (B, T, 4 D)
        seens = torch.stack([step.seen for step in ctx.steps], 1)
        before = torch.stack([step.hidden_before for step in ctx.steps], 1)
        attentions = torch.stack([step.attention for step in ctx.steps], 1)
        return (
            d_gates,
            torch.bmm(attentions.transpose(1, 2), d_contexts),
            d_keys.mul_(energy),
            d_hidden,
            d_cell,
            d_gates.flatten(0, 1).t() @ seens.flatten(0, 1),
            back.flatten(0, 1).t() @ before.flatten(0, 1),
            d_energy,
            back[..., -1].sum().unsqueeze(0),
            None,
        )


def load_lstm(path: str) -> AttentionLstm:
    """What its ``save_pretrained`` wrote; :class:`BncapError` if that cannot be read, is not whole or another model."""
    with loading("LSTM", path, AttentionLstmConfig.model_type):
        model, found = AttentionLstm.from_pretrained(path, ignore_mismatched_sizes=True, output_loading_info=True)
    require_weights(path, found)
    return model

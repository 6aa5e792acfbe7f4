"""The two captioners that Table 1 compares with: ViT + GPT-2 and CNN + LSTM (Sec. 5.2).

Both are used as :class:`bncap.model.Captioner` is: cached features of a frozen encoder, the same bridge, trained by
:func:`bncap.train.train` with cross-entropy alone and decoded by :func:`bncap.decoders.decode.caption`.  Shapes:
B batch, T caption tokens, S patches, C channels of the encoder, D decoder width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, MBart50Tokenizer, MBartConfig, PreTrainedTokenizerBase

from bncap.attention import IMPLEMENTATION
from bncap.chunked_cross_entropy import IGNORED
from bncap.config import BASELINES
from bncap.decoders.captioner import Bridge, CaptionModel, read_captioner, shift_right
from bncap.decoders.lstm import AttentionLstm, AttentionLstmConfig, load_lstm
from bncap.decoders.mbart import Vocabulary, encode_labels, language_row, load_tokenizer
from bncap.errors import BncapError
from bncap.pipeline import hub
from bncap.pipeline.loading import has_words, loading, quiet_loading, require_weights
from bncap.settings import Config

LSTM_MAX_WIDTH = 512
"""Width of the LSTM: twice the main decoder's d_model, for its one layer, but no more than this."""


class VitGpt2Captioner(CaptionModel):
    """Bridge and GPT-2; the cross-attentions are new, everything else of the decoder is pretrained.

    A monolingual decoder with a vocabulary of its own: no language token, nothing trimmed.

    Args:
        decoder: a GPT-2 with cross-attention (:func:`load_gpt2`).
        tokenizer: the decoder's own, with BOS, EOS and PAD.
        channels: C of the vision transformer.
        last_k: number of last decoder layers whose cross-attention is averaged; 0: of all.
    """

    decoder: GPT2LMHeadModel

    def __init__(
        self, decoder: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, channels: int, last_k: int = 2
    ) -> None:
        super().__init__(decoder, tokenizer, Bridge(channels, decoder.config.n_embd))
        self.tap_attention([block.crossattention for block in self.layers], last_k)

    @property
    def layers(self) -> nn.ModuleList:
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
        inputs = torch.cat([begin, labels[:, :-1]], dim=1).masked_fill(
            labels.eq(IGNORED), self.tokenizer.pad_token_id
        )  # (B, T)
        # All ones, as for mBART; the library warns where no mask is given.
        mask = torch.ones_like(inputs)
        output = self.decoder.transformer(inputs, attention_mask=mask, encoder_hidden_states=memory, use_cache=False)
        return output.last_hidden_state, self.tap.take()

    def unfreeze_top(self, count: int) -> None:
        """Train the bridge, all cross-attentions and the top ``count`` layers; with all of them, the embeddings too."""
        self.decoder.requires_grad_(count >= len(self.layers))
        for block in self.layers:
            block.crossattention.requires_grad_(True)  # nothing pretrained to be kept
            block.ln_cross_attn.requires_grad_(True)
        for block in self.layers[len(self.layers) - min(count, len(self.layers)) :]:
            block.requires_grad_(True)
        self.decoder.transformer.ln_f.requires_grad_(True)

    def save_bridges(self, folder: Path, record: dict[str, Any]) -> None:
        super().save_bridges(folder, {"last_k": self.last_k, **record})

    @classmethod
    def load(cls, folder: Path) -> VitGpt2Captioner:
        """What :meth:`save` wrote, in evaluation mode."""
        record, bridges = read_captioner(folder, last_k=int)
        model = cls(*load_gpt2(str(folder / "decoder")), _channels(bridges), record["last_k"])
        model.load_bridges(folder, bridges)
        return model.eval()


class CnnLstmCaptioner(CaptionModel):
    """Bridge and an LSTM with additive attention over the patches, trained from nothing (Show, Attend and Tell).

    The attention is part of the recurrence, so that there is nothing to tap.  Vocabulary and labels are the main
    model's.

    Args:
        decoder: the LSTM.
        tokenizer: the main decoder's, set to the target language.
        channels: C of the convolutional network.
        vocabulary: what the main decoder's vocabulary was trimmed to; None for all of it.
    """

    decoder: AttentionLstm
    tokenizer: MBart50Tokenizer

    def __init__(
        self,
        decoder: AttentionLstm,
        tokenizer: MBart50Tokenizer,
        channels: int,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__(decoder, tokenizer, Bridge(channels, decoder.config.width), vocabulary)
        self.language_id = language_row(tokenizer, vocabulary, decoder.config.vocab_size)

    @property
    def layers(self) -> list[nn.Module]:
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

    def save_bridges(self, folder: Path, record: dict[str, Any]) -> None:
        super().save_bridges(folder, {"lang": self.tokenizer.tgt_lang, **record})

    @classmethod
    def load(cls, folder: Path) -> CnnLstmCaptioner:
        """What :meth:`save` wrote, in evaluation mode."""
        record, bridges = read_captioner(folder, lang=str)
        path = str(folder / "decoder")
        tokenizer = load_tokenizer(path, record["lang"])
        model = cls(load_lstm(path), tokenizer, _channels(bridges), Vocabulary.load(folder))
        model.load_bridges(folder, bridges)
        return model.eval()


def load_gpt2(path: str) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerBase]:
    """A GPT-2 with cross-attention, freshly drawn where the checkpoint has none, and its tokenizer.

    BOS and PAD fall back on EOS, as GPT-2 tokenizers often have no other mark; a mark that the checkpoint's embedding
    does not reach gets a row.  Raises :class:`BncapError` if the folder cannot be read or holds another model, if there
    is no EOS, or if weights other than those are missing.
    """
    from transformers import AutoTokenizer

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
    return {"vit_gpt2": VitGpt2Captioner, "cnn_lstm": CnnLstmCaptioner}[name].load(folder)


def _channels(bridges: dict[str, Tensor]) -> int:
    """C of the encoder that the saved ``bridges`` belong to."""
    weight = bridges.get("bridge.projection.weight")
    return 1 if weight is None else weight.shape[1]

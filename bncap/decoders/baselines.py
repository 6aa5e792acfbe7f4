"""The two captioners that Table 1 compares with: ViT + GPT-2 and CNN + LSTM (Sec. 5.2).

Both stand where :class:`bncap.model.Captioner` stands: cached features of a frozen encoder, the same bridge, trained by
:func:`bncap.train.train` with cross-entropy alone and decoded by :func:`bncap.decoders.decode.caption`.  Shapes: B batch, T
caption tokens, S patches, C channels of the encoder, D decoder width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, MBart50Tokenizer, MBartConfig, PreTrainedTokenizerBase

from bncap.attention import IMPLEMENTATION, Tap
from bncap.config import BASELINES
from bncap.decoders.beam import beam_search
from bncap.decoders.lstm import AttentionLstm, AttentionLstmConfig, load_lstm
from bncap.decoders.pretrained import language_row, load_tokenizer
from bncap.decoders.vocabulary import Vocabulary
from bncap.errors import BncapError
from bncap.model import IGNORED, Bridge, Captioner, read_captioner, shift_right
from bncap.pipeline import hub
from bncap.pipeline.artifacts import write_json
from bncap.pipeline.loading import has_words, loading, quiet_loading, require_weights
from bncap.settings import Config, Decode

LSTM_MAX_WIDTH = 512
"""Width of the LSTM: twice the main decoder's d_model, for its one layer, but no more than this."""


class VitGpt2Captioner(nn.Module):
    """Bridge and GPT-2; the cross-attentions are new, everything else of the decoder is pretrained.

    Args:
        decoder: a GPT-2 with cross-attention (:func:`load_gpt2`).
        tokenizer: the decoder's own, with BOS, EOS and PAD.
        channels: C of the vision transformer.
        last_k: number of last decoder layers whose cross-attention is averaged; 0: of all.
    """

    penultimate_bridge = None
    language_id = IGNORED  # a monolingual decoder: its vocabulary has no language token
    vocabulary = None  # and is its own, never trimmed

    def __init__(
        self, decoder: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, channels: int, last_k: int = 2
    ) -> None:
        super().__init__()
        if not 0 <= last_k <= len(decoder.transformer.h):
            raise BncapError(f"model.last_k={last_k}: the GPT-2 decoder has {len(decoder.transformer.h)} layers")
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.last_k = last_k
        self.tap = Tap([block.crossattention for block in decoder.transformer.h[-last_k:]])
        self.bridge = Bridge(channels, decoder.config.n_embd)

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder.transformer.h

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight (V, D) of the output layer, tied to the embedding; GPT-2 has no bias there."""
        return self.decoder.lm_head.weight, None

    forward = Captioner.forward

    def states(self, memory: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Teacher forcing up to the output layer, as :meth:`bncap.model.Captioner.states`.

        Args:
            memory: (B, S, D) patch tokens behind the bridge.
            labels: (B, T) int64, ``w_1 ... w_n </s>`` padded with :data:`IGNORED`.
        """
        begin = torch.full_like(labels[:, :1], self.tokenizer.bos_token_id)
        inputs = torch.cat([begin, labels[:, :-1]], dim=1).masked_fill(
            labels.eq(IGNORED), self.tokenizer.pad_token_id
        )  # (B, T)
        # All ones, as for mBART; none at all is warned of.
        whole = torch.ones_like(inputs)
        output = self.decoder.transformer(inputs, attention_mask=whole, encoder_hidden_states=memory, use_cache=False)
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

    def labels(self, captions: list[str], max_tokens: int) -> Tensor:
        """(N, T) int64: ``w_1 ... w_n </s>``, cut to ``max_tokens``, padded with :data:`IGNORED`."""
        pieces = self.tokenizer(captions, add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([*p[: max_tokens - 1], self.tokenizer.eos_token_id]) for p in pieces]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)

    @torch.inference_mode()
    def generate(self, memory: Tensor, decode: Decode, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Beam search as :meth:`bncap.model.Captioner.generate`, begun with BOS and with no token forced.

        Returns:
            token ids (B, T) padded; log-probability of each caption over its length ** ``length_penalty`` (B,).
        """
        return beam_search(
            self.decoder,
            memory,
            decode,
            max_tokens,
            start=self.tokenizer.bos_token_id,
            end=self.tokenizer.eos_token_id,
            padding=self.tokenizer.pad_token_id,
        )

    def save(self, folder: Path, record: dict) -> None:
        """``decoder/`` as from the hub, ``bridge.safetensors``, ``captioner.json``."""
        _save(self, folder, {"last_k": self.last_k, **record})

    @classmethod
    def load(cls, folder: Path) -> VitGpt2Captioner:
        """What :meth:`save` wrote, in evaluation mode."""
        record, bridge = _read(folder, "last_k")
        model = cls(*load_gpt2(str(folder / "decoder")), bridge["projection.weight"].shape[1], record["last_k"])
        _put_bridge(model, folder, bridge)
        return model.eval()


class CnnLstmCaptioner(nn.Module):
    """Bridge and an LSTM with additive attention over the patches, trained from nothing (Show, Attend and Tell).

    Args:
        decoder: the LSTM.
        tokenizer: the main decoder's, set to the target language.
        channels: C of the convolutional network.
        vocabulary: what the main decoder's vocabulary was trimmed to; None for all of it.
    """

    penultimate_bridge = None
    tap = None  # the attention is part of the recurrence and always there
    labels = Captioner.labels  # the same vocabulary and the same framing of a caption as the main model's

    def __init__(
        self,
        decoder: AttentionLstm,
        tokenizer: MBart50Tokenizer,
        channels: int,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.language_id = language_row(tokenizer, vocabulary, decoder.config.vocab_size)
        self.bridge = Bridge(channels, decoder.config.width)

    @property
    def layers(self) -> list[nn.Module]:
        return [self.decoder.cell]

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight (V, D) of the output layer, tied to the embedding, and its bias (V,)."""
        return self.decoder.embedding.weight, self.decoder.bias

    forward = Captioner.forward

    def states(self, memory: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing up to the output layer: (B, S, D), (B, T) -> states (B, T, D), attention (B, T, S)."""
        inputs = shift_right(labels, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        states, attention, _ = self.decoder.states(inputs, memory)
        return states, attention

    def unfreeze_top(self, count: int) -> None:
        """Train everything whatever ``count`` is: no part is pretrained, so none is held back."""
        self.requires_grad_(True)

    @torch.inference_mode()
    def generate(self, memory: Tensor, decode: Decode, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Beam search with the language token forced; see :meth:`bncap.model.Captioner.generate`."""
        return beam_search(
            self.decoder,
            memory,
            decode,
            max_tokens,
            start=self.tokenizer.eos_token_id,
            end=self.tokenizer.eos_token_id,
            padding=self.tokenizer.pad_token_id,
            forced=self.language_id,
        )

    def save(self, folder: Path, record: dict) -> None:
        """``decoder/`` with the tokenizer, ``bridge.safetensors``, ``captioner.json``."""
        _save(self, folder, {"lang": self.tokenizer.tgt_lang, **record})

    @classmethod
    def load(cls, folder: Path) -> CnnLstmCaptioner:
        """What :meth:`save` wrote, in evaluation mode."""
        record, bridge = _read(folder, "lang")
        path, vocabulary = str(folder / "decoder"), Vocabulary.load(folder)
        tokenizer = load_tokenizer(path, record["lang"])
        model = cls(load_lstm(path), tokenizer, bridge["projection.weight"].shape[1], vocabulary)
        _put_bridge(model, folder, bridge)
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


def _save(model: VitGpt2Captioner | CnnLstmCaptioner, folder: Path, record: dict) -> None:
    model.decoder.save_pretrained(folder / "decoder")
    model.tokenizer.save_pretrained(folder / "decoder")
    save_file(model.bridge.state_dict(), folder / "bridge.safetensors")
    if model.vocabulary is not None:
        model.vocabulary.save(folder)
    write_json(folder / "captioner.json", record)


def _read(folder: Path, needed: str) -> tuple[dict, dict[str, Tensor]]:
    record, bridge = read_captioner(folder)
    if "projection.weight" not in bridge or needed not in record:
        raise BncapError(f"{folder} does not hold the baseline that was asked for; name the folder of a run of it")
    return record, bridge


def _put_bridge(model: VitGpt2Captioner | CnnLstmCaptioner, folder: Path, bridge: dict[str, Tensor]) -> None:
    wanted = {name: value.shape for name, value in model.bridge.state_dict().items()}
    if wanted != {name: value.shape for name, value in bridge.items()}:
        raise BncapError(f"{folder / 'bridge.safetensors'} does not fit the decoder beside it; make the run again")
    model.bridge.load_state_dict(bridge)

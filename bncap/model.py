"""The captioner: frozen patch features -> bridge -> mBART-50 decoder, with its last cross-attention tapped.

Shapes: B batch, T caption tokens, S patches, C channels of the encoder, D decoder width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import MBart50Tokenizer, MBartForConditionalGeneration

from bncap.attention import Tap
from bncap.checkpoints import read_tensors
from bncap.decoders.beam import beam_search
from bncap.decoders.pretrained import language_row, load_decoder, load_tokenizer, weights_hash
from bncap.decoders.vocabulary import Vocabulary, trim, untrim
from bncap.errors import BncapError
from bncap.head import IGNORED
from bncap.pipeline.artifacts import read_json, write_json
from bncap.settings import Decode


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


class Captioner(nn.Module):
    """Bridge and decoder, the two trainable parts.

    Args:
        decoder: an mBART model; its text encoder is not used and may have no layers.
        tokenizer: the decoder's, set to the target language, whose token is forced as the first generated one.
        channels: C of the encoder's final stage.
        last_k: number K of last decoder layers whose cross-attention is averaged (Eq. 8); 0: of all.
        penultimate_channels: channels of the stage before, for a second projection E^(p) (Sec. 4.1); None for none.
        vocabulary: what the decoder was trimmed to; None for its whole vocabulary.  Token ids are rows of the decoder's
            embedding throughout.
    """

    def __init__(
        self,
        decoder: MBartForConditionalGeneration,
        tokenizer: MBart50Tokenizer,
        channels: int,
        last_k: int = 2,
        penultimate_channels: int | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__()
        layers = decoder.model.decoder.layers
        if not 0 <= last_k <= len(layers):
            raise BncapError(f"model.last_k={last_k}: the decoder has {len(layers)} layers")
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.language_id = language_row(tokenizer, vocabulary, decoder.config.vocab_size)
        self.last_k = last_k
        self.tap = Tap([layer.encoder_attn for layer in layers[-last_k:]])
        width = decoder.config.d_model
        self.bridge = Bridge(channels, width).to(decoder.dtype)
        self.penultimate_bridge = (
            Bridge(penultimate_channels, width).to(decoder.dtype) if penultimate_channels else None
        )

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder.model.decoder.layers

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight (V, D), tied to the embedding, and bias (V,) of the output layer."""
        return self.decoder.lm_head.weight, self.decoder.final_logits_bias[0]

    def forward(self, memory: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Teacher forcing: logits (B, T, V), and what else :meth:`states` gives, of the whole caption."""
        states, attention = self.states(memory, labels)
        return nn.functional.linear(states, *self.head), attention

    def states(self, memory: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Teacher forcing up to the output layer: decoder states and tapped attention at every position.

        Args:
            memory: (B, S, D) patch tokens E(x), the decoder's key-value memory.
            labels: (B, T) int64, ``lang w_1 ... w_n </s>`` padded with :data:`IGNORED`.

        Returns:
            states (B, T, D); attention (B, T, S) float32, mean over the last K layers and their heads, or None while
            the tap is closed.  What they hold at padded positions means nothing.
        """
        # No padding mask: a caption's tokens see those before them only, and the padding comes after.
        output = self.decoder.model.decoder(
            input_ids=shift_right(labels, self.decoder.config.pad_token_id, self.decoder.config.eos_token_id),
            encoder_hidden_states=memory,
            use_cache=False,
        )
        return output.last_hidden_state, self.tap.take()

    def unfreeze_top(self, count: int) -> None:
        """Train the bridge and the top ``count`` decoder layers; with all of them, the embeddings as well."""
        whole = count >= len(self.layers)
        self.decoder.requires_grad_(whole)
        for layer in self.layers[len(self.layers) - min(count, len(self.layers)) :]:
            layer.requires_grad_(True)
        self.decoder.model.decoder.layer_norm.requires_grad_(True)

    def labels(self, captions: list[str], max_tokens: int) -> Tensor:
        """(N, T) int64: ``lang w_1 ... w_n </s>``, cut to ``max_tokens``, padded with :data:`IGNORED`.

        A piece that the vocabulary was trimmed of is written in several that it has.
        """
        if self.vocabulary is None:
            encoded = self.tokenizer(
                text_target=captions, max_length=max_tokens, truncation=True, padding=True, return_tensors="pt"
            )
            return encoded["input_ids"].masked_fill(encoded["attention_mask"].eq(0), IGNORED)
        rows = []
        for ids in self.tokenizer(text_target=captions)["input_ids"]:
            *body, end = self.vocabulary.spell(ids, self.tokenizer)
            rows.append(self.vocabulary.encode(torch.tensor([*body[: max_tokens - 1], end])))
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)

    def generate(self, memory: Tensor, decode: Decode, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Beam search with the language token forced (Sec. 4.5) over (B, S, D) ``memory``; see :func:`beam_search`."""
        end = self.decoder.config.eos_token_id
        return beam_search(
            self.decoder,
            memory,
            decode,
            max_tokens,
            start=end,
            end=end,
            padding=self.decoder.config.pad_token_id,
            forced=self.language_id,
        )

    def save(self, folder: Path, record: dict) -> None:
        """Everything a captioner needs: ``decoder/`` as from the hub, and what :meth:`save_initial` writes."""
        self.decoder.save_pretrained(folder / "decoder")
        self.tokenizer.save_pretrained(folder / "decoder")
        self._save_own(folder, record)

    def save_initial(self, folder: Path, record: dict) -> None:
        """What an untrained captioner has beside its pretrained decoder: the bridges and the vocabulary.

        :func:`load_initial` makes the same captioner again from it and the pretrained checkpoint, whose weights
        ``captioner.json`` identifies.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._save_own(folder, {"decoder_sha256": weights_hash(self.decoder), **record})

    def export(self, folder: Path, original: str) -> None:
        """A plain mBART-50 checkpoint with its whole vocabulary, as transformers' own classes load it, and the bridges.

        Pieces that were trimmed get the rows back that they have in ``original``, the checkpoint that training began
        with.  The text encoder, which the captioner has no use for, has no layers.
        """
        decoder = self.decoder
        if self.vocabulary is not None:
            decoder = load_decoder(original)
            untrim(self.decoder, self.vocabulary, decoder)
        decoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_file(self.bridges(), folder / "bridge.safetensors")

    def _save_own(self, folder: Path, record: dict) -> None:
        save_file(self.bridges(), folder / "bridge.safetensors")
        if self.vocabulary is not None:
            self.vocabulary.save(folder)
        write_json(folder / "captioner.json", {"last_k": self.last_k, "lang": self.tokenizer.tgt_lang, **record})

    def bridges(self) -> dict[str, Tensor]:
        """The weights beside the decoder's, by name."""
        return {k: v.contiguous() for k, v in self.state_dict().items() if not k.startswith("decoder.")}


def shift_right(labels: Tensor, padding: int, start: int) -> Tensor:
    """Decoder inputs for ``labels`` (B, T): ``</s> lang w_1 ... w_n`` for ``lang w_1 ... w_n </s>``."""
    inputs = labels.masked_fill(labels.eq(IGNORED), padding)
    lengths = labels.ne(IGNORED).sum(1, keepdim=True)  # (B, 1)
    shifted = torch.cat([torch.full_like(inputs[:, :1], start), inputs[:, :-1]], dim=1)  # (B, T)
    return shifted.masked_fill(torch.arange(labels.shape[1], device=labels.device) >= lengths, padding)


def build_captioner(
    path: str,
    lang: str,
    channels: int,
    last_k: int,
    penultimate_channels: int | None = None,
    captions: Sequence[str] | None = None,
) -> Captioner:
    """An untrained captioner over the pretrained decoder of ``path``.

    The bridges are drawn from torch's global generator, so seed it first.

    Args:
        captions: trim the vocabulary to what these need (:meth:`Vocabulary.of`); None leaves it whole.
    """
    decoder, tokenizer = load_decoder(path), load_tokenizer(path, lang)
    vocabulary = None if captions is None else Vocabulary.of(captions, tokenizer)
    if vocabulary is not None:
        trim(decoder, vocabulary)
    return Captioner(decoder, tokenizer, channels, last_k, penultimate_channels, vocabulary)


def load_captioner(folder: Path) -> tuple[Captioner, dict]:
    """What :meth:`Captioner.save` wrote: the model in evaluation mode and its record; no baseline of Table 1."""
    record, bridges = _read_main(folder)
    path = str(folder / "decoder")
    decoder, tokenizer = load_decoder(path), load_tokenizer(path, record["lang"])
    return _assemble(folder, decoder, tokenizer, bridges, record), record


def load_initial(folder: Path, path: str) -> tuple[Captioner, dict]:
    """What :meth:`Captioner.save_initial` wrote, on the pretrained decoder of ``path``: the model in evaluation mode
    and its record; :class:`BncapError` if that is not the checkpoint that the run began with."""
    record, bridges = _read_main(folder)
    decoder, tokenizer = load_decoder(path), load_tokenizer(path, record["lang"])
    vocabulary = Vocabulary.load(folder)
    if vocabulary is not None:
        trim(decoder, vocabulary)
    if weights_hash(decoder) != record.get("decoder_sha256"):
        raise BncapError(
            f"{path} does not hold the weights that the run of {folder} began with; put that checkpoint back, or make "
            "the run again"
        )
    return _assemble(folder, decoder, tokenizer, bridges, record), record


def read_captioner(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """``captioner.json`` and the tensors of ``bridge.safetensors``; :class:`BncapError` if there is no captioner."""
    if not (folder / "captioner.json").is_file():
        raise BncapError(f"{folder} holds no captioner (no captioner.json); name the folder of a finished run")
    record = read_json(folder / "captioner.json")
    if not isinstance(record, dict):
        raise BncapError(f"{folder / 'captioner.json'} is no record of a captioner; name the folder of a finished run")
    return record, read_tensors(folder / "bridge.safetensors")


def _read_main(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    record, bridges = read_captioner(folder)
    if "bridge.projection.weight" not in bridges:
        raise BncapError(f"{folder} holds a baseline, which has another decoder; name a run of the main architecture")
    if not all(isinstance(record.get(name), kind) for name, kind in (("last_k", int), ("lang", str))):
        raise BncapError(f"{folder / 'captioner.json'} lacks last_k or lang; name the folder of a finished run")
    return record, bridges


def _assemble(
    folder: Path,
    decoder: MBartForConditionalGeneration,
    tokenizer: MBart50Tokenizer,
    bridges: dict[str, Tensor],
    record: dict,
) -> Captioner:
    penultimate = bridges.get("penultimate_bridge.projection.weight")
    model = Captioner(
        decoder,
        tokenizer,
        channels=bridges["bridge.projection.weight"].shape[1],
        last_k=record["last_k"],
        penultimate_channels=None if penultimate is None else penultimate.shape[1],
        vocabulary=Vocabulary.load(folder),
    )
    wanted = {name: value.shape for name, value in model.bridges().items()}
    if wanted != {name: value.shape for name, value in bridges.items()}:
        raise BncapError(f"{folder / 'bridge.safetensors'} does not fit the decoder of {folder}; make the run again")
    model.load_state_dict(bridges, strict=False)
    return model.eval()

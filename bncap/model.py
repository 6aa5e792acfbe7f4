"""The captioner: frozen patch features -> bridge -> mBART-50 decoder, with its last cross-attention tapped.

Shapes: B batch, T caption tokens, S patches, C channels of the encoder, D decoder width, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import MBart50Tokenizer, MBartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from bncap.decoders.captioner import BeamCache, Bridge, CaptionModel, read_captioner, shift_right
from bncap.decoders.mbart import Vocabulary, encode_labels, language_row, load_decoder, load_tokenizer, trim, untrim
from bncap.errors import BncapError


class Captioner(CaptionModel):
    """Bridge and mBART-50 decoder, the main architecture of the paper.

    Args:
        decoder: an mBART model; its text encoder is not used and may have no layers.
        tokenizer: the decoder's, set to the target language, whose token is forced as the first generated one.
        channels: C of the encoder's final stage.
        last_k: number K of last decoder layers whose cross-attention is averaged (Eq. 8); 0: of all.
        penultimate_channels: channels of the stage before, for a second projection E^(p) (Sec. 4.1); None for none.
        vocabulary: what the decoder was trimmed to; None for its whole vocabulary.
    """

    decoder: MBartForConditionalGeneration
    tokenizer: MBart50Tokenizer

    def __init__(
        self,
        decoder: MBartForConditionalGeneration,
        tokenizer: MBart50Tokenizer,
        channels: int,
        last_k: int = 2,
        penultimate_channels: int | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        width = decoder.config.d_model
        super().__init__(decoder, tokenizer, Bridge(channels, width).to(decoder.dtype), vocabulary)
        self.language_id = language_row(tokenizer, vocabulary, decoder.config.vocab_size)
        self.tap_attention([layer.encoder_attn for layer in self.layers], last_k)
        self.fields["lang"] = tokenizer.tgt_lang
        if penultimate_channels:
            self.penultimate_bridge = Bridge(penultimate_channels, width).to(decoder.dtype)

    @property
    def layers(self) -> Sequence[Any]:
        return self.decoder.model.decoder.layers

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        return self.decoder.lm_head.weight, self.decoder.final_logits_bias[0]

    @property
    def start_id(self) -> int:
        return self.decoder.config.eos_token_id

    def labels(self, captions: Sequence[str], max_tokens: int) -> Tensor:
        """(N, T) int64: ``lang w_1 ... w_n </s>``, cut to ``max_tokens``, padded with -100."""
        return encode_labels(captions, max_tokens, self.tokenizer, self.vocabulary)

    def states(self, memory: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        # No padding mask: a token of a caption attends to those before it only, and the padding comes after.
        output = self.decoder.model.decoder(
            input_ids=shift_right(labels, self.decoder.config.pad_token_id, self.start_id),
            encoder_hidden_states=memory,
            use_cache=False,
        )
        return output.last_hidden_state, None if self.tap is None else self.tap.take()

    def generation_inputs(self, memory: Tensor) -> dict[str, Any]:
        # A fresh output each time: `generate` changes the one that it is given.
        return {
            "encoder_outputs": BaseModelOutput(memory),
            "decoder_start_token_id": self.start_id,
            "past_key_values": BeamCache(),
        }

    def unfreeze_top(self, count: int) -> None:
        self.decoder.requires_grad_(count >= len(self.layers))
        for layer in self.layers[len(self.layers) - min(count, len(self.layers)) :]:
            layer.requires_grad_(True)
        self.decoder.model.decoder.layer_norm.requires_grad_(True)

    def save_initial(self, folder: Path, record: dict[str, Any]) -> None:
        """Write what an untrained captioner has beside its pretrained decoder, whose weights ``captioner.json``
        identifies: the bridges and the vocabulary."""
        folder.mkdir(parents=True, exist_ok=True)
        self.save_bridges(folder, {"decoder_sha256": hash_weights(self.decoder), **record})

    def export(self, folder: Path, original: str) -> None:
        """Write a plain mBART-50 checkpoint with its whole vocabulary and no encoder layers, and the bridges.

        Trimmed pieces get the rows that they have in ``original``, the checkpoint that training began with.
        """
        decoder = self.decoder
        if self.vocabulary is not None:
            decoder = load_decoder(original)
            untrim(self.decoder, self.vocabulary, decoder)
        decoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_file(self.bridges(), folder / "bridge.safetensors")


def build_captioner(
    path: str,
    lang: str,
    channels: int,
    last_k: int,
    penultimate_channels: int | None = None,
    captions: Sequence[str] | None = None,
) -> Captioner:
    """An untrained captioner over the pretrained decoder of ``path``, its vocabulary trimmed to what ``captions`` need.

    The bridges are drawn from torch's global generator, so seed it first.
    """
    decoder, tokenizer = load_decoder(path), load_tokenizer(path, lang)
    vocabulary = None if captions is None else Vocabulary.of(captions, tokenizer)
    if vocabulary is not None:
        trim(decoder, vocabulary)
    return Captioner(decoder, tokenizer, channels, last_k, penultimate_channels, vocabulary)


def load_captioner(folder: Path, pretrained: str | None = None) -> tuple[Captioner, dict[str, Any]]:
    """What :meth:`Captioner.save` wrote, or, on the ``pretrained`` decoder, what :meth:`Captioner.save_initial` wrote:
    the model in evaluation mode and its record.

    Raises :class:`BncapError` if there is no captioner in ``folder``, if it is one of another architecture (a
    baseline), or if ``pretrained`` is not the checkpoint that the run began with.
    """
    record, bridges = read_captioner(folder, last_k=int, lang=str)
    path = pretrained or str(folder / "decoder")
    decoder, vocabulary = load_decoder(path), Vocabulary.load(folder)
    if pretrained and vocabulary is not None:
        trim(decoder, vocabulary)
    if pretrained and hash_weights(decoder) != record.get("decoder_sha256"):
        raise BncapError(
            f"{path} does not hold the weights that the run of {folder} began with; put that checkpoint back, or make "
            "the run again"
        )
    channels = {name: weight.shape[1] for name, weight in bridges.items() if name.endswith("projection.weight")}
    main, penultimate = (channels.get(f"{name}.projection.weight") for name in ("bridge", "penultimate_bridge"))
    tokenizer = load_tokenizer(path, record["lang"])
    model = Captioner(decoder, tokenizer, main or 1, record["last_k"], penultimate, vocabulary)
    model.load_bridges(folder, bridges)
    return model.eval(), record


def hash_weights(model: nn.Module) -> str:
    """SHA-256 of the parameters' names and bytes."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

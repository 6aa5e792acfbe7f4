"""The captioner: frozen patch features -> bridge -> mBART-50 decoder, with its last cross-attention tapped.

Shapes: B batch, T caption tokens, S patches, C channels of the encoder, D decoder width, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import MBart50Tokenizer, MBartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from bncap.artifacts import read_json, write_json
from bncap.attention import IMPLEMENTATION, Tap
from bncap.beam import search
from bncap.checkpoints import read_tensors
from bncap.errors import BncapError
from bncap.loading import quiet_loading
from bncap.settings import Decode
from bncap.text import language_name

IGNORED = -100
"""Label of a padded position."""


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
        last_k: number K of last decoder layers whose cross-attention is averaged (Eq. 8).
        penultimate_channels: channels of the stage before, for a second projection E^(p) (Sec. 4.1); None for none.
    """

    def __init__(
        self,
        decoder: MBartForConditionalGeneration,
        tokenizer: MBart50Tokenizer,
        channels: int,
        last_k: int = 2,
        penultimate_channels: int | None = None,
    ) -> None:
        super().__init__()
        layers = decoder.model.decoder.layers
        if not 1 <= last_k <= len(layers):
            raise BncapError(f"model.last_k={last_k}: the decoder has {len(layers)} layers")
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.language_id = tokenizer.convert_tokens_to_ids(tokenizer.tgt_lang)
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

    def forward(self, memory: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing: logits and tapped attention at every position of the caption.

        Args:
            memory: (B, S, D) patch tokens E(x), the decoder's key-value memory.
            labels: (B, T) int64, ``lang w_1 ... w_n </s>`` padded with :data:`IGNORED`.

        Returns:
            logits (B, T, V); attention (B, T, S) float32, mean over the last K layers and their heads.
        """
        padding = self.decoder.config.pad_token_id
        inputs = shift_right(labels, padding, self.decoder.config.eos_token_id)
        output = self.decoder(
            encoder_outputs=BaseModelOutput(memory),
            decoder_input_ids=inputs,
            decoder_attention_mask=inputs.ne(padding),
            use_cache=False,
        )
        return output.logits, self.tap.take()

    def unfreeze_top(self, count: int) -> None:
        """Train the bridge and the top ``count`` decoder layers; with all of them, the embeddings as well."""
        whole = count >= len(self.layers)
        self.decoder.requires_grad_(whole)
        for layer in self.layers[len(self.layers) - min(count, len(self.layers)) :]:
            layer.requires_grad_(True)
        self.decoder.model.decoder.layer_norm.requires_grad_(True)

    def labels(self, captions: list[str], max_tokens: int) -> Tensor:
        """(N, T) int64: ``lang w_1 ... w_n </s>``, cut to ``max_tokens``, padded with :data:`IGNORED`."""
        encoded = self.tokenizer(
            text_target=captions, max_length=max_tokens, truncation=True, padding=True, return_tensors="pt"
        )
        return encoded["input_ids"].masked_fill(encoded["attention_mask"].eq(0), IGNORED)

    def generate(self, memory: Tensor, decode: Decode, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Beam search with the language token forced (Sec. 4.5) over (B, S, D) ``memory``; see :func:`search`."""
        with self.tap.closed():
            return search(
                self.decoder,
                decode,
                max_tokens,
                encoder_outputs=BaseModelOutput(memory),
                decoder_start_token_id=self.decoder.config.eos_token_id,
                eos_token_id=self.decoder.config.eos_token_id,
                forced_bos_token_id=self.language_id,
            )

    def save(self, folder: Path, record: dict) -> None:
        """Everything a captioner needs: ``decoder/`` as from the hub, ``bridge.safetensors``, ``captioner.json``."""
        self.decoder.save_pretrained(folder / "decoder")
        self.tokenizer.save_pretrained(folder / "decoder")
        bridges = {k: v.contiguous() for k, v in self.state_dict().items() if not k.startswith("decoder.")}
        save_file(bridges, folder / "bridge.safetensors")
        write_json(folder / "captioner.json", {"last_k": self.last_k, "lang": self.tokenizer.tgt_lang, **record})


def shift_right(labels: Tensor, padding: int, start: int) -> Tensor:
    """Decoder inputs for ``labels`` (B, T): ``</s> lang w_1 ... w_n`` for ``lang w_1 ... w_n </s>``."""
    inputs = labels.masked_fill(labels.eq(IGNORED), padding)
    lengths = labels.ne(IGNORED).sum(1, keepdim=True)  # (B, 1)
    shifted = torch.cat([torch.full_like(inputs[:, :1], start), inputs[:, :-1]], dim=1)  # (B, T)
    return shifted.masked_fill(torch.arange(labels.shape[1], device=labels.device) >= lengths, padding)


def load_decoder(path: str) -> MBartForConditionalGeneration:
    """An mBART-50 model without the layers of its text encoder (152 M of 611 M), its attention ready to be tapped.

    Raises :class:`BncapError` if the checkpoint cannot be read or lacks any weight of the rest, which would otherwise
    be left random.
    """
    try:
        with quiet_loading():
            model, found = MBartForConditionalGeneration.from_pretrained(
                path,
                encoder_layers=0,
                attn_implementation=IMPLEMENTATION,
                dtype=torch.float32,  # mixed precision wants whole master weights
                output_loading_info=True,
            )
    except (OSError, SafetensorError) as error:
        raise BncapError(
            f"{path}: the decoder cannot be loaded ({str(error).splitlines()[0]}); make or fetch it again"
        ) from error
    if found["missing_keys"]:
        raise BncapError(
            f"{path} lacks weights, such as {sorted(found['missing_keys'])[0]}; fetch the checkpoint again"
        )
    return model


def load_tokenizer(path: str, lang: str) -> MBart50Tokenizer:
    """The tokenizer of ``path`` set to an mBART-50 language code; :class:`BncapError` for any other code."""
    language_name(lang)
    return MBart50Tokenizer.from_pretrained(path, src_lang=lang, tgt_lang=lang)


def load_captioner(folder: Path) -> tuple[Captioner, dict]:
    """What :meth:`Captioner.save` wrote: the model in evaluation mode and its record; no baseline of Table 1."""
    record = read_json(folder / "captioner.json")
    bridges = read_tensors(folder / "bridge.safetensors")
    if "bridge.projection.weight" not in bridges:
        raise BncapError(f"{folder} holds a baseline, which has another decoder; name a run of the main architecture")
    penultimate = bridges.get("penultimate_bridge.projection.weight")
    model = Captioner(
        load_decoder(str(folder / "decoder")),
        load_tokenizer(str(folder / "decoder"), record["lang"]),
        channels=bridges["bridge.projection.weight"].shape[1],
        last_k=record["last_k"],
        penultimate_channels=None if penultimate is None else penultimate.shape[1],
    )
    model.load_state_dict(bridges, strict=False)
    return model.eval(), record

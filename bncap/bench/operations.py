"""Operations and bytes of the paper's work, counted on models without storage: what GPU-hours are derived from.

Operations are those of matrix products and convolutions, a multiply-add as two.  Bytes are AdamW's for a training step,
and those of weights, keys and values for decoding.  B batch, T caption tokens, S patches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bncap.bench.contenders import PATCHES, operations
from bncap.bench.step import ADAMW_TRAFFIC
from bncap.commands.random_models import MBART50
from bncap.model import Bridge

TOKENS = 24
"""Of a caption with the language's token and the end: that of the bench ``step``, and about what a Bengali one has."""
HALF, FULL = 2, 4  # bytes of a number
UNET = {
    "in_channels": 4, "out_channels": 8, "layers_per_block": 3, "block_out_channels": (384, 768, 1152, 1536),
    "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
    "cross_attention_dim": 768, "attention_head_dim": 64, "resnet_time_scale_shift": "scale_shift",
    "encoder_hid_dim": 1024, "encoder_hid_dim_type": "text_image_proj", "addition_embed_type": "text_image",
    "addition_embed_type_num_heads": 64,
}  # fmt: skip
"""``unet/config.json`` of ``kandinsky-community/kandinsky-2-1``."""


@dataclass(frozen=True)
class Work:
    """Operations, and bytes to and from memory."""

    operations: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.operations * times, self.bytes * times)


@dataclass(frozen=True)
class Decoder:
    """A captioner's trained parts: ``states(features, tokens)``, (B, S, C) and (B, T) on ``device``, gives (B, T, D).

    ``parameters`` counts the bridge, the decoder and its embedding of V ``pieces``, to which the output layer is tied.
    """

    states: Callable[[Tensor, Tensor], Tensor]
    parameters: int
    width: int
    pieces: int
    patches: int
    layers: int
    channels: int
    device: str = "meta"

    def head(self, tokens: int) -> float:
        """Operations of the output layer for one caption, forward."""
        return 2 * tokens * self.width * self.pieces


@functools.cache
def body(decoder: Decoder, tokens: int, backward: bool = False) -> float:
    """Operations of teacher forcing of one caption up to the output layer; if asked for, of all gradients too."""
    with torch.device(decoder.device):
        ids = torch.zeros(1, tokens, dtype=torch.long)
        features = torch.zeros(1, decoder.patches, decoder.channels)

    def call() -> None:
        states = decoder.states(features, ids)
        if backward:
            states.sum().backward()

    with torch.set_grad_enabled(backward):
        return operations(call)


@functools.cache
def mbart(pieces: int, channels: int = 768) -> Decoder:
    """mBART-50's decoder; its text encoder is never trained."""
    from transformers import MBartConfig, MBartForConditionalGeneration

    changed = {"vocab_size": pieces, "encoder_layers": 0}
    with torch.device("meta"):
        model = MBartForConditionalGeneration(MBartConfig(**MBART50 | changed, attn_implementation="sdpa"))
        bridge = Bridge(channels, model.config.d_model)

    def states(features: Tensor, ids: Tensor) -> Tensor:
        output = model.model.decoder(ids, _all_seen(ids), encoder_hidden_states=bridge(features), use_cache=False)
        return output.last_hidden_state

    settings = model.config
    return Decoder(states, _size(model, bridge), settings.d_model, pieces, PATCHES, settings.decoder_layers, channels)


@functools.cache
def gpt2(patches: int = 196, channels: int = 768) -> Decoder:
    """GPT-2 small with cross-attention over ViT-B's patches."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(add_cross_attention=True))
        bridge = Bridge(channels, model.config.n_embd)

    def states(features: Tensor, ids: Tensor) -> Tensor:
        output = model.transformer(
            ids, attention_mask=_all_seen(ids), encoder_hidden_states=bridge(features), use_cache=False
        )
        return output.last_hidden_state

    settings = model.config
    return Decoder(
        states, _size(model, bridge), settings.n_embd, settings.vocab_size, patches, settings.n_layer, channels
    )


@functools.cache
def lstm(pieces: int, channels: int = 2048) -> Decoder:
    """The LSTM of the CNN + LSTM baseline over ResNet-50's patches; its own autograd function needs storage."""
    from bncap.decoders.baselines import LSTM_MAX_WIDTH
    from bncap.decoders.lstm import AttentionLstm, AttentionLstmConfig

    width = LSTM_MAX_WIDTH
    with torch.device("meta"):
        whole = AttentionLstm(AttentionLstmConfig(vocab_size=pieces, width=width))
    model, bridge = AttentionLstm(AttentionLstmConfig(vocab_size=1, width=width)), Bridge(channels, width)

    def states(features: Tensor, ids: Tensor) -> Tensor:
        return model.states(ids, bridge(features))[0]

    return Decoder(states, _size(whole, bridge), width, pieces, PATCHES, 1, channels, "cpu")


def _size(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def _all_seen(ids: Tensor) -> Tensor:
    """A mask that is used as it is: the library's own looks at values, which meta tensors do not have."""
    return torch.zeros(1, 1, ids.shape[1], ids.shape[1], device=ids.device)


@functools.cache
def training(decoder: Decoder, batch: int, tokens: int, passes: int = 1, again: bool = False) -> Work:
    """A step of AdamW over ``passes`` captioned pictures a triplet; ``again``: activations are computed twice."""
    caption = body(decoder, tokens, backward=True) + 3 * decoder.head(tokens) + again * body(decoder, tokens)
    return Work(passes * batch * caption, ADAMW_TRAFFIC * decoder.parameters)


def validation(decoder: Decoder, tokens: int) -> Work:
    """The cross-entropy of one caption."""
    return Work(body(decoder, tokens) + decoder.head(tokens))


def alignment(decoder: Decoder, batch: int) -> Work:
    """What the alignment terms add to a step: the bridge over the synthetic pictures, and costs of all patches."""
    bridge = 6 * batch * decoder.patches * decoder.channels * decoder.width
    costs = 6 * batch * decoder.patches**2 * decoder.width
    return Work(bridge + costs)


@functools.cache
def decoding(decoder: Decoder, batch: int, beams: int, tokens: int) -> Work:
    """A beam search over a batch of pictures: every token reads all weights, and its beams' keys and values."""
    rows = batch * beams
    cached = 2 * decoder.layers * (decoder.patches + tokens / 2) * decoder.width * rows * HALF
    made = rows * (body(decoder, tokens) + decoder.head(tokens))
    return Work(made, tokens * (FULL * decoder.parameters + cached))


@functools.cache
def encoding(name: str, side: int = 224) -> Work:
    """One picture through the timm encoder ``name``, its classifier left out of account."""
    import timm

    with torch.device("meta"), torch.no_grad():
        model, pixels = timm.create_model(name, pretrained=False), torch.zeros(1, 3, side, side)
        return Work(operations(lambda: model.eval().forward_features(pixels)))


@functools.cache
def drawing(side: int, steps: int) -> Work:
    """One picture by Kandinsky 2.1's U-Net, with and without the prompt at each step; prior and decoder left out."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"), torch.no_grad():
        unet = UNet2DConditionModel(**UNET).eval()
        latent = torch.zeros(2, 4, side // 8, side // 8)
        states, time = torch.zeros(2, 77, 1024), torch.zeros(2)
        conditions = {"text_embeds": torch.zeros(2, 768), "image_embeds": torch.zeros(2, 768)}
        return Work(operations(lambda: unet(latent, time, states, added_cond_kwargs=conditions))) * steps

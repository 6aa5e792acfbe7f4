"""The mini world's language models, each of the real one's class and saved in the real one's format.

All of them learn from generated in-domain sentences alone, never from the data splits or from the words and patterns of
the out-of-domain set.  The same seed gives the same weights on one thread.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm.auto import tqdm

from bncap.mini.corpus import BENGALI_CHARACTERS, parallel_captions
from bncap.mini.sentence_encoder import train_sentence_encoder

SENTENCES = 6000
"""Generated captions that a model learns from; 500 more are held out to measure it."""
BATCH = 32
WIDTH, LAYERS, HEADS, MAX_TOKENS = 96, 2, 4, 128

Batch = dict[str, torch.Tensor]


def train_tokenizer(out: Path, seed: int):
    """Train sentencepiece (unigram) and save it in ``out`` as an ``MBart50Tokenizer``; returns that.

    Each common word is a piece, some 400 in all, and so is every character of Bengali and of ASCII: words out of domain
    come apart but are never unknown.  It takes text as it stands (NFC), without a character map of its own.
    """
    import sentencepiece
    from transformers import MBart50Tokenizer

    out.mkdir(parents=True, exist_ok=True)
    texts = [text for pair in parallel_captions(seed, 3000) for text in pair]
    # The trainer considers only what recurs in different words: each word with a comma too, or it would spell out those
    # that always look the same, the commonest among them.
    texts += sorted({f"{word}," for text in texts for word in re.findall(r"[^\s,.।]+", text)})
    model_file = out / "sentencepiece.bpe.model"
    with model_file.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            model_type="unigram",
            vocab_size=800,
            hard_vocab_limit=False,
            character_coverage=1.0,
            required_chars=BENGALI_CHARACTERS + "।॥" + string.printable.strip(),
            normalization_rule_name="identity",
            num_threads=1,
            minloglevel=2,
        )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    # The class itself puts the pieces in mBART's order and adds the language codes and <mask>.
    vocab = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    tokenizer = MBart50Tokenizer(vocab=vocab, src_lang="bn_IN", tgt_lang="bn_IN", model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(out)
    return tokenizer


def train_mbart(out: Path, seed: int, steps: int) -> dict[str, float]:
    """Denoising-pretrain an ``MBartForConditionalGeneration`` on Bengali and save it, encoder and tokenizer too.

    A third of the words is masked in spans, each span by one <mask>; source and labels are ``bn_IN … </s>``, the
    decoder starts from ``</s>``, as in mBART-50.  Returns the loss and token accuracy on held-out noised sentences.
    """
    from transformers import MBartConfig, MBartForConditionalGeneration

    tokenizer = train_tokenizer(out, seed)
    torch.manual_seed(seed)
    config = MBartConfig(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        max_position_embeddings=MAX_TOKENS,
        scale_embedding=True,
        decoder_start_token_id=tokenizer.eos_token_id,
    )
    model = MBartForConditionalGeneration(config)
    model.config.tokenizer_class = "MBart50Tokenizer"

    def batch(sentences: list[str], rng: random.Random) -> Batch:
        noised = [_mask_spans(sentence, rng, tokenizer.mask_token) for sentence in sentences]
        encoded = tokenizer(noised, text_target=sentences, padding=True, return_tensors="pt")
        return dict(encoded) | {"labels": _ignore_padding(encoded["labels"], tokenizer.pad_token_id)}

    return _fit(model, batch, out, seed, steps, learning_rate=2e-3)


def train_bert(out: Path, seed: int, steps: int) -> dict[str, float]:
    """Train a ``BertForMaskedLM`` with a WordPiece tokenizer, for BERTScore; layer 2 is its last.

    The pieces are the in-domain words and every character of Bengali and of ASCII, first in a word or inside it.
    Returns the loss and accuracy on the masked pieces of held-out sentences.
    """
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    characters = sorted(set(BENGALI_CHARACTERS + "।॥" + string.printable.strip()))
    words = Counter(word for text in _bengali(seed, 3000) for word in re.findall(r"[^\s,.।]{2,}", text))
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *(f"##{c}" for c in characters),
        *sorted(words),
    ]
    tokenizer = BertTokenizerFast(
        vocab={piece: i for i, piece in enumerate(pieces)},
        do_lower_case=False,
        strip_accents=False,
        model_max_length=MAX_TOKENS,
    )
    tokenizer.save_pretrained(out)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=256,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
    )

    def batch(sentences: list[str], rng: random.Random) -> Batch:
        encoded = dict(tokenizer(sentences, padding=True, return_tensors="pt", return_special_tokens_mask=True))
        ids, special = encoded.pop("input_ids"), encoded.pop("special_tokens_mask").bool()
        drawn = torch.tensor([[rng.random() < 0.2 for _ in row] for row in special.tolist()]) & ~special
        labels = ids.masked_fill(~drawn, -100)
        return encoded | {"labels": labels, "input_ids": ids.masked_fill(drawn, tokenizer.mask_token_id)}

    return _fit(BertForMaskedLM(config), batch, out, seed, steps, learning_rate=2e-3)


def train_gpt2(out: Path, seed: int, steps: int) -> dict[str, float]:
    """Train a ``GPT2LMHeadModel`` with a byte-level BPE tokenizer, for the ViT + GPT-2 baseline.

    Sentences are framed as ``<s> … </s>`` and padded with ``<pad>``.  Cross-attention comes in when it is loaded with
    ``add_cross_attention=True``.  Returns the loss and next-token accuracy on held-out sentences.
    """
    from tokenizers import ByteLevelBPETokenizer, Regex, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    pieces = ByteLevelBPETokenizer()
    # GPT-2's own pattern parts a Bengali letter from its vowel sign.
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[^\s,.।]+|[,.।]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces.train_from_iterator(
        _bengali(seed, 3000), vocab_size=900, special_tokens=list(special.values()), show_progress=False
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, model_max_length=MAX_TOKENS, **special)
    tokenizer.save_pretrained(out)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

    def batch(sentences: list[str], rng: random.Random) -> Batch:
        encoded = dict(tokenizer([f"<s>{s}</s>" for s in sentences], padding=True, return_tensors="pt"))
        return encoded | {"labels": _ignore_padding(encoded["input_ids"], tokenizer.pad_token_id)}

    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # what the library would take as well, after a warning
    return _fit(model, batch, out, seed, steps, learning_rate=3e-3, shift=1)


TEXT_MODELS: dict[str, Callable[[Path, int, int], dict[str, float]]] = {
    "mbart": train_mbart,
    "sentence-encoder": train_sentence_encoder,
    "bert": train_bert,
    "gpt2": train_gpt2,
}
"""Name -> training function (folder, seed, steps) -> measured figures."""

TEXT_MODEL_STEPS = {"mbart": 800, "sentence-encoder": 600, "bert": 600, "gpt2": 600}
"""Steps that each is trained for in the profile ``mini``."""


def _bengali(seed: int, n: int) -> list[str]:
    return [bengali for _, bengali in parallel_captions(seed, n)]


def _mask_spans(sentence: str, rng: random.Random, mask: str) -> str:
    words = sentence.split()
    budget = max(1, round(len(words) / 3))
    while budget > 0:
        length = min(budget, rng.randint(1, 4))
        at = rng.randrange(max(1, len(words) - length + 1))
        words[at : at + length] = [mask]
        budget -= length
    return " ".join(words)


def _ignore_padding(ids: torch.Tensor, pad: int) -> torch.Tensor:
    return ids.masked_fill(ids == pad, -100)


def _fit(
    model: torch.nn.Module,
    batch: Callable[[list[str], random.Random], Batch],
    out: Path,
    seed: int,
    steps: int,
    *,
    learning_rate: float,
    shift: int = 0,
) -> dict[str, float]:
    """Train on Bengali captions, save in ``out``, and measure loss and accuracy on captions held out.

    ``shift`` is how many places after a label its logits' place is (1 for a language model that shifts by itself).
    """
    texts = _bengali(seed, SENTENCES + 500)
    rng = random.Random(f"{seed}|batches")
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=max(steps, 2), pct_start=0.1)
    model.train()
    for _ in tqdm(range(steps), desc=out.name):
        loss = model(**batch(rng.sample(texts[:SENTENCES], BATCH), rng)).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    model.eval()
    model.save_pretrained(out)
    inputs = batch(texts[SENTENCES:], rng)
    with torch.no_grad():
        output = model(**inputs)
    labels = inputs["labels"][:, shift:]
    guesses = output.logits.argmax(-1)[:, : labels.shape[1]]
    real = labels != -100
    return {"loss": output.loss.item(), "accuracy": (guesses == labels)[real].float().mean().item()}

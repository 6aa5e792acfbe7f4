"""Small language models, each of the real one's class and saved in the real one's format.

All of them learn from :class:`bncap.mini.corpus.Texts`: in the mini world generated in-domain sentences, none of the
data splits' and without the words and patterns of the out-of-domain set; of a user's own data the training captions.
The same texts and seed give the same weights on one thread.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bncap.mini.corpus import Texts
from bncap.mini.text_training import IGNORED, Example, Task, fit
from bncap.text import UNSPACED, iso, normalise, tokenise

WIDTH, LAYERS, HEADS, MAX_TOKENS = 96, 2, 4, 128
SCATTER = 0.06
"""Standard deviation of new weights; the classes' own, 0.02, is for ten times the width and learns little for long."""
RECURRING = 3
"""A word that occurs so often is worth a piece of its own."""

MASKED = 0.2
"""Share of the pieces that the masked language model has to tell."""


def train_tokenizer(out: Path, texts: Texts):
    """Train sentencepiece (unigram) and save it in ``out`` as an ``MBart50Tokenizer``; returns that.

    Recurring words are pieces, and so is each of ``texts.characters``: rare words come apart but are never unknown.
    It takes text as it stands (NFC), without a character map of its own.
    """
    import sentencepiece
    from transformers import MBart50Tokenizer

    out.mkdir(parents=True, exist_ok=True)
    # The trainer considers only what recurs in different words: each word with a comma too, or it would spell out those
    # that always look the same, the commonest among them.
    words = _recurring(texts.spelt)
    lines = [*texts.spelt, *(f"{word}," for word in words)]
    model_file = out / "sentencepiece.bpe.model"
    with model_file.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=file,
            model_type="unigram",
            vocab_size=max(800, 2 * len(words) + len(texts.characters) + 200),
            hard_vocab_limit=False,
            character_coverage=1.0,
            required_chars=texts.characters,
            normalization_rule_name="identity",
            num_threads=1,
            minloglevel=2,
        )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    # The class itself puts the pieces in mBART's order and adds the language codes and <mask>.
    vocab = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    tokenizer = MBart50Tokenizer(vocab=vocab, src_lang=texts.lang, tgt_lang=texts.lang, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(out)
    return tokenizer


def train_mbart(out: Path, texts: Texts, seed: int, steps: int) -> dict[str, float]:
    """Denoising-pretrain an ``MBartForConditionalGeneration`` and save it, encoder and tokenizer too.

    A third of the words is masked in spans, each span by one <mask>; source and labels are ``lang … </s>``, the
    decoder starts from ``</s>``, as in mBART-50.  Returns the loss and token accuracy on held-out noised sentences.
    """
    from transformers import MBartConfig, MBartForConditionalGeneration

    tokenizer = train_tokenizer(out, texts)
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
        init_std=SCATTER,
        max_position_embeddings=MAX_TOKENS,
        scale_embedding=True,
        decoder_start_token_id=tokenizer.eos_token_id,
    )
    model = MBartForConditionalGeneration(config)
    model.config.tokenizer_class = "MBart50Tokenizer"

    def encode(sentences: list[str], rng: random.Random) -> list[Example]:
        noised = [_mask_spans(sentence, texts.lang, rng, tokenizer.mask_token) for sentence in sentences]
        encoded = tokenizer(noised, text_target=sentences, truncation=True)
        return list(zip(encoded["input_ids"], encoded["labels"], strict=True))

    def states(inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        shifted = model.prepare_decoder_input_ids_from_labels(labels)
        return model.model(**inputs, decoder_input_ids=shifted, use_cache=False).last_hidden_state

    return fit(Task(model, states, model.lm_head, encode), out, texts, seed, steps)


def train_bert(out: Path, texts: Texts, seed: int, steps: int) -> dict[str, float]:
    """Train a ``BertForMaskedLM`` with a WordPiece tokenizer, for BERTScore; layer 2 is its last.

    The pieces are the words and each of ``texts.characters``, first in a word or inside it.  Text is normalised, as
    BERTScore compares it.  Returns the loss and accuracy on the masked pieces of held-out sentences.
    """
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, PreTrainedTokenizerFast

    characters = sorted(set(texts.characters))
    words = {word for text in texts.words for word in tokenise(text, texts.lang) if len(word) > 1}
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    pieces = [*special, *characters, *(f"##{c}" for c in characters), *sorted(words)]
    tokenizer = BertTokenizerFast(
        vocab={piece: i for i, piece in enumerate(pieces)},
        do_lower_case=False,
        strip_accents=False,
        model_max_length=MAX_TOKENS,
    )
    if iso(texts.lang) in UNSPACED:
        # BERT's own class takes a stretch of more than 100 characters without a blank for an unknown word
        backend = tokenizer.backend_tokenizer
        backend.model.max_input_chars_per_word = 10_000
        special = tokenizer.special_tokens_map
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=MAX_TOKENS, **special)
    tokenizer.save_pretrained(out)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        initializer_range=SCATTER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=256,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
    )

    model = BertForMaskedLM(config)

    def encode(sentences: list[str], rng: random.Random) -> list[Example]:
        written = [normalise(sentence, texts.lang) for sentence in sentences]
        examples = []
        for ids in tokenizer(written, truncation=True)["input_ids"]:
            pieces = range(1, len(ids) - 1)  # neither [CLS] nor [SEP]
            hidden = {i for i in pieces if rng.random() < MASKED} or {*rng.sample(pieces, min(1, len(pieces)))}
            masked = [tokenizer.mask_token_id if i in hidden else piece for i, piece in enumerate(ids)]
            examples.append((masked, [piece if i in hidden else IGNORED for i, piece in enumerate(ids)]))
        return examples

    def states(inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        return model.bert(**inputs).last_hidden_state

    return fit(Task(model, states, model.cls, encode), out, texts, seed, steps)


def train_gpt2(out: Path, texts: Texts, seed: int, steps: int) -> dict[str, float]:
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
    size = max(900, 2 * len(_recurring(texts.words)) + 256)
    pieces.train_from_iterator(texts.words, vocab_size=size, special_tokens=list(special.values()), show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, model_max_length=MAX_TOKENS, **special)
    tokenizer.save_pretrained(out)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=WIDTH,
        initializer_range=SCATTER,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

    model = GPT2LMHeadModel(config)

    def encode(sentences: list[str], rng: random.Random) -> list[Example]:
        framed = [f"<s>{sentence}</s>" for sentence in sentences]
        return [(ids[:-1], ids[1:]) for ids in tokenizer(framed, truncation=True)["input_ids"]]

    def states(inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        return model.transformer(**inputs, use_cache=False).last_hidden_state

    return fit(Task(model, states, model.lm_head, encode), out, texts, seed, steps)


TEXT_MODELS: dict[str, Callable[[Path, Texts, int, int], dict[str, float]]] = {
    "decoder": train_mbart,
    "bertscore": train_bert,
    "gpt2": train_gpt2,
}
"""Component of the configuration -> training function (folder, texts, seed, steps) -> measured figures."""
TEXT_MODEL_STEPS = {"decoder": 420, "bertscore": 360, "gpt2": 420}
"""Steps that each is trained for where ``world.model_steps`` is 1."""


def _recurring(texts: Sequence[str]) -> list[str]:
    """The words that occur :data:`RECURRING` times, sorted; of text without blanks, stretches between punctuation."""
    words = Counter(word for text in texts for word in re.findall(r"[^\s,.।]+", text))
    return sorted(word for word, count in words.items() if count >= RECURRING)


def _mask_spans(sentence: str, lang: str, rng: random.Random, mask: str) -> str:
    unspaced = iso(lang) in UNSPACED
    words = tokenise(sentence, lang) if unspaced else sentence.split()
    budget = max(1, round(len(words) / 3))
    while budget > 0:
        length = min(budget, rng.randint(1, 4))
        at = rng.randrange(max(1, len(words) - length + 1))
        words[at : at + length] = [mask]
        budget -= length
    return ("" if unspaced else " ").join(words)

"""Small language models, each of the real one's class and saved in the real one's format.

All of them learn from :class:`Texts`: in the mini world generated in-domain sentences, none of the data splits' and
without the words and patterns of the out-of-domain set; of a user's own data the training captions.  The same texts and
seed give the same weights on one thread.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category, is_normalized, name

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from bncap.chunked_cross_entropy import IGNORED
from bncap.data.splits import read_splits
from bncap.errors import BncapError
from bncap.mini.grammar import BENGALI_CHARACTERS, draw_parallel_captions
from bncap.settings import Config
from bncap.text import UNSPACED, iso, language_name, normalise, tokenise

if TYPE_CHECKING:
    from transformers import MBart50Tokenizer, PreTrainedModel

WIDTH, LAYERS, HEADS, HIDDEN, MAX_TOKENS = 96, 2, 4, 256, 128
INIT_STD = 0.06
"""Standard deviation of new weights; the classes' own, 0.02, suits ten times the width and slows this one."""
BATCH, LEARNING_RATE = 32, 3e-3
BATCHES_AT_ONCE = 50
"""Batches whose sentences are tokenised together."""
RECURRING = 3
"""A word that occurs so often is worth a piece of its own."""
MASKED = 0.2
"""Share of the pieces that the masked language model has to tell."""
SENTENCES = 6000
"""Sentences of the mini world that a model learns from; 500 more are held out to measure it."""
HELD_OUT = 0.05
"""Share of a user's own training captions that a language model is measured on, at most 200."""

Example = tuple[list[int], list[int]]
"""Ids that a model reads, and its labels; where a model does not align them itself, of the same length."""


@dataclass(frozen=True)
class Texts:
    """Captions in the language ``lang`` (an mBART-50 code) for small language models.

    ``train`` is learnt from, ``held_out`` measures what was learnt; tokenizers are made from ``words``, the decoder's
    from ``spelt``, which may hold another language as well; each of ``characters`` is a piece of every tokenizer.
    """

    lang: str
    train: Sequence[str]
    held_out: Sequence[str]
    words: Sequence[str]
    spelt: Sequence[str]
    characters: str


def select_texts(config: Config) -> Texts:
    """Texts for the small language models of ``config``, none of them of its validation and test pictures.

    With data of one's own, the training captions in ``data.lang`` (:class:`BncapError` if none); else generated
    sentences of the mini world.
    """
    return read_own_texts(config) if config.data.source == "own" else generate_mini_texts(config.data.seed)


def generate_mini_texts(seed: int) -> Texts:
    """In-domain Bengali, and English for the decoder's tokenizer, which meets both in the bilingual prompts."""
    pairs = draw_parallel_captions(seed, 3000)
    sentences = [bengali for _, bengali in draw_parallel_captions(seed, SENTENCES + 500)]
    return Texts(
        lang="bn_IN",
        train=sentences[:SENTENCES],
        held_out=sentences[SENTENCES:],
        words=[bengali for _, bengali in pairs],
        spelt=[text for pair in pairs for text in pair],
        characters=BENGALI_CHARACTERS + "।॥" + string.printable.strip(),
    )


def read_own_texts(config: Config) -> Texts:
    """The training captions of a user's own in ``data.lang``; the captions of some of the images measure the models."""
    data = config.data
    captions = [caption for caption in read_splits(config)["train"] if caption.lang == data.lang]
    if not captions:
        language = language_name(data.lang)
        raise BncapError(
            f"{data.captions} has no training caption in {language}, from which the small language models would learn; "
            f"set data.lang to the language of the captions, or name models that know {language}, "
            "such as components.decoder=facebook/mbart-large-50"
        )
    images = sorted({caption.image for caption in captions})
    random.Random(f"{data.seed}|held-out text").shuffle(images)
    place = {image: i for i, image in enumerate(images)}
    ordered = [caption.text for caption in sorted(captions, key=lambda c: (place[c.image], c.caption_id))]
    count = min(200, round(HELD_OUT * len(ordered)))
    train = ordered[: len(ordered) - count]
    # a handful of captions is too few to hold any out
    held_out = ordered[len(train) :] or ordered
    return Texts(data.lang, train, held_out, words=train, spelt=train, characters=collect_characters(train))


def collect_characters(texts: Sequence[str]) -> str:
    """Sorted characters of ``texts``, printable ASCII, and the neighbours of their letters in Unicode's tables.

    Neighbours are the same run of 128 code points, which holds a script or a part of it; of ideographs and Hangul
    syllables, which are too many, only those that occur are taken.
    """
    used = {char for text in texts for char in text}
    many = ("CJK", "HANGUL SYLLABLE")
    spelling = {c for c in used if category(c)[0] in "LM" and not name(c, "").startswith(many)}
    runs = sorted({ord(char) // 128 for char in spelling})
    near = {chr(128 * run + i) for run in runs for i in range(128)}
    taken = used | set(string.printable) | {char for char in near if is_normalized("NFC", char)}
    # sentencepiece's own sign for a blank is none of the text's
    return "".join(sorted(c for c in taken if (category(c)[0] not in "ZC" or category(c) == "Cf") and c != "▁"))


@dataclass(frozen=True)
class Task:
    """A model and its training: ``encode`` makes examples of sentences, ``head`` reads ``states(inputs, labels)``."""

    model: PreTrainedModel
    states: Callable[[dict[str, Tensor], Tensor], Tensor]
    head: torch.nn.Module
    encode: Callable[[list[str], random.Random], list[Example]]


def draw_batches(task: Task, sentences: Sequence[str], steps: int, rng: random.Random) -> Iterator[list[Example]]:
    """``steps`` batches of sentences in epochs, each in a random order; many batches are tokenised at a time.

    They are not sorted by length: batches of one length taught the masked language model less in the same steps.
    """
    size = min(BATCH, len(sentences))
    order: list[str] = []
    for first in range(0, steps, BATCHES_AT_ONCE):
        batches = min(BATCHES_AT_ONCE, steps - first)
        while len(order) < batches * size:
            order += rng.sample(sentences, len(sentences))
        sentences_now, order = order[: batches * size], order[batches * size :]
        examples = task.encode(sentences_now, rng)
        yield from (examples[start : start + size] for start in range(0, len(examples), size))


def collate(examples: list[Example], pad: int) -> tuple[dict[str, Tensor], Tensor]:
    """The model's inputs, padded with ``pad``, and labels padded with :data:`IGNORED`: int64, (B, S) and (B, T)."""
    inputs, labels = ([torch.tensor(ids) for ids in column] for column in zip(*examples, strict=True))
    ids = pad_sequence(inputs, batch_first=True, padding_value=pad)
    real = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in inputs])[:, None]
    return (
        {"input_ids": ids, "attention_mask": real.long()},
        pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    )


def predict_labelled(task: Task, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Logits (N, V) of the places that have a label, and those labels (N,): nothing else meets the vocabulary."""
    inputs, labels = collate(examples, task.model.config.pad_token_id)
    real = labels != IGNORED
    return task.head(task.states(inputs, labels)[real]), labels[real]


def fit(task: Task, out: Path, texts: Texts, seed: int, steps: int) -> dict[str, float]:
    """Train on the captions, save in ``out``, and measure loss and accuracy on those held out."""
    rng = random.Random(f"{seed}|batches")
    parameters = list(task.model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    total = max(steps, 2)
    warm_up = max(0.1, 1.5 / total)  # of a single step, that of 10 steps is divided by nought
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total, pct_start=warm_up)
    # Without dropout, which a model this small and this short of steps does not need; its configuration keeps the rate.
    task.model.eval()
    for examples in tqdm(draw_batches(task, texts.train, steps, rng), total=steps, desc=out.name):
        loss = F.cross_entropy(*predict_labelled(task, examples))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
    task.model.save_pretrained(out)
    with torch.no_grad():
        logits, labels = predict_labelled(task, task.encode(list(texts.held_out), rng))
    accuracy = (logits.argmax(-1) == labels).float().mean()
    return {"loss": F.cross_entropy(logits, labels).item(), "accuracy": accuracy.item()}


def train_tokenizer(out: Path, texts: Texts) -> MBart50Tokenizer:
    """Train sentencepiece (unigram) on text as it stands and save it in ``out`` as an ``MBart50Tokenizer``.

    Recurring words are pieces, and so is each of ``texts.characters``: rare words come apart but are never unknown.
    """
    import sentencepiece  # heavy
    from transformers import MBart50Tokenizer

    out.mkdir(parents=True, exist_ok=True)
    # The trainer considers only what recurs in different words, so each word is added once more with a comma;
    # otherwise it would spell out the most frequent ones.
    words = _recurring_words(texts.spelt)
    lines = [*texts.spelt, *(f"{word}," for word in words)]
    model_file = out / "sentencepiece.bpe.model"
    with model_file.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, model_type="unigram",
            vocab_size=max(800, 2 * len(words) + len(texts.characters) + 200), hard_vocab_limit=False,
            character_coverage=1.0, required_chars=texts.characters, normalization_rule_name="identity",
            num_threads=1, minloglevel=2,
        )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    # The class itself puts the pieces in mBART's order and adds the language codes and <mask>.
    vocab = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    tokenizer = MBart50Tokenizer(vocab=vocab, src_lang=texts.lang, tgt_lang=texts.lang, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(out)
    return tokenizer


def train_mbart(out: Path, texts: Texts, seed: int, steps: int) -> dict[str, float]:
    """Denoising-pretrain an ``MBartForConditionalGeneration`` and save it, encoder and tokenizer too.

    A third of the words is masked in spans, each span by one <mask>; source and labels are framed as in mBART-50.
    Returns the loss and token accuracy on held-out noised sentences.
    """
    from transformers import MBartConfig, MBartForConditionalGeneration  # heavy

    tokenizer = train_tokenizer(out, texts)
    torch.manual_seed(seed)
    config = MBartConfig(
        vocab_size=len(tokenizer), d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN,
        init_std=INIT_STD, max_position_embeddings=MAX_TOKENS, scale_embedding=True,
        decoder_start_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
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

    The pieces are the normalised words and each of ``texts.characters``, first in a word or inside it.  Returns the
    loss and accuracy on the masked pieces of held-out sentences.
    """
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, PreTrainedTokenizerFast  # heavy

    characters = sorted(set(texts.characters))
    words = {word for text in texts.words for word in tokenise(text, texts.lang) if len(word) > 1}
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    pieces = [*special, *characters, *(f"##{c}" for c in characters), *sorted(words)]
    tokenizer = BertTokenizerFast(
        vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=False, strip_accents=False,
        model_max_length=MAX_TOKENS,
    )  # fmt: skip
    if iso(texts.lang) in UNSPACED:
        # BERT's own class takes a stretch of more than 100 characters without a blank for an unknown word
        backend = tokenizer.backend_tokenizer
        backend.model.max_input_chars_per_word = 10_000
        special = tokenizer.special_tokens_map
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=MAX_TOKENS, **special)
    tokenizer.save_pretrained(out)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, initializer_range=INIT_STD, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, intermediate_size=HIDDEN, max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
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

    Sentences are framed as ``<s> … </s>``; cross-attention comes in when it is loaded with ``add_cross_attention``.
    Returns the loss and next-token accuracy on held-out sentences.
    """
    from tokenizers import ByteLevelBPETokenizer, Regex, pre_tokenizers  # heavy
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
    size = max(900, 2 * len(_recurring_words(texts.words)) + 256)
    pieces.train_from_iterator(texts.words, vocab_size=size, special_tokens=list(special.values()), show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, model_max_length=MAX_TOKENS, **special)
    tokenizer.save_pretrained(out)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=WIDTH, initializer_range=INIT_STD, n_layer=LAYERS, n_head=HEADS,
        n_positions=MAX_TOKENS, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
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
STEPS = {"decoder": 420, "bertscore": 360, "gpt2": 420}
"""Steps that each is trained for where ``world.model_steps`` is 1."""


def _recurring_words(texts: Sequence[str]) -> list[str]:
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

"""English to the target language (Sec. 4.2.1), with a sequence-to-sequence model of ``transformers``, by its name.

==============  =================================================  ==============================================
model_type      for example                                        how the target language is chosen
==============  =================================================  ==============================================
marian          ``Helsinki-NLP/opus-mt-en-inc``                    a token before the text, ``>>ben<<``
marian          ``shhossain/opus-mt-en-to-bn``                     not at all: it has one target
t5, mt5         ``csebuetnlp/banglat5_nmt_en_bn`` (CC BY-NC-SA)    not at all: it has one target
m2m_100 (NLLB)  ``facebook/nllb-200-distilled-600M`` (CC BY-NC)    the first token forced, ``ben_Beng``
mbart (50)      ``facebook/mbart-large-50-many-to-many-mmt``       the first token forced, ``bn_IN``
==============  =================================================  ==============================================

Which target a model with a single one has, only Marian's tokenizer tells; of T5 the user must know.  BanglaT5 and NLLB
are for non-commercial use only.  ``identity`` leaves the text as it is.  The classes follow from the checkpoint's
``config.json`` (``model_type``), never from its name, and no code from a checkpoint is run.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bncap.device import default_device
from bncap.errors import BncapError
from bncap.mini.models import MiniTranslator
from bncap.pipeline import hub
from bncap.pipeline.hub import has_words, loading, require_weights
from bncap.settings import Config
from bncap.text import NLLB_CODES, iso, language_name, mbart_code

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


MARIAN_OWN = {"ar": "ara", "az": "aze", "lv": "lav", "ps": "pus", "zh": "cmn_Hans"}
"""Languages that Marian's multilingual models call otherwise than by the first three letters of NLLB's code."""

TOKENIZERS = {
    "marian": "MarianTokenizer", "t5": "T5Tokenizer", "mt5": "T5Tokenizer", "m2m_100": "NllbTokenizer",
    "mbart": "MBart50Tokenizer",
}  # fmt: skip
"""The tokenizer of each ``model_type`` that can be used here."""
OTHER_LANGUAGE_CODES = {"M2M100Tokenizer": "M2M100, not NLLB", "MBartTokenizer": "mBART-25, not mBART-50"}
"""Tokenizers of models that share a ``model_type`` with the above, and whose languages are numbered otherwise."""

LONGEST = 200
"""Tokens of a text that are read, and at most written; a model that repeats itself without end is stopped there."""

_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»", '"') | dict.fromkeys("‘’‚‛‹›`´", "'") | {"—": " - ", "–": "-"})
_INVISIBLE = dict.fromkeys((0x00AD, 0x200B, 0x2060))


class Translator(Protocol):
    """What :func:`load_translator` returns; the mini world's also has ``faults(captions) -> list[str | None]``."""

    def translate(self, captions: list[str]) -> list[str]:
        """One translation for each of ``captions``, in their order."""
        ...


class Identity:
    """The translator named ``identity``: the text itself."""

    def translate(self, captions: list[str]) -> list[str]:
        return list(captions)


def load_translator(config: Config) -> Translator:
    """The translator named by ``components.translator``, for ``data.lang``.

    Raises :class:`BncapError`, naming the model, if it cannot be loaded, is of another kind, or lacks the language.
    """
    name, data = config.components.translator, config.data
    if name == "identity":
        return Identity()
    if name == "mini:translator":
        return MiniTranslator(fault_rate=config.world.fault_rate, seed=data.seed)
    return Seq2SeqTranslator(hub.path(config, name), data.lang, batch=data.translation_batch)


class Seq2SeqTranslator:
    """A checkpoint of any kind in the table above, for an mBART-50 or ISO code, decoded by beam search.

    Weights and arithmetic are fp32 on every device: ties in fp16 fall otherwise on a CPU or in another batch.
    """

    def __init__(self, path: str, lang: str = "bn_IN", *, beams: int = 4, batch: int = 128) -> None:
        self.device = default_device()
        with loading("translator", path):
            config, self.tokenizer, model = _load(path)
        self.model = model.eval().to(self.device)
        self.prefix, self.forced = _target(path, config, self.tokenizer, iso(lang))
        self.prepare = _plain if config.model_type in ("t5", "mt5") else str
        self.beams, self.batch = beams, batch
        positions = getattr(config, "max_position_embeddings", LONGEST)
        self.longest = min(self.tokenizer.model_max_length, positions, LONGEST)
        written = self.model.generation_config
        written.max_length = min(written.max_length or LONGEST, positions, LONGEST)

    def translate(self, captions: list[str]) -> list[str]:
        """Translations in the order of ``captions``, made in batches of captions of like length to spare padding.

        A blank caption's is "".  Of a caption of more than :data:`LONGEST` tokens the rest is not read.
        """
        filled = [i for i, text in enumerate(captions) if text.strip()]
        if not filled:
            return [""] * len(captions)
        texts = {i: self.prefix + self.prepare(captions[i]) for i in filled}
        ids = self.tokenizer([texts[i] for i in filled], truncation=True, max_length=self.longest)["input_ids"]
        lengths = dict(zip(filled, map(len, ids), strict=True))
        order = sorted(filled, key=lambda i: (lengths[i], i))
        translations: dict[int, str] = {}
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            translations |= zip(chosen, self._translate_batch([texts[i] for i in chosen]), strict=True)
        return [translations.get(i, "") for i in range(len(captions))]

    def _translate_batch(self, texts: list[str]) -> list[str]:
        import torch  # heavy

        limits = {"padding": True, "truncation": True, "max_length": self.longest}
        inputs = self.tokenizer(texts, return_tensors="pt", **limits).to(self.device)
        forced = {} if self.forced is None else {"forced_bos_token_id": self.forced}
        with torch.inference_mode():
            output = self.model.generate(**inputs, num_beams=self.beams, do_sample=False, **forced)
        return [text.strip() for text in self.tokenizer.batch_decode(output, skip_special_tokens=True)]


def _load(path: str) -> tuple[PretrainedConfig, PreTrainedTokenizerBase, PreTrainedModel]:
    """Configuration, tokenizer set to English, and model; what the library would only warn of is an error."""
    import transformers  # heavy
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    if config.model_type not in TOKENIZERS:
        raise BncapError(
            f"translator {path} is a {config.model_type} model; components.translator takes identity or a model of "
            "type " + ", ".join(TOKENIZERS)
        )
    stated = get_tokenizer_config(path)
    other = OTHER_LANGUAGE_CODES.get(str(stated.get("tokenizer_class")).removesuffix("Fast"))
    if other and stated.get("language_codes") != "ML50":
        raise BncapError(f"translator {path} is {other}; name another in components.translator")
    if config.model_type == "m2m_100" and not Path(path, "tokenizer.json").is_file():
        # from the sentencepiece file alone transformers 5 numbers NLLB's languages one too high
        raise BncapError(f"translator {path} has no tokenizer.json; fetch it again, whole")
    source: dict[str, Any] = {"m2m_100": {"src_lang": NLLB_CODES["en"]}, "mbart": {"src_lang": "en_XX"}}
    tokenizer_class = getattr(transformers, TOKENIZERS[config.model_type])
    tokenizer = tokenizer_class.from_pretrained(path, **source.get(config.model_type, {}))
    if not has_words(tokenizer):
        raise BncapError(f"translator {path} lacks its vocabulary file; fetch it again, whole")
    model, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        path, config=config, dtype="float32", trust_remote_code=False, output_loading_info=True,
        ignore_mismatched_sizes=True,
    )  # fmt: skip
    require_weights(path, report)
    return config, tokenizer, model


def _target(
    path: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, language: str
) -> tuple[str, int | None]:
    """The prefix of the text, and the id of the token that the translation must begin with."""
    remedy = "set components.translator to a model with that language"
    if config.model_type == "marian":
        codes = tokenizer.supported_language_codes
        names = (MARIAN_OWN.get(language, language), NLLB_CODES[language][:3], language)
        tokens = [token for token in (f">>{name}<<" for name in names) if token in codes]
        if codes and not tokens:
            raise BncapError(f"translator {path} has no >>{names[1]}<<, only {' '.join(sorted(codes))}; {remedy}")
        single = tokenizer.target_lang
        if not codes and single in NLLB_CODES and single != language:
            raise BncapError(
                f"translator {path} is for {language_name(single)}, not {language_name(language)}; {remedy}"
            )
        return (f"{tokens[0]} " if tokens else ""), None
    if config.model_type in ("t5", "mt5"):
        return "", None
    code = NLLB_CODES[language] if config.model_type == "m2m_100" else mbart_code(language)
    forced = tokenizer.convert_tokens_to_ids(code)
    if forced == tokenizer.unk_token_id or forced >= config.vocab_size:
        raise BncapError(f"translator {path} has no {code}; {remedy}")
    return "", forced


def _plain(text: str) -> str:
    """``text`` much as BanglaT5's card asks for it: quotes and dashes of one kind, no accents, NFKC, blanks folded.

    The repair of wrongly decoded text (``ftfy``) is left out: the readers refuse such files.
    """
    text = unicodedata.normalize("NFKD", text.translate(_QUOTES).translate(_INVISIBLE))
    text = "".join(char for char in text if unicodedata.category(char) != "Mn")
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip()

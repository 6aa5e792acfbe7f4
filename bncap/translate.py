"""English to the target language (Sec. 4.2.1), with a Marian model or the mini world's translator."""

from __future__ import annotations

from typing import Protocol

from bncap.errors import BncapError
from bncap.paths import model_path
from bncap.settings import Config

MARIAN_CODES = {
    "ar": "ara", "cs": "ces", "de": "deu", "es": "spa", "et": "est", "fi": "fin", "fr": "fra", "gu": "guj",
    "hi": "hin", "it": "ita", "ja": "jpn", "kk": "kaz", "ko": "kor", "lt": "lit", "lv": "lav", "my": "mya",
    "ne": "npi", "nl": "nld", "ro": "ron", "ru": "rus", "si": "sin", "tr": "tur", "vi": "vie", "zh": "zho",
    "af": "afr", "az": "aze", "bn": "ben", "fa": "pes", "he": "heb", "hr": "hrv", "id": "ind", "ka": "kat",
    "km": "khm", "mk": "mkd", "ml": "mal", "mn": "khk", "mr": "mar", "pl": "pol", "ps": "pus", "pt": "por",
    "sv": "swe", "sw": "swh", "ta": "tam", "te": "tel", "th": "tha", "tl": "tgl", "uk": "ukr", "ur": "urd",
    "xh": "xho", "gl": "glg", "sl": "slv",
}  # fmt: skip
"""mBART-50's languages by the ISO 639-3 codes that Marian's multilingual models call them."""


class Translator(Protocol):
    """What :func:`load_translator` gives; the mini world's also has ``faults(captions) -> list[str | None]``."""

    def translate(self, captions: list[str]) -> list[str]:
        """One translation for each of ``captions``, in their order."""
        ...


def load_translator(config: Config) -> Translator:
    """The translator named by ``components.translator``; raises :class:`BncapError` if it lacks ``data.lang``."""
    name, data = config.components.translator, config.data
    if name == "mini:translator":
        from bncap.mini.translator import MiniTranslator

        return MiniTranslator(fault_rate=config.world.fault_rate, seed=data.seed)
    language = data.lang.split("_")[0]
    target_token = f">>{MARIAN_CODES.get(language, language)}<<"
    return MarianTranslator(model_path(config, name), target_token, batch=data.translation_batch)


class MarianTranslator:
    """A Marian model of ``transformers``, decoded by beam search, hence the same from run to run.

    ``target_token`` picks the language of a model that has several (``opus-mt-en-inc``: ``>>ben<<``); one that has
    a single target takes none, and the token is left out.
    """

    def __init__(self, path: str, target_token: str = ">>ben<<", *, beams: int = 4, batch: int = 128) -> None:
        import torch
        from transformers import MarianMTModel, MarianTokenizer

        self.tokenizer = MarianTokenizer.from_pretrained(path)
        known = self.tokenizer.supported_language_codes
        if known and target_token not in known:
            raise BncapError(
                f"translator {path} has no {target_token}, only {' '.join(sorted(known))}; "
                "set components.translator to a model with that language"
            )
        self.prefix = f"{target_token} " if known else ""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = MarianMTModel.from_pretrained(path).eval().to(self.device)
        self.beams, self.batch = beams, batch

    def translate(self, captions: list[str]) -> list[str]:
        """Translations in the order of ``captions``, made in batches of captions of like length to spare padding."""
        lengths = [len(self.tokenizer(self.prefix + text)["input_ids"]) for text in captions]
        order = sorted(range(len(captions)), key=lambda i: (lengths[i], i))
        translations = [""] * len(captions)
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            for i, text in zip(chosen, self._translate_batch([captions[i] for i in chosen]), strict=True):
                translations[i] = text
        return translations

    def _translate_batch(self, captions: list[str]) -> list[str]:
        import torch

        texts = [self.prefix + text for text in captions]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True).to(self.device)
        with torch.inference_mode():
            output = self.model.generate(**inputs, num_beams=self.beams, do_sample=False)
        return [text.strip() for text in self.tokenizer.batch_decode(output, skip_special_tokens=True)]

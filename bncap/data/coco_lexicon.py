"""Bengali nouns for the 80 categories of COCO's instances, to find in captions what has a box in the picture.

``coco_nouns_bn.json`` lists for each category the words and phrases for what COCO annotates under it: as the English
lists of CHAIR (Rohrbach et al., EMNLP 2018), with the loan words that translators write.  Left out is what is as often
something else: কমলা (the colour), বাইক (bicycle or motorcycle), ব্যাগ, গ্লাস, ফুটবল and বেসবল (the game), কার
("whose").  Inflected forms are found by their stems (:func:`bncap.text.stem`); listed are only those that the stemmer
takes for something else, such as the locative ব্যাকপ্যাকে, which ends like the objective case.
"""

from __future__ import annotations

import json
from pathlib import Path

_LISTS = json.loads(Path(__file__).with_name("coco_nouns_bn.json").read_text("utf-8"))

WORDS_BN: dict[str, list[str]] = _LISTS["categories"]
"""COCO's name of the category -> words and phrases, as they are written without inflection."""

OTHER_MEANINGS_BN: list[str] = _LISTS["other_meanings"]
"""Phrases whose words are in :data:`WORDS_BN` and mean something else in them."""

NOUN_LEXICON_BN: dict[str, str] = {
    **{words: category for category, entries in WORDS_BN.items() for words in entries},
    **dict.fromkeys(OTHER_MEANINGS_BN, ""),
}
"""Word or phrase -> category, "" for a phrase that names none: what :class:`bncap.metrics.Nouns` takes."""

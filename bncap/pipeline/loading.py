"""Loading of checkpoints: quiet where weights are left out on purpose, with one clear line where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bncap.errors import BncapError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' progress bars and its report on unused and missing weights: the caller checks these."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def loading(what: str, path: str, kind: str | None = None) -> Iterator[None]:
    """Turn what the libraries raise while ``what`` is loaded from the folder ``path`` into one line with a remedy.

    ``kind`` is the ``model_type`` that its ``config.json`` must have: the libraries would load another model with
    random weights.
    """
    remedy = "make or fetch it again"
    if not Path(path).is_dir():
        raise BncapError(f"{path}: there is no such folder to load the {what} from; {remedy}")
    try:
        if kind is not None:
            from transformers import PreTrainedConfig

            found = PreTrainedConfig.get_config_dict(path)[0].get("model_type")
            if found != kind:
                raise BncapError(
                    f"{path}: holds a model of type {found}, where the {what} should be of type {kind}; {remedy}"
                )
        with quiet_loading():
            yield
    except (BncapError, MemoryError):
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower for a damaged file
        raise BncapError(f"{path}: the {what} cannot be loaded ({_reason(error)}); {remedy}") from error


def _reason(error: Exception) -> str:
    """The first line of the error's message, or what it means."""
    text = str(error).strip()
    if isinstance(error, KeyError):
        return f"it has no {text}"
    if "`tiktoken`" in text:  # transformers takes a damaged sentencepiece file for tiktoken's format
        return "its vocabulary file is damaged"
    return text.splitlines()[0] if text else type(error).__name__


def require_weights(path: str, found: dict, fresh: tuple[str, ...] = ()) -> None:
    """Raise :class:`BncapError` if the checkpoint in ``path`` lacks weights or has them in other shapes.

    ``found`` is the loading information of ``from_pretrained`` with ``ignore_mismatched_sizes=True``; weights with one
    of ``fresh`` in their names may be missing.
    """
    missing = sorted(name for name in found["missing_keys"] if not any(part in name for part in fresh))
    wrong = sorted(str(key[0]) for key in found["mismatched_keys"])
    if wrong:
        raise BncapError(f"{path}: {wrong[0]} has another shape than config.json says; fetch the checkpoint again")
    if missing:
        raise BncapError(f"{path} lacks weights, such as {missing[0]}; fetch the checkpoint again")


def has_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has tokens other than the special ones.

    transformers 5 makes a tokenizer without its vocabulary file all the same, and every text is unknown to it.
    """
    return bool(tokenizer.get_vocab().keys() - {*tokenizer.all_special_tokens, "▁"})

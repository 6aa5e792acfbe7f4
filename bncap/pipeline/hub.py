"""Pretrained components by name: find the folder of each, and load checkpoints with clear errors.

The first of these gives the folder: ``mini:<part>`` is made by notebook 00 or ships with the package; a path (absolute,
``./``, ``../``) is used as it is; ``<folder>/<name>`` in the folders of ``BNCAP_MODELS`` and Kaggle's inputs; the hub,
or its cache where the hub cannot be reached.  Safetensors are preferred, and no code of a repository is ever run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bncap.errors import BncapError
from bncap.pipeline.files import remembered_hash
from bncap.pipeline.paths import PACKAGE, model_folders, step_dir
from bncap.settings import Config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILT_IN = ("identity", "none", "mini:translator", "mini:synthesiser")
"""Components without files: code of this package, or none at all."""
MINI_PARTS = ("encoder", "decoder", "verifier", "bertscore", "vit", "gpt2", "cnn")
"""The parts of ``mini:<part>`` that have files."""
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
"""Suffixes of weights that are loaded only where their folder has no safetensors."""
NEVER_LOADED = (
    ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".tflite", ".mlmodel",
    ".md", ".png", ".jpg", ".jpeg", ".gif", ".pdf",
)  # fmt: skip
NO_MODEL_FOLDERS = ("onnx", "openvino", "coreml")


@dataclass(frozen=True)
class Component:
    """A pretrained component and its folder; ``source`` is "mini", "folder", "BNCAP_MODELS" or "hub"."""

    name: str
    folder: Path
    source: str

    @property
    def is_step(self) -> bool:
        """Whether a step of this project made it, whose manifest has its files."""
        return self.source == "mini" and not self.folder.is_relative_to(PACKAGE)

    def record(self) -> dict[str, Any]:
        """For a manifest: ``source``, ``revision``, and ``files`` that may be loaded: relative path -> SHA-256."""
        names = [p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file()]
        files = {name: remembered_hash(self.folder / name) for name in loaded_files(names)}
        return {"source": self.source, "revision": self._revision(), "files": files}

    def _revision(self) -> str:
        """The hub's commit; "" if it is not known."""
        if self.folder.parent.name == "snapshots":
            return self.folder.name
        notes = sorted((self.folder / ".cache" / "huggingface" / "download").rglob("*.metadata"))
        return notes[0].read_text("utf-8").splitlines()[0] if notes else ""


def find(config: Config, name: str) -> Component:
    """The component ``name``, fetched from the hub if necessary; :class:`BncapError` if that is not possible."""
    if name.startswith("mini:"):
        part = name.removeprefix("mini:")
        if part not in MINI_PARTS:
            raise BncapError(f"there is no mini component {name!r}; there are mini:{', mini:'.join(MINI_PARTS)}")
        if part == "encoder" and not config.world.retrain_encoder:
            return Component(name, PACKAGE / "small_models" / "checkpoints" / "maxvit_mini", "mini")
        return Component(name, step_dir(config.profile, "00_mini_world", part, config.data.seed), "mini")
    local = find_local(name)
    return local or Component(name, _fetch(name), "hub")


def find_local(name: str) -> Component | None:
    """The component ``name`` without the hub: a folder of that path, or of that name in one of the model folders."""
    if Path(name).is_absolute() or name.startswith(("./", "../")):
        if not Path(name).is_dir():
            raise BncapError(f"{name} is no folder; name a folder with a model, or a model of the hub")
        return Component(name, Path(name), "folder")
    for folder in model_folders():
        if (folder / name).is_dir():
            return Component(name, folder / name, "BNCAP_MODELS")
    return None


def cached(name: str) -> Path | None:
    """The newest snapshot of ``name`` in the hub's cache, if its download was finished."""
    from huggingface_hub import constants  # heavy, and not needed for components in folders
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    snapshots = sorted(cache.glob("snapshots/*"), key=lambda folder: folder.stat().st_mtime)
    return snapshots[-1] if snapshots and not any(cache.glob("blobs/*.incomplete")) else None


def path(config: Config, name: str) -> str:
    """The folder of the component ``name``, for ``from_pretrained``."""
    return str(find(config, name).folder)


@functools.cache
def _fetch(name: str) -> Path:
    """The hub's snapshot of ``name``; a revision in the cache stays in use, else its steps would be made again."""
    from huggingface_hub import HfApi, snapshot_download  # heavy
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # else a line for each of six attempts where there is no network
    kept = cached(name)
    revision = kept.name if kept else None
    # An unreachable hub is an error of the client's HTTP library, which is not the same in all its versions.
    try:
        files = HfApi().list_repo_files(name, revision=revision)
    except HFValidationError as error:
        raise BncapError(f"{name!r} is no name of a model ({error})") from error
    except Exception as error:
        try:
            return Path(snapshot_download(name, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            raise _not_fetched(name, error) from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=loaded_files(files)))
    except Exception as error:
        raise _not_fetched(name, error) from error


def _not_fetched(name: str, error: Exception) -> BncapError:
    return BncapError(
        f"{name} is not on this machine and cannot be fetched ({_first_line(error)}); put the model in the folder "
        f"$BNCAP_MODELS/{name}, or with internet: hf download {name}"
    )


def loaded_files(names: Iterable[str]) -> list[str]:
    """Those of a repository's files that may be loaded, sorted: safetensors rather than other weights beside them."""
    found = [PurePosixPath(name) for name in names]
    safe = {path.parent for path in found if path.suffix == ".safetensors"}
    return sorted(
        str(path)
        for path in found
        if path.suffix not in NEVER_LOADED
        and not (path.suffix in PICKLED and path.parent in safe)
        and not any(part.startswith(".") or part in NO_MODEL_FOLDERS for part in path.parts)
        and ".fp16." not in path.name
    )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' progress bars and its report on unused and missing weights: the caller checks these."""
    from transformers.utils import logging  # heavy

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

    ``kind`` is its ``model_type`` in ``config.json``: the libraries would load another model with random weights.
    """
    remedy = "make or fetch it again"
    if not Path(path).is_dir():
        raise BncapError(f"{path}: there is no such folder to load the {what} from; {remedy}")
    try:
        if kind is not None:
            from transformers import PreTrainedConfig  # heavy

            found = PreTrainedConfig.get_config_dict(path)[0].get("model_type")
            if found != kind:
                raise BncapError(f"{path}: holds a model of type {found}, not {kind} for the {what}; {remedy}")
        with quiet_loading():
            yield
    except (BncapError, MemoryError):
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower for a damaged file
        reason = f"it has no {error}" if isinstance(error, KeyError) else _first_line(error)
        if "`tiktoken`" in str(error):  # transformers takes a damaged sentencepiece file for tiktoken's format
            reason = "its vocabulary file is damaged"
        raise BncapError(f"{path}: the {what} cannot be loaded ({reason}); {remedy}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def require_weights(path: str, found: dict, fresh: tuple[str, ...] = ()) -> None:
    """Raise :class:`BncapError` if the checkpoint in ``path`` lacks weights or has them in other shapes.

    ``found`` is the loading information of ``from_pretrained``; weights with ``fresh`` in their names may be missing.
    """
    missing = sorted(name for name in found["missing_keys"] if not any(part in name for part in fresh))
    wrong = sorted(str(key[0]) for key in found["mismatched_keys"])
    if wrong:
        raise BncapError(f"{path}: {wrong[0]} has another shape than config.json says; fetch the checkpoint again")
    if missing:
        raise BncapError(f"{path} lacks weights, such as {missing[0]}; fetch the checkpoint again")


def has_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has more than special tokens: transformers 5 makes one without its vocabulary file, too."""
    return bool(tokenizer.get_vocab().keys() - {*tokenizer.all_special_tokens, "▁"})

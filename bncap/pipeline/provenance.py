"""Which code and which packages a result was made with."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess

from bncap.pipeline.paths import ROOT

RECORDED_PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "diffusers", "sentence-transformers", "bert-score", "sacrebleu",
    "nltk", "scikit-learn", "umap-learn", "numpy", "matplotlib",
)  # fmt: skip


@functools.cache
def git_commit() -> str:
    """The commit of the working tree, with ``+`` if files of it are changed; "unknown" outside a checkout."""
    try:
        run = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
        commit = run(["git", "rev-parse", "HEAD"]).stdout.strip()
        return commit + ("+" if run(["git", "status", "--porcelain", "-uno"]).stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def package_versions() -> dict[str, str]:
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions

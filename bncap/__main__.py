"""The command line: ``python -m bncap COMMAND``.

Exit status: 0 done; 1 an error that the user can correct, in a few lines; 2 wrong arguments; 75 the time is up.

Commands import what they need themselves, because torch and transformers take seconds and ``--help`` needs neither.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from bncap.config import get_config
from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import deadline, paths
from bncap.pipeline.artifacts import select_folders
from bncap.settings import Config


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    if sys.platform == "win32":
        print("error: bncap runs on Linux and macOS; on Windows use WSL (wsl --install)", file=sys.stderr)
        return 1
    options = argparse.Namespace(traceback=False, minutes=None)
    try:
        _parser().parse_args(arguments, options)
        if options.minutes is not None:
            deadline.set_minutes(options.minutes)
        return options.command(options) or 0
    except OutOfTime as error:
        print(error, file=sys.stderr)
        return deadline.EXIT_STATUS
    except (BncapError, OSError) as error:
        if options.traceback:
            raise
        print(f"error: {_explain(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; everything finished is kept", file=sys.stderr)
        return 130


def _explain(error: BncapError | OSError) -> str:
    if isinstance(error, BncapError):
        return str(error)
    name = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error
    return f"{name}; check that path and its disk, then start again"


class _Parser(argparse.ArgumentParser):
    """Prints one line for wrong arguments instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m bncap", description="Bengali image captioning with cross-attention-guided alignment"
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, function: Callable[[argparse.Namespace], int | None], text: str, profile: str | None = None
    ) -> Callable[..., object]:
        """Add a command with the options that choose a configuration; returns its ``add_argument``."""
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        added.add_argument("--profile", default=profile, help="smoke, mini (default), own, kaggle or paper")
        added.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.FIELD=VALUE")
        added.add_argument("--captions", type=Path, metavar="FILE", help="your own captions (profile own)")
        added.add_argument("--images", type=Path, metavar="DIR", help="the folder of their images")
        added.add_argument("--lang", help="target language, an mBART-50 code such as hi_IN")
        added.add_argument("--allow-rejected", type=float, metavar="SHARE", help="accepted share of unusable images")
        return added.add_argument

    minutes = {"type": float, "help": "stop cleanly after this time; the same command continues"}

    add = command("run", _run, "run the notebooks in order")
    add("--seed", type=_seed, default=42, help="first seed of the repeated runs (default 42)")
    add("--seeds", type=_seeds, metavar="N,N", help="explicit seeds, such as 42,43,44")
    add("--from", dest="first", metavar="NN", help="first notebook, such as 04")
    add("--to", dest="last", metavar="NN", help="last notebook")
    add("--only", metavar="NN[,NN]", help="only these notebooks")
    add("--jobs", type=int, help="worker processes (default: one per processor)")
    add("--minutes", **minutes)
    add("--retrain-encoder", action="store_true", help="train the mini encoder instead of using the one in the package")
    add("--extended", action="store_true", help="also run the other readings of the paper and the error analysis")
    add("--force", action="store_true", help="also run notebooks that are up to date")

    add = command("check", _check, "check that everything a profile needs is available")
    add("--only", metavar="NN", help="what one notebook needs")
    add("--download", action="store_true", help="first download the models that are missing")
    add("--full-size", action="store_true", help="run one training step and one beam search at the real sizes")

    command("status", _status, "show state, time and size of each step")

    publish = commands.add_parser("publish", help="copy finished results to figures/published/, to be committed")
    publish.add_argument("--profile", default="mini", help="whose results (default mini)")
    publish.set_defaults(command=_publish)

    add = command("translate", _translate, "translate and verify the captions, all shards or some")
    add("--shards", type=_shards, metavar="N[,N]", help="only these shards, counted from 0")
    add("--minutes", **minutes)

    add = command("synthesise", _synthesise, "generate the synthetic images, all or a part")
    add("--shard", type=_part, metavar="I/N", help="process I of N, from 1: every N-th tar shard")
    add("--minutes", **minutes)

    add = command("audit", _audit, "generate some synthetic images again and compare")
    add("--n", type=int, default=16, help="number of images (default 16)")
    add("--seed", type=int, default=0, help="seed of the choice (default 0)")

    add = command("caption", _caption, "caption images with a trained model")
    add("pictures", nargs="+", type=Path, metavar="IMAGE", help="image files or folders of them")
    add("--run", type=Path, help="folder of a training run (default: the newest main model)")
    add("--beams", type=int)
    add("--attention", type=Path, metavar="PNG", help="draw the attention of each word")
    add("--json", action="store_true", help="print one JSON object per line")

    add = command("export", _export, "write a trained decoder as a plain mBART-50 checkpoint")
    add("--run", type=Path, help="folder of a training run (default: the newest main model)")
    add("--out", type=Path, required=True, help="folder to write to")

    add = command("kaggle", _kaggle, "write kernel folders for `kaggle kernels push`", profile="kaggle")
    add("--user", required=True, help="your Kaggle user name")
    add("--out", type=Path, help="folder to write to (default: kaggle_kernels in the artefact root)")
    add("--gpu", default="NvidiaTeslaT4", help="machine shape (default NvidiaTeslaT4, which means two T4)")
    add("--no-internet", dest="internet", action="store_false", help="kernels without internet: attach the models")
    add("--data", action="append", default=[], metavar="OWNER/SLUG", help="data set to attach")
    add("--models", action="append", default=[], metavar="OWNER/SLUG", help="data set with models to attach")
    add("--translation-kernels", type=int, default=0, metavar="N", help="split notebook 01 over N kernels")
    add("--synthesis-kernels", type=int, default=0, metavar="N", help="split notebook 02 over N kernels")
    add("--minutes", type=int, default=690, help="stop each session cleanly after this time (690)")
    add("--resume", action="store_true", help="attach each kernel's own last output, to continue from it")
    return parser


def _seed(text: str) -> int:
    if not text.strip().isdecimal() or int(text) >= 2**32:
        raise BncapError(f"seed {text!r}: seeds are whole numbers from 0 to 2^32 - 1, with commas, such as 42,43,44")
    return int(text)


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(_seed(number) for number in text.split(","))


def _shards(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise BncapError(f"--shards {text}: write numbers with commas, such as 3,4")
    return [int(number) for number in text.split(",")]


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise BncapError(f"--shard {text}: write I/N with 1 <= I <= N, such as 1/4")
    return int(match[1]), int(match[2])


def _profile(options: argparse.Namespace) -> tuple[str, list[str]]:
    """The profile, and the overrides that the options of a command stand for."""
    values = {
        "data.captions": options.captions and options.captions.resolve(),
        "data.images": options.images and options.images.resolve(),
        "data.lang": options.lang,
        "data.max_rejected": options.allow_rejected,
        "data.source": "own" if options.captions and options.profile not in (None, "own") else None,
    }
    overrides = [f"{field}={value}" for field, value in values.items() if value is not None]
    return options.profile or ("own" if options.captions else "mini"), overrides + options.overrides


def _config(options: argparse.Namespace) -> Config:
    config = get_config(*_profile(options))
    select_folders(config)
    return config


def _run(options: argparse.Namespace) -> None:
    from bncap.commands import runner  # for this command alone

    (profile, overrides), seed = _profile(options), options.seed
    if options.seeds is not None:
        seed = options.seeds[0]
        overrides.append(f"experiment.seeds={options.seeds}")
    if options.retrain_encoder:
        overrides.append("world.retrain_encoder=True")
    if options.jobs is not None:
        if options.jobs < 1:
            raise BncapError("--jobs must be at least 1")
        os.environ["BNCAP_JOBS"] = str(options.jobs)
    own = get_config(profile, overrides).data.source == "own"
    notebooks = runner.select(options.first, options.last, options.only, own, options.extended)
    runner.run(runner.Request(profile, seed, tuple(overrides)), notebooks, force=options.force)
    report = paths.figures_dir(profile) / "report.html"
    print(f"report: {report}" if report.is_file() else f"figures: {report.parent}")


def _check(options: argparse.Namespace) -> int:
    if options.full_size:
        from bncap.commands.full_size import full_size_table  # for this command alone

        text, agree = full_size_table()
        print(text)
        return 0 if agree else 1
    from bncap.commands import check  # for this command alone

    config = get_config(*_profile(options))
    if options.download:
        check.download(config, options.only)
    requirements = check.check_requirements(config, options.only)
    print(check.format_table(requirements))
    return 1 if any(each.state == check.MISSING for each in requirements) else 0


def _status(options: argparse.Namespace) -> None:
    from bncap.commands.runner import status_table  # for this command alone

    print(status_table(_config(options).profile))


def _publish(options: argparse.Namespace) -> None:
    from bncap.commands.publish import PUBLISHED, publish  # for this command alone

    publish(options.profile)
    print(f"published: {PUBLISHED}; look at `git diff`, then commit")


def _translate(options: argparse.Namespace) -> None:
    from bncap.data.corpus import build_shards  # for this command alone

    build_shards(_config(options), options.shards)


def _synthesise(options: argparse.Namespace) -> None:
    from bncap.synthesis import generate  # for this command alone

    generate.draw_shards(_config(options), options.shard)


def _audit(options: argparse.Namespace) -> int:
    from bncap.synthesis.audit import audit_pictures  # for this command alone

    lines, same = audit_pictures(_config(options), options.n, options.seed)
    print("\n".join(lines))
    return 0 if same else 1


def _caption(options: argparse.Namespace) -> None:
    from bncap.commands.caption import caption_pictures, report_lines  # for this command alone

    captioned = caption_pictures(
        options.pictures, options.profile, options.run, options.beams, options.attention, options.overrides
    )
    print("\n".join(report_lines(captioned, as_json=options.json)))


def _export(options: argparse.Namespace) -> None:
    from bncap.commands.caption import export  # for this command alone

    print(export(options.out, options.profile, options.run))


def _kaggle(options: argparse.Namespace) -> None:
    from bncap.kaggle.kernels import Export, write_kernels  # for this command alone

    profile, overrides = _profile(options)
    named = {field.name: getattr(options, field.name) for field in fields(Export) if hasattr(options, field.name)}
    named |= {"overrides": tuple(overrides), "data": tuple(options.data), "models": tuple(options.models)}
    export = Export(**named | {"profile": profile})
    out = options.out or paths.artifacts_root() / "kaggle_kernels"
    for folder in write_kernels(export, out):
        print(folder)
    print(f"how to push them: {out / 'README.md'}")


if __name__ == "__main__":
    sys.exit(main())

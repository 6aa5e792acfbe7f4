"""``python -m bncap {run,check,status,translate,synthesise,audit,caption,export,kaggle}``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import deadline


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: done; 1: something the user can mend, said in a few lines; 2: wrong arguments; 75: time is up."""
    options = _parser().parse_args(arguments)
    try:
        if getattr(options, "minutes", None) is not None:
            deadline.set_minutes(options.minutes)
        return options.command(options) or 0
    except OutOfTime as error:
        print(error, file=sys.stderr)
        return deadline.EXIT_STATUS
    except BncapError as error:
        if options.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if options.traceback:
            raise
        named = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error
        print(f"error: {named}; check that path and its disk, then start again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; everything finished is kept", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """One line for wrong arguments instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m bncap", description=__doc__)
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _command(commands, "run", _run, "run the notebooks in order")
    run.add_argument("--seed", type=int, default=42, help="first seed of the repeated runs (default 42)")
    run.add_argument("--seeds", help="the seeds themselves, such as 42,43,44")
    run.add_argument("--from", dest="first", metavar="NN", help="first notebook, such as 04")
    run.add_argument("--to", dest="last", metavar="NN", help="last notebook")
    run.add_argument("--only", metavar="NN[,NN]", help="just these notebooks")
    run.add_argument("--jobs", type=int, help="worker processes (default: one a processor)")
    run.add_argument("--minutes", type=float, help="stop cleanly after so long; the same command goes on from there")
    run.add_argument("--retrain-encoder", action="store_true", help="train the mini encoder instead of the shipped one")
    run.add_argument("--extended", action="store_true", help="other readings of the paper and error analysis as well")
    run.add_argument("--force", action="store_true", help="run notebooks that are up to date as well")

    check = _command(commands, "check", _check, "is everything here that a profile needs?")
    check.add_argument("--only", metavar="NN", help="what one notebook needs")
    check.add_argument("--download", action="store_true", help="fetch the models that are missing first")
    check.add_argument("--full-size", action="store_true", help="one step and one beam search at the real sizes")

    _command(commands, "status", _status, "state, time and size of each step")

    translate = _command(commands, "translate", _translate, "translate and verify the captions, or some shards of them")
    translate.add_argument("--shards", metavar="N[,N]", help="only these, counted from 0")
    translate.add_argument("--minutes", type=float, help="stop cleanly after so long")

    synthesise = _command(commands, "synthesise", _synthesise, "draw the synthetic pictures, or a part of them")
    synthesise.add_argument("--shard", metavar="I/N", help="process I of N, from 1: every N-th tar shard")
    synthesise.add_argument("--minutes", type=float, help="stop cleanly after so long")

    audit = _command(commands, "audit", _audit, "draw some of the synthetic pictures again and compare")
    audit.add_argument("--n", type=int, default=16, help="how many (default 16)")
    audit.add_argument("--seed", type=int, default=0, help="which ones (default 0)")

    caption = _command(commands, "caption", _caption, "caption pictures with a trained model")
    caption.add_argument("pictures", nargs="+", type=Path, help="picture files or folders of them")
    caption.add_argument("--run", type=Path, help="folder of a training run (default: the newest main model)")
    caption.add_argument("--beams", type=int)
    caption.add_argument("--attention", type=Path, metavar="PNG", help="draw where each word looks")
    caption.add_argument("--json", action="store_true", help="one JSON object a line")
    caption.set_defaults(profile=None)

    export = _command(commands, "export", _export, "write a trained decoder as a plain mBART-50 checkpoint")
    export.add_argument("--run", type=Path, help="folder of a training run (default: the newest main model)")
    export.add_argument("--out", type=Path, required=True, help="folder to write to")

    kaggle = _command(commands, "kaggle", _kaggle, "write kernel folders for `kaggle kernels push`")
    kaggle.add_argument("--user", required=True, help="your Kaggle user name")
    kaggle.add_argument("--out", type=Path, help="folder to write to (default: kaggle_kernels in the artefact root)")
    kaggle.add_argument("--gpu", default="NvidiaTeslaT4", help="machine shape (default NvidiaTeslaT4, which means two)")
    kaggle.add_argument("--no-internet", action="store_true", help="kernels without internet: attach the models")
    kaggle.add_argument("--data", action="append", default=[], metavar="OWNER/SLUG", help="data set to attach")
    kaggle.add_argument("--models", action="append", default=[], metavar="OWNER/SLUG", help="data set with models")
    kaggle.add_argument("--translation-kernels", type=int, default=0, metavar="N", help="share 01 among N kernels")
    kaggle.add_argument("--synthesis-kernels", type=int, default=0, metavar="N", help="share 02 among N kernels")
    kaggle.add_argument("--minutes", type=int, default=690, help="stop each session cleanly after so long (690)")
    kaggle.add_argument("--resume", action="store_true", help="attach each kernel's own last output, to go on from it")
    kaggle.set_defaults(profile="kaggle")
    return parser


def _command(commands: argparse._SubParsersAction, name: str, function, text: str) -> argparse.ArgumentParser:
    """A sub-command with the options that say which configuration is meant."""
    command = commands.add_parser(name, help=text)
    command.add_argument("--profile", help="smoke, mini (default), own, kaggle or paper")
    command.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    command.add_argument("--captions", metavar="FILE", help="captions of your own (profile own)")
    command.add_argument("--images", metavar="DIR", help="the folder of their pictures")
    command.add_argument("--lang", help="target language, an mBART-50 code such as hi_IN")
    command.add_argument("--allow-rejected", type=float, metavar="SHARE", help="share of unusable pictures to accept")
    command.set_defaults(command=function)
    return command


def _configuration(options: argparse.Namespace) -> tuple[str, list[str]]:
    """The profile and the overrides that the options of :func:`_command` mean."""
    named = {
        "data.captions": options.captions and Path(options.captions).resolve(),
        "data.images": options.images and Path(options.images).resolve(),
        "data.lang": options.lang,
        "data.max_rejected": options.allow_rejected,
    }
    overrides = [f"{field}={value}" for field, value in named.items() if value is not None]
    if options.captions and options.profile not in (None, "own"):
        overrides.append("data.source=own")
    return options.profile or ("own" if options.captions else "mini"), overrides + options.overrides


def _config(options: argparse.Namespace):
    from bncap.config import get_config
    from bncap.pipeline.trials import select_folders

    config = get_config(*_configuration(options))
    select_folders(config)
    return config


def _run(options: argparse.Namespace) -> None:
    from bncap.commands import runner
    from bncap.config import get_config
    from bncap.pipeline import paths

    (profile, overrides), seed = _configuration(options), options.seed
    if options.seeds is not None:
        seeds = _parse_seeds(options.seeds)
        seed = seeds[0]
        overrides.append(f"experiment.seeds={seeds}")
    if not 0 <= seed < 2**32:
        raise BncapError(f"--seed {seed}: a seed is a whole number from 0 to 2^32 - 1")
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


def _parse_seeds(text: str) -> tuple[int, ...]:
    numbers = [number.strip() for number in text.split(",")]
    if not all(number.isdecimal() and int(number) < 2**32 for number in numbers):
        raise BncapError(f"--seeds {text}: write whole numbers below 2^32 with commas, such as 42,43,44")
    seeds = tuple(map(int, numbers))
    if len(set(seeds)) < len(seeds):
        raise BncapError(f"--seeds {text}: a seed comes twice; each run has a seed of its own")
    return seeds


def _check(options: argparse.Namespace) -> int:
    if options.full_size:
        from bncap.commands.full_size import full_size_table

        text, agree = full_size_table()
        print(text)
        return 0 if agree else 1
    from bncap.commands import check as preflight
    from bncap.config import get_config

    config = get_config(*_configuration(options))
    if options.download:
        preflight.download(config, options.only)
    findings = preflight.preflight(config, options.only)
    print(preflight.table(findings))
    return 1 if any(finding.state == preflight.MISSING for finding in findings) else 0


def _status(options: argparse.Namespace) -> None:
    from bncap.commands.status import status_table

    print(status_table(_config(options).profile))


def _translate(options: argparse.Namespace) -> None:
    from bncap.data import translations

    config = _config(options)
    numbers = None
    if options.shards is not None:
        if not all(n.strip().isdecimal() for n in options.shards.split(",")):
            raise BncapError(f"--shards {options.shards}: write numbers with commas, such as 3,4")
        numbers = [int(n) for n in options.shards.split(",")]
    translations.build_shards(config, numbers)


def _synthesise(options: argparse.Namespace) -> None:
    from bncap.synthesis import generate

    part = None
    if options.shard is not None:
        one, slash, of = options.shard.partition("/")
        if not (slash and one.isdecimal() and of.isdecimal() and 1 <= int(one) <= int(of)):
            raise BncapError(f"--shard {options.shard}: write I/N with 1 <= I <= N, such as 1/4")
        part = int(one), int(of)
    generate.draw_shards(_config(options), part)


def _audit(options: argparse.Namespace) -> int:
    from bncap.synthesis.audit import audit_pictures

    lines, same = audit_pictures(_config(options), options.n, options.seed)
    print("\n".join(lines))
    return 0 if same else 1


def _caption(options: argparse.Namespace) -> None:
    from bncap.commands.captioning import caption_pictures, report_lines

    found = caption_pictures(
        options.pictures, options.profile, options.run, options.beams, options.attention, options.overrides
    )
    print("\n".join(report_lines(found, as_json=options.json)))


def _export(options: argparse.Namespace) -> None:
    from bncap.commands.captioning import export

    print(export(options.out, options.profile, options.run))


def _kaggle(options: argparse.Namespace) -> None:
    from bncap.kaggle.kernels import Export, write_kernels
    from bncap.pipeline import paths

    profile, overrides = _configuration(options)
    export = Export(
        user=options.user,
        profile=profile,
        overrides=tuple(overrides),
        gpu=options.gpu,
        internet=not options.no_internet,
        translation_kernels=options.translation_kernels,
        synthesis_kernels=options.synthesis_kernels,
        minutes=options.minutes,
        data=tuple(options.data),
        models=tuple(options.models),
        resume=options.resume,
    )
    out = options.out or paths.artifacts_root() / "kaggle_kernels"
    for folder in write_kernels(export, out):
        print(folder)
    print(f"how to push them: {out / 'README.md'}")


if __name__ == "__main__":
    sys.exit(main())

"""``python -m bncap {run,check,status,caption}``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bncap.errors import BncapError


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: done; 1: something the user can mend, said in a few lines; 2: wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except BncapError as error:
        if options.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if options.traceback:
            raise
        print(f"error: {error}; check that path and its disk, then start again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; everything finished is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bncap", description=__doc__)
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(required=True, metavar="{run,check,status,caption}")

    run = commands.add_parser("run", help="run the notebooks in order")
    run.add_argument("--profile", default="mini", help="smoke, mini (default), kaggle or paper")
    run.add_argument("--seed", type=int, default=42, help="first seed of the repeated runs (default 42)")
    run.add_argument("--seeds", help="the seeds themselves, such as 42,43,44")
    run.add_argument("--from", dest="first", metavar="NN", help="first notebook, such as 04")
    run.add_argument("--to", dest="last", metavar="NN", help="last notebook")
    run.add_argument("--only", metavar="NN[,NN]", help="just these notebooks")
    run.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    run.add_argument("--jobs", type=int, help="worker processes (default: one a processor)")
    run.add_argument("--retrain-encoder", action="store_true", help="train the mini encoder instead of the shipped one")
    run.add_argument("--force", action="store_true", help="run notebooks that are up to date as well")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="is everything here that a profile needs?")
    check.add_argument("--profile", default="mini")
    check.set_defaults(command=_check)

    status = commands.add_parser("status", help="state, time and size of each step")
    status.add_argument("--profile", default="mini")
    status.set_defaults(command=_status)

    caption = commands.add_parser("caption", help="caption pictures with a trained model")
    caption.add_argument("pictures", nargs="+", type=Path, help="picture files or folders of them")
    caption.add_argument("--run", type=Path, help="folder of a training run (default: the newest main model)")
    caption.add_argument("--profile", default="mini")
    caption.add_argument("--beams", type=int)
    caption.add_argument("--attention", type=Path, metavar="PNG", help="draw where each word looks")
    caption.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    caption.add_argument("--json", action="store_true", help="one JSON object a line")
    caption.set_defaults(command=_caption)
    return parser


def _run(options: argparse.Namespace) -> None:
    from bncap import paths, runner

    overrides, seed = list(options.overrides), options.seed
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
    request = runner.Request(options.profile, seed, tuple(overrides))
    runner.run(request, runner.select(options.first, options.last, options.only), force=options.force)
    report = paths.figures_dir(options.profile) / "report.html"
    if report.is_file():
        print(f"report: {report}")


def _parse_seeds(text: str) -> tuple[int, ...]:
    numbers = [number.strip() for number in text.split(",")]
    if not all(number.isdecimal() and int(number) < 2**32 for number in numbers):
        raise BncapError(f"--seeds {text}: write whole numbers below 2^32 with commas, such as 42,43,44")
    seeds = tuple(map(int, numbers))
    if len(set(seeds)) < len(seeds):
        raise BncapError(f"--seeds {text}: a seed comes twice; each run has a seed of its own")
    return seeds


def _check(options: argparse.Namespace) -> int:
    from bncap.preflight import preflight_table

    table, complete = preflight_table(options.profile)
    print(table)
    return 0 if complete else 1


def _status(options: argparse.Namespace) -> None:
    from bncap.status import status_table

    print(status_table(options.profile))


def _caption(options: argparse.Namespace) -> None:
    from bncap.captioning import caption_pictures, report_lines

    found = caption_pictures(
        options.pictures, options.profile, options.run, options.beams, options.attention, options.overrides
    )
    print("\n".join(report_lines(found, as_json=options.json)))


if __name__ == "__main__":
    sys.exit(main())

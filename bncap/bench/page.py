"""``figures/bench/README.md``, from the JSON files alone: every benchmark, and the GPU-hours of the paper's tables."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bncap.bench import BENCHES, hours, operations
from bncap.bench.hours import Clock, Run
from bncap.bench.operations import Work
from bncap.bench.plot_growth import growth_figure
from bncap.commands.random_models import Sizes
from bncap.config import MAIN, get_config
from bncap.errors import BncapError
from bncap.pipeline import artifacts

Record = Mapping[str, Any]
NUMBER = re.compile(r"\**[≤≥]?\s?[\d.,]+(e[+-]\d+)?%?( h)?\**$|in each step$")


def write(folder: Path) -> Path:
    """Write ``README.md``, and where there is a ``growth`` its figure, into ``folder``; returns the page's path.

    Raises :class:`BncapError` if the folder holds no benchmark.
    """
    records = read_all(folder)
    if not records:
        raise BncapError(f"{folder} holds no benchmark; make one with: python -m bncap bench step --out {folder}")
    parts = [
        "# Benchmarks",
        "Written by `python -m bncap bench page` from the JSON files beside it. Ours and what it is compared with were "
        "run in turn in one process; times are medians of the repeats, with the least and the most of them.",
        "## What was to be reached",
        _ratios(records),
        "## Where it was measured",
        _machines(records),
    ]
    for record in records:
        parts += [f"## `{name_of(record)}`", *section(record)]
    growth = [record for record in records if record["bench"] == "growth"]
    if growth:
        largest = max(growth, key=lambda record: (record["size"] == "full", record["device"] == "cuda"))
        growth_figure(largest, folder / "growth")
        parts += ["## Growth", "![Time and memory by size](growth.png)", _growth_text(largest)]
    parts += ["## GPU-hours of every table at the paper's scale", *hours_section(folder)]
    path = folder / "README.md"
    artifacts.write_text(path, "\n\n".join(parts) + "\n")
    return path


def read_all(folder: Path) -> list[Record]:
    """The benchmarks in ``folder``, in the order of :data:`bncap.bench.BENCHES`, full before mini."""
    records = [artifacts.read_json(path) for path in sorted(folder.glob("*-*-*.json"))]
    known = list(BENCHES)
    return sorted(records, key=lambda r: (known.index(r["bench"]), r["size"] != "full", r["device"]))


def name_of(record: Record) -> str:
    return f"{record['bench']} --size {record['size']} --device {record['device']}"


def section(record: Record) -> list[str]:
    """Its setting and its table."""
    rows = [
        (
            row["name"],
            *(_rounded(f(row["seconds"])) if row["seconds"] else "" for f in (statistics.median, min, max)),
            "" if row["rate"] is None else f"{_rounded(row['rate'])} {row['unit']}",
            "" if row["peak"] is None else f"{row['peak'] / 1e6:,.0f}",
            row["note"],
        )
        for row in record["rows"]
    ]
    header = ("", "median s", "least", "most", "rate", "peak MB", "")
    return [f"{_sentence(record['setting'])}", table(header, rows)]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right; columns that are empty throughout are left out."""
    rows = [list(row) for row in rows]
    used = [0, *(i for i in range(1, len(header)) if any(row[i] for row in rows))]
    numeric = [all(NUMBER.match(row[i]) for row in rows if row[i]) for i in used]
    lines = [[header[i] for i in used], ["---:" if right else "---" for right in numeric]]
    lines += [[row[i] for i in used] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratios(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        for ratio in record["ratios"]:
            wanted = ratio["wanted"]
            goal = "" if wanted is None else f"{'≤' if ratio['most'] else '≥'} {wanted:g}"
            verdict = "" if wanted is None else "reached" if ratio["reached"] else f"missed: {ratio['bound']}"
            rows.append((f"`{name_of(record)}`", ratio["what"], f"{ratio['value']:.3g}", goal, verdict))
    return table(("bench", "ratio", "measured", "wanted", "outcome"), rows)


def _machines(records: Sequence[Record]) -> str:
    """Each machine with its packages and the commit, and what was measured there."""
    found: dict[str, list[str]] = {}
    for record in records:
        machine = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in record["machine"].items())
        packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
        found.setdefault(f"{machine}; {packages}; commit {record['commit']}", []).append(f"`{name_of(record)}`")
    return "\n".join(f"- {', '.join(names)}: {where}" for where, names in found.items())


def _growth_text(record: Record) -> str:
    """What the axes do to time and memory, from their ends."""
    lines = []
    for axis, what in record["details"]["axes"]:
        points = sorted((p for p in record["details"]["points"] if p["axis"] == axis), key=lambda p: p["value"])
        first, last = points[0], points[-1]
        slower = statistics.median(last["seconds"]) / statistics.median(first["seconds"])
        lines.append(
            f"- {what}: × {last['value'] / first['value']:.3g} from {first['value']:,} to {last['value']:,} costs "
            f"× {slower:.3g} the time and × {last['peak'] / first['peak']:.3g} the memory."
        )
    return f"`{name_of(record)}`: {record['setting']}. Shaded: the range of the repeats.\n\n" + "\n".join(lines)


def hours_section(folder: Path) -> list[str]:
    """The arithmetic of :mod:`bncap.bench.hours` with its numbers; without a ``step`` at full size, how to measure."""
    clocks, plain_clocks = hours.clocks(folder), hours.clocks(folder, plain=True)
    if not clocks:
        return ["No full-size training step was measured; measure one with `python -m bncap bench step --size full`."]
    runs, plain = hours.tables(), hours.tables(plain=True)
    return [
        *_derivation(clocks, plain_clocks),
        _runs_text(),
        "Ours:",
        _formulas(clocks, hours.run_of(MAIN)),
        "The plain reading, with the encoder in every step, captions padded to the maximum and the whole vocabulary "
        "(whether it fits a card's memory is another question; the bench `step` has its peak):",
        _formulas(plain_clocks, hours.run_of(MAIN, plain=True)),
        _hours_table(clocks, plain_clocks, runs, plain),
        _at_equal_efficiency(clocks, plain),
        _dominant(clocks, runs),
        _decoded(folder),
        _kandinsky(),
    ]


def _derivation(clocks: Sequence[Clock], plain_clocks: Sequence[Clock]) -> list[str]:
    derived = " and ".join(clock.name for clock in clocks if not clock.measured)
    lines = [f"- {clock.name}: {clock.how}." for clock in clocks if clock.measured]
    lines += [f"- {card.name}: {card.source}." for card in hours.CARDS]
    lines += [f"- Efficiency: {clocks[-1].how}; {plain_clocks[-1].how}."]
    return [
        f"**The hours on {derived} are derived, not measured on such a card.** Operations and bytes are counted on "
        "models without storage (`bncap.bench.operations`) and taken at the card's published peaks times an "
        "efficiency, the share of the measured ceilings (matrix products and copies in memory) that the benches "
        "`step` and `decode` reach where they were run. To measure a card: `python -m bncap bench step --size full "
        "--device cuda`, and `decode` and `growth` likewise; this page then takes those times.",
        "\n".join(lines),
    ]


def _runs_text() -> str:
    config = get_config("kaggle")
    data, train = config.data, config.train
    main = hours.run_of(MAIN)
    pictures = data.test_images + data.ood_images
    again = "; activations are computed twice (`model.checkpointing`)" if config.model.checkpointing else ""
    return (
        f"A run is {train.epochs} epochs × ⌈{data.triplets:,} / {train.batch}⌉ = {main.steps:,} steps (Table 4: "
        f"{config.experiment.sensitivity_triplets:g} of the triplets), after each epoch the cross-entropy of "
        f"{data.validation_images} × {hours.CAPTIONS} captions, and in the end {config.decode.beams} beams on "
        f"{pictures:,} test pictures. Captions have {operations.TOKENS} tokens, the vocabulary "
        f"{Sizes().trimmed:,} pieces, one seed each{again}."
    )


def _formulas(clocks: Sequence[Clock], main: Run) -> str:
    """A step, a run and the decoding of the main model with all numbers in them."""
    step, searched = main.step, main.parts["decoding"] * (1 / main.tested)
    parameters = step.bytes / operations.ADAMW_TRAFFIC / 1e6
    lines = [
        f"- Counted: {_tera(step)} a step, and {step.bytes / 1e9:.2f} GB of AdamW's ({operations.ADAMW_TRAFFIC} B × "
        f"{parameters:.1f} M parameters); {_tera(searched)} and {searched.bytes / 1e9:.2f} GB a picture decoded."
    ]
    for clock in clocks:
        text = f"{step.operations / 1e12:.3g} TFLOP / {clock.operations / 1e12:.3g} TFLOP/s"
        if not clock.measured:
            text += f" + {step.bytes / 1e9:.2f} GB / {clock.bytes / 1e9:.3g} GB/s"
        lines.append(
            f"- {clock.name}: {text} = {3600 * clock.hours(step):.3f} s a step; × {main.steps:,} = "
            f"{clock.hours(main.parts['training']):.2f} h; decoding {main.tested:,} pictures "
            f"{60 * clock.hours(main.parts['decoding'], 'decoding'):.1f} min."
        )
    return "\n".join(lines)


def _hours_table(
    clocks: Sequence[Clock],
    plain_clocks: Sequence[Clock],
    runs: Mapping[str, list[Run]],
    plain: Mapping[str, list[Run]],
) -> str:
    """Hours of each table and card, with the features' pass, ours and the plain reading's, and their sums."""
    columns = [(clock, runs, True) for clock in clocks] + [(clock, plain, False) for clock in plain_clocks]
    header = ["", "new runs", *(f"{c.name}{'' if ours else ', plain reading'}" for c, _, ours in columns)]
    found = [hours.sums(clock, of) for clock, of, _ in columns]
    rows = []
    for name, of_table in runs.items():
        labels = f"{len(of_table)}: {'; '.join(run.label for run in of_table)}"
        rows.append([name, labels, *(f"{one[name]:.2f} h" for one in found)])
    passes = [sum(clock.hours(work) for work in hours.features().values()) * ours for clock, _, ours in columns]
    rows.append(["features, once", "3 encoders", *(f"{one:.2f} h" if one else "in each step" for one in passes)])
    totals = [sum(one.values()) + once for one, once in zip(found, passes, strict=True)]
    rows.append(["**sum**", "", *(f"**{total:.1f} h**" for total in totals)])
    rows.append([f"of a week's {hours.QUOTA} h", "", *(f"{total / hours.QUOTA:.0%}" for total in totals)])
    return table(header, rows)


def _at_equal_efficiency(clocks: Sequence[Clock], plain: Mapping[str, list[Run]]) -> str:
    """The plain reading's hours if a card carried it out as well as ours, whose operations are of another mixture."""
    sums = ", ".join(f"{sum(hours.sums(clock, plain).values()):.1f} h on a {clock.name}" for clock in clocks)
    return (
        "The plain reading's hours rest on the efficiency that it reaches where it was run, on a CPU with convolutions "
        f"among them that no GPU carries out so slowly. At the efficiency of ours its tables would take {sums}; "
        "what they really take has to be measured on a card."
    )


def _dominant(clocks: Sequence[Clock], runs: Mapping[str, list[Run]]) -> str:
    """What most of our hours go into, card by card."""
    lines = []
    for clock in clocks:
        spent = {"the features' pass": sum(clock.hours(work) for work in hours.features().values())}
        for of_table in runs.values():
            for run in of_table:
                for part, work in run.parts.items():
                    split = {part: work}
                    if part == "training":
                        split = {"training's matrix products": Work(work.operations), "AdamW": Work(0, work.bytes)}
                    for name, share in split.items():
                        spent[name] = spent.get(name, 0) + clock.hours(share, part)
        total = sum(spent.values())
        named = [f"{n} {s / total:.0%}" for n, s in sorted(spent.items(), key=lambda e: -e[1]) if s >= total / 200]
        lines.append(f"- {clock.name}: {', '.join(named)}.")
    return "What dominates (what is below half a percent is left out):\n\n" + "\n".join(lines)


def _decoded(folder: Path) -> str:
    """How long the processor needs to read the pictures for the features' pass, where that was measured."""
    record, pictures = hours.read(folder, "features", "cpu"), hours.real_pictures()
    if record is None:
        return "How fast the pictures are read and decoded for the features' pass was not measured (bench `features`)."
    row, workers = record["rows"][1], record["details"]["workers"]
    return (
        f"The features' pass also has to read and decode {pictures:,.0f} photographs on the processor: at "
        f"{_rounded(row['rate'])} a second and worker, {workers} workers take "
        f"{pictures / row['rate'] / workers / 60:.0f} min."
    )


def _kandinsky() -> str:
    """The U-Net's operations for all synthetic pictures at the peaks."""
    config = get_config("kaggle")
    drawn = operations.drawing(config.synthesis.side, config.synthesis.steps)
    total = drawn.operations * config.data.triplets
    least = ", ".join(f"{total / card.operations / 3600:,.0f} h on a {card.name}" for card in hours.CARDS)
    return (
        "Not part of the tables: translation, verification and the synthetic pictures, which are made once. Kandinsky "
        f"2.1's U-Net alone takes {_tera(drawn)} a picture of {config.synthesis.side} px ({config.synthesis.steps} "
        f"steps, each with and without the prompt); {config.data.triplets:,} pictures at the published peak, which "
        f"nothing reaches, would be {least}."
    )


def _tera(work: Work) -> str:
    return f"{work.operations / 1e12:.3g} TFLOP"


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."

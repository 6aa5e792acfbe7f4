"""Tables 1 to 4 of the paper: read from saved scores, formatted once, written as CSV, Markdown and LaTeX."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bncap import stats
from bncap.config import ALL_VARIANTS, PART_BASE, SENSITIVITY
from bncap.errors import BncapError
from bncap.experiments import comparisons, paper
from bncap.experiments.comparisons import read_scores, seed_mean_std
from bncap.experiments.estimates import DIGITS, Record, first, select
from bncap.experiments.runs import TABLES
from bncap.pipeline import artifacts, paths
from bncap.settings import Config

METRICS = (*paper.METRICS, "noun_precision")
SETTINGS = ("lambda", "tau", "rho")
HEADINGS = {
    "method": "Method", "lambda": "λ", "tau": "τ", "rho": "ρ", "split": "Images", "noun_precision": "Noun prec.",
}  # fmt: skip
MARKS = {comparisons.TO_BASE: "*", comparisons.TO_ABOVE: "†"}
DIFFERENCE_METRICS = ("B4", "METEOR", "BERT-F1", "noun_precision")
"""The metrics of the block of differences below a table; its CSV has all of them."""
UNKNOWN = "–"
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "±": r"$\pm$", "–": "--",
    "−": "$-$", "*": r"$^{*}$", "†": r"$^{\dagger}$", "λ": r"$\lambda$", "τ": r"$\tau$", "ρ": r"$\rho$",
})  # fmt: skip


def format_number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """``12.30``, with ``sign="+"`` ``+12.30``; a dash for None and NaN."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def format_mean(mean: float | None, std: float | None, marks: str = "", digits: int = 2) -> str:
    """``12.30* ± 0.40``; the mean alone where the deviation is not known."""
    deviation = format_number(std, digits)
    return format_number(mean, digits) + marks + (f" ± {deviation}" if deviation != UNKNOWN else "")


def format_interval(record: Record | None, key: str = "difference", digits: int = 2, mark: str = "") -> str:
    """``+1.20* [+0.30, +2.10]`` of ``record[key]`` with ``low`` and ``high``.

    Only a difference has a sign, and ``mark`` only where its interval leaves out 0.  A dash where the value is not
    known; no bounds where the interval is not.
    """
    if record is None or record[key] is None:
        return UNKNOWN
    sign = "+" if key == "difference" else ""
    value = format_number(record[key], digits, sign) + mark * bool(record.get("excludes_zero"))
    if record["low"] is None or record["high"] is None:
        return value
    return f"{value} [{format_number(record['low'], digits, sign)}, {format_number(record['high'], digits, sign)}]"


@dataclass(frozen=True)
class FormattedTable:
    """A table of text cells.

    The first ``text_columns`` hold no numbers.  ``paper_rows`` are the positions of the rows that the paper prints or
    people wrote.  ``caption_column`` holds captions in the target language.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    notes: tuple[str, ...] = ()
    paper_rows: Collection[int] = ()
    caption_column: str = ""

    @property
    def cells(self) -> pd.DataFrame:
        """The rows under their columns."""
        return pd.DataFrame(list(self.rows), columns=list(self.columns))

    def markdown(self) -> str:
        """Title and caption, the cells as a pipe table, and the notes."""
        align = ["left" if i < self.text_columns else "right" for i in range(len(self.columns))]
        cells = self.cells.map(_escape_markdown).rename(columns=_escape_markdown)
        rows = cells.to_markdown(index=False, colalign=align, disable_numparse=True)
        return "\n\n".join([f"**{self.title}.** {_escape_markdown(self.caption)}", rows, *self.notes]) + "\n"

    def write_markdown(self, path: Path) -> str:
        """Write :meth:`markdown` to ``path`` and return it, for a notebook to show."""
        artifacts.write_text(path, self.markdown())
        return self.markdown()

    def latex(self) -> str:
        """A ``table*`` with booktabs' rules; the document needs ``\\usepackage{booktabs}`` and nothing else."""
        columns = "l" * self.text_columns + "r" * (len(self.columns) - self.text_columns)
        styler = self.cells.style.hide(axis="index").format(_format_latex).format_index(_format_latex, axis="columns")
        text = styler.to_latex(
            environment="table*", position_float="centering", hrules=True, column_format=f"@{{}}{columns}@{{}}",
            caption=" ".join([self.caption, *self.notes]).translate(LATEX), label=f"tab:{self.name}",
        )  # fmt: skip
        return text.replace("\\centering", "\\centering\\scriptsize\\setlength{\\tabcolsep}{1pt}", 1)


def _escape_markdown(text: str) -> str:
    return str(text).replace("|", r"\|").replace("*", r"\*")


def _format_latex(text: str) -> str:
    """Minus signs as such; deviations and intervals in small print, so that a table fits the width of a page."""
    signed = re.sub(r"(?<!\w)-(?=\d)", "−", text).translate(LATEX)
    return re.sub(r" (\$\\pm\$|\[)(.*)", r"{\\tiny\\ \1\2}", signed)


def read_table(name: str, config: Config, first_seed: int, variants: Sequence[str] = ()) -> pd.DataFrame:
    """The table ``name`` of :data:`bncap.experiments.runs.TABLES`: a row for each variant, test split and seed.

    Columns ``method, split, seed, B1, B2, B3, B4, METEOR, BERT-F1`` and, where the pictures' objects are known,
    ``noun_precision``; ``method`` is the variant's name, in Table 4 ``lambda, tau, rho`` instead; scores are 0 to 100.
    The seeds are ``config.seeds(first_seed)``; ``variants`` replaces those of the table.  Raises BncapError for an
    unknown table, and, with the command that makes it, for a run that is not finished.
    """
    _check_name(name)
    rows = []
    for variant in variants or TABLES[name].variants:
        settings = map(float, re.findall(r"[\d.]+", variant))
        named = dict(zip(SETTINGS, settings, strict=True)) if variant in SENSITIVITY else {"method": variant}
        for split in TABLES[name].splits:
            for seed in config.seeds(first_seed):
                scores = read_scores(config, variant, seed).get(split)
                if scores is not None:  # own data have one test set
                    values = {metric: round(scores[metric], DIGITS) for metric in METRICS if metric in scores}
                    rows.append({**named, "split": split, "seed": seed, **values})
    return pd.DataFrame(rows)


def _check_name(name: str) -> None:
    if name not in TABLES:
        raise BncapError(f"unknown table {name!r}: choose one of {', '.join(TABLES)}")


def variant_of(row: pd.Series) -> str:
    """The variant that a row of a table is about."""
    return row["method"] if "method" in row else f"lambda{row['lambda']}-tau{row['tau']}-rho{row['rho']}"


def write_table(frame: pd.DataFrame, name: str, config: Config) -> list[Path]:
    """Write ``frame`` as ``figures/<profile>/<name>.csv``, ``.md`` and ``.tex``; returns their paths.

    ``name`` is one of :data:`bncap.experiments.runs.TABLES`.  The CSV holds the rows as they are; the other two show
    mean ± sample standard deviation over the seeds, each method above what the paper prints for it, then the
    differences from cross-entropy alone and from the row above, which go into ``<name>_differences.csv`` too.
    """
    _check_name(name)
    folder = paths.figures_dir(config.profile)
    csv, md, tex = (folder / f"{name}{suffix}" for suffix in (".csv", ".md", ".tex"))
    variants = list(dict.fromkeys(frame.apply(variant_of, axis=1)))
    differences = comparisons.compare_table(config, int(frame["seed"].iloc[0]), name, variants)
    artifacts.write_text(csv, frame.to_csv(index=False, lineterminator="\n"))
    comparisons.write_differences(config, name, differences)
    formatted = format_table(frame, name, config, differences)
    artifacts.write_text(md, "\n".join(table.markdown() for table in formatted))
    artifacts.write_text(tex, "\n".join(table.latex() for table in formatted))
    return [csv, md, tex]


def format_table(frame: pd.DataFrame, name: str, config: Config, differences: Sequence[Record]) -> list[FormattedTable]:
    """The table ``name`` with means, deviations over seeds and the paper's rows, and, if any, its differences.

    ``differences``: its records of :func:`bncap.experiments.comparisons.compare_table`, which also set the marks at the
    means.
    """
    keys = [*SETTINGS] if "lambda" in frame else ["method"]
    several = frame["split"].nunique() > 1
    own = config.data.source == "own"  # the paper's numbers are of other data
    metrics = [metric for metric in METRICS if metric in frame]
    marks: dict[tuple[str, str, str], str] = defaultdict(str)
    for relation, mark in MARKS.items():
        for r in select(differences, relation=relation, excludes_zero=True):
            marks[r["variant"], r["split"], r["metric"]] += mark
    rows, notes, paper_rows = [], [], set()
    for _, group in frame.groupby([*keys, "split"], sort=False):
        variant, split = variant_of(group.iloc[0]), group["split"].iloc[0]
        names = [str(group[key].iloc[0]) for key in keys] if len(keys) > 1 else [paper.label(variant)]
        means = [format_mean(*seed_mean_std(group[metric]), marks[variant, split, metric]) for metric in metrics]
        rows.append([*names, *[paper.SPLITS[split]] * several, "here", *means])
        printed = {} if own else paper.printed(variant, split)
        for place, scores in printed.items():
            paper_rows.add(len(rows))
            cells = [format_number(scores.get(metric)) for metric in metrics]
            rows.append([*[""] * len(keys), *[paper.DATASETS[split]] * several, f"paper, {place}", *cells])
        notes += [] if own else _note_paper(variant, printed)
    if "lambda" in frame:
        saved = pd.DataFrame([read_scores(config, PART_BASE, seed)["ood"] for seed in sorted(set(frame["seed"]))])
        base_scores = (f"{HEADINGS.get(m, m)} {format_mean(*seed_mean_std(saved[m]))}" for m in metrics)
        notes.append(f"{paper.label(PART_BASE)}, has {', '.join(base_scores)}.")
    title = "The captioner on pictures that it was not trained on" if own else TABLES[name].title
    caption = f"{title}. {_describe_runs(frame, config)}"
    if differences:
        base = first(differences, relation=comparisons.TO_BASE)["against"]
        above = first(differences, relation=comparisons.TO_ABOVE)
        meanings = f"* differs from {paper.label(base)}" + ("; † from the row above" if above else "")
        level = differences[0]["level"]
        caption += f" {meanings}: 0 lies outside the {level:.0%} interval of the difference."
    columns = [HEADINGS.get(c, c) for c in (*keys, *["split"] * several, "From", *metrics)]
    number, text_columns = TABLES[name].number, len(columns) - len(metrics)
    main = FormattedTable(name, f"Table {number}", caption, columns, rows, text_columns, tuple(notes), paper_rows)
    return [main, *([_format_differences(name, differences, several)] if differences else [])]


def _format_differences(name: str, differences: Sequence[Record], several: bool) -> FormattedTable:
    """The block below a table: a row for each row of the table and each that it is compared with."""
    metrics = [metric for metric in DIFFERENCE_METRICS if select(differences, metric=metric)]
    rows = []
    for place in dict.fromkeys((r["split"], r["variant"], r["relation"], r["against"]) for r in differences):
        split, variant, relation, base = place
        records = select(differences, split=split, variant=variant, relation=relation)
        against = "row above" if relation == comparisons.TO_ABOVE else paper.label(base)
        cells = [format_interval(first(records, metric=metric), mark=MARKS[relation]) for metric in metrics]
        rows.append([paper.label(variant), *[paper.SPLITS[split]] * several, against, *cells])
    columns = [HEADINGS.get(c, c) for c in ("method", *["split"] * several, "Against", *metrics)]
    level, seeds = differences[0]["level"], differences[0]["seeds"]
    caption = (
        f"Difference of the means with its {level:.0%} interval: paired bootstrap over the test images"
        f"{f' and the {seeds} seeds' if seeds > 1 else ''}, {stats.REPLICATES} samples, BLEU of each whole sample. "
        f"* and †: the interval leaves out 0, as about {1 - level:.0%} would without any true difference."
    )
    title = f"Differences, Table {TABLES[name].number}"
    return FormattedTable(f"{name}_differences", title, caption, columns, rows, len(columns) - len(metrics))


def _note_paper(variant: str, printed: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What a reader must know of the paper's rows for ``variant``."""
    name = paper.label(variant)
    if not printed:
        return [f"{name} has no counterpart in the paper: {ALL_VARIANTS[variant].reason}."]
    if len({tuple(row.items()) for row in printed.values()}) > 1:
        values = " and ".join(f"{row['B4']:.2f} in {place}" for place, row in printed.items())
        return [f"The paper prints different scores for {name} on the same images, BLEU-4 {values}; both are shown."]
    return []


def _describe_runs(frame: pd.DataFrame, config: Config) -> str:
    """The part of a caption that says what was averaged over what."""
    seeds = sorted(set(frame["seed"]))
    listed = ", ".join(map(str, seeds))
    if len(seeds) > 1:
        averaged = f"Mean ± standard deviation over {len(seeds)} seeds ({listed})"
    else:
        averaged = f"One seed ({listed}), so no standard deviation"
    scores = read_scores(config, variant_of(frame.iloc[0]), seeds[0])
    images = {split: scores[split]["images"] for split in dict.fromkeys(frame["split"])}
    closing = f"Profile {config.profile}; all scores 0–100, higher is better."
    if config.data.source == "own":
        return f"{averaged}; {sum(images.values())} test images. {closing}"
    tested = " and ".join(f"{count} test images {paper.SPLITS[split]}" for split, count in images.items())
    return f"{averaged}; {tested}; the paper has {paper.IMAGES}. {closing}"

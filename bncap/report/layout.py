"""How a table of scores is set: Markdown for the repository's page, LaTeX with booktabs for a paper."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

HEADINGS = {
    "method": "Method",
    "lambda": "λ",
    "tau": "τ",
    "rho": "ρ",
    "split": "Images",
    "source": "From",
    "against": "Against",
    "noun_precision": "Noun prec.",
}
UNKNOWN = "–"

LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "±": r"$\pm$", "–": "--",
    "−": "$-$", "*": r"$^{*}$", "†": r"$^{\dagger}$", "λ": r"$\lambda$", "τ": r"$\tau$", "ρ": r"$\rho$",
})  # fmt: skip
SMALL = {" ± ": r"$\pm$", " [": r"\,["}
"""What stands between a value and what LaTeX sets in small print after it, and how it is set."""


@dataclass(frozen=True)
class Row:
    """A line of a table, as text; ``ours`` tells what was measured here from what the paper prints."""

    cells: tuple[str, ...]
    ours: bool


@dataclass(frozen=True)
class Layout:
    """A table ready to be set, as text throughout: ``text_columns``, from the left, hold no scores.

    ``differences`` is set below it, without a number or notes of its own.
    """

    name: str
    number: int
    caption: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    text_columns: int
    differences: Layout | None = None


def number(value: float) -> str:
    """Two decimals; a dash for NaN."""
    return UNKNOWN if math.isnan(value) else f"{value:.2f}"


def spread(mean: float, std: float, marks: str = "") -> str:
    """``12.30* ± 0.40``; the mean alone where the deviation is not known."""
    return number(mean) + marks + ("" if math.isnan(std) else f" ± {number(std)}")


def difference(value: float | None, low: float | None, high: float | None, marks: str = "") -> str:
    """``+1.20* [+0.30, +2.10]``; a dash where it is not known, no bounds where the interval is not."""
    if value is None:
        return UNKNOWN
    return f"{value:+.2f}{marks}" + ("" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]")


def markdown(table: Layout) -> str:
    """The table for GitHub: its caption, its rows, its notes, and its differences."""
    notes = "".join(f"\n{note}\n" for note in table.notes)
    text = f"**Table {table.number}.** {_escaped(table.caption)}\n\n{_markdown_rows(table)}\n{notes}"
    if table.differences is None:
        return text
    return f"{text}\n**Differences.** {_escaped(table.differences.caption)}\n\n{_markdown_rows(table.differences)}\n"


def markdown_table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int, notes: Sequence[str] = ()
) -> str:
    """A table without a number for GitHub; ``text_columns``, from the left, hold no numbers."""
    return "\n\n".join([_escaped(caption), _lines(header, rows, text_columns), *map(_escaped, notes)]) + "\n"


def _markdown_rows(table: Layout) -> str:
    return _lines(table.header, [row.cells for row in table.rows], table.text_columns)


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    rules = ["---" if i < text_columns else "---:" for i in range(len(header))]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in (map(_escaped, header), rules, *(map(_escaped, row) for row in rows))
    )


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")


def latex(table: Layout) -> str:
    """The table for LaTeX; the document needs ``\\usepackage{booktabs}`` and nothing else."""
    caption = " ".join([table.caption, *table.notes]).translate(LATEX)
    below = []
    if table.differences is not None:
        below = [r"\par\medskip", table.differences.caption.translate(LATEX) + r"\par\smallskip"]
        below += _tabular(table.differences)
    return "\n".join([
        r"\begin{table*}",
        r"\centering\scriptsize\setlength{\tabcolsep}{1pt}",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{table.name}}}",
        *_tabular(table),
        *below,
        r"\end{table*}",
        "",
    ])  # fmt: skip


def _tabular(table: Layout) -> list[str]:
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    lines = [rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", _line(table.header), r"\midrule"]
    for i, row in enumerate(table.rows):
        if i and row.ours and row.cells[0] != table.rows[i - 1].cells[0]:
            lines.append(r"\addlinespace")
        lines.append(_line(row.cells, () if row.ours else range(table.text_columns)))
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _line(cells: tuple[str, ...], small: Sequence[int] = ()) -> str:
    set_cells = [rf"{{\tiny {_cell(cell)}}}" if i in small and cell else _cell(cell) for i, cell in enumerate(cells)]
    return " & ".join(set_cells) + r" \\"


def _cell(text: str) -> str:
    """Deviations and intervals in small print, or else a table is wider than a page; minus signs as such."""
    signed = re.sub(r"(?<!\w)-(?=\d)", "−", text)
    for separator, shown in SMALL.items():
        value, found, rest = (part.translate(LATEX) for part in signed.partition(separator))
        if found:
            return rf"{value}{{\tiny{shown}{rest}}}"
    return signed.translate(LATEX)

"""How a table of scores is set: Markdown for the repository's page, LaTeX with booktabs for a paper."""

from __future__ import annotations

import math
from dataclasses import dataclass

HEADINGS = {
    "method": "Method",
    "lambda": "λ",
    "tau": "τ",
    "rho": "ρ",
    "split": "Images",
    "source": "From",
    "noun_precision": "Noun prec.",
}
UNKNOWN = "–"

LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "±": r"$\pm$", "–": "--",
    "−": "$-$", "λ": r"$\lambda$", "τ": r"$\tau$", "ρ": r"$\rho$",
})  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of a table, as text; ``ours`` tells what was measured here from what the paper prints."""

    cells: tuple[str, ...]
    ours: bool


@dataclass(frozen=True)
class Layout:
    """A table ready to be set, as text throughout."""

    name: str
    number: int
    caption: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def text_columns(self) -> int:
        """How many columns, from the left, hold no scores."""
        return self.header.index(HEADINGS["source"]) + 1


def number(value: float) -> str:
    """Two decimals; a dash for NaN."""
    return UNKNOWN if math.isnan(value) else f"{value:.2f}"


def spread(mean: float, std: float) -> str:
    """``12.30 ± 0.40``; the mean alone where the deviation is not known."""
    return number(mean) if math.isnan(std) else f"{number(mean)} ± {number(std)}"


def markdown(table: Layout) -> str:
    """The table for GitHub, its caption above and its notes below."""
    rules = ["---" if i < table.text_columns else "---:" for i in range(len(table.header))]
    lines = [table.header, rules, *(row.cells for row in table.rows)]
    body = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    notes = "".join(f"\n{note}\n" for note in table.notes)
    return f"**Table {table.number}.** {table.caption}\n\n{body}\n{notes}"


def latex(table: Layout) -> str:
    """The table for LaTeX; the document needs ``\\usepackage{booktabs}`` and nothing else."""
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    lines = [r"\toprule", _line(table.header), r"\midrule"]
    for i, row in enumerate(table.rows):
        if i and row.ours:
            lines.append(r"\addlinespace")
        lines.append(_line(row.cells))
    caption = " ".join([table.caption, *table.notes]).translate(LATEX)
    return "\n".join([
        r"\begin{table*}",
        r"\centering\scriptsize\setlength{\tabcolsep}{1.5pt}",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
        "",
    ])  # fmt: skip


def _line(cells: tuple[str, ...]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(text: str) -> str:
    """Deviations in small print, or else a table of seven metrics is wider than a page."""
    mean, _, std = text.translate(LATEX).partition(" $\\pm$ ")
    return rf"{mean}{{\tiny$\,\pm\,${std}}}" if std else mean

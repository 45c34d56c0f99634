"""Tables of a page as files: CSV for programs, Markdown for notes, LaTeX for papers."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from medart_cli.data.output import write_text
from medart_cli.data.page import Table

# What LaTeX takes for its own, or its plain fonts lack.
LATEX = {
    "\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"$<$", ">": r"$>$", "✓": r"$\checkmark$", "✗": r"$\times$",
} | {it: f"\\{it}" for it in "&%$#_{}"}  # fmt: skip
LISTED_TABLES = re.compile(r"^([\w-]+)\n\n\|", re.MULTILINE)  # the tables of tables.md


def write_tables(out: Path, tables: Mapping[str, Table]) -> None:
    """Write tables below a folder: `tables/NAME.csv` each, and all in tables.md and tables.tex.

    Those of an earlier page, which its tables.md names, are removed.

    Args:
        out: The output folder.
        tables: Each with a name that a file can have.
    """
    folder = out / "tables"
    folder.mkdir(exist_ok=True)
    if (folder / "tables.md").is_file():
        before = (folder / "tables.md").read_text(encoding="utf-8")
        for name in LISTED_TABLES.findall(before):
            (folder / f"{name}.csv").unlink(missing_ok=True)
    for name, shown in tables.items():
        write_text(out / "tables" / f"{name}.csv", build_csv(shown))
    words = [f"{name}\n\n{build_markdown(shown)}" for name, shown in tables.items()]
    write_text(out / "tables" / "tables.md", "\n".join(words))
    papers = [build_latex(shown, name) for name, shown in tables.items()]
    write_text(out / "tables" / "tables.tex", "\n".join(papers))


def build_csv(shown: Table) -> str:
    """Write a table as CSV, its cells as the page shows them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([shown[0], *shown[1]])
    return text.getvalue()


def build_markdown(shown: Table) -> str:
    """Write a table as Markdown."""
    columns, rows = shown
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in lines)


def build_latex(shown: Table, comment: str) -> str:
    """Write a table for a paper; it needs no package, unless it has marks of findings (amssymb).

    Args:
        shown: The table.
        comment: A line above it.
    """
    columns, rows = shown
    lines = [
        f"% {comment}",
        f"\\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        "\\hline",
        _latex_row(columns),
        "\\hline",
        *map(_latex_row, rows),
        "\\hline",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join("".join(LATEX.get(it, it) for it in cell) for cell in cells) + " \\\\"

"""Pieces of Markdown: escaped text, tables, lists, and counts in words."""

import re
from collections.abc import Iterable, Mapping, Sequence

from medart_cli.study.figures import Facts, list_titles

SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$&])")  # what Markdown takes for its own


def escape_markdown(text: object) -> str:
    """Escape what Markdown would take for its own, also in a table's cell, and join lines."""
    return SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def todo(what: str) -> str:
    """Mark what medart cannot know."""
    return f"[TO DO: {what}]"


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; cells are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def bullets(lines: Iterable[str]) -> str:
    """Write a list."""
    return "\n".join(f"- {line}" for line in lines)


def join_words(items: Sequence[str]) -> str:
    """Write a list as in a sentence."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def word_by_arm(values: Mapping[str, str]) -> str:
    """Write what all arms have in common once, else each value with the arms that have it."""
    arms: dict[str, list[str]] = {}
    for arm, value in values.items():
        arms.setdefault(value, []).append(arm)
    if len(arms) == 1:
        return next(iter(arms))
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in arms.items())


def name_arms(facts: Facts) -> dict[str, str]:
    """Return what the text calls each arm."""
    titles = list_titles(facts["arms"])
    return {name: escape_markdown(title) for name, title in titles.items()}

"""Names of sets, by their folders, and long names in little room: two never look alike."""

from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path

CUT = "…"
ROOM = 32  # letters of a name in a chart


def name_sets(sources: Sequence[str]) -> list[str]:
    """Name each set by its folder, with as many of the folders above as tell it from others."""
    short, parts = [], []
    for source in sources:
        path = Path(source)
        path = path.parent if path.name == "metadata.jsonl" else path
        own = path.stem if path.suffix == ".jsonl" else path.name  # a folder may be guidance-4.5
        short.append("standard input" if source == "-" else own or path.resolve().name)
        parts.append(path.parts)
    names: list[str] = []
    for name, own_parts in zip(short, parts, strict=True):
        alike = {it for known, it in zip(short, parts, strict=True) if known == name}
        unique = name if short.count(name) == 1 else _choose_tail(own_parts, alike - {own_parts})
        names.append(unique if unique not in names else f"{unique} ({len(names) + 1})")
    return names


def _choose_tail(parts: tuple[str, ...], others: set[tuple[str, ...]]) -> str:
    """Return the shortest end of a path that no other one has."""
    tails = (parts[-count:] for count in range(1, len(parts) + 1))
    tail = next((it for it in tails if all(other[-len(it) :] != it for other in others)), parts)
    return str(Path(*tail))


def shorten_names(names: Sequence[str], room: int = ROOM) -> list[str]:
    """Shorten names to what a chart has room for; what tells one from the others is kept.

    Args:
        names: All that stand side by side.
        room: Letters that a name may have; one that cannot be told from others in so many is
            longer, or stays whole.
    """
    whole = list(dict.fromkeys(names))
    short = {name: _shorten(name, whole, room) for name in whole}
    counts = list(short.values())
    return [short[name] if counts.count(short[name]) == 1 else name for name in names]


def _shorten(name: str, names: Sequence[str], room: int) -> str:
    """Keep the beginning and the end, and between them where a name differs from its likest."""
    if len(name) <= room:
        return name
    half = (room - len(CUT)) // 2
    others = [other for other in names if other != name]
    head, tail = name[:half], name[-half:]
    if all((other[:half], other[-half:]) != (head, tail) for other in others):
        return f"{head}{CUT}{tail}"
    third = max(2, (room - 2 * len(CUT)) // 3)
    place = max(_count_common(name, other) for other in others)
    start = max(third, min(place - 1, len(name) - 2 * third))
    middle = name[start : start + third]
    after = name[max(start + third, len(name) - third) :]
    gaps = (CUT if start > third else "", CUT if start + third < len(name) - third else "")
    return f"{name[:third]}{gaps[0]}{middle}{gaps[1]}{after}"


def _count_common(first: str, second: str) -> int:
    """Count the letters with which two names begin alike."""
    return len(commonprefix((first, second)))

"""The subgroups of the real images in words and tables: which are reached less than their due."""

from collections.abc import Mapping, Sequence
from typing import Any

from medart_cli.data.numbers import write_number
from medart_cli.metrics import color
from medart_cli.metrics.gaps import ASKED_GAP, LEAST_IMAGES, LEAST_UNITS, round_estimate


def tell_shortfalls(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in sentences which subgroups a set reaches less than others, beyond what is due."""
    lines = []
    for item in facts:
        for name, found in item["sets"].items():
            lines.append(f"{name}, by {item['key']}: {_tell_gap(item, found)}.")
            off = [
                f"{group} ({', '.join(it['color']['beyond_floor'])})"
                for group, it in found["groups"].items()
                if it["color"] and it["color"]["beyond_floor"]
            ]
            if off:
                lines.append(
                    f"{name}, by {item['key']}: colors differ from those of real images of the "
                    f"same subgroup by more than chance in {'; '.join(off)}."
                )
        small = [group for group, it in item["groups"].items() if it["small"]]
        if small:
            lines.append(
                f"By {item['key']}: too small to be compared: {', '.join(small)} (fewer than "
                f"{LEAST_IMAGES} images or {LEAST_UNITS} patients)."
            )
    return lines


def _tell_gap(item: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    gap = found["gap"]
    if gap is None:
        return (
            f"not compared; two subgroups with at least {LEAST_IMAGES} images and {LEAST_UNITS} "
            "patients are needed, and as many synthetic images"
        )
    reached = [
        f"{name}: {it['synthetic']:.2f} of its real images are reached, by other real ones "
        f"{it['real']:.2f}"
        for name in (gap["first"], gap["second"])
        for it in [found["groups"][name]["halves"]]
    ]
    low, high = gap["interval"]
    figures = (
        f"{'; '.join(reached)}; the first less the second, beyond real ones, {gap['value']:+.3f} "
        f"[{low:+.3f}, {high:+.3f}], p = {gap['p_value']:.2g}"
    )
    if gap["shown"]:
        worse = gap["first"] if gap["value"] < 0 else gap["second"]
        return f"images of {worse} are reached less than their due ({figures})"
    units = "images" if item["groups"][gap["first"]]["patients"] is None else "patients"
    more = round_estimate(gap["needed"] - gap["units"])
    return (
        "no difference between subgroups is shown in which real images have a synthetic neighbor "
        f"({figures}); a difference of {ASKED_GAP:g} would be seen in 4 of 5 cases "
        + (
            "like this"
            if gap["needed"] <= gap["units"]
            else f"with about {more} more {units} than these {gap['units']}, and larger sets alike"
        )
    )


def show_subgroups(
    facts: Sequence[Mapping[str, Any]], network: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Write the subgroups of each key as tables."""
    shown = []
    for item in facts:
        reach, drawn = [], []
        for name, found in item["sets"].items():
            for group, it in found["groups"].items():
                place = f"{name}: {group}" + (" (small)" if item["groups"][group]["small"] else "")
                reach.append([place, *_show_reach(item["groups"][group], it)])
                if it["distance"]:
                    drawn.append([place, *_show_drawn(it)])
        short = network["frechet"].split()[0], network["kernel"].split()[0]
        head = [f"Set: {item['key']}", "n real", "patients", "recall [95%]", "n of halves"]
        shown.append(
            {
                "title": f"Subgroups by {item['key']}",
                "least_images": LEAST_IMAGES,
                "least_groups": LEAST_UNITS,
                "reach": ([*head, "recall at that n", "of halves"], reach),
                "drawn": drawn
                and (
                    [
                        head[0],
                        "n synthetic",
                        f"{short[0]} [95%]",
                        "at half n: syn, real",
                        f"{short[1]} x 1000",
                        *(f"{it} gap" for it in color.CHANNELS[:3]),
                        "beyond chance",
                    ],
                    drawn,
                ),  # fmt: skip
                "sources": [
                    _tell_source(it, found["drawn_by"]) for it, found in item["sets"].items()
                ],
            }
        )
    return shown


def _show_reach(group: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    recall, halves = found["recall"], found["halves"]
    cells = [
        str(group["images"]),
        "unknown" if group["patients"] is None else str(group["patients"]),
    ]
    if recall is None:
        cells.append("-")
    else:
        low, high = recall["interval"]
        cells.append(f"{recall['value']:.2f} [{low:.2f}, {high:.2f}]")
    if halves is None:
        return [*cells, "-", "-", "-"]
    return [*cells, str(halves["n"]), f"{halves['synthetic']:.2f}", f"{halves['real']:.2f}"]


def _show_drawn(found: Mapping[str, Any]) -> list[str]:
    distance, frechet = found["distance"], found["distance"]["frechet"]
    floor, kernel, ends = distance["floor"], distance["kernel"], frechet["interval"]
    cells = [str(found["drawn"]), write_number(frechet["value"])]
    if ends:
        cells[-1] += f" [{write_number(ends[0])}, {write_number(ends[1])}]"
    halves = floor and ", ".join(
        write_number(floor["frechet"][name]) for name in ("synthetic", "real")
    )
    cells += [halves or "-", "-" if kernel is None else write_number(1e3 * kernel["value"])]
    cells += [f"{found['color']['mean'][channel]['value']:+.3f}" for channel in color.CHANNELS[:3]]
    return [*cells, ", ".join(found["color"]["beyond_floor"]) or "none"]


def _tell_source(name: str, by: str | None) -> str:
    """Say where it is from which images are drawn ones of a subgroup."""
    if by is not None:
        return f"{name}: a synthetic image is of the subgroup that {by} name."
    return (
        f"{name}: the subgroups of its images are unknown, so distances and colors are missing: "
        "its rows do not have the key, and those that they were drawn from are not among the real "
        "images of this report."
    )

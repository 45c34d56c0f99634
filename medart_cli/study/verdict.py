"""What a study says in plain words: a question, an answer, and what would settle an open one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medart_cli.data.names import name_sets
from medart_cli.data.numbers import plural
from medart_cli.data.page import Finding, word_patients
from medart_cli.metrics.closeness import SIGNIFICANCE
from medart_cli.metrics.copies import EXCESS
from medart_cli.metrics.recognition import NOT_SHOWN
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL
from medart_cli.study.arms import REFERENCE, is_default
from medart_cli.study.contrasts import Contrast, find_needed
from medart_cli.study.figures import list_titles, read_contrast

MOST_TOLD = 3  # answers at the head of the page; all are in its table


@dataclass(frozen=True)
class Asked:
    """What is asked of an arm.

    Attributes:
        arm: Its name.
        text: The question.
        measure: What answers it: a key of the differences, lower being better.
        yes: The answer where the arm's figure is better than the reference's.
        no: The answer where it is worse.
        reverse: Whether the question is about the reference and not about the arm.
    """

    arm: str
    text: str
    measure: str
    yes: str
    no: str
    reverse: bool = False


NEARER, FARTHER = "yes, nearer", "no, farther away"
QUESTIONS = (
    Asked(
        "before", "Does fine-tuning bring the images nearer to real ones?", "distance",
        NEARER, FARTHER, reverse=True,
    ),
    Asked(
        "hldf", "Does HLDF as published bring the colors nearer to real ones?", "color_distance",
        NEARER, FARTHER,
    ),
    Asked(
        "score", "Does HLDF with the color score bring the colors nearer to real ones?",
        "color_distance", NEARER, FARTHER,
    ),
    Asked(
        "hldf", "Does HLDF as published bring the images as a whole nearer?", "distance",
        NEARER, FARTHER,
    ),
    Asked(
        "score", "Does HLDF with the color score bring the images as a whole nearer?", "distance",
        NEARER, FARTHER,
    ),
    Asked(
        "frozen", "Does training the text encoder bring the images nearer?", "distance",
        NEARER, FARTHER, reverse=True,
    ),
    Asked(
        "simple", "Do captions of one's own bring the images nearer than template captions?",
        "distance", NEARER, FARTHER, reverse=True,
    ),
    Asked("dora", "Does DoRA bring the images nearer than LoRA?", "distance", NEARER, FARTHER),
    Asked(
        "full", "Does training all weights bring the images nearer than LoRA?", "distance",
        NEARER, FARTHER,
    ),
)  # fmt: skip


def tell_verdicts(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Answer each question that the arms allow.

    Args:
        facts: Content of study.json.

    Returns:
        For each the keys question, answer (yes, no or not shown, in words), mark (good, unclear or
        bad news), figures, needed (what would settle it; empty where it is settled).
    """
    titles, found = list_titles(facts["arms"]), []
    for it in _choose_questions(facts, titles):
        known = facts["differences"][it.arm]
        # Where the report of all arms ranks nothing, as with a few images, the kernel distance.
        key = "kernel" if it.measure == "distance" and "distance" not in known else it.measure
        if key in known:
            found.append(_answer(it, read_contrast(known[key]), key, facts))
    found += [
        _answer_gain(titles[name], read_contrast(gain))
        for name, gain in facts["gains"].items()
        if gain is not None and name != "before"
    ]
    return [*found, *_answer_copies(facts), *_answer_membership(facts)]


def word_study(facts: Mapping[str, Any]) -> str:
    """Say what was compared: the arms, how often, on which images and how many."""
    arms, seeds, counts = facts["arms"], len(facts["seeds"]), facts["images"]
    sources = [facts["settings"][it] for it in ("data", "test") if facts["settings"].get(it)]
    train, *given = name_sets(sources)
    test = given[0] if given else f"split off {train}"
    titles = "; ".join(arm["title"] for arm in arms)
    return (
        f"Compared: {len(arms)} arm{'s' * (len(arms) > 1)} ({titles}), each trained "
        f"with {seeds} seed{'s' * (seeds > 1)} on {counts['train']} real images ({train}) and held "
        f"against {counts['test']} real test images ({test}; "
        f"{word_patients(facts['real']['patients'])})."
    )


def open_page(facts: Mapping[str, Any]) -> list[Finding]:
    """Say in three sentences how much is answered, what is shown, and whether anything leaks."""
    verdicts = facts["verdicts"]
    asked, leaks = verdicts[:-2], verdicts[-2:]  # the last two are about copies and membership
    settled = [it for it in asked if it["mark"] != "unclear"]
    told = f"Of {plural(len(asked), 'question')} {len(settled) or 'none'} could be answered."
    shown = (
        _join_answers(settled[:MOST_TOLD], figures=True)
        or "No difference between the arms is shown."
    )
    if (more := len(settled) - MOST_TOLD) > 0:
        shown += f" {more} more {'is' if more == 1 else 'are'} answered below."
    good, bad = (any(it["mark"] == mark for it in settled) for mark in ("good", "bad"))
    worst = max((it["mark"] for it in leaks), key=("good", "unclear", "bad").index)
    return [
        Finding("good" if len(settled) == len(asked) else "unclear", told, "answers"),
        Finding("unclear" if good == bad else "good" if good else "bad", shown, "answers"),
        Finding(worst, _join_answers(leaks), "answers"),
    ]


def _join_answers(verdicts: Sequence[Mapping[str, str]], *, figures: bool = False) -> str:
    """Join questions and answers, if asked with the difference but not with that of each seed."""
    told = []
    for it in verdicts:
        behind = f" ({it['figures'].partition(' (seeds: ')[0]})" if figures else ""
        told.append(f"{it['question']} {it['answer'][0].upper()}{it['answer'][1:]}{behind}.")
    return " ".join(told)


def _choose_questions(facts: Mapping[str, Any], titles: Mapping[str, str]) -> list[Asked]:
    """Choose the questions of the default arms, and word those of each other one by its title."""
    compared, reference = facts["differences"], facts["reference"]
    arms = {arm["name"]: arm for arm in facts["arms"]}
    usual = {name for name, arm in arms.items() if is_default(arm)}
    # The default questions are worded for LoRA alone.
    usual = usual & compared.keys() if reference == REFERENCE and reference in usual else set()
    questions = [it for it in QUESTIONS if it.arm in usual]
    for name in compared:
        if name in usual:
            continue
        title, whole = titles[name], "nearer"
        if arms[name]["color_loss"] and not arms[reference]["color_loss"]:
            text = f"Does {title} bring the colors nearer to real ones?"
            questions.append(Asked(name, text, "color_distance", NEARER, FARTHER))
            whole = "as a whole nearer"
        text = f"Does {title} bring the images {whole} than {titles[reference]}?"
        questions.append(Asked(name, text, "distance", NEARER, FARTHER))
    return questions


def _answer(question: Asked, found: Contrast, key: str, facts: Mapping[str, Any]) -> dict[str, str]:
    turn = -1 if question.reverse else 1
    answer = {-1: question.yes, 1: question.no, 0: NOT_SHOWN}[turn * found.sign]
    mark = {-1: "good", 1: "bad", 0: "unclear"}[turn * found.sign]
    figures = f"{word_measure(key, facts)}: {word_contrast(found)}"
    other = facts["differences"][question.arm].get("kernel") if key == "distance" else None
    second = read_contrast(other) if other else None
    if second is not None and second.sign not in (0, found.sign):
        by_kernel = {-1: "nearer", 1: "farther away"}[turn * second.sign]
        by_energy = {-1: "nearer", 1: "farther away", 0: NOT_SHOWN}[turn * found.sign]
        answer = f"open: {by_kernel} by the kernel distance, {by_energy} by the energy distance"
        mark = "unclear"
        figures += f"; {word_measure('kernel', facts)}: {word_contrast(second)}"
    nearer = {-1: question.arm, 1: facts["reference"]}.get(found.sign)
    for arm in facts["arms"]:
        if arm["name"] == nearer and any(arm["suspected"]):  # copies are near, and no merit
            answer, mark = f"open: {arm['title']} is nearer, but suspected of copies", "unclear"
    return {
        "question": question.text,
        "answer": answer,
        "mark": mark,
        "figures": figures,
        "needed": find_needed(found) or "",
    }


def _answer_gain(title: str, found: Contrast) -> dict[str, str]:
    answer = {1: "yes, it is more accurate", -1: "no, it is less accurate", 0: NOT_SHOWN}
    return {
        "question": f"Do images drawn after {title} help a classifier?",
        "answer": answer[found.sign],
        "mark": {1: "good", -1: "bad", 0: "unclear"}[found.sign],
        "figures": f"balanced accuracy with them less without: {word_contrast(found)}",
        "needed": find_needed(found) or "",
    }


def _answer_copies(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    question = "Does a model copy training images?"
    trained = [arm for arm in facts["arms"] if arm["finetune"] is not None]
    known = [arm for arm in trained if "copies" in arm["each"]]
    if not known:
        return [_leave_unchecked(question, "near-copies were not looked for, or too few images")]
    suspected = _list_units(trained, "suspected")
    most = max(max(arm["each"]["copies"]) for arm in known)
    units = sum(len(arm["suspected"]) for arm in trained)
    by_chance = units * (EXCESS + SIGNIFICANCE)
    quiet = "no more than chance gives" if most else "no sign of it"
    return [
        {
            "question": question,
            "answer": f"suspected: {', '.join(suspected)}" if suspected else quiet,
            "mark": "bad" if suspected else "good",
            "figures": f"near-copies among the synthetic images: at most {100 * most:.1f} % in any "
            f"unit; of {units} units without copies {by_chance:.1f} would be suspected by chance; "
            "an empty list is no proof",
            "needed": "",
        }
    ]


def _leave_unchecked(question: str, why: str) -> dict[str, str]:
    return {
        "question": question, "answer": "not checked", "mark": "unclear", "figures": why,
        "needed": "",
    }  # fmt: skip


def _list_units(arms: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """Name the arms of which something is so in a seed, with the number of these seeds."""
    return [
        f"{arm['title']} ({sum(arm[key])} of {len(arm[key])} seeds)"
        for arm in arms
        if any(arm[key])
    ]


def _answer_membership(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    question = "Do the weights tell which images were trained on?"
    measured = [arm for arm in facts["arms"] if "membership" in arm["each"]]
    if not measured:
        return [_leave_unchecked(question, "too few images of the same labels and other patients")]
    told = _list_units(measured, "recognized")
    areas = [value for arm in measured for value in arm["each"]["membership"]]
    return [
        {
            "question": question,
            "answer": f"yes: {', '.join(told)}" if told else NOT_SHOWN,
            "mark": "bad" if told else "unclear",
            "figures": f"AUC of membership {min(areas):.2f} to {max(areas):.2f} in the units; 0.5 "
            "is guessing; all units are tested at once",
            "needed": "" if told else "other attacks may tell: this is no proof of privacy",
        }
    ]


def name_whole(facts: Mapping[str, Any]) -> list[str]:
    """Name the measures whose intervals hold for other test images as well as for other seeds."""
    keys = {
        key: None
        for found in facts["differences"].values()
        for key, it in found.items()
        if it["images"]
    }
    return [word_measure(key, facts) for key in keys]


def word_measure(key: str, facts: Mapping[str, Any]) -> str:
    """Name a measure in a sentence."""
    names = {
        "distance": "root of the energy distance in the features",
        "color_distance": "root of the color energy",
    }
    titles = {item["key"]: item["title"] for item in facts["measures"]}
    return names.get(key) or str(titles[key])


def word_contrast(found: Contrast) -> str:
    """Write a difference with its interval and what each seed gave."""
    each = ", ".join(f"{value:+.3g}" for value in found.each)
    if found.low is None:
        count = len(found.each)
        return f"{found.value:+.3g} with {'one seed' if count == 1 else f'each of {count} seeds'}"
    interval = f"{CONFIDENCE_LEVEL:.0%} interval {found.low:+.3g} to {found.high:+.3g}"
    return f"{found.value:+.3g}, {interval} (seeds: {each})"


def word_caution(verdicts: Sequence[Mapping[str, str]]) -> str:
    """Say how many of the answers chance alone may have given."""
    count = sum("interval" in item["figures"] for item in verdicts)
    by_chance = count * (1 - CONFIDENCE_LEVEL)
    return (
        f"Each interval holds in 95 of 100 studies. Of {count} questions in which nothing differs, "
        f"chance alone would answer {by_chance:.1f} with yes or no on average: take one answer "
        "among many as a reason to look again."
    )

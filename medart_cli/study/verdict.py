"""What a study says in plain words: a question, an answer, and what would settle an open one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medart_cli.metrics.resampling import CONFIDENCE_LEVEL
from medart_cli.study.contrasts import Contrast, find_needed
from medart_cli.study.figures import list_titles, read_contrast

OPEN_ANSWER = "not shown"


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
        "hldf", "Does HLDF as published bring the colors nearer to real ones?", "color_energy",
        NEARER, FARTHER,
    ),
    Asked(
        "score", "Does HLDF with the color score bring the colors nearer to real ones?",
        "color_energy", NEARER, FARTHER,
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
        For each the keys question, answer (yes, no or not shown, in words), figures, needed (what
        would settle it; empty where it is settled).
    """
    titles, found = list_titles(facts["arms"]), []
    for it in _choose_questions(facts, titles):
        known = facts["differences"][it.arm]
        # Where the report of all arms ranks nothing, as with a few images, the kernel distance.
        key = "kernel" if it.measure == "distance" and "distance" not in known else it.measure
        if key in known:
            found.append(_answer(it, read_contrast(known[key]), word_measure(key, facts)))
    found += [
        _answer_gain(titles[name], read_contrast(gain))
        for name, gain in facts["gains"].items()
        if gain is not None and name != "before"
    ]
    return [*found, *_answer_copies(facts), *_answer_membership(facts)]


def _choose_questions(facts: Mapping[str, Any], titles: Mapping[str, str]) -> list[Asked]:
    """Choose the questions of the default arms, and ask the same of each other one."""
    compared = facts["differences"]
    # The default questions are worded for LoRA alone.
    questions = [it for it in QUESTIONS if it.arm in compared and facts["reference"] == "lora"]
    asked = {it.arm for it in questions}
    for name in compared:
        if name not in asked:
            text = f"Does {titles[name]} bring the images nearer than {titles[facts['reference']]}?"
            questions.append(Asked(name, text, "distance", NEARER, FARTHER))
    return questions


def _answer(question: Asked, found: Contrast, measure: str) -> dict[str, str]:
    sign = found.sign * (-1 if question.reverse else 1)
    answer = {-1: question.yes, 1: question.no, 0: OPEN_ANSWER}[sign]
    return {
        "question": question.text,
        "answer": answer,
        "figures": f"{measure}: {word_contrast(found)}",
        "needed": find_needed(found) or "",
    }


def _answer_gain(title: str, found: Contrast) -> dict[str, str]:
    answer = {1: "yes, it is more accurate", -1: "no, it is less accurate", 0: OPEN_ANSWER}
    return {
        "question": f"Do images drawn after {title} help a classifier?",
        "answer": answer[found.sign],
        "figures": f"balanced accuracy with them less without: {word_contrast(found)}",
        "needed": find_needed(found) or "",
    }


def _answer_copies(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    trained = [arm for arm in facts["arms"] if arm["finetune"] is not None]
    if not any("copies" in arm["each"] for arm in trained):
        return [
            {
                "question": "Does a model copy training images?",
                "answer": "not checked",
                "figures": "near-copies were not looked for, or there are too few images",
                "needed": "",
            }
        ]
    suspected = [
        f"{arm['title']} ({sum(arm['suspected'])} of {len(arm['suspected'])} seeds)"
        for arm in trained
        if any(arm["suspected"])
    ]
    most = max(max(arm["each"]["copies"]) for arm in trained if "copies" in arm["each"])
    return [
        {
            "question": "Does a model copy training images?",
            "answer": f"suspected: {', '.join(suspected)}" if suspected else "no sign of it",
            "figures": f"near-copies among the drawn images: at most {100 * most:.1f} % in any "
            "unit; an empty list is no proof",
            "needed": "",
        }
    ]


def _answer_membership(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    measured = [arm for arm in facts["arms"] if "membership" in arm["each"]]
    if not measured:
        return []
    told = [
        f"{arm['title']} ({sum(arm['recognized'])} of {len(arm['recognized'])} seeds)"
        for arm in measured
        if any(arm["recognized"])
    ]
    areas = [value for arm in measured for value in arm["each"]["membership"]]
    return [
        {
            "question": "Do the weights tell which images were trained on?",
            "answer": f"yes: {', '.join(told)}" if told else OPEN_ANSWER,
            "figures": f"AUC of membership {min(areas):.2f} to {max(areas):.2f} in the units; 0.5 "
            "is guessing",
            "needed": "" if told else "other attacks may tell: this is no proof of privacy",
        }
    ]


def word_measure(key: str, facts: Mapping[str, Any]) -> str:
    """Name a measure in a sentence."""
    names = {"distance": "energy distance in the features", "color_energy": "color energy"}
    titles = {item["key"]: item["title"] for item in facts["measures"]}
    return names.get(key) or str(titles[key])


def word_contrast(found: Contrast) -> str:
    """Write a difference with its interval and what each seed gave."""
    each = ", ".join(f"{value:+.3g}" for value in found.each)
    if found.low is None:
        return f"{found.value:+.3g} with one seed"
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

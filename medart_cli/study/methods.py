"""A draft for the paper: methods, results and a data card, as the Markdown of methods.md.

All of it is said from the settings and the figures of the study. What medart cannot know stands as
`[TO DO: ...]`, and what a verdict calls not shown is never claimed. Works are cited by marks such
as `[@lora]`, which become numbers in the end, so that the list has what is cited and no more.
"""

import re
from collections.abc import Mapping

from medart_cli.data.numbers import plural
from medart_cli.data.page import DEMONSTRATION_NOTICE
from medart_cli.metrics.recognition import NOT_SHOWN
from medart_cli.study.card import fill_card
from medart_cli.study.figures import Facts, list_titles
from medart_cli.study.markdown import (
    bullets,
    escape_markdown,
    grid,
    join_words,
    name_arms,
    todo,
)
from medart_cli.study.measured import tell_measures, tell_statistics
from medart_cli.study.references import number_references
from medart_cli.study.trained import BY_FAMILY, UNLABELED, first_run, tell_sampling, tell_training
from medart_cli.study.verdict import QUESTIONS

QUESTION = re.compile(r"(?P<do>Do|Does) (?P<who>.+) (?P<verb>bring|help|copy) (?P<rest>.+)\?")
VERBS = {
    "bring": ("brings", "brought"),
    "help": ("helps", "helped"),
    "copy": ("copies", "copied"),
}


def write_methods(facts: Facts, runs: Mapping[str, Facts]) -> str:
    """Write the draft of a paper's sections on a study.

    Args:
        facts: Content of study.json.
        runs: Content of run.json of each arm's first seed, by the arm's name; arms that are not
            trained have none.

    Returns:
        The text of methods.md.
    """
    parts = [
        _open(facts),
        "## Methods",
        _tell_images(facts, runs),
        _tell_captions(facts, runs),
        tell_training(facts, runs),
        tell_sampling(facts, runs),
        tell_measures(facts),
        tell_statistics(facts),
        _tell_software(facts),
        _tell_results(facts),
        fill_card(facts, runs),
    ]
    return number_references("\n\n".join(part for part in parts if part))


def _open(facts: Facts) -> str:
    """Head the draft; a demonstration is said to be one before anything else."""
    version = facts["versions"]["medart-cli"]
    lines = ["# Methods, results and data card: a draft"]
    if facts["demonstration"]:
        lines.append(
            f"> **This study is a demonstration.** {DEMONSTRATION_NOTICE} Do not publish them."
        )
    lines.append(
        f"> Written by medart {version} from the settings and figures of this study. The author "
        "corrects it: all that medart cannot know stands as `[TO DO: ...]`, and each reference is "
        "to be checked against the source."
    )
    return "\n\n".join(lines)


def _tell_images(facts: Facts, runs: Mapping[str, Facts]) -> str:
    images, real, run = facts["images"], facts["real"], first_run(runs)
    held = run["figures"].get("heldout") if run else None
    text = (
        f"Models were fine-tuned on {plural(images['train'], 'image')} and tested on "
        f"{images['test']} others, "
        + ("a separate set" if len(facts["inputs"]) > 1 else "those of the split “test”")
        + ". Training images whose file is byte-identical to a test image were left out. "
        + (f"The loss of {plural(held['images'], 'held-out image')} was followed in training, "
           "without training on them. " if held else "")
        + _tell_patients(facts, run)
    )  # fmt: skip
    parts = ["### Images", text]
    trained = run["data"]["labels"] if run else {}
    labels = {*trained, *real["labels"]} - {UNLABELED}
    if labels:
        rows = [
            [escape_markdown(it), str(trained.get(it, "-")), str(real["labels"].get(it, 0))]
            for it in sorted(labels)
        ]
        parts.append(grid(["Label", "Training images", "Test images"], rows))
    open_points = [
        "source of the images: data set or clinic, device, period, selection",
        "who gave the labels, from what (histology, consensus of readers), and how",
        "ethics approval, consent, and the terms under which the images were used",
        "sex, age, and what else matters, such as skin type or site, of both sets",
    ]
    return "\n\n".join([*parts, bullets(map(todo, open_points))])


def _tell_patients(facts: Facts, run: Facts | None) -> str:
    train, test = run["patients"] if run else None, facts["real"]["patients"]
    if train is not None and test is not None:
        unknown = sum(item["without_patient"] for item in facts["inputs"])
        return (
            f"They are of {plural(train, 'patient')} and {plural(test, 'patient')}; no patient has "
            "images on both sides, and intervals by the test images count patients, not images."
            + (f" The patient of {plural(unknown, 'image')} is not recorded." if unknown else "")
        )
    sides = [name for name, known in (("training", train), ("test", test)) if known is None]
    return (
        f"Which {join_words(sides)} images are of one patient is not recorded. "
        + ("Test images count as independent, which makes intervals too narrow if they are not. "
           if test is None else "Intervals by the test images count patients, not images. ")
        + todo("images per patient, and whether a patient has images on both sides")
    )  # fmt: skip


def _tell_captions(facts: Facts, runs: Mapping[str, Facts]) -> str:
    run, given, titles = first_run(runs), facts["inputs"][0], name_arms(facts)
    template = (
        f"the template “{escape_markdown(run['wording']['simple'])}”" if run else "a template"
    )
    if not given["texts"]:
        text = f"No image had a caption of its own; each was captioned by {template}."
    else:
        text = f"{given['texts']} of {given['images']} images had a caption of their own"
        text += "" if given["texts"] == given["images"] else f", the others {template}"
        text += ". " + todo("who or which model wrote the captions, and who checked them")
    plain = [titles[arm["name"]] for arm in facts["arms"] if arm["captions"] == "simple"]
    if plain and given["texts"]:
        arms = "arm" if len(plain) == 1 else "arms"
        text += f" In the {arms} {join_words(plain)}, {template} took the place of each caption."
    for kind in dict.fromkeys(BY_FAMILY[it["family"]] for it in runs.values()):
        text += f" {kind.name} reads at most {kind.tokens} tokens ({kind.text_encoder})."
    return f"### Captions\n\n{text}"


def _tell_software(facts: Facts) -> str:
    versions = [f"{escape_markdown(name)} {it}" for name, it in facts["versions"].items()]
    return (
        f"### Software\n\n{join_words(versions)}. "
        f"{todo('hardware, running time, and where code, settings and weights can be had')}"
    )


def _tell_results(facts: Facts) -> str:
    parts = [
        "## Results",
        "Means and standard deviations of all measures are in the data card below, in `table.csv` "
        "and in `table.tex`; all differences with intervals are in `report.html`.",
        bullets(_word_result(item, facts) for item in facts["verdicts"]),
    ]
    return "\n\n".join(parts)


def _word_result(verdict: Mapping[str, str], facts: Facts) -> str:
    """Make a verdict a sentence; what is not shown stays open."""
    figures = _word_figures(verdict, facts)
    asked, answer = QUESTION.fullmatch(verdict["question"]), verdict["answer"]
    if asked is None:
        return escape_markdown(f"{verdict['question']} {answer} ({figures}).")
    who, verb, rest = asked["who"], asked["verb"], asked["rest"]
    subject = f"{who[0].upper()}{who[1:]}"
    singular, past = VERBS[verb]
    present = f"{who} {singular if asked['do'] == 'Does' else verb} {rest}"
    if answer.startswith("yes"):
        text = f"{subject} {past} {rest}"
    elif answer.startswith("no, "):
        text = f"{subject} did not {verb} {rest}: {answer.removeprefix('no, ')}"
    elif answer == NOT_SHOWN:
        text = f"This study does not show whether {present}"
    else:
        text = f"As to whether {present}, the answer is “{answer}”"
    needed = verdict["needed"]
    more = f" {needed[0].upper()}{needed[1:]}." if needed else ""
    return escape_markdown(f"{text} ({figures}).{more}")


def _word_figures(verdict: Mapping[str, str], facts: Facts) -> str:
    """Write the figures of a verdict, and of which arms they are the difference."""
    figures = re.sub(r" \(seeds: (.*)\)$", r"; by seed \1", verdict["figures"])
    titles, arms = list_titles(facts["arms"]), {it.text: it.arm for it in QUESTIONS}
    found = titles.get(arms.get(verdict["question"], ""))
    return f"{found} less {titles[facts['reference']]}, {figures}" if found else figures

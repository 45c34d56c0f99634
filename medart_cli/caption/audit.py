"""Does the model look? Ask again with a blank and with another image under the same prompt.

And are the colors that it names in the image, more than in another one?
"""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from medart_cli import stop
from medart_cli.caption.ask import Asker, Book, decode_ahead, draw_seed
from medart_cli.caption.grounding import find_absent
from medart_cli.caption.options import CaptionConfig
from medart_cli.caption.rules import word_overlap
from medart_cli.data.descriptors import find_claims
from medart_cli.data.manifest import Record
from medart_cli.log import log
from medart_cli.models.questions import Answer, Question

MOST_SAME = 0.5  # share of texts that may stay the same without the image, before a warning


def audit_model(
    config: CaptionConfig, records: Sequence[Record], book: Book, asker: Asker
) -> dict[str, Any]:
    """Ask about some images again, and with a blank and another image under the same prompt.

    Greedy decoding, so that a text that stays the same owes nothing to the image.

    Returns:
        How many images, for each kind of other image the share of texts that stayed the same and
        the mean share of words in common, and what `compare_named_colors` returns.
    """
    order = sorted(range(len(records)), key=lambda row: draw_seed(config.seed, row, 0))
    images: list[tuple[int, Image.Image]] = []
    for row, image in decode_ahead(config, records, order, config.audit):
        if len(images) == config.audit:
            break
        if isinstance(image, Image.Image):
            images.append((row, image))
    questions = []
    for place, (row, image) in enumerate(images):
        prompt = book.rules(records[row]).instruction
        blank = Image.new("RGB", image.size, (127, 127, 127))
        other = images[(place + 1) % len(images)][1]
        for shown in (image, image, blank, other):
            questions.append(Question(shown, prompt, draw_seed(config.seed, row, 0)))
    answers: dict[int, Answer] = {}
    for item in asker.ask(questions, greedy=True):
        stop.check()
        if item is not None:
            answers[item[0]] = item[1]
    fours = [[answers[start + kind] for kind in range(4)] for start in range(0, len(questions), 4)]
    kept = [
        place
        for place, four in enumerate(fours)
        if not any(item.error or item.only_reasoning for item in four)
    ]
    whole = [[item.text for item in fours[place]] for place in kept]
    if len(whole) < 2:
        log.warning("audit: needs at least 2 images that can be read and captioned")
        return {}
    colors = []
    for place, (text, *_) in zip(kept, whole, strict=True):
        row, image = images[place]
        simple = book.rules(records[row]).simple  # the class of a blue nevus is no color of it
        colors.append((text.replace(simple, "", 1), image, images[(place + 1) % len(images)][1]))
    return compare_texts(whole) | compare_named_colors(colors)


def compare_named_colors(
    answers: Sequence[tuple[str, Image.Image, Image.Image]],
) -> dict[str, Any]:
    """Compare the colors that answers name with their own image and with another one.

    Args:
        answers: Each with its own and with the other image.

    Returns:
        `color_texts`, how many name a color; and the shares of these with one that the own image
        (`color_absent`) and the other (`color_absent_other`) hardly have, null where none does.
    """
    named = [it for it in answers if any(True for _ in find_claims(it[0]))]
    if not named:
        return {"color_texts": 0, "color_absent": None, "color_absent_other": None}
    own = sum(bool(find_absent(text, image)) for text, image, _ in named)
    swapped = sum(bool(find_absent(text, other)) for text, _, other in named)
    return {
        "color_texts": len(named),
        "color_absent": own / len(named),
        "color_absent_other": swapped / len(named),
    }


def compare_texts(fours: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Compare the first text of each four with the three that follow."""
    facts: dict[str, Any] = {"images": len(fours)}
    for kind, name in enumerate(("repeat", "blank", "other"), start=1):
        pairs = [(" ".join(four[0].split()), " ".join(four[kind].split())) for four in fours]
        facts[f"{name}_same"] = sum(one == two for one, two in pairs) / len(pairs)
        facts[f"{name}_overlap"] = sum(word_overlap(*pair) for pair in pairs) / len(pairs)
    if max(facts["blank_same"], facts["other_same"]) > MOST_SAME:
        log.warning(
            "audit: with a blank image %.0f %% and with a swapped image %.0f %% of the texts stay "
            "the same: this model hardly uses the image",
            100 * facts["blank_same"],
            100 * facts["other_same"],
        )
    return facts

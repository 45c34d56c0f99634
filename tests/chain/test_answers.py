"""Some sixty typical answers of models, and what the manifest holds of each; see docs/captions.md.

One run of the command over a stub that answers each image with its own text.
"""

import json
import re

import pytest
from PIL import Image
from typer.testing import CliRunner

from medart_cli.cli import app
from tests.small import build_base
from tests.stub_server import prompt_of, serve

SIMPLE = "A dermoscopic image of nevus"
REST = ", showing a round lesion with an even brown network. Its border is regular."
GOOD = SIMPLE + REST
LABELS = ["nevus", "melanoma", "BE", "seborrheic keratosis", "mel", "old scar"]

# What surrounds a good caption and is stripped: the manifest holds GOOD.
STRIPPED = {
    "nothing": GOOD,
    "a polite lead": f"Sure! Here is a caption:\n\n{GOOD}",
    "a lead and quotes": f'Certainly. Here\'s a caption for this image: "{GOOD}"',
    "a chat's role": f"Assistant: {GOOD}",
    "a bold head": f"**Caption:** {GOOD}",
    "a heading": f"## Image description\n\n{GOOD}",
    "a bold beginning": f"**{SIMPLE}**{REST}",
    "emphasis": GOOD.replace("round", "*round*").replace("brown", "__brown__"),
    "bullets": f"- {SIMPLE}, showing a round lesion with an even brown network.\n"
    "- Its border is regular.",
    "a number": f"1. {GOOD}",
    "a code fence": f"```text\n{GOOD}\n```",
    "a quotation": f"> {GOOD}",
    "a table": f"| Caption |\n|:---|\n| {GOOD} |",
    "a rule and a lead": f"Caption\n---\n{GOOD}",
    "quotes": f'"{GOOD}"',
    "curly quotes": f"\N{LEFT DOUBLE QUOTATION MARK}{GOOD}\N{RIGHT DOUBLE QUOTATION MARK}",
    "single quotes": f"'{GOOD}'",
    "a dangling quote": f'{GOOD}"',
    "a quote at the beginning alone": f'"{GOOD}',
    "square brackets": f"[{GOOD}]",
    "the template in quotes": f'"{SIMPLE}"{REST}',
    "JSON": json.dumps({"caption": GOOD}),
    "JSON with more": json.dumps({"label": "nevus", "caption": GOOD, "confidence": 0.93}),
    "JSON in a fence": f"```json\n{json.dumps({'result': [{'description': GOOD}]}, indent=2)}\n```",
    "JSON without an end": f'{{"caption": "{GOOD}',
    "a JSON tail": f'{GOOD}\n{{"class": "nevus", "score": 0.9}}',
    "an offer": f"{GOOD} Let me know if you would like a longer caption!",
    "a hope": f"{GOOD}\n\nI hope this helps! Feel free to ask for more.",
    "a count of words": f"{GOOD} (Word count: 24)",
    "another count of words": f"{GOOD}\n\n**Word count:** 24 words",
    "a note": f"{GOOD}\n\nNote: This caption is not a diagnosis. Please consult a dermatologist.",
    "a disclaimer in bold": f"{GOOD}\n\n**Disclaimer:** I am an AI. A doctor should be consulted.",
    "notes under a heading": f"# Caption\n{GOOD}\n\n## Notes\nThe lesion is a nevus.",
    "an account of itself": f"{GOOD} This caption describes only what is visible.",
    "what it has kept to": f"{GOOD}\nI have avoided any diagnosis.",
    "location tokens": f"{SIMPLE}<loc0123><loc0456><loc0789><loc1011>{REST}",
    "boxes": GOOD.replace("lesion", "<ref>lesion</ref><box>(120,340),(560,780)</box>"),
    "Qwen's boxes": GOOD.replace(
        "lesion",
        "<|object_ref_start|>lesion<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
    ),
    "coordinates": GOOD.replace("lesion", "lesion [0.12, 0.34, 0.56, 0.78]"),
    "points": GOOD.replace("lesion", '<point x="12.5" y="40.1" alt="lesion">lesion</point>'),
    "HTML": f"<p><b>{SIMPLE}</b>{REST}</p><br/>",
    "answer tags": f"<answer>{GOOD}</answer>",
    "an end token": f"{GOOD}</s>",
    "an interpretation": f"{GOOD}\n\n**Clinical significance:** Such lesions are harmless.",
    "no diagnosis wanted": "I'm not a doctor and can't provide a medical diagnosis, but I can "
    f"describe the image: {GOOD}",
    "another turn": f"{GOOD}\n\nAssistant: Is there anything else?",
    "a number of the image": f"{GOOD} [Image 1]",
    "a next turn": f"{GOOD}\nUSER: And the next one?\nASSISTANT: It is a nevus.",
    "pictographs and hashtags": f"{GOOD} \N{MICROSCOPE} #dermoscopy #nevus",
    "no-break spaces": GOOD.replace(" ", "\N{NO-BREAK SPACE}"),
    "an article": GOOD.replace("of nevus", "of a nevus"),
    "another article": GOOD.replace("A dermoscopic", "The dermoscopic").replace(
        "of ", "of the ", 1
    ),
    "no article": GOOD.removeprefix("A ").capitalize().replace("its", "Its"),
    "capitals": GOOD.replace(SIMPLE, SIMPLE.upper()),
    "this is": f"This is {GOOD[0].lower()}{GOOD[1:]}",
}

# Texts that are kept as they are, though a rule of words alone would refuse them.
KEPT = {
    f"{SIMPLE}, with hair in a male pattern. An aged paper ruler lies beside it.": None,
    f"{SIMPLE} on skin to be seen at the edges. Normal skin surrounds it.": None,
    f'{SIMPLE}. A bluish "veil" covers the left half, and the border fades.': None,
    f"{SIMPLE}; follicular openings and a pale area without vessels. No crust is visible.": None,
    f"{SIMPLE}, 2 * 3 dots in rows\N{EN DASH}each \N{GREEK SMALL LETTER ALPHA}-shaped.": None,
    f"{SIMPLE}, about 5 mm wide and brown.": "gives a measure: 5 mm",
    f"{SIMPLE}, brown, round and small, under 5% of the image.": "gives a measure: 5% of",
    f"{SIMPLE}, brown and even. It appears benign.": "interprets what is seen: benign",
    f"{SIMPLE}, brown, which suggests an active junction.": "interprets what is seen: suggests an",
    f"{SIMPLE}, brown and even, consistent with a nevus.": None,
    f"{SIMPLE}, brown, with a look of dermatitis around it.": "may make a diagnosis: dermatitis",
    f"{SIMPLE}, brown, near an old scar of pale skin.": "mentions old scar, which is a class",
    f"{SIMPLE}, brown, invasive-looking at one edge.": "says invasi, which the profile calls",
    f"{SIMPLE}: round, brown, regular, smooth; pale periphery, fine hairs, sharp margin, dark "
    "center.": "may be in another language",
}

# Texts that are asked for again, and why.
REFUSED = {
    "I'm sorry, but I can't help with medical images.": "does not begin with",
    "The lesion is round and brown.": "does not begin with",
    f"I cannot see the image clearly. Here is a generic caption: {GOOD}": "refuses to describe",
    f"{SIMPLE}.": "says nothing beyond",
    f"{SIMPLE}-like lesions, brown and round.": "does not begin with",
    f"Option 1: {GOOD}\nOption 2: {SIMPLE}, a flat brown spot.": "gives more than one caption",
    f"{GOOD} Describe only what you see: no advice, no warnings, no questions.": "echoes",
    f"{GOOD} <image> And the next one?": "echoes the instruction",
    f"{SIMPLE}, brown and brown and brown and brown.": "repeats itself",
    f"{SIMPLE}, eine runde Struktur mit einem braunen Netz, und der Rand ist nicht scharf.": (
        "is in another language: eine runde"
    ),
    f"{SIMPLE}, una lesión redonda con una red marrón y los bordes son finos.": "is in another",
    f"{SIMPLE}\N{FULLWIDTH COMMA}\u68d5\u8272\u75c5\u53d8\N{IDEOGRAPHIC FULL STOP}": (
        "is in another language: \u68d5\u8272"
    ),
    f"{SIMPLE}, with a brown \u0441\u0435\u0442\u044c of lines.": "is in another language: \u0441",
    f"{SIMPLE} on the back of a 45-year-old, brown.": "tells who the patient is: 45-year-old",
    f"{SIMPLE} in a male patient, brown.": "tells who the patient is: male patient",
    f"{SIMPLE} on her arm, brown.": "tells who the patient is: her",
    f"{SIMPLE}, brown. Taken on 03/11/2019.": "tells who the patient is: 03/11/2019",
    f"{SIMPLE}, brown. Labeled Mrs. Jones.": "tells who the patient is: Mrs. J",
    f"{SIMPLE}, brown. It should be biopsied.": "gives advice: should be biopsied",
    f"{SIMPLE}, brown. Biopsy needed to confirm.": "gives advice: Biopsy needed",
    f"{SIMPLE}, brown. Consider a punch biopsy.": "gives advice: Consider a punch biopsy",
    f"{SIMPLE}, brown, as often in older adults.": "tells who the patient is: older adults",
    f"{SIMPLE}, brown, of a child's arm.": "tells who the patient is: of a child",
    f"{SIMPLE}, brown. The differential includes lichen planus.": (
        "makes a diagnosis that is not the label: differential lichen planus"
    ),
    f"{SIMPLE}, brown. An artificial intelligence may err.": "refuses to describe",
    f"{SIMPLE}, brown, and regular follow-up is wise.": "gives advice: follow-up",
    f"{SIMPLE}, brown, warranting no more. We recommend monitoring.": "gives advice: recommend",
    f"{SIMPLE}, brown, consistent with early melanoma.": "names another class: melanoma",
    f"{SIMPLE}, brown, like Melanomas.": "names another class: melanoma",
    f"{SIMPLE}, like seborrhoeic keratoses.": "names another class: seborrheic keratosis",
    f"{SIMPLE}, brown. Here BE is seen.": "names another class: BE",
    f"{SIMPLE}, brown, suggestive of squamous cell carcinoma.": (
        "makes a diagnosis that is not the label: suggestive of carcinoma"
    ),
    f"{SIMPLE}, brown, possibly psoriasis of the skin.": "makes a diagnosis that is not the label",
    f"{SIMPLE}, brown, with signs of malignancy.": "makes a diagnosis that is not the label: mali",
    f"{SIMPLE}, brown, seen during treatment.": "contains a forbidden word: treatment",
}
ANSWERS = [*STRIPPED.values(), *KEPT, *REFUSED]


def draw_image(number):
    """Draw skin with a brown and a bluish spot, so that no color of the answers is missing."""
    image = Image.new("RGB", (9, 9), (225, 180, 160))
    image.paste((110, 70, 45), (0, 0, 4, 4))
    image.paste((95, 105, 150), (5, 5, 9, 9))
    image.putpixel((8, 0), (number, 90, 60))
    return image


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Caption one image for each answer; of the first image of each other label the text is any."""
    folder = tmp_path_factory.mktemp("answers")
    labels = ["nevus"] * len(ANSWERS) + LABELS[1:]
    lines = []
    for number, label in enumerate(labels):
        draw_image(number).save(folder / f"{number:03d}.png")
        fields = {"file_name": f"{number:03d}.png", "label": label, "number": number}
        lines.append(json.dumps(fields) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))

    def reply(body):
        number = int(re.match(r"Image (\d+)\.", prompt_of(body))[1])
        return ANSWERS[number] if number < len(ANSWERS) else "No."

    options = ["--profile", "dermoscopy", "--context", "Image {number}.", "--attempts", "1"]
    options += ["--base", str(build_base(tmp_path_factory.mktemp("base") / "base"))]
    with serve(reply) as stub:
        call = ["caption", str(folder), "--endpoint", stub.url, "--max-refused", "1", *options]
        result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.stderr
    found = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    return dict(zip(ANSWERS, found, strict=False))


def test_there_are_some_sixty_answers():
    assert len(set(ANSWERS)) == len(ANSWERS) > 60


@pytest.mark.parametrize("name", STRIPPED)
def test_what_surrounds_a_caption_is_stripped(rows, name):
    row = rows[STRIPPED[name]]
    assert (row["text"], row["caption"]["status"]) == (GOOD, "ok"), row["caption"]
    assert "flags" not in row["caption"]


@pytest.mark.parametrize("text", KEPT)
def test_what_is_right_or_may_be_is_kept_and_flagged_where_it_is_doubtful(rows, text):
    row = rows[text]
    assert (row["text"], row["caption"]["status"]) == (text, "ok"), row["caption"]
    flags = row["caption"].get("flags", [])
    assert len(flags) == (KEPT[text] is not None)
    assert not flags or flags[0].startswith(KEPT[text])


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_wrong_is_refused_with_its_reason(rows, text):
    row = rows[text]
    assert (row["text"], row["caption"]["status"]) == (SIMPLE, "simple"), row["text"]
    assert any(fault.startswith(REFUSED[text]) for fault in row["caption"]["faults"])

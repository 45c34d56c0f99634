"""Each family of captioners, small and of random weights, through the one loading path.

Also a command, for the table of docs/captioners.md: python -m tests.chain.test_captioners
"""

import json
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import SmolVLMVideoProcessor

from medart_cli.errors import ConfigError, RunError
from medart_cli.models.chat import Chat, read_chat
from medart_cli.models.questions import Question
from tests.models.test_captioner import load, questions
from tests.small_captioners import FAMILIES, build

PAGE = Path(__file__).parents[2] / "docs" / "captioners.md"
# What transformers 5.24 itself cannot run: its Llama 4 asks its language model for `image_outputs`.
BROKEN = {"Llama 4"}
CAPTION = "A dermoscopic image of a nevus. It shows brown colors."
THOUGHT = 'It says: begin with "A dermoscopic image of a nevus". It shows a round border, so'


def listen(captioner, asked, batch_size):
    """Return the tokens of each answer up to its end, and the answers."""
    heard, read = {}, Chat.read

    def note(chat, tokens):
        answer = read(chat, tokens)
        end = next((i for i, token in enumerate(tokens) if token in chat.ends), len(tokens))
        return replace(answer, text=repr(tokens[:end]))

    captioner.batch_size = batch_size
    Chat.read = note
    try:
        heard = dict(item for item in captioner.ask(asked) if item is not None)
    finally:
        Chat.read = read
    return [heard[index].error or heard[index].text for index in range(len(asked))]


def is_equal_in_batches(folder):
    """Say whether greedy and drawn answers are the same one by one and in a batch."""
    for temperature in (0.0, 0.8):
        captioner = load(folder, temperature=temperature)
        alone = listen(captioner, questions(), 1)
        if alone != listen(captioner, questions(), 5) or len(set(alone)) < 2:
            return False
    return True


def say(captioner, text):
    """Let the model say a text instead of its own, and return what is read."""
    tokenizer = captioner.processor.tokenizer
    said = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    own, captioner.model.generate = captioner.model.generate, lambda input_ids, **_: torch.cat(
        [input_ids, said.expand(len(input_ids), -1)], dim=1
    )  # fmt: skip
    try:
        return next(answer for _, answer in filter(None, captioner.ask(questions()[:1])))
    finally:
        captioner.model.generate = own


def is_stripped(folder, begin, end):
    """Say whether an answer loses its thoughts, and a thought that was cut leaves nothing."""
    captioner = load(folder)
    begin = "" if captioner.chat.opened else begin
    whole = say(captioner, f"{begin}{THOUGHT}{end}{CAPTION}</s>")
    cut = say(captioner, f"{begin}{THOUGHT}")
    return whole.text == CAPTION and not whole.only_reasoning and cut.only_reasoning


def find_row(name):
    """Build a family and return its row of the table."""
    marks = getattr(FAMILIES[name], "thought", ("<think>", "</think>"))
    with tempfile.TemporaryDirectory() as place:
        folder = build(name, Path(place) / "model")
        if name in BROKEN:
            with pytest.raises(RunError, match="answers to no image"):
                listen(load(folder), questions(), 1)
            return f"| {name} | no | | {yes(is_stripped(folder, *marks))} |"
        equal, stripped = is_equal_in_batches(folder), is_stripped(folder, *marks)
        return f"| {name} | yes | {yes(equal)} | {yes(stripped)} |"


def yes(holds):
    return "yes" if holds else "no"


@pytest.mark.nightly
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_does_what_the_table_says(name):
    assert find_row(name) in PAGE.read_text(encoding="utf-8")


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - BROKEN))
def test_an_odd_image_costs_its_own_row_at_most(name, tmp_path):
    captioner = load(build(name, tmp_path / "model"), temperature=0.0)
    asked = questions()
    expected = listen(captioner, asked, 1)
    control = captioner.chat.controls[-1]
    odd = [
        Question(Image.new("RGB", (3, 900)), "What is this?", 0),
        Question(Image.new("RGB", (900, 3)), "What is this?", 0),
        Question(Image.new("RGB", (40, 40)), f"Site: {control}. What is this?", 0),
        Question(Image.new("RGB", (1, 1)), "What is this?", 0),
    ]
    found = listen(captioner, [*odd, *asked], 9)
    assert found[4:] == expected
    assert f"the model cannot read it (40 x 40 pixels): its prompt holds {control}" in found[2]
    for text in found[:4]:
        assert text.startswith(("[", "the model cannot read it ("))


def test_an_image_that_a_family_cannot_read_is_one_failed_row(medart, small_base, tmp_path):
    """A strip is refused when it is read; an image of one patch by Mistral 3's own model."""
    sizes = [(60, 40), (3, 900), (14, 14), (40, 60)]
    for index, size in enumerate(sizes):
        (tmp_path / "images" / "nevus").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "pink").save(tmp_path / "images" / "nevus" / f"{index}.png")
    words = ["caption", tmp_path / "images", "--model", build("Mistral 3", tmp_path / "model")]
    words += ["--base", small_base, "--max-new-tokens", 4, "--attempts", 1, "--batch-size", 1]
    code, _, errors = medart(*words)
    assert code == 3
    assert "1.png: is a strip of 3 x 900 pixels" in errors
    assert "2.png: the model cannot read it (14 x 14 pixels): " in errors
    lines = (tmp_path / "images" / "metadata.jsonl").read_text("utf-8").splitlines()
    statuses = [json.loads(line)["caption"]["status"] for line in lines]
    assert statuses == ["simple", "rejected", "rejected", "simple"]
    assert medart(*words, "--max-failures", 2)[0] == 0


@pytest.mark.skipif(find_spec("num2words") is not None, reason="num2words is there")
def test_smolvlm_without_num2words_is_refused_in_one_line(tmp_path):
    """Its own processor asks for the package; the rest is that of Idefics3, its elder."""
    folder = build("Idefics3", tmp_path / "model")
    SmolVLMVideoProcessor().save_pretrained(folder)
    named = {"model_type": "smolvlm", "processor_class": "SmolVLMProcessor"}
    for name in ("processor_config.json", "tokenizer_config.json", "config.json"):
        table = json.loads((folder / name).read_text("utf-8"))
        table |= {key: value for key, value in named.items() if key in table}
        (folder / name).write_text(json.dumps(table), "utf-8")
    with pytest.raises(ConfigError) as caught:
        read_chat(folder)
    assert str(caught.value) == (
        f"{folder}: its processor needs the package num2words; pip install num2words"
    )


def test_the_table_has_a_row_for_each_family():
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in FAMILIES if f"\n| {name} | " not in page] == []


if __name__ == "__main__":
    for each in FAMILIES:
        print(find_row(each), flush=True)  # noqa: T201

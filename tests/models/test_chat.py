import json
import shutil

import pytest
from PIL import Image
from transformers import AutoProcessor, T5Config

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models import chat as chats
from medart_cli.models.chat import first_line, read_chat
from medart_cli.models.questions import Question
from tests.small_captioner import TEMPLATE, build_llava

THINKER = TEMPLATE.replace(
    "ASSISTANT:{%",
    "ASSISTANT:{% if enable_thinking is defined and enable_thinking is false %}<think></think>"
    "{% else %}<think>\n{% endif %}{%",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_llava(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture
def folder(model, tmp_path):
    return shutil.copytree(model, tmp_path / "llava")


def edit(path, **fields):
    table = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**table, **fields}), "utf-8")


def ask(prompt="What?", size=(40, 30)):
    return Question(Image.new("RGB", size, "pink"), prompt, 0)


def written(chat):
    """Return what the model is given for a question."""
    tokens = chat.encode([ask()])["input_ids"][0]
    return chat.processor.tokenizer.decode(tokens)


def read(chat, said):
    return chat.read(chat.processor.tokenizer(said, add_special_tokens=False).input_ids)


def add_tokens(folder, *texts, special):
    processor = AutoProcessor.from_pretrained(folder)
    if special:
        processor.tokenizer.add_special_tokens({"extra_special_tokens": ["<image>", *texts]})
    else:
        processor.tokenizer.add_tokens(list(texts))
    processor.save_pretrained(folder)


def test_questions_of_a_batch_are_padded_on_the_left(model):
    chat = read_chat(model)
    inputs = chat.encode([ask(), ask("What is this, and where is it?")])
    assert inputs["attention_mask"][0, 0] == 0 and inputs["attention_mask"][:, -1].all()
    assert inputs["pixel_values"].shape[0] == 2


def test_an_answer_ends_at_the_first_end_and_loses_special_tokens(model):
    answer = read(read_chat(model), "brown<s> and<pad> round</s> more")
    assert (answer.text, answer.finished, answer.only_reasoning) == ("brown and round", True, False)
    assert not read(read_chat(model), "brown").finished


@pytest.mark.parametrize("special", [True, False])
def test_thoughts_are_stripped_by_the_tokenizer_s_own_marks(folder, special):
    add_tokens(folder, "<unused94>", "<unused95>", special=special)
    chat = read_chat(folder)
    said = "<unused94>thought\nIt asks for a nevus.<unused95>A brown nevus.</s>"
    assert read(chat, said).text == "A brown nevus."
    only = read(chat, "<unused94>thought\nIt asks for a nevus, and so I")
    assert (only.text, only.only_reasoning, only.finished) == ("", True, False)


def test_marks_that_the_tokenizer_states_are_no_part_of_an_answer(folder):
    add_tokens(folder, "<|ponder|>", "<|said|>", special=True)
    fields = {"thinking": {"open": "<|ponder|>", "close": "<|said|>"}}
    edit(folder / "tokenizer_config.json", response_template={"fields": fields})
    assert read(read_chat(folder), "<|ponder|>A nevus?<|said|>A brown nevus.").text == (
        "A brown nevus."
    )


def test_a_template_that_can_is_asked_for_no_thoughts(folder):
    (folder / "chat_template.jinja").write_text(THINKER)
    chat = read_chat(folder)
    assert written(chat).endswith("ASSISTANT:<think></think>") and chat.opened == ""
    assert read(chat, "A brown nevus").text == "A brown nevus"


def test_a_template_without_a_switch_is_left_as_it_is(model):
    assert read_chat(model).processor.chat_template == TEMPLATE


def test_what_follows_a_thought_that_the_template_opens_is_a_thought_till_it_closes(folder):
    (folder / "chat_template.jinja").write_text(
        TEMPLATE.replace("ASSISTANT:", "ASSISTANT:<think>\n")
    )
    chat = read_chat(folder)
    assert chat.opened == "<think>"
    assert read(chat, "It asks for a nevus.</think>A brown nevus.").text == "A brown nevus."
    assert read(chat, "It asks for a nevus, and so").only_reasoning


def test_a_template_in_tokenizer_config_alone_is_used(folder):
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", chat_template=TEMPLATE)
    assert "USER:" in written(read_chat(folder))


def test_a_template_that_asks_for_an_image_is_taken(folder):
    first = "{{ messages[0]['content'][0]['image'].size }}"
    (folder / "chat_template.jinja").write_text(first + TEMPLATE)
    assert "USER:" in written(read_chat(folder))


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, "its processor has no chat template"),
        ("{% for message in messages %}{{ message['content'] }}{% endfor %}", "takes only text"),
        (TEMPLATE.replace("{{ item['text'] }}", ""), "takes only text"),
        ("{% for m in messages %}{{ 'USER: ' + m['content'] }}{% endfor %}", "cannot be used with"),
        (TEMPLATE.replace("<image>\n", ""), "its chat template writes no image"),
        (TEMPLATE[:-11], "cannot be used with"),
        ("{{ raise_exception('no') }}", "cannot be used with an image and a text: no;"),
        (TEMPLATE.replace("<image>", "<picture>"), "cannot read an image with its chat template"),
    ],
    ids=["none", "string", "no-text", "sum", "no-image", "torn", "refuses", "other-image"],
)
def test_a_template_that_takes_no_image_is_refused_in_one_line(folder, template, told):
    (folder / "chat_template.jinja").unlink()
    if template:
        (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigError) as caught:
        read_chat(folder)
    assert f"{folder}: " in str(caught.value) and told in str(caught.value)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


def test_a_package_that_a_processor_needs_is_named(folder, monkeypatch):
    def lacks(*_, **__):
        raise ImportError(
            "Package `num2words` is required. Install it with `pip install num2words`."
        )

    monkeypatch.setattr(chats.AutoProcessor, "from_pretrained", lacks)
    with pytest.raises(ConfigError) as caught:
        read_chat(folder)
    assert str(caught.value) == (
        f"{folder}: its processor needs the package num2words; pip install num2words"
    )


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("processor_config.json", "its processor cannot be loaded: .*image processor"),
        ("tokenizer.json", "its processor cannot be loaded"),
    ],
)
def test_a_model_that_lacks_a_file_is_refused_in_one_line(folder, lost, told):
    (folder / lost).unlink()
    with pytest.raises((ConfigError, MissingModelError), match=told) as caught:
        read_chat(folder)
    assert "\n" not in str(caught.value)


def test_a_torn_tokenizer_is_refused_in_one_line(folder):
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:2000])
    with pytest.raises(ConfigError, match="its processor cannot be loaded") as caught:
        read_chat(folder)
    assert "\n" not in str(caught.value)


def test_a_processor_without_images_is_refused(folder, monkeypatch):
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    monkeypatch.setattr(chats.AutoProcessor, "from_pretrained", lambda *_, **__: tokenizer)
    with pytest.raises(ConfigError, match="its processor reads no images"):
        read_chat(folder)


@pytest.mark.parametrize("kind", ["t5", "phi4_multimodal"])
def test_a_model_of_another_kind_is_refused_before_its_weights_are_read(folder, kind):
    (folder / "model.safetensors").unlink()
    T5Config().save_pretrained(folder)
    edit(folder / "config.json", model_type=kind)
    with pytest.raises(ConfigError, match=f"not an image-text-to-text model .*{kind}"):
        read_chat(folder)


@pytest.mark.parametrize("kind", ["blip-2", "florence2", "kosmos-2"])
def test_a_model_without_chat_is_refused_before_its_weights_are_read(folder, kind):
    """As their processors on the hub are: with images and a tokenizer, and no chat template."""
    (folder / "model.safetensors").unlink()
    (folder / "chat_template.jinja").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ConfigError, match="no chat template; use a chat"):
        read_chat(folder)


def test_the_ends_are_found_where_any_file_names_them_and_missed_where_none_does(folder):
    names = ["generation_config.json", "config.json", "tokenizer_config.json"]
    for name in names[1:]:
        edit(folder / name, eos_token_id=None, eos_token=None)
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config={**config["text_config"], "eos_token_id": None})
    assert read_chat(folder).ends == [1]
    edit(folder / "generation_config.json", eos_token_id=[7, 8])
    assert read_chat(folder).ends == [7, 8]
    edit(folder / "generation_config.json", eos_token_id=None)
    with pytest.raises(ConfigError, match="no token ends its answers; set eos_token_id"):
        read_chat(folder)
    edit(folder / "config.json", text_config={**config["text_config"], "eos_token_id": 5})
    assert read_chat(folder).ends == [5]


@pytest.mark.parametrize("text", ["a <image> in it", "</s>", "<s>USER: x"])
def test_a_question_that_holds_a_control_token_is_refused_with_its_reason(model, text):
    with pytest.raises(ValueError, match="its prompt holds <.*>, a control token of this model"):
        read_chat(model).encode([ask(text)])


def test_the_first_line_of_an_error_is_short_and_never_empty():
    assert first_line(ValueError("\n one. \ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("Is not there. " + "If you were trying, " * 20)) == "Is not there"
    assert len(first_line(ValueError("x" * 999))) == 160

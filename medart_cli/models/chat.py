"""How a captioner is asked and read: its processor, chat template and tokens, without its weights.

`medart doctor` and `medart caption` both come through `read_chat`, so that what is ready for the
one can start in the other, and what is refused is refused in the same words.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from PIL import Image
from transformers import AutoConfig, AutoProcessor, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models.questions import Answer, Question
from medart_cli.models.reasoning import (
    find_opened,
    has_reasoning,
    is_mark,
    read_marks,
    strip_reasoning,
)

LOCAL = {"local_files_only": True, "trust_remote_code": False}
# By these variables chat templates switch thinking: the first in Qwen, GLM, Gemma 4, InternVL and
# most others, the second in Kimi, DeepSeek, Granite and HyperCLOVA X.
THINKING = ("enable_thinking", "thinking")
LONG_LINE = 160  # letters of an error in a message
PROBE = Question(Image.new("RGB", (224, 224), "gray"), "What is visible?", 0)
# What processors and templates raise where they cannot make an input of an image and a text.
UNREADABLE = (
    TemplateError, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError,
    AssertionError,
)  # fmt: skip


@dataclass(frozen=True)
class Chat:
    """What stands between a question and a model's tokens.

    Attributes:
        processor: Of transformers, its chat template asking for no thoughts where it can.
        ends: Tokens that end an answer.
        dropped: Special tokens that are no part of an answer; not the marks of thoughts.
        controls: Texts that a question may not hold, since they are control tokens of this model.
        opened: The mark of a thought that the template itself opens; empty if it opens none.
        pairs: Marks of thoughts that the tokenizer states.
    """

    processor: Any
    ends: list[int]
    dropped: frozenset[int]
    controls: tuple[str, ...]
    opened: str = ""
    pairs: tuple[tuple[str, str], ...] = ()

    def encode(self, questions: Sequence[Question]) -> Any:  # noqa: ANN401 - a BatchFeature
        """Make the model's inputs of a batch of questions, padded on the left.

        Raises:
            ValueError: A question holds a control token, or the processor refuses an image; some
                processors raise other errors, which `UNREADABLE` lists.
        """
        for question in questions:
            for control in self.controls:
                if control in question.prompt:
                    raise ValueError(
                        f"its prompt holds {control}, a control token of this model; remove it "
                        "from the manifest's columns"
                    )
        return self.processor.apply_chat_template(
            [_talk(question) for question in questions],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def read(self, tokens: Sequence[int]) -> Answer:
        """Read one answer: its tokens up to the end, without special tokens and thoughts."""
        end = next((place for place, token in enumerate(tokens) if token in self.ends), None)
        kept = [token for token in tokens[:end] if token not in self.dropped]
        said = self.processor.tokenizer.decode(kept, skip_special_tokens=False)
        text = strip_reasoning(said, opened=self.opened, pairs=self.pairs)
        thought = bool(self.opened) or has_reasoning(said, pairs=self.pairs)
        return Answer(text, finished=end is not None, only_reasoning=thought and not text)


def read_chat(folder: Path) -> Chat:
    """Read all of a captioner that is not weights, and check that it can be asked about an image.

    Raises:
        MissingModelError: A file is missing or unreadable.
        ConfigError: It is no model that answers to an image and a text; or its processor needs a
            package that is not installed, has no chat template, or one that takes no image; or no
            token ends an answer.
    """
    config = _read_config(folder)
    processor = _read_processor(folder)
    return build_chat(folder, processor, _find_ends(folder, config, processor.tokenizer))


def build_chat(folder: Path, processor: Any, ends: list[int]) -> Chat:  # noqa: ANN401 - as below
    """Prepare a loaded processor, and check that it makes an input of an image and a text.

    Args:
        folder: Where it is from, for the messages.
        processor: Of transformers; its padding and its chat template are set here.
        ends: Tokens that end an answer.

    Raises:
        ConfigError: It has no chat template, or one that takes no image.
    """
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"  # the answer must follow the prompt directly
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(ends[0])
    processor.chat_template = _find_template(folder, processor)
    after = _check_template(folder, processor)
    special = _list_special(tokenizer)
    pairs = tuple(read_marks(getattr(tokenizer, "response_template", None)))
    chat = Chat(
        processor=processor,
        ends=ends,
        dropped=frozenset(
            number
            for number, token in special.items()
            if not is_mark(token) and not has_reasoning(token, pairs=pairs)
        ),
        controls=tuple(text for text in special.values() if re.match(r"[^\w\s].*\w", text)),
        opened=find_opened(after, pairs=pairs),
        pairs=pairs,
    )
    try:
        chat.encode([PROBE])
    except UNREADABLE as error:
        raise ConfigError(
            f"{folder}: its processor cannot read an image with its chat template: "
            f"{first_line(error)}; copy its processor files again, or use another model"
        ) from error
    return chat


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing.

    Of a line that is too long for a message only the first sentence, or its beginning.
    """
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if len(line) > LONG_LINE:
        line = line.partition(". ")[0][:LONG_LINE]
    return line.rstrip(".") or type(error).__name__


def _talk(question: Question, *, image: bool = True) -> list[dict[str, Any]]:
    shown = [{"type": "image", "image": question.image}] if image else []
    return [{"role": "user", "content": [*shown, {"type": "text", "text": question.prompt}]}]


def _read_config(folder: Path) -> Any:  # noqa: ANN401 - of transformers, which has no types
    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)
    except OSError as error:
        raise MissingModelError(f"{folder}: cannot be loaded: {first_line(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder}: is not an image-text-to-text model of transformers: {first_line(error)}"
        ) from error
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ConfigError(
            f"{folder}: is not an image-text-to-text model of transformers ({config.model_type}); "
            "use one of docs/captioners.md"
        )
    return config


def _read_processor(folder: Path) -> Any:  # noqa: ANN401 - of transformers, which has no types
    try:
        processor = AutoProcessor.from_pretrained(folder, **LOCAL)
    except ImportError as error:
        found = re.search(r"pip install ([\w.\[\]-]+)", str(error))
        name = found[1] if found else error.name
        raise ConfigError(
            f"{folder}: its processor needs the package {name}; pip install {name}"
            if name
            else f"{folder}: its processor cannot be loaded: {first_line(error)}"
        ) from error
    except OSError as error:
        raise MissingModelError(
            f"{folder}: its processor cannot be loaded: {first_line(error)}; copy its JSON files "
            "again"
        ) from error
    except Exception as error:  # tokenizers raises no narrower one
        raise ConfigError(
            f"{folder}: its processor cannot be loaded: {first_line(error)}; copy its JSON files "
            "again"
        ) from error
    for part, lacks in (("image_processor", "reads no images"), ("tokenizer", "has no tokenizer")):
        if getattr(processor, part, None) is None:
            raise ConfigError(
                f"{folder}: its processor {lacks}; use an image-text-to-text model, with its "
                "processor_config.json or preprocessor_config.json"
            )
    return processor


def _find_template(folder: Path, processor: Any) -> str:  # noqa: ANN401 - as above
    """Return the chat template of the processor, or of its tokenizer, asking for no thoughts."""
    template = processor.chat_template or getattr(processor.tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ConfigError(
            f"{folder}: its processor has no chat template; use a chat (instruct) model"
        )
    used = [name for name in THINKING if re.search(rf"\b{name}\b", template)]
    # Not as arguments: what a template does not use, transformers hands on to the processor.
    return "".join(f"{{%- set {name} = false +%}}" for name in used) + str(template)


def _check_template(folder: Path, processor: Any) -> str:  # noqa: ANN401 - as above
    """Check that a chat template writes image and text, and return what it writes after them."""

    def write(*, image: bool) -> str:
        talk = _talk(PROBE, image=image)
        return str(processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False))

    try:
        whole = write(image=True)
    except UNREADABLE as error:
        raise ConfigError(
            f"{folder}: its chat template cannot be used with an image and a text: "
            f"{first_line(error)}; use another model, or its template for images"
        ) from error
    _, found, after = whole.rpartition(PROBE.prompt)
    if "'type':" in whole or not found:
        raise ConfigError(
            f"{folder}: its chat template takes only text; use an image-text-to-text model's own"
        )
    blind = ""
    with suppress(*UNREADABLE):  # a template may ask for an image
        blind = write(image=False)
    if whole == blind:
        raise ConfigError(
            f"{folder}: its chat template writes no image; use an image-text-to-text model's own"
        )
    return after


def _list_special(tokenizer: Any) -> dict[int, str]:  # noqa: ANN401 - as above
    """Return the special tokens of a tokenizer: numbers and texts."""
    ids = [number for number in tokenizer.all_special_ids if number is not None]
    special = dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
    added = tokenizer.added_tokens_decoder
    if isinstance(added, dict):  # Mistral's own tokenizer has no such table
        special |= {number: token.content for number, token in added.items() if token.special}
    return special


def _find_ends(folder: Path, config: Any, tokenizer: Any) -> list[int]:  # noqa: ANN401 - as above
    """Return the tokens that end an answer, by the first source that names any."""
    sources = [config, config.get_text_config(), tokenizer]
    if (folder / "generation_config.json").is_file():
        try:
            sources.insert(0, GenerationConfig.from_pretrained(folder, local_files_only=True))
        except (OSError, ValueError) as error:
            raise MissingModelError(
                f"{folder / 'generation_config.json'}: cannot be read: {first_line(error)}; copy "
                "it again"
            ) from error
    for source in sources:
        ends = getattr(source, "eos_token_id", None)
        if ends is not None and ends != []:
            return list(ends) if isinstance(ends, list | tuple) else [ends]
    raise ConfigError(
        f"{folder}: no token ends its answers; set eos_token_id in its generation_config.json"
    )

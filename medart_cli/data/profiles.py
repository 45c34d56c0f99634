"""Modality profiles: how captions of one kind of medical image are worded. TOML, see profiles/."""

import hashlib
import string
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from medart_cli.data.classes import ClassWords, fit_article, read_classes, spoken_label
from medart_cli.errors import ConfigError

PROMPT = (
    'Write one caption for this image. Begin it exactly with: "{simple}". '
    "Then describe in plain English sentences what is visible: {attributes}. "
    "Use at most {words} words in all. Describe only what you see: no advice, no warnings, no "
    "questions, no headings, and no other diagnosis than the one given."
)
SHORTEN = (
    'This caption of the image is too long: "{text}" Write it again in at most {words} words. '
    'Begin exactly with: "{simple}". Keep what is visible, and add nothing.'
)
DEFAULT_PROFILE = "generic"
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "any")  # any: texts are not checked for it
KEY_TYPES: dict[str, type] = {
    "simple": str,
    "unlabeled": str,
    "flips": bool,
    "words": int,
    "language": str,
    "attributes": dict,
    "findings": list,
    "forbidden": list,
    "doubtful": list,
    "context": list,
    "prompt": str,
}
LISTS = tuple(key for key, kind in KEY_TYPES.items() if kind is list)


@dataclass(frozen=True)
class Profile:
    """One modality.

    Attributes:
        name: Its name, or the path it was read from.
        simple: The template caption, with `{label}` in it.
        flips: Whether a mirrored image means the same.
        unlabeled: The template caption of an image without a label.
        words: Words that the captioner is asked to keep to.
        language: Of the captions, one of `LANGUAGES`.
        attributes: What to describe, and the beginnings of words that show it was described.
        findings: Beginnings of words for what may be seen in any class, also where it is a class.
        forbidden: Beginnings of words that no caption may hold.
        doubtful: Beginnings of words that a reviewer should look at.
        context: Sentences for the prompt with manifest columns in braces; a sentence is left out
            of the prompt of a row that lacks one of its columns.
        prompt: The instruction; knows `{simple}`, `{label}`, `{attributes}` and `{words}`.
        classes: How labels are spoken, where that is said (`--classes`).
    """

    name: str
    simple: str
    flips: bool
    unlabeled: str
    words: int = 70
    language: str = "en"
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    prompt: str = PROMPT
    classes: Mapping[str, ClassWords] = field(default_factory=dict)

    def word_class(self, label: str) -> ClassWords:
        """Say how a label is spoken: as `--classes` has it, else by the words in it."""
        said = self.classes.get(unicodedata.normalize("NFC", label))
        return said or ClassWords(spoken_label(label))

    def simple_caption(self, label: str | None) -> str:
        """Fill the template caption of the paper for a class, in its spoken form."""
        spoken = self.word_class(label).name if label else ""
        return fit_article(self.simple, spoken).format(label=spoken) if spoken else self.unlabeled

    def fill_context(self, fields: Mapping[str, Any]) -> list[str]:
        """Return the sentences of `context` for one manifest row that has their columns."""
        known = {name: str(value) for name, value in fields.items() if _is_filled(value)}
        return [
            sentence.format_map(known)
            for sentence in self.context
            if columns_of(sentence) <= known.keys()
        ]

    def build_prompt(self, fields: Mapping[str, Any]) -> str:
        """Word the instruction for one manifest row, its label and its columns in it."""
        label = "" if fields.get("label") is None else str(fields["label"])  # it may be a number
        instruction = self.prompt.format(
            simple=self.simple_caption(label),
            label=self.word_class(label).name,
            attributes=", ".join(self.attributes) or "colors, shapes, surface and surroundings",
            words=self.words,
        )
        return " ".join([*self.fill_context(fields), instruction])

    def build_shorter(self, text: str, simple: str, words: int) -> str:
        """Word the instruction that asks for a shorter form of a caption."""
        return SHORTEN.format(text=text, words=words, simple=simple)

    def wording(self, labels: Iterable[str | None]) -> dict[str, Any]:
        """Return what the template captions of some labels come from, for `as_worded`."""
        names = {label: self.word_class(label).name for label in sorted(filter(None, set(labels)))}
        return {"simple": self.simple, "unlabeled": self.unlabeled, "classes": names}

    def hash(self) -> str:
        """Return 12 digits that change when a prompt or what is taken of its answers changes."""
        parts = (self.simple, self.unlabeled, self.words, dict(self.attributes), self.context)
        rules = (self.language, self.findings, self.forbidden, self.doubtful)
        text = repr((*parts, *rules, sorted(self.classes.items()), self.prompt, SHORTEN))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def as_worded(wording: Mapping[str, Any]) -> Profile:
    """Return a profile that words template captions as a run's did, from its run.json."""
    classes = {label: ClassWords(name) for label, name in wording["classes"].items()}
    return Profile("run", wording["simple"], False, wording["unlabeled"], classes=classes)


def columns_of(sentence: str) -> set[str]:
    """Return the names in braces of a sentence.

    Raises:
        ValueError: The braces do not match, or hold something else than a name.
    """
    names = {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"{{{name}}} is not the name of a column")
    return names


def read_profile(name: str, classes: Path | None = None) -> Profile:
    """Read a packaged profile by name, or a TOML file of the user's own.

    Args:
        name: The profile.
        classes: A file that says how classes are spoken, see `read_classes`.

    Raises:
        ConfigError: There is no such profile, it lacks a key, or a key has a wrong value.
    """
    profile = _read_file(name)
    return replace(profile, classes=read_classes(classes)) if classes else profile


def _read_file(name: str) -> Profile:
    packaged = resources.files("medart_cli") / "profiles"
    own = Path(name)
    source = own if own.suffix == ".toml" else packaged / f"{name}.toml"
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        known = sorted(item.name.removesuffix(".toml") for item in packaged.iterdir())
        raise ConfigError(
            f"--profile {name}: no such profile; use one of {', '.join(known)}, or a TOML file"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--profile {name}: cannot be read: {error}") from error
    try:
        return _build_profile(name, table)
    except ValueError as error:
        raise ConfigError(f"--profile {name}: {error}") from error


def _build_profile(name: str, table: dict[str, Any]) -> Profile:
    for key, value in table.items():
        if key not in KEY_TYPES:
            raise ValueError(f"unknown key {key}; known keys: {', '.join(KEY_TYPES)}")
        if type(value) is not KEY_TYPES[key]:
            raise ValueError(f"{key} must be a {KEY_TYPES[key].__name__}, got {value!r:.80}")
    simple = table.get("simple")
    if simple is None or columns_of(simple) != {"label"} or "flips" not in table:
        raise ValueError('needs simple = "... of {label}" and flips = true or false')
    if not table.get("words", 1) >= 1:
        raise ValueError(f"words must be 1 or more, got {table['words']}")
    if extra := columns_of(table.get("prompt", "")) - {"simple", "label", "attributes", "words"}:
        raise ValueError(f"prompt has {{{extra.pop()}}}; put columns into sentences of context")
    language = table.get("language", Profile.language)
    if language not in LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {language}")
    if language != Profile.language and "prompt" not in table:
        raise ValueError(f'language = "{language}" needs a prompt in it; the default is English')
    lists = {key: _read_texts(key, table.get(key, [])) for key in LISTS}
    attributes = {
        key: _read_texts(f"attributes, {key!r:.40},", words)
        for key, words in table.get("attributes", {}).items()
    }
    for sentence in lists["context"]:
        columns_of(sentence)
    return Profile(
        name=name,
        simple=simple,
        flips=table["flips"],
        unlabeled=table.get("unlabeled", _without_label(simple)),
        words=table.get("words", Profile.words),
        language=language,
        attributes=attributes,
        prompt=table.get("prompt", PROMPT),
        findings=lists["findings"],
        forbidden=lists["forbidden"],
        doubtful=lists["doubtful"],
        context=lists["context"],
    )


def _read_texts(key: str, values: Any) -> tuple[str, ...]:  # noqa: ANN401 - any TOML value
    for value in values if isinstance(values, list) else [None]:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{key} must be a list of texts, got {value or values!r:.80}")
    return tuple(values)


def _without_label(simple: str) -> str:
    for part in (" of {label}", " {label}", "{label} ", "{label}"):
        if part in simple:
            return simple.replace(part, "").strip()
    return simple


def _is_filled(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    return value is not None and not isinstance(value, (dict, list)) and str(value).strip() != ""

"""Ask a model about images until the rules take what it says: rows -> their new fields."""

import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image

from medart_cli import stop
from medart_cli.ahead import map_ahead
from medart_cli.caption.clean import trim_caption
from medart_cli.caption.edits import carry_rejections, hash_text, judge_again, rejected_texts
from medart_cli.caption.endpoint import Endpoint, check_endpoint, is_unencrypted
from medart_cli.caption.grounding import flag_disagreements
from medart_cli.caption.mentions import is_code
from medart_cli.caption.options import CaptionConfig
from medart_cli.caption.refusals import Refusals
from medart_cli.caption.rules import (
    ONLY_REASONING,
    TOO_LONG,
    Rules,
    cut_caption,
    find_faults,
    find_flags,
    is_whole,
)
from medart_cli.data.images import load_image
from medart_cli.data.manifest import Record, hash_file
from medart_cli.data.profiles import Profile
from medart_cli.errors import ConfigError, ImageError
from medart_cli.log import log
from medart_cli.models.bases import (
    caption_tokens,
    count_tokens,
    find_base,
    find_kind,
    load_tokenizer,
)
from medart_cli.models.questions import Answer, Question, Sampling
from medart_cli.options import DEFAULT_CAPTIONER

if TYPE_CHECKING:
    from medart_cli.models.captioner import Captioner

KEY_VARIABLE = "MEDART_ENDPOINT_KEY"
WINDOW_BATCHES = 8  # batches of images that are decoded ahead, and sorted by size
LONGEST_ANSWER = 20_000  # letters that are judged; a caption has some hundred
WORDS_A_TOKEN = 0.45  # T5 takes some 1.4 tokens for an English word, and up to 2 for medical ones
Asker: TypeAlias = "Captioner | Endpoint"


@dataclass
class Task:
    """A row on its way to a caption.

    Attributes:
        row: Its place in the manifest, from 0; seeds follow from it.
        image: What the model is shown.
        rules: What the text is checked against.
        attempt: How often it was asked for.
        draft: The text that is only too long and is being shortened.
        faults: Why the last text was refused.
    """

    row: int
    image: Image.Image
    rules: Rules
    attempt: int = 1
    draft: str | None = None
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Book:
    """What the rules of all rows have in common.

    Attributes:
        profile: How the modality is worded.
        labels: All classes of the data.
        kind: The base model captions are for; None, as the tokenizer, where no model is asked.
        tokenizer: That of its text encoder.
        limit: Maximum tokens of a caption.
    """

    profile: Profile
    labels: Sequence[str]
    kind: Any = None
    tokenizer: Any = None
    limit: int = 0

    def count(self, text: str) -> int:
        """Count tokens as training will, the end mark included."""
        return count_tokens(self.kind, self.tokenizer, text)

    def rules(self, record: Record) -> Rules:
        """Make the rules for one row's caption."""
        own = self.profile.word_class(record.label) if record.label else None
        return Rules(
            simple=self.profile.simple_caption(record.label),
            instruction=self.profile.build_prompt(record.fields),
            profile=self.profile,
            own=(own.name, *own.synonyms) if own else (),
            others={
                other: self.profile.word_class(other)
                for other in self.labels
                if other != record.label
            },
            context=self.profile.fill_context(record.fields),
            limit=self.limit,
            count_tokens=self.count,
        )


def build_book(
    config: CaptionConfig, profile: Profile, records: Sequence[Record], *, asked: bool
) -> Book:
    """Find the target's tokenizer and limit, and check that all template captions fit.

    Raises:
        MissingModelError: The base pipeline is not there.
        ConfigError: The template caption of a label is longer than the text encoder reads.
    """
    labels = sorted({record.label for record in records if record.label})
    check_classes(config, profile, labels)
    if not asked:
        return Book(profile, labels)
    base = find_base(config.base, offline=config.offline, parts=["tokenizer"])
    kind, tokenizer = find_kind(base), load_tokenizer(base)
    book = Book(profile, labels, kind, tokenizer, caption_tokens(kind, tokenizer))
    for label in labels:
        if book.count(profile.simple_caption(label)) > book.limit:
            raise ConfigError(
                f"label {label!r}: its template caption has over {book.limit} {kind.text_encoder} "
                "tokens; shorten it"
            )
    return book


def check_classes(config: CaptionConfig, profile: Profile, labels: Sequence[str]) -> None:
    """Say which classes share a name, which are codes, and which words have no class.

    Raises:
        ConfigError: `--classes` names none of the labels.
    """
    known = {unicodedata.normalize("NFC", label) for label in labels}
    unused = [label for label in profile.classes if label not in known]
    if unused and len(unused) == len(profile.classes):
        raise ConfigError(
            f"--classes {config.classes}: names none of the labels, such as {unused[0]!r}; labels: "
            f"{', '.join(labels) or 'none'}"
        )
    if unused:
        log.warning("--classes %s: no row has the label %s", config.classes, ", ".join(unused))
    spoken: dict[str, dict[str, None]] = {}
    for label in labels:
        words = profile.word_class(label)
        for name in (words.name, *words.synonyms):
            spoken.setdefault(name.casefold(), {})[label] = None
    for name, alike in spoken.items():
        if len(alike) > 1:
            log.warning(
                "labels %s are both called %r; --classes can give each a name of its own",
                " and ".join(alike), name,
            )  # fmt: skip
    if codes := [label for label in labels if _is_unnamed_code(profile, label)]:
        log.warning(
            "labels %s look like codes, which tell a model little; --classes gives them names",
            ", ".join(codes),
        )


def _is_unnamed_code(profile: Profile, label: str) -> bool:
    said = unicodedata.normalize("NFC", label) in profile.classes
    return not said and is_code(profile.word_class(label).name)


def build_asker(config: CaptionConfig) -> Asker:
    """Load the model, or reach the server; nothing is written before this has worked."""
    sampling = Sampling(config.temperature, config.top_k, config.top_p, config.max_new_tokens)
    if config.endpoint is not None:
        url = check_endpoint(config.endpoint, allow_remote=config.allow_remote)
        if is_unencrypted(url):
            log.warning("%s: images are sent unencrypted; use https", url)
        endpoint = Endpoint(
            url,
            sampling=sampling,
            concurrency=config.concurrency,
            timeout=config.timeout,
            key=os.environ.get(KEY_VARIABLE) or None,
        )
        return endpoint.connect(config.model)
    with stop.at_once():  # loads torch and transformers, which takes seconds
        from medart_cli.models import device as places
        from medart_cli.models.captioner import find_captioner, open_captioner

    places.hush_libraries("transformers")
    device = places.join_processes(config.device)
    name = config.model or DEFAULT_CAPTIONER
    folder = find_captioner(name, revision=config.revision, offline=config.offline)
    captioner = open_captioner(
        *(name, folder),
        device=device,
        precision=config.precision,
        sampling=sampling,
        load_in=config.load_in,
    )
    captioner.batch_size = config.batch_size
    return captioner


def caption_rows(
    config: CaptionConfig,
    records: Sequence[Record],
    todo: Sequence[int],
    book: Book,
    asker: "Asker | None",
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Caption rows, and yield the new fields of each as soon as they stand.

    A window of some batches is kept full, sorted by size inside the model's `ask`; rows that are
    asked again go along with new ones, so that batches stay full.
    """
    if asker is None:
        yield from word_rows(config, records, todo, book)
        return
    source = describe(config, book, asker)
    waiting: list[Task] = []
    window = WINDOW_BATCHES * asker.batch_size
    ahead = decode_ahead(config, records, todo, window)
    refusals = Refusals(config.max_refused)
    while True:
        new = list(islice(ahead, max(0, window - len(waiting))))
        if not new and not waiting:
            refusals.finish()
            return
        for row, image in new:
            if isinstance(image, ImageError):
                reason = str(image).removeprefix(f"{records[row].path}: ")
                yield row, fail_row(config, records[row], reason)
            else:
                waiting.append(Task(row, image, book.rules(records[row])))
        again: list[Task] = []
        questions = [build_question(config, book, task) for task in waiting]
        for item in asker.ask(questions):
            if item is None:
                stop.check()
                continue
            task = waiting[item[0]]
            record = records[task.row]
            first = task.attempt == 1 and task.draft is None and item[1].error is None
            result = settle(config, record, task, item[1], source)
            if result is None:
                again.append(task)
            else:
                yield task.row, result
            if first:
                refusals.note(item[1].text, task.faults)
        waiting = again


def word_rows(
    config: CaptionConfig, records: Sequence[Record], todo: Sequence[int], book: Book
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give rows the caption that needs no model: the template or the empty one."""
    for row in todo:
        stop.check()
        simple = config.style == "simple"
        text = book.profile.simple_caption(records[row].label) if simple else ""
        status = "simple" if simple else "ok"
        facts = describe(config, book, None) | {"status": status, "text_hash": hash_text(text)}
        yield row, {"text": text, "caption": facts | carry_rejections(records[row])}


def decode_ahead(
    config: CaptionConfig, records: Sequence[Record], todo: Sequence[int], count: int
) -> Iterator[tuple[int, Image.Image | ImageError]]:
    """Decode images in other threads while the model works, at most `count` ahead, in order."""

    def decode(row: int) -> tuple[int, Image.Image | ImageError]:
        try:
            image = load_image(records[row].path)
        except ImageError as error:
            return row, error
        image.thumbnail((config.image_side, config.image_side), Image.Resampling.LANCZOS)
        return row, image

    return map_ahead(decode, todo, threads=4, ahead=count)


def build_question(config: CaptionConfig, book: Book, task: Task) -> Question:
    """Word what the model is asked about a row now."""
    seed = draw_seed(config.seed, task.row, task.attempt, task.draft is not None)
    if task.draft is None:
        return Question(task.image, task.rules.instruction, seed)
    words = min(book.profile.words, int(WORDS_A_TOKEN * task.rules.limit))
    return Question(
        task.image, book.profile.build_shorter(task.draft, task.rules.simple, words), seed
    )


def draw_seed(seed: int, row: int, attempt: int, shorter: bool = False) -> int:
    """Return the seed of one draw, 31 bits, which follows from nothing but these."""
    text = f"{seed}/{row}/{attempt}{'/shorter' * shorter}"
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


def settle(
    config: CaptionConfig, record: Record, task: Task, answer: Answer, source: dict[str, Any]
) -> dict[str, Any] | None:
    """Judge an answer by the rules.

    Returns:
        The row's new fields, or None where `task` now says what is to be asked next.
    """
    if answer.error is not None:
        return fail_row(config, record, answer.error)
    text, faults = judge(answer, task.rules)
    status = "ok"
    if task.draft is not None:
        status = "shortened"
        if faults:
            text, faults = cut_draft([text, task.draft], task.rules), []
    elif faults == [TOO_LONG]:
        task.draft = text
        return None
    faults += judge_again(record, text)
    if faults or not text:
        task.faults = faults or [TOO_LONG]
        task.draft = None
        # Without draws the same words would come again.
        if task.attempt < config.attempts + len(rejected_texts(record)) and config.temperature > 0:
            task.attempt += 1
            return None
        text, status = task.rules.simple, "simple"
    facts = source | {
        "seed": draw_seed(config.seed, task.row, task.attempt, task.draft is not None),
        "attempts": task.attempt,
        "status": status,
        "text_hash": hash_text(text),
        **carry_rejections(record),
    }
    if status == "simple":
        facts["faults"] = task.faults
    elif flags := [
        *find_flags(text, task.rules),
        *flag_disagreements(text, task.rules.simple, task.image, record),
    ]:
        facts["flags"] = flags
    facts["image"] = hash_file(record.path)
    return {"text": text, "caption": facts}


def judge(answer: Answer, rules: Rules) -> tuple[str, list[str]]:
    """Return the text of an answer in the form of a caption, and the rules that it breaks."""
    if answer.only_reasoning:
        return "", [ONLY_REASONING]
    text = trim_caption(answer.text[:LONGEST_ANSWER], rules.simple)
    faults = find_faults(text, rules)
    finished = answer.finished and len(answer.text) <= LONGEST_ANSWER
    if not finished and TOO_LONG not in faults and not is_whole(text):
        faults.append(TOO_LONG)  # the end of the last sentence is missing
    return text, faults


def cut_draft(texts: Sequence[str], rules: Rules) -> str:
    """Truncate the first of several over-long texts that then breaks no rule; else empty."""
    for text in texts:
        cut = cut_caption(text, rules)
        if cut and not find_faults(cut, rules):
            return cut
    return ""


def describe(config: CaptionConfig, book: Book, asker: "Asker | None") -> dict[str, Any]:
    """Return what a row says about where its text came from, seed and status aside."""
    return {
        "model": asker.name if asker else None,
        "revision": asker.revision if asker else None,
        "profile": Path(config.profile).name,
        "prompt": book.profile.hash(),
        "style": config.style,
        **({"demonstration": True} if asker and asker.demonstration else {}),
    }


def fail_row(config: CaptionConfig, record: Record, reason: str) -> dict[str, Any]:
    """Return the fields of a row that could not be captioned; a text it has stays."""
    log.warning("%s: %s", record.path, reason)
    if record.text is not None:
        return {"caption": {**(record.fields.get("caption") or {}), "error": reason}}
    facts = {"profile": Path(config.profile).name, "style": config.style, "status": "rejected"}
    return {"caption": {**facts, "error": reason}}

"""Caption images: image folder or manifest -> metadata.jsonl, caption.toml, review.html.

Rows finish out of order, for images of like size go through the model together. Each finished row
is one line of a journal beside the manifest, at once; the manifest is whole and in order at any
time, and takes the journal's rows up now and then and at the end.
"""

import hashlib
import os
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import tomli_w
import torch
from accelerate import PartialState
from PIL import Image

from medart_cli import stop
from medart_cli.ahead import map_ahead
from medart_cli.config import (
    DEFAULT_CAPTIONER,
    RUN_ONLY,
    CaptionConfig,
    parse_levels,
    parse_shard,
    settings_of,
)
from medart_cli.data.account import Account
from medart_cli.data.captions import (
    TOO_LONG,
    Rules,
    begins_with,
    cut_caption,
    find_faults,
    trim_caption,
    word_overlap,
)
from medart_cli.data.edits import Edits, hash_text, is_users
from medart_cli.data.files import draft_of
from medart_cli.data.hashes import hash_files
from medart_cli.data.images import load_image
from medart_cli.data.journal import Journal
from medart_cli.data.labels import merge_labels, read_labels
from medart_cli.data.latents import try_cache
from medart_cli.data.lock import hold_lock
from medart_cli.data.manifest import MANIFEST_NAME, Record, hash_file, warn_of_demonstration
from medart_cli.data.profiles import Profile, columns_of, read_profile, spoken_label
from medart_cli.data.report import first_change, write_text
from medart_cli.data.review import build_review, status_of
from medart_cli.data.sidecars import add_sidecar_texts
from medart_cli.data.targets import beside, find_target, find_unlisted, read_target
from medart_cli.errors import ConfigError, ImageError, ManifestError
from medart_cli.log import log, progress
from medart_cli.models.captioner import Answer, Captioner, Question, Sampling, find_captioner
from medart_cli.models.device import DTYPES, find_precision, hush_libraries, join_processes
from medart_cli.models.endpoint import Endpoint, check_endpoint, is_loopback
from medart_cli.models.pixart import find_base, load_tokenizer, max_tokens, normalize_prompt
from medart_cli.ranks import Part, count_ranks, own_part

KEY_VARIABLE = "MEDART_ENDPOINT_KEY"
STATUSES = ("ok", "shortened", "simple", "rejected", "edited", "kept", "none")
AHEAD = 8  # batches of images that are decoded ahead, and sorted by size
WORDS_A_TOKEN = 0.45  # T5 takes some 1.4 tokens for an English word, and up to 2 for medical ones
MOST_SAME = 0.5  # share of texts that may stay the same without the image, before a warning
# Another value of these may complete the same manifest: they do not shape the texts, or are a
# place that changes (a server's port).
FREE = RUN_ONLY | frozenset(
    "images batch_size endpoint allow_remote concurrency timeout audit review labels texts add_new "
    "recaption overwrite_edits".split()
)
# These shape no text where no model is asked.
MODEL_ONLY = frozenset(
    "model revision base load_in precision image_side temperature top_k top_p max_new_tokens "
    "attempts context".split()
)
Asker = Captioner | Endpoint


@dataclass
class Task:
    """A row on its way to a caption.

    Attributes:
        row: Its place in the manifest, from 0; seeds follow from it.
        image: What the model is shown.
        rules: What the text is held against.
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
        tokenizer: That of the text encoder captions are for; None where no model is asked.
        limit: Most tokens a caption may have.
    """

    profile: Profile
    labels: Sequence[str]
    tokenizer: Any = None
    limit: int = 0

    def count(self, text: str) -> int:
        """Count tokens as training will, the end mark included."""
        return len(self.tokenizer(normalize_prompt(text)).input_ids)

    def rules(self, record: Record) -> Rules:
        """Make the rules for one row's caption."""
        return Rules(
            simple=self.profile.simple_caption(record.label),
            instruction=self.profile.build_prompt(record.fields),
            label=spoken_label(record.label or ""),
            others=[spoken_label(other) for other in self.labels if other != record.label],
            forbidden=self.profile.forbidden,
            limit=self.limit,
            count_tokens=self.count,
        )


def run(config: CaptionConfig) -> dict[str, Any]:
    """Describe each image that has no text yet, or those that --recaption names."""
    hush_libraries()
    device = join_processes(config.device)
    profile = find_profile(config)
    target, folder = find_target(config.images, config.out, config.root)
    number = parse_shard(config.shard)[0] if config.shard else 0
    with hold_lock(target.with_name(f".{target.name}.lock"), target, part=number):
        return write_captions(config, profile, (target, folder), device)


def write_captions(
    config: CaptionConfig, profile: Profile, places: tuple[Path, Path], device: torch.device
) -> dict[str, Any]:
    """Caption the rows that lack it, and write manifest, settings and review."""
    target, folder = places
    started = time.monotonic()
    state, part = PartialState(), own_part(parse_shard(config.shard))
    rows, changed, account = read_rows(config, target, folder)
    records = Edits(rows)
    changed = changed or records.new > 0
    check_columns(profile, records)
    journal = Journal(target, records, part.name, alone=config.shard is None)
    finished = check_session(config, journal, beside(target, "caption.toml"))
    todo = find_todo(config, journal, profile, finished=finished)
    if config.style == "visual":
        todo = sorted({*todo, *find_replaced(journal, part)})
    tell_edits(config, records)
    warn_of_old_labels(profile, journal.records, todo)

    book = build_book(config, profile, records)
    mine = [row for row in todo if row % part.count == part.index]
    asked = config.style == "visual" and (mine or config.audit)
    asker = build_asker(config, device) if asked else None
    if asker and asker.demonstration:
        warn_of_demonstration(asker.name, (records[row] for row in mine))
    state.wait_for_everyone()  # all have read; now one may write
    if state.is_main_process:
        write_beginning(config, journal, target, changed)

    log.info("%d of %d images to caption", len(mine), len(records))
    with journal, progress("caption", len(mine)) as bar:
        try:
            for row, result in caption_rows(config, journal.records, mine, book, asker):
                journal.append(row, result)
                bar.advance()
        except BaseException:  # also Ctrl-C: what is finished goes into the manifest at once
            journal.fold()
            raise
    state.wait_for_everyone()
    summary = {
        "result": str(target), "images": len(records), "captioned": len(todo),
        "failures": len(journal.failed), "inputs": [account.facts()],
    }  # fmt: skip
    if config.shard is not None:
        log.info("%s is done; when all parts are, leave out --shard to join them", config.shard)
        return summary | {"captioned": len(mine)}
    if not state.is_main_process:
        return summary
    if part.count > 1:
        journal = Journal(target, records, seen=journal.seen)
    summary["failures"] = len(journal.failed)
    journal.finish()
    audit = audit_model(config, journal.records, book, asker) if config.audit and asker else None
    page = beside(target, "review.html")
    if config.review and (changed or todo or audit or not page.is_file()):
        about = (profile.attributes, audit, account.facts())
        write_text(page, build_review(journal.records, *about, config.review))
    texts = {"statuses": count_texts(journal.records), "audit": audit}
    return summary | texts | {"seconds": round(time.monotonic() - started, 2)}


def write_beginning(config: CaptionConfig, journal: Journal, target: Path, changed: bool) -> None:
    """Write the manifest, where it is not there or lacks rows, and what its texts belong to."""
    shared = config.shard is not None
    if config.recaption:
        journal.begin()  # before the settings say that its texts are of this run
    if changed or not target.is_file():
        journal.write(journal.records if shared else journal.merged, shared=shared)
    with draft_of(beside(target, "caption.toml"), shared=shared) as draft:
        draft.write_text(tomli_w.dumps(settings_of(config)), encoding="utf-8")


def count_texts(records: Sequence[Record]) -> dict[str, int]:
    """Count the texts by how they came about, and say so."""
    counts = Counter(status_of(record) for record in records)
    log.info("texts: %s", ", ".join(f"{counts[name]} {name}" for name in STATUSES if counts[name]))
    return {name: counts[name] for name in STATUSES}


def find_profile(config: CaptionConfig) -> Profile:
    """Read the profile, with the sentences of --context added."""
    profile = read_profile(config.profile)
    try:
        for sentence in config.context or ():
            columns_of(sentence)
    except ValueError as error:
        raise ConfigError(f"--context: {error}") from error
    return replace(profile, context=(*profile.context, *(config.context or ())))


def read_rows(
    config: CaptionConfig, target: Path, folder: Path
) -> tuple[Sequence[Record], bool, Account]:
    """Read the rows to write, with the labels of --labels.

    Returns:
        The rows, whether they differ from what the manifest on the disk says, and what was found.
    """
    rows, changed, account = read_target(
        config.images, target, folder, config.root, levels=parse_levels(config.folders)
    )
    if target.resolve() == (Path(config.images) / MANIFEST_NAME).resolve():
        new = find_unlisted(
            Path(config.images), rows, config.root, levels=parse_levels(config.folders)
        )
        if new and not config.add_new:
            log.warning("%d images stand on no line of %s; --add-new adds them", len(new), target)
        elif new:
            rows, changed = [*rows, *new], True
    if config.labels:
        rows, labeled = merge_labels(rows, read_labels(config.labels))
        changed = changed or labeled
    if config.texts == "sidecar":
        rows, added = add_sidecar_texts(rows)
        changed = changed or added > 0
    if not any(row.label for row in rows):
        log.warning("no image has a label: no caption will name a class; see --labels")
    return rows, changed, account


def check_columns(profile: Profile, records: Sequence[Record]) -> None:
    """Refuse a context sentence with a column that no row has: a mistyped name."""
    if not profile.context:
        return
    known = {name for record in records for name in record.fields}
    for sentence in profile.context:
        if missing := columns_of(sentence) - known:
            raise ManifestError(
                f"context {sentence!r}: no row has a column {missing.pop()}; there are "
                f"{', '.join(sorted(known))}"
            )


def check_session(config: CaptionConfig, journal: Journal, file: Path) -> bool:
    """Go on with an unfinished run of the same settings, or take its rows up and begin anew.

    Returns:
        Whether the same command has finished already.

    Raises:
        ConfigError: The manifest was begun with other settings, and --recaption is not given; or
            that is for one process alone to do.
    """
    try:
        old = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}; mend or remove it") from error
    free = FREE if config.style == "visual" else FREE | MODEL_ONLY
    change = None if old is None else first_change(old, settings_of(config), free)
    if change and not config.recaption:
        raise ConfigError(
            f"{file.parent}: its captions belong to other settings: {change}; name another "
            "manifest with --out, or have texts written anew with --recaption"
        )
    again = (
        old is not None
        and change is None
        and all(
            old.get(name, default) == getattr(config, name)
            for name, default in (("recaption", None), ("overwrite_edits", False))
        )
    )
    if not journal.merged.has_any():
        return again and not journal.is_begun()
    if again:
        log.info("going on with an unfinished run")
        return False
    if config.shard is not None or count_ranks() > 1:
        raise ConfigError(
            f"{journal.path.parent}: holds an unfinished run of other settings; one process alone "
            "can take that up: run the same command without --shard or launcher first"
        )
    log.info("taking up the rows of an unfinished run")
    journal.finish()
    return False


def tell_edits(config: CaptionConfig, records: Edits) -> None:
    """Say how many texts are a person's, where --recaption might be thought to write them anew."""
    if not records.users or config.recaption is None:
        if records.new:
            log.info("%d texts were changed by hand since they were written; kept", records.new)
    elif config.overwrite_edits:
        log.warning("%d texts that a person wrote or changed are written anew", records.users)
    else:
        log.info(
            "%d texts that a person wrote or changed are kept; --recaption all --overwrite-edits "
            "writes them anew too", records.users,
        )  # fmt: skip


def find_todo(
    config: CaptionConfig, journal: Journal, profile: Profile, *, finished: bool = False
) -> list[int]:
    """Return the rows to caption: those without a text, and those that --recaption names.

    Rows of an unfinished run are done, unless they failed: the server may be mended by now. Where
    the same command has `finished`, --recaption all names only texts whose label has changed.
    """
    again = finished and config.recaption == "all"
    if again:
        log.info("the same command wrote all texts before; another --seed draws others")

    def is_wanted(record: Record) -> bool:
        if is_users(record):
            return config.overwrite_edits and not again
        if again and not _tells_other_label(profile, record):
            return _needs_text(record)
        return _needs_text(record) or _is_named(record, config.recaption)

    return [
        row
        for row, record in enumerate(journal.records)
        if not journal.is_done(row) and is_wanted(record)
    ]


def find_replaced(journal: Journal, part: Part) -> list[int]:
    """Return the own rows whose text describes another image that had the same name.

    A person's text stays; that it may be of another image is said.
    """
    known = {}
    for row, record in enumerate(journal.records):
        described = (record.fields.get("caption") or {}).get("image")
        if described and row % part.count == part.index and not journal.is_done(row):
            known[row] = (record.path, described)
    hashes, _ = hash_files([path for path, _ in known.values()], cache=try_cache(), poll=stop.check)
    other = [row for row, (path, described) in known.items()
             if hashes.get(path, described) != described]  # fmt: skip
    ours = [row for row in other if not is_users(journal.records[row])]
    if ours:
        log.warning("%d images are others than their texts describe, as %s; captioned anew",
                    len(ours), journal.records[ours[0]].file_name)  # fmt: skip
    if len(ours) < len(other):
        log.warning("%d images are others than when a person changed their texts, which are kept",
                    len(other) - len(ours))  # fmt: skip
    return ours


def _needs_text(record: Record) -> bool:
    status = (record.fields.get("caption") or {}).get("status")
    return record.text is None or status == "rejected" or not (record.text.strip() or status)


def _is_named(record: Record, recaption: str | None) -> bool:
    facts = record.fields.get("caption") or {}
    if recaption == "rejected":
        return facts.get("status") == "simple" and bool(facts.get("faults"))
    return recaption == "all" or (recaption == "simple" and facts.get("status") == "simple")


def _tells_other_label(profile: Profile, record: Record) -> bool:
    """Say whether a text of medart's does not begin with the simple caption of the row's label."""
    ours = record.text and not is_users(record)
    return bool(ours) and not begins_with(record.text or "", profile.simple_caption(record.label))


def warn_of_old_labels(profile: Profile, records: Sequence[Record], todo: Sequence[int]) -> None:
    """Say how many of our texts that are kept name another class than their row does now."""
    new, old, example = set(todo), 0, ""
    for row, record in enumerate(records):
        if row not in new and _tells_other_label(profile, record):
            old, example = old + 1, example or record.file_name
    if old:
        log.warning(
            "%d texts do not begin with the simple caption of their label, as %s: labels or "
            "profile have changed; --recaption all writes medart's texts anew", old, example,
        )  # fmt: skip


def build_book(config: CaptionConfig, profile: Profile, records: Sequence[Record]) -> Book:
    """Find the target's tokenizer and limit, and check that all simple captions fit.

    Raises:
        MissingModelError: The base pipeline is not there.
        ConfigError: The simple caption of a label is longer than the text encoder reads.
    """
    labels = sorted({record.label for record in records if record.label})
    if config.style != "visual":
        return Book(profile, labels)
    base = find_base(config.base, offline=config.offline, parts=["tokenizer"])
    book = Book(profile, labels, load_tokenizer(base), max_tokens(base))
    for label in labels:
        if book.count(profile.simple_caption(label)) > book.limit:
            raise ConfigError(
                f"label {label!r}: its simple caption has over {book.limit} T5 tokens; shorten it"
            )
    return book


def build_asker(config: CaptionConfig, device: torch.device) -> Asker:
    """Load the model, or reach the server; nothing is written before this has worked."""
    sampling = Sampling(config.temperature, config.top_k, config.top_p, config.max_new_tokens)
    if config.endpoint is not None:
        url = check_endpoint(config.endpoint, allow_remote=config.allow_remote)
        if url.startswith("http://") and not is_loopback(url.split("/")[2].rsplit(":", 1)[0]):
            log.warning("%s: images travel unencrypted; use https", url)
        endpoint = Endpoint(
            url,
            sampling=sampling,
            concurrency=config.concurrency,
            timeout=config.timeout,
            key=os.environ.get(KEY_VARIABLE) or None,
        )
        return endpoint.connect(config.model)
    dtype = DTYPES[find_precision(config.precision, device)]
    name = config.model or DEFAULT_CAPTIONER
    folder = find_captioner(name, revision=config.revision, offline=config.offline)
    log.info("loading %s", name)
    captioner = Captioner(folder, device=device, dtype=dtype, sampling=sampling)
    captioner.load(config.load_in)
    # A hub id says where a model is from; a folder's path would tell about this machine instead.
    captioner.name = folder.resolve().name if Path(name).is_dir() else name
    captioner.batch_size = config.batch_size
    return captioner


def caption_rows(
    config: CaptionConfig,
    records: Sequence[Record],
    todo: Sequence[int],
    book: Book,
    asker: Asker | None,
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
    window = AHEAD * asker.batch_size
    ahead = decode_ahead(config, records, todo, window)
    while True:
        new = list(islice(ahead, max(0, window - len(waiting))))
        if not new and not waiting:
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
            result = settle(config, record, task, item[1], source)
            if result is None:
                again.append(task)
                continue
            if "text" in result:
                result["caption"]["image"] = hash_file(record.path)
            yield task.row, result
        waiting = again


def word_rows(
    config: CaptionConfig, records: Sequence[Record], todo: Sequence[int], book: Book
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give rows the caption that needs no model: the simple or the empty one."""
    for row in todo:
        stop.check()
        simple = config.style == "simple"
        text = book.profile.simple_caption(records[row].label) if simple else ""
        status = "simple" if simple else "ok"
        facts = describe(config, book, None) | {"status": status, "text_hash": hash_text(text)}
        yield row, {"text": text, "caption": facts}


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
    text = trim_caption(answer.text, task.rules.simple)
    faults = find_faults(text, task.rules)
    if not answer.finished and TOO_LONG not in faults:
        faults.append(TOO_LONG)  # the end of the last sentence is missing
    status = "ok"
    if task.draft is not None:
        status = "shortened"
        if faults:
            text, faults = cut_draft([text, task.draft], task.rules), []
    elif faults == [TOO_LONG]:
        task.draft = text
        return None
    if faults or not text:
        task.faults = faults or [TOO_LONG]
        task.draft = None
        # Without draws the same words would come again.
        if task.attempt < config.attempts and config.temperature > 0:
            task.attempt += 1
            return None
        text, status = task.rules.simple, "simple"
    facts = source | {
        "seed": draw_seed(config.seed, task.row, task.attempt, task.draft is not None),
        "attempts": task.attempt,
        "status": status,
        "text_hash": hash_text(text),
    }
    if status == "simple":
        facts["faults"] = task.faults
    return {"text": text, "caption": facts}


def cut_draft(texts: Sequence[str], rules: Rules) -> str:
    """Cut the first of several over-long texts that then breaks no rule; empty if none does."""
    for text in texts:
        cut = cut_caption(text, rules)
        if cut and not find_faults(cut, rules):
            return cut
    return ""


def describe(config: CaptionConfig, book: Book, asker: Asker | None) -> dict[str, Any]:
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


def audit_model(
    config: CaptionConfig, records: Sequence[Record], book: Book, asker: Asker
) -> dict[str, Any]:
    """Ask about some images again, and with a blank and another image under the same prompt.

    Likeliest words, so that a text that stays the same owes nothing to the image.

    Returns:
        How many images, and for each kind of other image the share of texts that stayed the same
        and the mean share of words in common.
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
    whole = [[item.text for item in four] for four in fours if not any(a.error for a in four)]
    if len(whole) < 2:
        log.warning("audit: needs two images or more that can be read and captioned")
        return {}
    return compare_texts(whole)


def compare_texts(fours: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Compare the first text of each four with the three that follow."""
    facts: dict[str, Any] = {"images": len(fours)}
    for kind, name in enumerate(("repeat", "blank", "other"), start=1):
        pairs = [(" ".join(four[0].split()), " ".join(four[kind].split())) for four in fours]
        facts[f"{name}_same"] = sum(one == two for one, two in pairs) / len(pairs)
        facts[f"{name}_overlap"] = sum(word_overlap(*pair) for pair in pairs) / len(pairs)
    if max(facts["blank_same"], facts["other_same"]) > MOST_SAME:
        log.warning(
            "audit: with a blank image %.0f %% and with another image %.0f %% of the texts stay "
            "the same: this model hardly looks at the image",
            100 * facts["blank_same"],
            100 * facts["other_same"],
        )
    return facts

"""Caption images: image folder or manifest -> metadata.jsonl, caption.toml, review.html.

Rows finish out of order, for images of like size go through the model together. Each finished row
is one line of a journal beside the manifest, at once; the manifest is whole and in order at any
time, and the journal's rows are merged into it periodically and at the end.
"""

import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from medart_cli.caption.ask import build_asker, build_book, caption_rows
from medart_cli.caption.audit import audit_model
from medart_cli.caption.corrections import check_export, export_texts, merge_texts, read_texts
from medart_cli.caption.edits import Edits, hash_text, status_of
from medart_cli.caption.journal import Journal
from medart_cli.caption.labels import merge_labels, read_labels
from medart_cli.caption.options import CaptionConfig
from medart_cli.caption.refusals import HINTS, refuse_templates
from medart_cli.caption.review import build_review
from medart_cli.caption.rules import ONLY_REASONING, reason_of
from medart_cli.caption.sidecars import (
    add_sidecar_texts,
    check_sidecars,
    read_written,
    write_sidecars,
)
from medart_cli.caption.target import beside, find_target, find_unlisted, read_target
from medart_cli.caption.todo import (
    find_replaced,
    find_todo,
    needs_text,
    tell_edits,
    warn_of_old_labels,
)
from medart_cli.data.account import Account
from medart_cli.data.files import remove_drafts, write_changed
from medart_cli.data.lock import hold_lock
from medart_cli.data.manifest import MANIFEST_NAME, Record, warn_of_demonstration
from medart_cli.data.output import first_change, write_text
from medart_cli.data.page import format_settings
from medart_cli.data.profiles import Profile, columns_of, read_profile
from medart_cli.errors import ConfigError, ManifestError
from medart_cli.log import log, progress
from medart_cli.options import parse_levels, parse_shard
from medart_cli.ranks import Part, count_ranks, is_first, own_part, wait_for_all
from medart_cli.versions import read_versions

STATUSES = ("ok", "shortened", "simple", "rejected", "edited", "accepted", "kept", "none")
# These shape no text where no model is asked.
MODEL_ONLY = frozenset(
    "model revision base load_in precision image_side temperature top_k top_p max_new_tokens "
    "attempts context".split()
)


def run(config: CaptionConfig) -> dict[str, Any]:
    """Describe each image that has no text yet, or those that --recaption names."""
    profile = find_profile(config)
    target, folder = find_target(config.images, config.out, config.root)
    number = parse_shard(config.shard)[0] if config.shard else 0
    with hold_lock(target.with_name(f".{target.name}.lock"), target, part=number):
        return write_captions(config, profile, (target, folder))


def write_captions(
    config: CaptionConfig, profile: Profile, places: tuple[Path, Path]
) -> dict[str, Any]:
    """Caption the rows that lack it, and write manifest, settings and review."""
    target, folder = places
    started = time.monotonic()
    part = own_part(parse_shard(config.shard))
    rows, changed, account = read_rows(config, target, folder)
    records = Edits(rows)
    changed = changed or records.new > 0
    check_columns(profile, records)
    check_destination(config, records)
    journal = Journal(target, records, part.name, alone=config.shard is None)
    old = read_session(config, beside(target, "caption.toml"))
    kept = old is not None and keeps_texts(config, journal)
    if old is not None and kept:
        config = as_before(config, old)
        profile = find_profile(config)
    todo = [] if kept else find_rows_to_write(config, profile, journal, old, part)
    tell_edits(config, records)
    warn_of_old_labels(profile, journal.records, todo)

    mine = [row for row in todo if row % part.count == part.index]
    asked = config.style == "visual" and bool(mine or config.audit)
    book = build_book(config, profile, records, asked=asked)
    asker = build_asker(config) if asked else None
    if asker and asker.demonstration:
        warn_of_demonstration(asker.name, (records[row] for row in mine))
    wait_for_all()  # all have read; now one may write
    if is_first():
        write_beginning(config, journal, target, changed, kept=kept)

    if not (todo or changed or kept):
        log.info("%s: already finished; none of %d images lacks a text", target, len(records))
    else:
        log.info("%d of %d images to caption", len(mine), len(records))
    fill_journal(journal, len(mine), caption_rows(config, journal.records, mine, book, asker))
    wait_for_all()
    summary = {
        "result": str(target), "images": len(records), "captioned": len(todo),
        "failures": len(journal.failed), "inputs": [account.facts()],
    }  # fmt: skip
    if config.shard is not None:
        log.info("shard %s is done; when all are, run without --shard to join", config.shard)
        return summary | {"captioned": len(mine)}
    if not is_first():
        return summary
    if part.count > 1:
        journal = Journal(target, records, seen=journal.seen)
    summary["failures"] = len(journal.failed)
    journal.finish()
    audit = audit_model(config, journal.records, book, asker) if config.audit and asker else None
    write_review(
        config, journal.records, target, (profile.attributes, audit, account.facts()),
        fresh=changed or bool(todo),
    )  # fmt: skip
    export(config, journal.records, target)
    texts: dict[str, Any] = {**count_texts(journal.records), "audit": audit}
    if not kept and config.style == "visual" and config.max_refused < 1:
        refuse_templates(texts["statuses"], texts["faults"])
    return summary | texts | {"seconds": round(time.monotonic() - started, 2)}


def fill_journal(
    journal: Journal, count: int, results: Iterator[tuple[int, dict[str, Any]]]
) -> None:
    """Keep each result as soon as it comes; what is kept is in the manifest whatever happens."""
    with journal, progress("caption", count) as bar:
        try:
            for row, result in results:
                journal.append(row, result)
                bar.advance()
        except BaseException:  # also Ctrl-C
            journal.fold()
            raise


def find_rows_to_write(
    config: CaptionConfig,
    profile: Profile,
    journal: Journal,
    old: dict[str, Any] | None,
    part: Part,
) -> list[int]:
    """Return the rows to caption, those whose image was replaced among them.

    Args:
        config: The options.
        profile: How the modality is worded.
        journal: The rows, and what an unfinished run has left.
        old: The settings that the texts were made with.
        part: The rows that are this process's own.
    """
    finished = check_session(config, journal, old)
    todo = find_todo(config, journal, profile, finished=finished)
    if config.style == "visual":
        todo = sorted({*todo, *find_replaced(journal, part)})
    return todo


def write_review(
    config: CaptionConfig,
    records: Sequence[Record],
    target: Path,
    about: tuple[Mapping[str, Sequence[str]], Mapping[str, Any] | None, Mapping[str, Any]],
    *,
    fresh: bool,
) -> None:
    """Write the review page where there is something new to show.

    Args:
        config: The options.
        records: All rows.
        target: The manifest.
        about: Attributes of the profile, figures of the audit or None, and what was read.
        fresh: Whether a text has changed.
    """
    page = beside(target, "review.html")
    if config.review and (fresh or about[1] or not page.is_file()):
        known = hash_text(str(target.resolve()))
        settings = format_settings(config.settings(), read_versions())
        text = build_review(records, *about, most=config.review, manifest=known, settings=settings)
        write_text(page, text)


def check_destination(config: CaptionConfig, records: Sequence[Record]) -> None:
    """Refuse what --export could not write in the end, before any work."""
    if config.export == "sidecar":
        check_sidecars(records)
    elif config.export:
        check_export(Path(config.export), records)


def export(config: CaptionConfig, records: Sequence[Record], target: Path) -> None:
    """Write the texts where --export says."""
    if config.export == "sidecar":
        write_sidecars(records, find_ledger(target))
    elif config.export:
        export_texts(Path(config.export), records)
        log.info("texts written to %s", config.export)


def find_ledger(target: Path) -> Path:
    """Return the file beside a manifest that says which texts --export sidecar wrote."""
    return target.with_name(f".{target.name}.sidecars")


def write_beginning(
    config: CaptionConfig, journal: Journal, target: Path, changed: bool, *, kept: bool
) -> None:
    """Write the manifest, where it is not there or lacks rows, and what its texts belong to."""
    shared = config.shard is not None
    if config.recaption:
        journal.begin()  # before the settings say that its texts are of this run
    if changed or not target.is_file():
        journal.write(journal.records if shared else journal.merged, shared=shared)
    session = beside(target, "caption.toml")
    if not shared:
        for path in (target, session):
            remove_drafts(path)
    if kept:  # these are the settings of other texts
        return
    write_changed(session, tomli_w.dumps(config.settings()), shared=shared)


def count_texts(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Count the texts by how they came about, and template captions by why; and say so."""
    statuses, faults = Counter[str](), Counter[str]()
    flagged = 0
    for record in records:
        facts = record.fields.get("caption") or {}
        status = status_of(record)
        statuses[status] += 1
        if status == "simple":
            faults.update({reason_of(fault) for fault in facts.get("faults", ())})
        flagged += bool(facts.get("flags"))
    log.info("texts: %s", ", ".join(f"{statuses[it]} {it}" for it in STATUSES if statuses[it]))
    if faults:
        why = ", ".join(f"{reason} ({count})" for reason, count in faults.most_common())
        log.info("template captions stand where the answer: %s", why)
    if faults[ONLY_REASONING]:
        log.warning(
            "%d images have the template caption, since the model thought and said nothing; %s",
            *(faults[ONLY_REASONING], HINTS[ONLY_REASONING]),
        )
    if flagged:
        log.info("%d captions have flags for a reviewer, in the manifest under caption", flagged)
    return {"statuses": {it: statuses[it] for it in STATUSES}, "faults": dict(faults)}


def find_profile(config: CaptionConfig) -> Profile:
    """Read the profile, with the sentences of --context added."""
    profile = read_profile(config.profile, config.classes)
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
            log.warning("%d images are not listed in %s; --add-new adds them", len(new), target)
        elif new:
            rows, changed = [*rows, *new], True
    if config.labels:
        rows, labeled = merge_labels(rows, read_labels(config.labels))
        changed = changed or labeled
    if config.texts == "sidecar":
        rows, added = add_sidecar_texts(rows, read_written(find_ledger(target)))
        changed = changed or added > 0
    elif config.texts != "none":
        rows, corrected = merge_texts(rows, read_texts(Path(config.texts)))
        changed = changed or corrected
    if not any(row.label for row in rows):
        log.warning("no image has a label, so captions will name no class; see --labels")
    return rows, changed, account


def check_columns(profile: Profile, records: Sequence[Record]) -> None:
    """Refuse a context sentence with a column that no row has: a mistyped name."""
    if not profile.context:
        return
    known = {name for record in records for name in record.fields}
    for sentence in profile.context:
        if missing := columns_of(sentence) - known:
            raise ManifestError(
                f"--context {sentence!r}: no row has a column {missing.pop()}; columns: "
                f"{', '.join(sorted(known))}"
            )


def read_session(config: CaptionConfig, file: Path) -> dict[str, Any] | None:
    """Read the settings that the manifest's texts were made with; None where none are noted.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        old = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}; fix or remove it") from error
    if old is not None and old.get("style") == "visual" and "endpoint" not in old:
        old = {**config.formerly, **old}
    return old


def keeps_texts(config: CaptionConfig, journal: Journal) -> bool:
    """Say whether texts are to be exported or corrected, and none to be written.

    Then it does not matter what they were made with, and nobody has to say it again.
    """
    asked = config.export is not None or config.texts != "none"
    if not asked or config.recaption or config.audit or journal.is_begun():
        return False
    return not any(needs_text(record) for record in journal.records)


def as_before(config: CaptionConfig, old: Mapping[str, Any]) -> CaptionConfig:
    """Return settings with the wording that the texts have, for the page that shows them."""
    classes = Path(old["classes"]) if old.get("classes") else None
    wording = {"profile": old["profile"], "style": old["style"], "classes": classes}
    return replace(config, **wording, context=old.get("context"))


def check_session(config: CaptionConfig, journal: Journal, old: dict[str, Any] | None) -> bool:
    """Resume an unfinished run of the same settings, or merge its rows and start over.

    Returns:
        Whether the same command has finished already.

    Raises:
        ConfigError: The manifest was begun with other settings, and --recaption is not given; or
            that is for one process alone to do.
    """
    visual = config.style == "visual" and (old or {}).get("style", "visual") == "visual"
    free = config.name_run_only() | (set() if visual else MODEL_ONLY)
    change = None if old is None else first_change(old, config.settings(), free)
    if change and not config.recaption:
        raise ConfigError(
            f"{journal.path.parent}: its captions were made with other settings: {change}; use "
            "another manifest with --out, or replace texts with --recaption"
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
        log.info("resuming an unfinished run")
        return False
    if config.shard is not None or count_ranks() > 1:
        raise ConfigError(
            f"{journal.path.parent}: has an unfinished run with other settings, which only a "
            "single process can merge: run the same command without --shard or launcher first"
        )
    log.info("merging the rows of an unfinished run")
    journal.finish()
    return False

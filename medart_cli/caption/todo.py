"""Which rows are captioned: those without a text, and those that --recaption names."""

from collections.abc import Sequence

from medart_cli import stop
from medart_cli.caption.edits import Edits, is_users
from medart_cli.caption.journal import Journal
from medart_cli.caption.options import CaptionConfig
from medart_cli.caption.rules import begins_with
from medart_cli.data.cache import try_cache
from medart_cli.data.hashes import hash_files
from medart_cli.data.manifest import Record
from medart_cli.data.profiles import Profile
from medart_cli.log import log
from medart_cli.ranks import Part


def tell_edits(config: CaptionConfig, records: Edits) -> None:
    """Log how many texts are a person's, where --recaption might be expected to replace them."""
    if not records.users or config.recaption is None:
        if records.new:
            log.info("%d texts were edited by hand since they were written; kept", records.new)
    elif config.overwrite_edits:
        log.warning("%d texts that a person wrote or edited are replaced", records.users)
    else:
        log.info(
            "%d texts that a person wrote or edited are kept; --recaption all --overwrite-edits "
            "replaces them too", records.users,
        )  # fmt: skip


def find_todo(
    config: CaptionConfig, journal: Journal, profile: Profile, *, finished: bool = False
) -> list[int]:
    """Return the rows to caption: those without a text, and those that --recaption names.

    Rows of an unfinished run are done, unless they failed: the server may work by now. Where
    the same command has `finished`, --recaption all names only texts whose label has changed.
    """
    again = finished and config.recaption == "all"
    if again:
        log.info("the same command wrote all texts before; another --seed gives others")

    def is_wanted(record: Record) -> bool:
        if is_users(record):
            return config.overwrite_edits and not again
        if again and not _tells_other_label(profile, record):
            return needs_text(record)
        return needs_text(record) or _is_named(record, config.recaption)

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
        log.warning("%d images have changed since they were captioned, such as %s; recaptioned",
                    len(ours), journal.records[ours[0]].file_name)  # fmt: skip
    if len(ours) < len(other):
        log.warning("%d images have changed since a person edited their texts, which are kept",
                    len(other) - len(ours))  # fmt: skip
    return ours


def needs_text(record: Record) -> bool:
    """Say whether a row is to be captioned without being named by --recaption."""
    status = (record.fields.get("caption") or {}).get("status")
    return record.text is None or status == "rejected" or not (record.text.strip() or status)


def _is_named(record: Record, recaption: str | None) -> bool:
    facts = record.fields.get("caption") or {}
    if recaption == "rejected":
        return facts.get("status") == "simple" and bool(facts.get("faults"))
    return recaption == "all" or (recaption == "simple" and facts.get("status") == "simple")


def _tells_other_label(profile: Profile, record: Record) -> bool:
    """Say whether a text of medart's does not begin with the label's template caption."""
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
            "%d texts do not begin with the template caption of their label, such as %s: labels "
            "or profile have changed; --recaption all replaces medart's texts", old, example,
        )  # fmt: skip

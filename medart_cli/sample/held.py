"""Which rows of `--from` a run held out: their captions are not what its images should be of.

Rows of split val say so themselves; those that `finetune --val-fraction` drew do not. A set that is
drawn with their captions would say less of how well the model does on captions that it has learned
from, and their images would be no fair ones to compare it with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.cache import try_cache
from medart_cli.data.hashes import hash_once
from medart_cli.data.manifest import Record
from medart_cli.log import log


@dataclass(frozen=True)
class HeldOut:
    """What a run held out of its training.

    Attributes:
        name: The run, for messages.
        trained: SHA-256 of the images that it trained on; None where it has no list.
        held: The same of those held out; None where it is from before there was such a list.
    """

    name: str
    trained: frozenset[str] | None
    held: frozenset[str] | None


def read_held(trained: Path, facts: Mapping[str, Any]) -> HeldOut | None:
    """Read what a run, or a folder that was made of one, held out; None where it held out nothing.

    Args:
        trained: Run folder, checkpoint, merged pipeline or plain base.
        facts: The run's facts; empty where it is none.
    """
    held = checkpoints.read_hashes(trained, checkpoints.HELDOUT_HASHES)
    drawn = facts.get("settings", {}).get("val_fraction") is not None
    if not held and not (held is None and drawn):
        return None
    seen = checkpoints.read_hashes(trained, checkpoints.TRAINING_HASHES)
    return HeldOut(str(trained), seen, held)


def find_held_rows(records: Sequence[Record], run: HeldOut | None, source: str) -> set[int]:
    """Find the rows to leave out, among those that do not say themselves that they are held out.

    Args:
        records: The rows of `--from`.
        run: What was held out.
        source: What `--from` was given, for messages.

    Returns:
        Their places.
    """
    if run is None:
        return set()
    own = [place for place, row in enumerate(records) if row.split in (None, "train")]
    hashes, _ = hash_once([records[place].path for place in own], try_cache())
    known = {}
    for place in own:
        record = records[place]
        digest = hashes.get(record.path) or record.fields.get("sha256")
        if digest:
            known[place] = digest
    if len(known) < len(own):
        log.warning(
            "--from %s: of %d rows neither the image nor its sha256 is there: whether %s held them "
            "out cannot be told", source, len(own) - len(known), run.name,
        )  # fmt: skip
    held = run.held
    if held is None:
        held = guess_held(run, set(known.values()))
    found = {place for place, digest in known.items() if digest in held}
    if found:
        log.info(
            "--from %s: %d of %d rows were held out of %s and are left out",
            source, len(found), len(own), run.name,
        )  # fmt: skip
    return found


def guess_held(run: HeldOut, hashes: set[str]) -> frozenset[str]:
    """Say for a run without a list what of its own data it held out: what it did not train on."""
    trained = run.trained or frozenset()
    if not hashes & trained:  # other images: nothing was held out of them
        return frozenset()
    log.warning(
        "%s: has no %s and held out a part of its images: all rows that it did not train on are "
        "left out; run its finetune command again for the list",
        run.name, checkpoints.HELDOUT_HASHES,
    )  # fmt: skip
    return frozenset(hashes - trained)

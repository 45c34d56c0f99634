"""The same picture in training and test, or twice in one set, though the bytes differ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medart_cli import stop
from medart_cli.classify.images import compute_features, read_ahead
from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.sets import Sets
from medart_cli.data.manifest import HashedRecord, Record
from medart_cli.data.splits import groups_of
from medart_cli.errors import ImageError, ManifestError
from medart_cli.log import log
from medart_cli.metrics import copies
from medart_cli.metrics.duplicates import find_repeats, find_same
from medart_cli.metrics.features import Extractor, build_plain, pack_hashes, read_features
from medart_cli.models.device import find_device

Layouts = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Two images that show the same picture.

    Attributes:
        sets: The sets that they are of.
        rows: Their places in them.
        records: Their records.
        likeness: Correlation of their fine structure.
        dropped: Whether the first is left out for it.
    """

    sets: tuple[str, str]
    rows: tuple[int, int]
    records: tuple[Record, Record]
    likeness: float
    dropped: bool

    @property
    def two_labels(self) -> bool:
        """Whether they stand under different labels."""
        return self.records[0].label != self.records[1].label

    def facts(self) -> dict[str, Any]:
        """Return the pair as a line of `duplicates.jsonl`."""
        first, second = self.records
        return {
            "set": self.sets[0],
            "file_name": first.file_name,
            "label": first.label,
            "same_set": self.sets[1],
            "same": second.file_name,
            "same_label": second.label,
            "likeness": round(self.likeness, 4),
            "dropped": self.dropped,
        }


def drop_same(
    config: ClassifyConfig, sets: Sets, cache: Path | None, also: Sequence[Extractor] = ()
) -> tuple[Sets, list[dict[str, Any]]]:
    """Drop or refuse altered copies of test images; log what a set has twice.

    Without a cache the layouts of the images are computed each time. What `also` computes goes into
    the cache as well, so that the images need not be decoded again for it.

    Returns:
        The sets without these images, with counts among their checks; and the pairs that were
        found, for `duplicates.jsonl`.

    Raises:
        ManifestError: There are some, and `--duplicates refuse` is given.
    """
    layouts = _describe(config, sets, cache, also)
    rows, pairs, dropped = dict(sets.rows), [], {}
    for name in [name for name in ("train", "synthetic") if name in rows]:
        found = list(_find_in_test(config, rows, layouts, name))
        _tell_dropped(config, found, name)
        gone = {pair.rows[0] for pair in found}
        keep = [row for row in range(len(rows[name])) if row not in gone]
        rows[name], layouts[name] = [rows[name][row] for row in keep], layouts[name][keep]
        dropped[name] = len(found)
        pairs += found
    repeats = {}
    for side in ("train", "test"):
        found = _find_repeats(config, rows[side], layouts[side], side)
        repeats[side] = _tell_repeats(found, rows[side], side)
        pairs += found
    if sets.checks.get("generator_leak", {}).get("checked"):
        log.info(
            "the images that the generator was trained on are known by SHA-256 only: test images "
            "among them in another format or size cannot be detected"
        )
    checks = sets.checks | {"near_duplicates_dropped": dropped, "repeats": repeats}
    return replace(sets, rows=rows, checks=checks), [pair.facts() for pair in pairs]


def _describe(
    config: ClassifyConfig, sets: Sets, cache: Path | None, also: Sequence[Extractor]
) -> dict[str, Layouts]:
    """Return the layouts of all images, of each set (N, 2304); 0 of those that cannot be read."""
    if cache is None:
        return {name: _describe_anew(config, rows) for name, rows in sets.rows.items()}
    extractor = build_plain(
        "layout", copies.LAYOUT_FINGERPRINT, copies.LAYOUT_WIDTH, copies.describe_layout
    )
    broken = compute_features(config, sets, [extractor, *also], cache, quiet=True)
    found = {}
    for name, rows in sets.rows.items():
        good = np.array([row.sha256 not in broken for row in rows], dtype=np.bool_)
        hashes = [row.sha256 for row in rows if row.sha256 not in broken]
        if good.all():
            found[name] = read_features(pack_hashes(hashes), extractor, cache)
            continue
        found[name] = np.zeros((len(good), extractor.width), dtype=np.float32)
        found[name][good] = read_features(pack_hashes(hashes), extractor, cache)
    return found


def _describe_anew(config: ClassifyConfig, rows: list[HashedRecord]) -> Layouts:
    layouts = np.zeros((len(rows), copies.LAYOUT_WIDTH), dtype=np.float32)
    for row, found in enumerate(read_ahead(config, rows, copies.describe_layout)):
        stop.check()
        if not isinstance(found, ImageError):
            layouts[row] = found.numpy()
    return layouts


def _find_in_test(
    config: ClassifyConfig,
    rows: dict[str, list[HashedRecord]],
    layouts: dict[str, Layouts],
    name: str,
) -> Iterator[Pair]:
    """Find the images of a set that show a test image, each with the test image most like it."""
    best: dict[int, tuple[float, int]] = {}
    device = find_device(config.device)
    for parts in find_same(layouts[name], layouts["test"], device):
        stop.check()
        for row, column, likeness in zip(*(part.tolist() for part in parts), strict=True):
            best[row] = max(best.get(row, (0.0, 0)), (likeness, column))
    for row, (likeness, column) in sorted(best.items()):
        records = rows[name][row], rows["test"][column]
        yield Pair((name, "test"), (row, column), records, likeness, dropped=True)


def _tell_dropped(config: ClassifyConfig, found: list[Pair], name: str) -> None:
    if not found:
        return
    first, second = found[0].records
    what = f"shows the same picture as {second.file_name} of the test set, altered or re-encoded"
    if config.duplicates == "refuse":
        raise ManifestError(
            f"{first.place}: {what} ({len(found)} such rows in the {name} set); remove them, or "
            "use --duplicates drop"
        )
    torn = sum(pair.two_labels for pair in found)
    log.warning(
        "%d images of the %s set show the same picture as a test image (re-encoded, scaled, "
        "mirrored) and are dropped, such as %s%s; duplicates.jsonl lists them",
        *(len(found), name, first.place),
        f"; {torn} of them have another label there" if torn else "",
    )


def _find_repeats(
    config: ClassifyConfig, rows: list[HashedRecord], layouts: Layouts, name: str
) -> list[Pair]:
    """Find the images of a set that show the picture of an earlier one, in other bytes.

    Of each image the first such pair is kept, and the first under another label.
    """
    found: dict[tuple[int, bool], Pair] = {}
    for parts in find_repeats(layouts, find_device(config.device)):
        stop.check()
        for row, column, likeness in zip(*(part.tolist() for part in parts), strict=True):
            records = rows[row], rows[column]
            if records[0].sha256 != records[1].sha256:
                pair = Pair((name, name), (row, column), records, likeness, dropped=False)
                found.setdefault((row, pair.two_labels), pair)
    return [found[key] for key in sorted(found)]


def _tell_repeats(found: list[Pair], rows: list[HashedRecord], name: str) -> dict[str, int]:
    """Say how many images of a set are no images of their own, and which have two labels."""
    groups = groups_of(rows)
    loose = {pair.rows[0] for pair in found if groups[pair.rows[0]] != groups[pair.rows[1]]}
    if loose:
        log.warning(
            "%d of %d images of the %s set show the same picture as another one (re-encoded, "
            "scaled, or frames of one video) without a common group_id: they are not independent, "
            "so intervals are too narrow; give them one group_id",
            *(len(loose), len(groups), name),
        )
    torn = [pair for pair in found if pair.two_labels]
    if torn:
        one, two = torn[0].records
        log.warning(
            "%d images of the %s set show the same picture as another one with another label, such "
            "as %s (%s) and %s (%s); keep one",
            *(len(torn), name, two.file_name, two.label, one.file_name, one.label),
        )
    return {"images": len(loose), "two_labels": len(torn)}

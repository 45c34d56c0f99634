"""The kit: images of both kinds in random order on one page, and the key apart from it.

What could tell the two kinds apart besides their pixels is made alike: names, metadata, format,
size, encoding, numbers of each label. The order and the names come from the seed and from the
images' own bytes together: who has the page and medart, but not all images, cannot work them out.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medart_cli import stop
from medart_cli.data.account import Account
from medart_cli.data.cache import try_cache
from medart_cli.data.checks import refuse_synthetic
from medart_cli.data.dataset import open_data
from medart_cli.data.finished import hash_parts
from medart_cli.data.hashes import hash_records
from medart_cli.data.images import fit_image, load_image
from medart_cli.data.manifest import HashedRecord, clean_group, hash_file
from medart_cli.data.output import Output, check_output, open_output, write_json, write_text
from medart_cli.data.page import DEMONSTRATION_NOTICE, embed_image, hash_script, render
from medart_cli.errors import ConfigError, ImageError, ManifestError
from medart_cli.log import log, progress
from medart_cli.options import parse_levels
from medart_cli.reader.answers import ANSWERS, KEY_NAME, KIT_FORMAT, read_key
from medart_cli.reader.options import ReaderConfig

PAGE_NAME = "reader.html"
LARGEST = 512  # pixels of a side, unless --image-size says otherwise
UNLIKE = 1.25  # times more scaling of one kind than of the other, which may show as sharpness,
HALF = 0.5  # unless both are scaled to this or less, which makes all of them sharp


@dataclass(frozen=True)
class Study:
    """What there is to choose from.

    Attributes:
        rows: The images of each kind whose bytes can be read, no two alike.
        accounts: What was found in each set.
        failures: Files that cannot be read, and why.
    """

    rows: dict[str, list[HashedRecord]]
    accounts: list[Account]
    failures: dict[str, str]


@dataclass(frozen=True)
class Choice:
    """An image of the kit.

    Attributes:
        kind: What it is.
        row: Its row.
        size: Width and height of the original, pixels.
    """

    kind: str
    row: HashedRecord
    size: tuple[int, int]


def make_kit(config: ReaderConfig) -> dict[str, Any]:
    """Choose images, and write the page and the key; a kit that is there is left as it is."""
    study = read_study(config)
    out, mark = config.out or Path(), hash_study(study)
    output = Output(
        out,
        "reader",
        config.settings() | {"_images": mark},
        config.name_run_only(),
        config.overwrite,
        (config.real, *(config.synthetic or ())),
    )
    if check_output(output) and all((out / name).is_file() for name in (PAGE_NAME, KEY_NAME)):
        key = read_key(out)  # the last that is written
        if hash_file(out / PAGE_NAME) == key.get("page_sha256"):
            log.info("%s: already finished; nothing it depends on has changed", out)
            return sum_up_kit(out, key)
    with open_output(output):
        # The bytes of the images are what a reader does not know: a seed alone could be tried.
        generator = np.random.default_rng(int(hash_parts((config.seed, mark)), 16))
        chosen = choose_images(study, config.count, generator)
        size = config.image_size or choose_size(chosen)
        scales = compare_scales(chosen, size, config.crop)
        names = [generator.bytes(8).hex() for _ in chosen]
        order = [int(place) for place in generator.permutation(len(chosen))]
        items = [(names[place], chosen[place]) for place in order]
        shown = [name for name, _ in items]
        kit = hash_parts((mark, size, config.crop, config.encoding, shown))[:16]
        write_text(out / PAGE_NAME, build_page(config, kit, items, size))
        key = {
            "format": KIT_FORMAT,
            "kit": kit,
            "page_sha256": hash_file(out / PAGE_NAME),
            "image_size": size,
            "scales": scales,
            "demonstration": any(item.row.demonstration for item in chosen),
            "inputs": [account.facts() for account in study.accounts],
            "failures": [{"file": name, "reason": why} for name, why in study.failures.items()],
            "images": [describe_choice(name, item) for name, item in items],
        }
        write_json(out / KEY_NAME, key)
    log.info(
        "%s: is for the readers, and that file alone; %s has the answers", out / PAGE_NAME, KEY_NAME
    )
    if key["demonstration"]:
        log.warning("%s", DEMONSTRATION_NOTICE)
    return sum_up_kit(out, key)


def read_study(config: ReaderConfig) -> Study:
    """Read and hash both sets.

    Raises:
        ManifestError: REAL holds a synthetic image, or both sets hold the same file.
    """
    sources = [config.real, *(config.synthetic or ())]
    levels, roots = parse_levels(config.folders), (config.root, config.synthetic_root)
    sets = [
        open_data(it, root=root, levels=levels) for it, root in zip(sources, roots, strict=True)
    ]
    refuse_synthetic(sets[0], "the real images", allowed=config.allow_synthetic)
    rows: dict[str, list[HashedRecord]] = {}
    failures: dict[str, str] = {}
    for kind, records in zip(ANSWERS, sets, strict=True):
        hashed, faults = hash_records(records, try_cache())
        rows[kind] = list({row.sha256: row for row in reversed(hashed)}.values())[::-1]
        if len(rows[kind]) < len(hashed):
            repeats = len(hashed) - len(rows[kind])
            log.info("%d %s images are the same file as another one: left out", repeats, kind)
        for path, error in faults.items():
            failures[str(path)] = f"{path}: {error.strerror}"
            log.warning("%s", failures[str(path)])
    real = {row.sha256: row for row in rows["real"]}
    for row in rows["synthetic"]:
        if row.sha256 in real:
            raise ManifestError(
                f"{row.place}: is the same file as {real[row.sha256].place} of the real images; "
                "remove it from one of the sets"
            )
    return Study(rows, [records.account for records in sets], failures)


def hash_study(study: Study) -> str:
    """Return a hash over all that the choice depends on besides options."""
    facts = (
        (kind, row.file_name, row.label, find_group(row), row.sha256, row.demonstration)
        for kind, rows in study.rows.items()
        for row in rows
    )
    return hash_parts(facts)


def find_group(row: HashedRecord) -> str:
    """Name what an image shares with others: its patient, or whose caption drew it; else itself."""
    return row.group or clean_group(row.source.get("group_id")) or row.sha256


def choose_images(study: Study, count: int, generator: np.random.Generator) -> list[Choice]:
    """Choose as many real as synthetic images of each label.

    Raises:
        ConfigError: There are fewer than two of each.
    """
    by_label = _sort_by_label(study)
    rooms = {label: min(map(len, found.values())) for label, found in by_label.items()}
    shares = share_out(rooms, count)
    chosen: list[Choice] = []
    with progress("read", 2 * sum(shares.values())) as bar:
        for label, share in shares.items():
            pairs = [
                _take_readable(kind, order_rows(by_label[label][kind], generator), share, study)
                for kind in ANSWERS
            ]
            fewest = min(map(len, pairs))  # where too many files are broken
            chosen += [item for part in pairs for item in part[:fewest]]
            bar.advance(count=2 * share)
    if len(chosen) < 4:
        raise ConfigError(
            f"the sets have {len(chosen) // 2} readable images of each kind with a common label; a "
            "study needs 2 or more"
        )
    if len(chosen) < 2 * count:
        log.info("%d images of each kind instead of %d: there are no more", len(chosen) // 2, count)
    return chosen


def _sort_by_label(study: Study) -> dict[str | None, dict[str, list[HashedRecord]]]:
    """Sort the images of the labels that both sets have; all together where they share none."""
    labels = {kind: {row.label for row in rows} for kind, rows in study.rows.items()}
    shared = labels["real"] & labels["synthetic"]
    if not shared:
        log.warning(
            "the two sets have no label in common: their images may differ in what they show, "
            "which readers can see; give both the same labels"
        )
        return {None: dict(study.rows)}
    left = sorted(str(label) for label in (labels["real"] | labels["synthetic"]) - shared)
    if left:
        log.warning("labels of one set only, whose images are left out: %s", ", ".join(left))
    return {
        label: {kind: [row for row in rows if row.label == label]
                for kind, rows in study.rows.items()}
        for label in sorted(shared, key=str)
    }  # fmt: skip


def share_out(rooms: Mapping[str | None, int], count: int) -> dict[str | None, int]:
    """Share a count out over labels as evenly as the number that each has allows."""
    shares = dict.fromkeys(rooms, 0)
    for _ in range(min(count, sum(rooms.values()))):
        free = [label for label in rooms if shares[label] < rooms[label]]
        shares[min(free, key=shares.__getitem__)] += 1
    return shares


def order_rows(rows: Sequence[HashedRecord], generator: np.random.Generator) -> list[HashedRecord]:
    """Shuffle images, one of each patient first: images of many patients say more."""
    shuffled = [rows[int(place)] for place in generator.permutation(len(rows))]
    seen, ranks = Counter[str](), []
    for row in shuffled:
        ranks.append(seen[find_group(row)])
        seen[find_group(row)] += 1
    return [shuffled[int(place)] for place in np.argsort(ranks, kind="stable")]


def _take_readable(
    kind: str, rows: Iterable[HashedRecord], count: int, study: Study
) -> list[Choice]:
    """Take the first images that can be read; those that cannot are noted as failures."""
    found: list[Choice] = []
    for row in rows:
        if len(found) == count:
            break
        stop.check()
        try:
            found.append(Choice(kind, row, load_image(row.path).size))
        except ImageError as error:
            study.failures[str(row.path)] = str(error)
            log.warning("%s", error)
    return found


def choose_size(chosen: Sequence[Choice]) -> int:
    """Return the largest side, up to LARGEST, at which no image is scaled up."""
    smallest = min(chosen, key=lambda item: min(item.size))
    size = min(LARGEST, *smallest.size)
    usual = min(LARGEST, round(np.median([min(item.size) for item in chosen])))
    log.info("all images are shown at %d x %d pixels", size, size)
    if 2 * size < usual:
        log.warning(
            "%s is so small that all images are scaled down to its size, %d pixels; leave it out, "
            "or use --image-size %d", smallest.row.path, size, usual,
        )  # fmt: skip
    return size


def compare_scales(
    chosen: Sequence[Choice], size: int, crop: Literal["center", "pad"]
) -> dict[str, dict[str, float]]:
    """Give how much the images of each kind are scaled, and warn where that may tell them apart."""
    side = min if crop == "center" else max
    found: dict[str, dict[str, float]] = {}
    for kind in ANSWERS:
        scales = [size / side(item.size) for item in chosen if item.kind == kind]
        found[kind] = {
            "lowest": min(scales), "median": float(np.median(scales)), "highest": max(scales)
        }  # fmt: skip
    real, synthetic = (found[kind]["median"] for kind in ANSWERS)
    larger, smaller = max(real, synthetic), min(real, synthetic)
    if larger > HALF and larger > UNLIKE * smaller:
        log.warning(
            "real images are scaled to %.2f times their size and synthetic ones to %.2f, which may "
            "show as sharpness; --image-size %d hides it",
            *(real, synthetic, size * HALF / larger),
        )
    if max(part["highest"] for part in found.values()) > 1:
        log.warning("some images are scaled up, which blurs them; a smaller --image-size does not")
    return found


def build_page(
    config: ReaderConfig, kit: str, items: Sequence[tuple[str, Choice]], size: int
) -> str:
    """Make the page: images by name, in the order given, and nothing else about them."""
    pictures = []
    with progress("encode", len(items)) as bar:
        for name, item in items:
            stop.check()
            image = fit_image(load_image(item.row.path), size, config.crop)
            pictures.append(embed_image(image, name, lossy=config.encoding == "jpeg"))
            bar.advance()
    return render(
        "reader/kit.html.jinja",
        kit=kit,
        size=size,
        pictures=pictures,
        script_hash=hash_script("reader/kit.js"),
    )


def describe_choice(name: str, item: Choice) -> dict[str, Any]:
    """Describe an image in the key."""
    return {
        "image": name,
        "kind": item.kind,
        "file_name": item.row.file_name,
        "label": item.row.label,
        "group": hashlib.sha256(find_group(item.row).encode()).hexdigest()[:16],
        "sha256": item.row.sha256,
        "original_size": list(item.size),
    }


def sum_up_kit(out: Path, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a kit."""
    return {
        "result": str(out / PAGE_NAME),
        "kit": key["kit"],
        "images": dict(Counter(item["kind"] for item in key["images"])),
        "image_size": key["image_size"],
        "inputs": key["inputs"],
        "failures": len(key["failures"]),
    }

"""The sets of `medart classify`: read, and kept apart."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.splits import (
    check_labels,
    check_same_classes,
    draw_per_class,
    drop_duplicates,
    find_leaks,
    labels_of,
    refuse_shared_groups,
)
from medart_cli.data.account import Account
from medart_cli.data.cache import try_cache
from medart_cli.data.checks import refuse_synthetic, warn_of_two_labels
from medart_cli.data.dataset import open_data
from medart_cli.data.hashes import hash_records
from medart_cli.data.manifest import HashedRecord, Record, clean_group
from medart_cli.data.splits import groups_of, split_groups
from medart_cli.data.subgroups import Cut, find_cuts
from medart_cli.errors import ConfigError, ManifestError
from medart_cli.log import log
from medart_cli.options import parse_levels

HASH_LIST = "training_hashes.txt"  # written by finetune, copied by sample
SAMPLE_NAME = "sample.json"


@dataclass(frozen=True)
class Sets:
    """What is trained and tested on.

    Attributes:
        rows: `train`, `test` and, where there are any, `synthetic` rows.
        classes: Class names, sorted.
        checks: What was looked for between training and test, and found.
        failures: Files that could not be read.
        accounts: What was found in each data set.
        cuts: The subgroups of the test images that are compared.
    """

    rows: dict[str, list[HashedRecord]]
    classes: list[str]
    checks: dict[str, Any]
    failures: int
    accounts: list[Account]
    cuts: list[Cut]


def read_sets(config: ClassifyConfig) -> Sets:
    """Read the sets, keep training and test apart, and drop or refuse what stands in both.

    Raises:
        ConfigError: A set lacks classes, or cannot be split.
        ManifestError: A row has no label or is synthetic, a group stands on both sides, a
            duplicate is refused, or the generator was trained on test images.
    """
    accounts: list[Account] = []
    everything = _read(config, config.data, config.root, accounts)
    refuse_synthetic(everything, "the training images", allowed=config.allow_synthetic)
    check_labels(everything, "the training images")
    real, failures = _hash_rows(everything)
    train, test, more = _read_test(config, real, accounts)
    cuts = find_cuts(config.by or (), test, "the test set")
    failures += more
    classes = check_labels(train, "the training images")
    check_same_classes(classes, check_labels(test, "the test set"), "the test set", all_needed=True)
    rows = {"train": train, "test": test}
    if config.synthetic is not None:
        rows["synthetic"], more = _read_synthetic(config, classes, test, accounts)
        failures += more
    checks = {"split_by": _say_split(config, everything), **_keep_apart(config, rows)}
    if "synthetic" in rows:
        checks["generator_leak"] = check_generator(config, rows)
    if config.label_budget is not None:
        _warn_of_small_classes(train, config.label_budget)
    for name, part in rows.items():
        log.info("%s: %d images of %d classes", name, len(part), len(set(labels_of(part))))
    return Sets(rows, classes, checks, failures, accounts, cuts)


def _read(
    config: ClassifyConfig, source: str, root: Path | None, accounts: list[Account]
) -> list[Record]:
    found = open_data(source, root=root, levels=parse_levels(config.folders))
    accounts.append(found.account)
    return list(found)


def _say_split(config: ClassifyConfig, records: Sequence[Record]) -> str:
    """Say what separates training and test images: `given`, `groups`, or without both, `images`."""
    if config.test is not None or any(record.split == "test" for record in records):
        return "given"
    if any(record.group is not None for record in records):
        return "groups"
    log.warning(
        "patients unknown: images are split one by one, so one patient may be in both training and "
        "test set; give patients in group_id, or with --folders"
    )
    return "images"


def _warn_of_small_classes(train: Sequence[Record], budget: int) -> None:
    for label, count in count_labels(train).items():
        if count < budget:
            log.warning(
                "class %r has %d training images, --label-budget asks for %d", label, count, budget
            )


def _hash_rows(records: list[Record]) -> tuple[list[HashedRecord], int]:
    rows, faults = hash_records(records, try_cache())
    for path, error in faults.items():
        log.warning("%s: cannot be read: %s", path, error.strerror)
    warn_of_two_labels(rows)
    return rows, len(records) - len(rows)


def _read_test(
    config: ClassifyConfig, real: list[HashedRecord], accounts: list[Account]
) -> tuple[list[HashedRecord], list[HashedRecord], int]:
    """Return training rows, test rows, and how many test files could not be read."""
    marked = [row for row in real if row.split == "test"]
    others = [row for row in real if row.split != "test"]
    if config.test is not None:
        if marked:
            log.info("%d training rows are marked split test and excluded", len(marked))
        records = _read(config, config.test, config.test_root, accounts)
        if any(record.split == "test" for record in records):
            records = [record for record in records if record.split == "test"]
        refuse_synthetic(records, "the test set", allowed=config.allow_synthetic)
        check_labels(records, "the test set")
        test, failures = _hash_rows(records)
        return others, test, failures
    if marked and config.test_fraction != ClassifyConfig.test_fraction:
        raise ConfigError("--test-fraction: has no effect where rows are marked test; leave it out")
    if marked:
        return others, marked, 0
    labels, groups = labels_of(real), groups_of(real)
    first, second = split_groups(labels, groups, config.test_fraction, config.seed)
    return [real[i] for i in first], [real[i] for i in second], 0


def _read_synthetic(
    config: ClassifyConfig, classes: list[str], test: list[HashedRecord], accounts: list[Account]
) -> tuple[list[HashedRecord], int]:
    """Read the synthetic rows, without those generated from the caption of a test image."""
    name = "--synthetic"
    found = _read(config, str(config.synthetic), config.synthetic_root, accounts)
    leaks = find_of_test(found, test)
    records = [record for record, leak in zip(found, leaks, strict=True) if not leak]
    if len(records) < len(found):
        log.warning(
            "--synthetic: %d of %d images come from captions of test images or test patients, "
            "and are excluded", len(found) - len(records), len(found),
        )  # fmt: skip
    check_same_classes(classes, check_labels(records, name), name, all_needed=False)
    unmarked = sum(not record.synthetic for record in records)
    if unmarked:
        log.warning("--synthetic: %d of %d rows are not marked synthetic", unmarked, len(records))
    return _hash_rows(records)


def find_of_test(records: Sequence[Record], test: Sequence[HashedRecord]) -> list[bool]:
    """Say for each generated image whether its caption is that of a test image or patient."""
    hashes = {row.sha256 for row in test}
    groups = {row.group for row in test} - {None}
    return [
        "test" in (record.split, record.source.get("split"))
        or record.source.get("sha256") in hashes
        or clean_group(record.source.get("group_id")) in groups
        for record in records
    ]


def _keep_apart(config: ClassifyConfig, rows: dict[str, list[HashedRecord]]) -> dict[str, Any]:
    """Refuse shared groups; drop (or refuse) duplicates of test images, and count them."""
    test = rows["test"]
    dropped_of = {}
    for name in [name for name in ("train", "synthetic") if name in rows]:
        refuse_shared_groups(rows[name], test, f"the {name} set")
        rows[name], dropped = drop_duplicates(rows[name], {row.sha256 for row in test})
        dropped_of[name] = len(dropped)
        if dropped and config.duplicates == "refuse":
            raise ManifestError(
                f"{dropped[0].place}: the same file is in the test set ({len(dropped)} such "
                f"rows in the {name} set); remove them, or use --duplicates drop"
            )
        if dropped:
            log.warning(
                "%d files of the %s set are also in the test set and are dropped, such as %s",
                *(len(dropped), name, dropped[0].place),
            )
    return {"shared_groups": 0, "duplicates_dropped": dropped_of}


def check_generator(
    config: ClassifyConfig, rows: Mapping[str, list[HashedRecord]]
) -> dict[str, Any]:
    """Look for what the generator of the synthetic images learned from and classifiers may not.

    That is test images, and with `--label-budget` training images that are not drawn: a generator
    that knows them brings their labels back. Of images in neither set only the number is noted.

    Raises:
        ManifestError: There are some, and `--allow-leak` is not given.
        ConfigError: A folder of `--run` holds no list of training images.
    """
    lists = find_hash_lists(config)
    if not lists:
        log.warning(
            "--synthetic: no %s there, so whether its generator was trained on test images cannot "
            "be checked; give the run with --run",
            HASH_LIST,
        )
    seen = {word for path in lists for word in path.read_text(encoding="utf-8").split()}
    known = {row.sha256 for name in ("test", "train") for row in rows[name]}
    return {
        "checked": bool(lists),
        "test_images": _refuse_test_leaks(config, rows["test"], seen),
        "outside_budget": _refuse_outside_budget(config, rows, seen),
        "other_images": len(seen - known),
    }


def _refuse_test_leaks(config: ClassifyConfig, test: list[HashedRecord], seen: set[str]) -> int:
    leaks = find_leaks(test, seen)
    if leaks and not config.allow_leak:
        raise ManifestError(
            f"{leaks[0].place}: the generator of --synthetic was trained on this test image (on "
            f"{len(leaks)} of {len(test)} in all); mark test rows with split test before "
            "finetune, or continue with --allow-leak, and the results note it"
        )
    if leaks:
        log.warning("the generator was trained on %d of the test images (--allow-leak)", len(leaks))
    return len(leaks)


def _refuse_outside_budget(
    config: ClassifyConfig, rows: Mapping[str, list[HashedRecord]], seen: set[str]
) -> int | None:
    """Count the training images that the generator knows and the budget leaves out; most of a seed.

    It knows an image that it was trained on, or whose caption it drew.
    """
    if config.label_budget is None:
        return None
    train = rows["train"]
    seen = seen | {str(record.source.get("sha256")) for record in rows["synthetic"]}
    most: list[HashedRecord] = []
    for seed in config.chosen_seeds:
        drawn = draw_per_class(labels_of(train), config.label_budget, seed)
        known = seen - {train[i].sha256 for i in drawn}
        most = max(most, find_leaks(train, known), key=len)
    if most and not config.allow_leak:
        raise ManifestError(
            f"{most[0].place}: the generator of --synthetic knows this training image, which "
            f"--label-budget {config.label_budget} leaves out ({len(most)} such images); train a "
            "generator on the images of the budget alone, or continue with --allow-leak, and the "
            "results note it"
        )
    if most:
        log.warning(
            "the generator knows %d images outside --label-budget (--allow-leak)", len(most)
        )
    return len(most)


def find_hash_lists(config: ClassifyConfig) -> list[Path]:
    """Find the lists of training images: beside the synthetic ones, in their run, in `--run`."""
    lists = []
    for run in config.run or []:
        path = Path(run) / HASH_LIST
        if not path.is_file():
            raise ConfigError(f"--run {run}: has no {HASH_LIST}; is it a run folder of finetune?")
        lists.append(path)
    if config.synthetic in (None, "-"):
        return lists
    source = Path(str(config.synthetic))
    folder = source if source.is_dir() else source.parent
    if (folder / HASH_LIST).is_file():
        return [*lists, folder / HASH_LIST]
    if (folder / SAMPLE_NAME).is_file():
        facts = json.loads((folder / SAMPLE_NAME).read_text(encoding="utf-8"))
        path = Path(str(facts.get("run_folder", ""))) / HASH_LIST
        if path.is_file():
            lists.append(path)
    return lists


def describe_rows(sets: Sets) -> list[dict[str, Any]]:
    """List which image belongs to which set, for `split.jsonl`."""
    return [
        {"set": name, "file_name": row.file_name, "label": row.label, "sha256": row.sha256}
        | {key: row.fields[key] for key in ("group_id",) if key in row.fields}
        for name, rows in sets.rows.items()
        for row in rows
    ]


def count_labels(rows: Sequence[Record]) -> dict[str, int]:
    """Count the rows of each class."""
    return dict(sorted(Counter(labels_of(rows)).items()))

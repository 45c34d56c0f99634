"""What `medart sample` generates: prompts, or captions of a manifest; a row for each image.

A file of its own only so that run.py shows the course of the sampling alone.
"""

import re
import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medart_cli.data.account import Account
from medart_cli.data.classes import read_classes
from medart_cli.data.dataset import open_data
from medart_cli.data.manifest import Record, hash_file
from medart_cli.data.profiles import DEFAULT_PROFILE, Profile, as_worded, read_profile
from medart_cli.data.tables import JSON_HEAD, NO_TEXT, decode_text
from medart_cli.errors import ConfigError
from medart_cli.log import log
from medart_cli.options import parse_levels
from medart_cli.sample.held import HeldOut, find_held_rows
from medart_cli.sample.options import SampleConfig


@dataclass(frozen=True)
class Prompts:
    """The rows to draw, in order; those of a manifest file are read when they are asked for.

    Attributes:
        records: Where the texts are from.
        order: For each image the place of its record.
        profile: What words the text of a record that has none.
        account: What was found in the data set, where the rows are from one.
    """

    records: Sequence[Record]
    order: Sequence[int]
    profile: Profile
    account: Account | None = None

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return `text`, and `label` where there is one."""
        record = self.records[int(self.order[row])]
        text = record.text
        fields = {"text": self.profile.simple_caption(record.label) if text is None else text}
        return fields | ({"label": record.label} if record.label else {})

    def find_path(self, row: int) -> Path | None:
        """Return the file of the image whose caption a row is, if it is there."""
        path = self.records[int(self.order[row])].path if self.account else None
        return path if path and path.is_file() else None

    def find_source(self, row: int) -> dict[str, Any] | None:
        """Say whose caption a row is: `image`, `sha256`, `split` and `group_id`, if known.

        None for prompts that belong to no image.
        """
        if self.account is None:
            return None
        record = self.records[int(self.order[row])]
        there = record.path.is_file()  # a manifest may be drawn from without its images
        sha256 = hash_file(record.path) if there else record.fields.get("sha256")
        known = {"sha256": sha256, "split": record.split, "group_id": record.group_name}
        return {"image": record.file_name} | {
            name: value for name, value in known.items() if value is not None
        }


def read_prompts(
    config: SampleConfig,
    facts: Mapping[str, Any] | None = None,
    held: HeldOut | None = None,
) -> Prompts:
    """Read what --prompt, --prompts or --from ask for.

    Args:
        config: The options.
        facts: Of the run, if it is one.
        held: What the run held out, if anything; captions of these images are not drawn.
    """
    profile = choose_profile(config, facts or {})
    if config.from_data is not None:
        return choose_captions(config, profile, held)
    prompts = list(config.prompt or ())
    if config.prompts is not None:
        prompts = read_lines(config.prompts)
    if not prompts:
        raise ConfigError(f"--prompts {config.prompts}: contains no prompt; write one per line")
    records = [Record({"text": prompt}, Path(), "--prompt") for prompt in prompts]
    order = np.arange(config.count or len(prompts)) % len(prompts)
    return Prompts(records, order.tolist(), profile)


def choose_profile(config: SampleConfig, facts: Mapping[str, Any]) -> Profile:
    """Choose what words rows without text: what is asked for, else what the run learned from."""
    if config.profile is not None or "wording" not in facts:
        return read_profile(config.profile or DEFAULT_PROFILE, config.classes)
    profile = as_worded(facts["wording"])
    return replace(profile, classes=read_classes(config.classes)) if config.classes else profile


def read_lines(name: str) -> list[str]:
    """Read a prompt from each line of a file, or of standard input if it is called `-`.

    Raises:
        ConfigError: It cannot be read.
    """
    place = f"--prompts {name}"
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read: {error.strerror}") from error
    text = decode_text(raw, place)
    if JSON_HEAD.match(text):
        raise ConfigError(
            f"{place}: is JSON; write one prompt per line, or use a manifest with --from"
        )
    lines = re.split(r"\r\n|\r|\n", text)  # splitlines knows U+2028 and others too
    for number, line in enumerate(lines, start=1):
        if NO_TEXT.search(line):
            raise ConfigError(f"{place}: line {number} contains a control character; remove it")
    return [line.strip() for line in lines if line.strip()]


def choose_captions(config: SampleConfig, profile: Profile, held: HeldOut | None) -> Prompts:
    """Choose the captions of a manifest to draw: all, `--count` at random, or `--per-label`."""
    levels = parse_levels(config.folders)
    records = open_data(config.from_data or "", root=config.root, levels=levels, images=False)
    wanted = set(config.split or ("train",))
    kept = array("q")
    groups: dict[str, list[int]] = defaultdict(list)
    left: Counter[str] = Counter()
    plain, example = 0, ""
    held_rows = find_held_rows(records, held if "train" in wanted else None, config.from_data or "")
    for index, record in enumerate(records):
        split = record.split or "train"  # as finetune takes a row that says nothing
        if split not in wanted:
            left[split] += 1
            continue
        if index in held_rows:
            continue
        if record.text is None:
            plain, example = plain + 1, example or profile.simple_caption(record.label)
        if record.label and config.per_label is not None:
            groups[record.label].append(len(kept))
        kept.append(index)
    if held_rows and not kept:
        raise ConfigError(
            f"--from {config.from_data}: the run held out all rows that would be drawn; use the "
            "data that it was trained on"
        )
    tell_left(config, left, len(kept))
    if plain:
        log.warning(
            '%d of %d rows have no caption; they get the template caption, such as "%s"; '
            "--profile and --classes set it", plain, len(kept), example,
        )  # fmt: skip
    order = [kept[place] for place in choose_order(config, len(kept), groups)]
    return Prompts(records, order, profile, records.account)


def tell_left(config: SampleConfig, left: Counter[str], kept: int) -> None:
    """Log which rows are not used because of their split.

    Raises:
        ConfigError: None is left.
    """
    counts = ", ".join(f"{count} of {split}" for split, count in sorted(left.items()))
    if not kept:
        raise ConfigError(
            f"--from {config.from_data}: no row of split {' or '.join(config.split or ['train'])} "
            f"(rows: {counts}); choose another with --split"
        )
    if left:
        log.info("rows of other splits are not used: %s; --split selects them", counts)


def choose_order(config: SampleConfig, count: int, groups: dict[str, list[int]]) -> Sequence[int]:
    """Return for each image the place of its row among those that may be drawn."""
    if config.count is None and config.per_label is None:
        return range(count)
    order = np.random.default_rng(config.seed).permutation(count)
    if config.count is not None:
        chosen: list[int] = order[np.arange(config.count) % count].tolist()
        return chosen
    if not groups:
        raise ConfigError(f"--from {config.from_data}: no row has a label; --per-label needs them")
    rank = np.argsort(order)  # of each row in the random order
    found = []
    for label in sorted(groups):
        members = sorted(groups[label], key=lambda index: rank[index])
        found += [members[index % len(members)] for index in range(config.per_label or 0)]
    return found

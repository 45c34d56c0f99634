"""What the models of --classifier and --captioner are, as far as it can be told without torch."""

import json
from dataclasses import dataclass
from pathlib import Path

from medart_cli import stop
from medart_cli.data.classes import read_classes
from medart_cli.data.hashes import hash_files, hash_model
from medart_cli.data.manifest import clean_group
from medart_cli.errors import ConfigError
from medart_cli.evaluate.options import EvaluateConfig

SPLIT_LIST = "split.jsonl"  # written by classify
REAL_ALONE = ("real", "control")  # regimes of classify that train on real images only
EMBEDDED = "tiny"


@dataclass(frozen=True)
class Origin:
    """What a classifier was trained on.

    Attributes:
        folder: Folder that classify wrote.
        regime: Which of its regimes.
        hashes: SHA-256 of the images, in hexadecimal.
        groups: Their patients.
    """

    folder: Path
    regime: str
    hashes: frozenset[str]
    groups: frozenset[str]


def saw_synthetic(regime: str) -> bool:
    """Say whether a regime of classify trains on synthetic images."""
    return regime not in REAL_ALONE


def find_origin(folder: Path) -> Origin:
    """Find out what a classifier was trained on.

    All training images that classify had count, also those that `--label-budget` or early stopping
    kept from the optimizer.

    Args:
        folder: Folder that classify wrote, or the `model` folder of one of its regimes.

    Raises:
        ConfigError: The folder does not say it.
    """
    place = f"--classifier {folder}"
    try:
        if (folder / SPLIT_LIST).is_file():
            top = folder
            facts = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            regime = str(facts["classifier"]["regime"])
        else:
            whole = folder.resolve()
            top, regime = whole.parents[2], whole.parent.name
        with (top / SPLIT_LIST).open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        used = {"train", "synthetic"} if saw_synthetic(regime) else {"train"}
        known = [row for row in rows if row["set"] in used]
        groups = {clean_group(row.get("group_id")) for row in known if row["set"] == "train"}
        hashes = frozenset(str(row["sha256"]) for row in known)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"{place}: does not say which images it was trained on ({SPLIT_LIST}, metrics.json); "
            "use a folder that medart classify wrote, or its regimes/real/model"
        ) from error
    return Origin(top, regime, hashes, frozenset(group for group in groups if group is not None))


def describe_contents(config: EvaluateConfig, cache: Path) -> list[str | None]:
    """Return hashes of all that --classifier and --captioner bring along; None for an unknown one.

    Those of the embedded captioner are known by the version of medart.
    """
    found: list[str | None] = []
    if config.classifier is not None:
        origin = find_origin(config.classifier)
        lists, _ = hash_files([origin.folder / SPLIT_LIST], cache=cache, poll=stop.check)
        found += [hash_model(config.classifier, cache, poll=stop.check), origin.regime]
        found += sorted(lists.values())
    if config.captioner is not None and config.captioner != EMBEDDED:
        files = [path for path in sorted(Path(config.captioner).glob("*")) if path.is_file()]
        hashes, _ = hash_files(files, cache=cache, poll=stop.check)
        found += [f"{path.name} {digest}" for path, digest in sorted(hashes.items())] or [None]
    if config.profile is not None and Path(config.profile).is_file():
        found += sorted(hash_files([Path(config.profile)], cache=cache)[0].values())
    if config.classes is not None:
        found.append(repr(sorted(read_classes(config.classes).items())))
    return found

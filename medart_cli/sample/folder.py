"""The output folder of `medart sample`: what of it is done, and how its parts are joined."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.images import save_png, tile_images
from medart_cli.data.manifest import (
    MANIFEST_NAME,
    PARTS_NAME,
    read_manifest,
)
from medart_cli.data.output import write_json
from medart_cli.data.stored import join_manifests
from medart_cli.errors import ConfigError
from medart_cli.log import log
from medart_cli.ranks import Part
from medart_cli.sample.options import SampleConfig
from medart_cli.sample.prompts import Prompts
from medart_cli.sample.source import Source

SHEET_IMAGES = 64  # a contact sheet of more is too small to look at


SUMMARY_NAME = "sample.json"


SHEET_NAME = "contact-sheet.png"


Flags = npt.NDArray[np.bool_]


def own_file(out: Path, part: Part) -> Path:
    """Return the file that takes the manifest lines of this process."""
    return out / PARTS_NAME / f"{part.name}.jsonl" if part.count > 1 else out / MANIFEST_NAME


def list_manifests(config: SampleConfig, out: Path, part: Part) -> list[Path]:
    """Return the files that list finished rows.

    Other shards may be at work: one looks at its own file, and at what was joined before.
    """
    others = (
        [own_file(out, part)] if config.shard else sorted((out / PARTS_NAME).glob("*-of-*.jsonl"))
    )
    return list(dict.fromkeys((out / MANIFEST_NAME, *others)))


def finished_rows(out: Path, files: Sequence[Path], rows: Prompts) -> Flags:
    """Say for each row whether it is done; one whose image is missing is regenerated.

    More rows than before may be asked for, as long as those that are drawn stay what they are.

    Raises:
        ConfigError: The folder holds images of other prompts, or more than are asked for.
    """
    done = np.zeros(len(rows), dtype=np.bool_)
    for path in files:
        if path.is_file() and path.stat().st_size:
            for record in read_manifest(path, root=out):
                row = int(record.fields["row"])
                if row >= len(rows):
                    raise _other_rows(out, f"it has image {row + 1}, of {len(rows)} requested")
                now = rows[row]
                if (record.text, record.label) != (now["text"], now.get("label")):
                    raise _other_rows(out, f"image {row + 1} is of {record.text!r:.80}")
                done[row] |= record.path.is_file()
    return done


def _other_rows(out: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{out}: was written with other prompts: {what}; use another folder, or start over with "
        "--overwrite"
    )


def say_what_is_left(out: Path, done: Flags) -> None:
    """Say how far the folder is, where there is something; and what of a finished one is gone."""
    facts = out / SUMMARY_NAME
    finished = json.loads(facts.read_text(encoding="utf-8"))["images"] if facts.is_file() else 0
    gone = int((~done[:finished]).sum())
    if gone:
        log.warning(
            "%s: was finished, but %d of its %d images are missing or not in its %s; they are "
            "regenerated", out, gone, finished, MANIFEST_NAME,
        )  # fmt: skip
    elif done.any():
        log.info("%s: %d of %d images exist", out, int(done.sum()), len(done))


def finish(source: Source, out: Path, summary: dict[str, Any], *, fresh: bool) -> None:
    """Join the lines of all processes, in order, and write what stands beside the images.

    Args:
        source: What draws.
        out: The folder.
        summary: Content of sample.json.
        fresh: Whether an image was drawn just now; else a finished folder is left as it is.
    """
    if not fresh and checkpoints.has_hashes(source.trained, out) and is_finished(out, summary):
        log.info("%s: already finished; nothing to do", out)
        return
    parts = sorted((out / PARTS_NAME).glob("*-of-*.jsonl"))
    files = [path for path in (out / MANIFEST_NAME, *parts) if path.is_file()]
    join_manifests(out / MANIFEST_NAME, [path for path in files if path.stat().st_size], "row")
    shutil.rmtree(out / PARTS_NAME, ignore_errors=True)
    write_sheet(out, summary["images"])
    checkpoints.copy_hashes(source.trained, out)  # classify sees whether test images are in there
    write_json(out / SUMMARY_NAME, summary)


def is_finished(out: Path, summary: dict[str, Any]) -> bool:
    """Say whether all stands beside the images already, and says of them what is said now."""
    if (out / PARTS_NAME).exists() or not (out / SHEET_NAME).is_file():
        return False
    try:
        facts = json.loads((out / SUMMARY_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or corrupt: it is written anew
        return False
    now = json.loads(json.dumps(summary))
    # How many were drawn, and by which versions, is told of the call that drew them.
    return all(facts.get(it) == now[it] for it in now if it not in ("drawn", "versions"))


def write_sheet(out: Path, count: int) -> None:
    """Lay the first images on one sheet, to look at."""
    names = [f"{index:06d}.png" for index in range(min(count, SHEET_IMAGES))]
    images = []
    for name in names:
        with Image.open(out / name) as image:
            images.append(image.convert("RGB"))
    save_png(out / SHEET_NAME, tile_images(images, columns=math.ceil(math.sqrt(len(images)))))

"""Where a manifest is written that completes another, and the rows it begins with."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medart_cli.caption.edits import ACCEPTED, EDITED, is_users
from medart_cli.data.account import Account
from medart_cli.data.dataset import list_images, open_data
from medart_cli.data.manifest import MANIFEST_NAME, Record, read_manifest, repair_manifest
from medart_cli.data.stored import hash_name, hash_names
from medart_cli.errors import ConfigError
from medart_cli.log import log


def find_target(images: str, out: Path | None, root: Path | None) -> tuple[Path, Path]:
    """Choose the manifest to write: the folder's or file's own, or `out`.

    Returns:
        The manifest, and the folder that the file names of `images` are relative to.

    Raises:
        ConfigError: There is no such place, or it cannot be written to.
    """
    source = Path(images)
    if images != "-" and not source.exists():
        raise ConfigError(f"{images}: no such folder or manifest")
    folder = root or (Path.cwd() if images == "-" else source if source.is_dir() else source.parent)
    target = out or (source / MANIFEST_NAME if source.is_dir() else source)
    if target.is_dir():
        raise ConfigError(f"--out {target}: is a folder; use a file, as {target / MANIFEST_NAME}")
    if not target.parent.is_dir():
        raise ConfigError(f"--out {target}: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise ConfigError(f"{target.parent}: is not writable; give a manifest elsewhere with --out")
    return target, folder


def beside(target: Path, name: str) -> Path:
    """Return the path of a file beside a manifest, which lends it its name unless it is the usual.

    So several manifests of one folder, as an ablation needs them, do not share their pages.
    """
    return target.with_name(name if target.name == MANIFEST_NAME else f"{target.stem}.{name}")


def read_target(
    images: str,
    target: Path,
    folder: Path,
    root: Path | None,
    *,
    levels: tuple[str, ...] | None = None,
) -> tuple[Sequence[Record], bool, Account]:
    """Read the rows of `images`, and where `target` is another manifest, those it has already.

    Texts that medart wrote into `images` itself are left behind there: another manifest is named to
    have others. File names are made relative to the target's folder where that holds the images.
    Elsewhere they stay relative to `folder`, and what reads the target needs to be told with
    --root.

    Returns:
        The rows, those of the target first; whether the target lacks some; and what was found.
    """
    if target.is_file():
        repair_manifest(target)
    found = open_data(images, root=root, levels=levels)
    rows: Sequence[Record] = found
    inside = root is None and folder.resolve().is_relative_to(target.parent.resolve())
    if inside and folder.resolve() != target.parent.resolve():
        rows = [_rebase(row, target.parent, folder) for row in rows]
    elif not inside and root is None:
        log.warning(
            "%s: file names are relative to %s; commands that read it need --root %s",
            *(target, folder, folder),
        )
    own = images != "-" and target.resolve() in (
        Path(images).resolve(),
        (Path(images) / MANIFEST_NAME).resolve(),
    )
    if own:
        return rows, False, found.account
    edited = sum(is_users(row) and _without_our_text(row) is not row for row in rows)
    if edited:
        log.info("%d texts of medart's that a person edited or accepted stay in %s", edited, images)
    rows = [_without_our_text(row) for row in rows]  # another manifest is to hold other texts
    if not target.is_file():
        return rows, False, found.account
    earlier = list(read_manifest(target, root=None if inside else folder))
    known = {row.file_name for row in earlier}
    new = [row for row in rows if row.file_name not in known]
    return [*earlier, *new], bool(new), found.account


def find_unlisted(
    folder: Path,
    rows: Sequence[Record],
    root: Path | None,
    *,
    levels: tuple[str, ...] | None = None,
) -> list[Record]:
    """Return the images of a folder that stand on no row."""
    known = np.sort(hash_names(rows))

    def is_new(row: Record) -> bool:
        wanted = np.uint64(hash_name(row.file_name))
        place = np.searchsorted(known, wanted)
        return bool(place == len(known) or known[place] != wanted)

    try:
        return [
            row
            for row in list_images(folder, root=root, levels=levels, tables=False)
            if is_new(row)
        ]
    except ConfigError:  # none at all: the rows' own files are missing, which is said for each
        return []


def _without_our_text(row: Record) -> Record:
    facts = row.fields.get("caption") or {}
    # A text that was a person's from the start has no profile, also where one has accepted it.
    own = facts.get("status") in (EDITED, ACCEPTED) and "profile" not in facts
    if own or not facts.get("status"):
        return row
    fields = {key: value for key, value in row.fields.items() if key not in ("text", "caption")}
    return replace(row, fields=fields)


def _rebase(row: Record, parent: Path, folder: Path) -> Record:
    name = (folder.resolve() / row.file_name).relative_to(parent.resolve())
    return Record({**row.fields, "file_name": name.as_posix()}, parent, row.place)

"""What stands beside every output: settings, versions, JSON facts, HTML pages."""

import json
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from medart_cli.data.files import FULL, draft_of, remove_drafts, write_changed
from medart_cli.data.lock import LOCK_NAME, check_lock, hold_lock
from medart_cli.errors import ConfigError
from medart_cli.versions import SETTINGS_HEAD

SETTINGS_NAME = "settings.toml"


@dataclass(frozen=True)
class Output:
    """An output folder, and what it belongs to.

    Attributes:
        folder: The folder.
        stage: Name of the command that writes it.
        settings: Effective settings of this run, flat.
        ignore: Settings that may differ between the run that began the folder and this one.
        overwrite: Whether to remove what an earlier run of the stage wrote there; None where the
            stage has no option for that.
        inputs: What this run reads; the folder may not be or hold any of it.
        part: Number of the part of the work that this run does, from 1; 0 does it all.
        formerly: Settings that an older folder does not name, and what they were then.
    """

    folder: Path
    stage: str
    settings: dict[str, Any]
    ignore: frozenset[str]
    overwrite: bool | None
    inputs: Sequence[str | Path | None] = ()
    part: int = 0
    formerly: Mapping[str, Any] = field(default_factory=dict)


def check_output(output: Output) -> bool:
    """Say whether the folder holds an earlier run of the same settings, without changing it.

    Raises:
        ConfigError: The folder holds other things, belongs to other settings, is an input, or
            another run is at work on it.
    """
    check_lock(output.folder / LOCK_NAME, output.folder)
    return _is_continued(output)


def _is_continued(output: Output) -> bool:
    folder, file = output.folder, output.folder / SETTINGS_NAME
    try:
        for source in output.inputs:
            if source is None or not Path(source).exists():  # a hub id, or standard input
                continue
            if Path(source).resolve().is_relative_to(folder.resolve()):
                raise ConfigError(f"{folder}: contains {source}, which this command reads")
        if not folder.exists() or not _entries(folder):
            return False
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if not text.startswith(_head(output.stage)):
            raise ConfigError(
                f"{folder}: is not empty and was not written by medart {output.stage}; use another"
            )
        old = {**output.formerly, **tomllib.loads(text)}
        change = first_change(old, output.settings, output.ignore)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{folder}: cannot be used as output folder: {reason}") from error
    if change and not output.overwrite:
        instead = "" if output.overwrite is None else ", or start over with --overwrite"
        raise ConfigError(
            f"{folder}: was written with other settings: {change}; use another folder{instead}"
        )
    return not output.overwrite


@contextmanager
def open_output(output: Output) -> Iterator[bool]:
    """Make an output folder ready and keep other runs off it while the block runs.

    The folder is new, continued, or, with `overwrite`, emptied.

    Yields:
        Whether the folder holds an earlier run of the same settings, to be continued.

    Raises:
        ConfigError: As `check_output`, or the folder cannot be written.
        OSError: The disk is full.
    """
    _is_continued(output)
    folder = output.folder
    with _refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _refused(folder):
            stack.enter_context(hold_lock(folder / LOCK_NAME, folder, part=output.part))
        continued = _is_continued(output)  # again: another run may have ended just now
        with _refused(folder):
            if output.overwrite:
                _empty(folder)
            if not output.part:
                remove_drafts(folder / SETTINGS_NAME)
            text = _head(output.stage) + tomli_w.dumps(output.settings)
            write_changed(folder / SETTINGS_NAME, text, shared=output.part > 0)
        yield continued


@contextmanager
def _refused(folder: Path) -> Iterator[None]:
    """Turn what the system refuses into a wrong request, but not a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        raise ConfigError(f"{folder}: cannot be used as output folder: {error.strerror}") from error


def _entries(folder: Path) -> list[Path]:
    """List a folder without what a run that was killed at its very beginning leaves there."""
    left = (LOCK_NAME, f".{SETTINGS_NAME}.")
    return [path for path in folder.iterdir() if not path.name.startswith(left)]


def _empty(folder: Path) -> None:
    """Remove what an earlier run wrote; its settings last, so that a kill leaves it medart's."""
    for path in sorted(_entries(folder), key=lambda path: path.name == SETTINGS_NAME):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _head(stage: str) -> str:
    return f"{SETTINGS_HEAD}{stage}, in the form that its --config reads.\n"


def first_change(old: dict[str, Any], new: dict[str, Any], ignore: frozenset[str]) -> str | None:
    """Name the first setting in which two tables differ, with both values; None if none does.

    Names that begin with an underscore are no settings but hashes of what an output belongs to.
    """
    names = (old.keys() | new.keys()) - ignore
    for name in sorted(names, key=lambda name: (name[0] == "_", name)):
        if old.get(name) != new.get(name):
            if name[0] == "_":
                return f"its {name[1:]} changed"
            was, now = (
                "not set" if it is None else repr(it) for it in (old.get(name), new.get(name))
            )
            return f"{name} was {was} and is now {now}"
    return None


def write_text(path: Path, text: str) -> None:
    """Write a text file in one move."""
    with draft_of(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write facts as indented JSON, in one move."""
    write_text(path, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")

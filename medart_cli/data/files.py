"""Files that are whole or not there: written as a draft beside their place, and moved there."""

import errno
import glob
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk or a used-up quota is called


@contextmanager
def draft_of(path: Path, *, shared: bool = False, drafts: Path | None = None) -> Iterator[Path]:
    """Give a draft to write, which takes the place of `path` when the block ends well.

    A failure leaves `path` as it was and no draft; a kill leaves a draft that the next one to write
    `path` replaces, or, where several write it, one that `remove_drafts` removes.

    Args:
        path: The file to write.
        shared: Several processes may write it at once, each its own draft.
        drafts: Folder of the draft, on the same disk; that of `path` by default.

    Raises:
        OSError: The disk is full or lost; it names `path`.
    """
    mark = f".{platform.node()}.{os.getpid()}" if shared else ""  # of all machines on a share
    draft = (drafts or path.parent) / f".{path.name}{mark}.part"
    with named_errors(path):
        try:
            yield draft
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def write_changed(path: Path, text: str, *, shared: bool = False) -> None:
    """Write a text file in one move, unless it says the same already: then its time stays too.

    Arguments as `draft_of`.
    """
    if path.is_file() and path.read_bytes() == text.encode():
        if not shared:  # one that a killed run left
            path.with_name(f".{path.name}.part").unlink(missing_ok=True)
        return
    with draft_of(path, shared=shared) as draft:
        draft.write_text(text, encoding="utf-8")


def remove_drafts(path: Path) -> None:
    """Remove drafts of a shared file that killed processes left; nobody else may write it now."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        draft.unlink(missing_ok=True)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Let errors of the disk say which file they hit, whoever was writing to it."""
    try:
        yield
    except OSError as error:
        text = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, text, str(path)) from error
    except SafetensorError as error:  # its own name for every error of the disk
        raise OSError(errno.EIO, f"could not be written: {error}", str(path)) from error

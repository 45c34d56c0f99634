"""A lock on an output, because two runs that write to one would spoil each other's work.

The system ends the lock together with its process, however that ends, so a kill leaves nothing in
the way. It is a POSIX record lock and not one of `flock`: loader processes, which may live a moment
longer than the run that forked them, do not inherit it. It holds between the machines of a network
file system as far as that does locks at all.
"""

import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medart_cli.errors import ConfigError
from medart_cli.log import log

LOCK_NAME = ".medart.lock"  # in an output folder; beside a manifest it is .NAME.lock
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
TAKEN = (errno.EAGAIN, errno.EACCES)


@contextmanager
def hold_lock(file: Path, output: Path, *, part: int = 0) -> Iterator[None]:
    """Keep other runs off an output while the block runs; the file goes at its end.

    Under torchrun the first process holds the lock for all.

    Args:
        file: The lock file, in a folder that is there.
        output: What is locked, for the message.
        part: Number of this part of the work, from 1, where several runs share an output by intent
            (`--shard`): each locks its own part, and a run of the whole (0) locks all parts.

    Raises:
        ConfigError: Another run holds it.
        OSError: The file cannot be made.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    handle = _take(file, output, part)
    try:
        yield
    finally:
        if _lock(handle, 0) and _is_named(handle, file):  # no other part is at work
            file.unlink()
        os.close(handle)


def check_lock(file: Path, output: Path) -> None:
    """Find out early whether another run is at work, before models are loaded for nothing.

    Raises:
        ConfigError: It is.
    """
    if file.is_file():
        with hold_lock(file, output):
            pass


def _take(file: Path, output: Path, part: int) -> int:
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _lock(handle, part):
            holder = os.read(handle, 200).decode("utf-8", "replace")
            raise ConfigError(
                f"{output}: another medart is at work on it{holder}; wait for its end, or name "
                "another"
            )
        named = _is_named(handle, file)
        if named:
            os.ftruncate(handle, 0)
            if not part:
                os.write(handle, f" (process {os.getpid()} on {platform.node()})".encode())
    except BaseException:
        os.close(handle)
        raise
    if named:
        return handle
    os.close(handle)  # the other run has just ended and removed its file: begin again
    return _take(file, output, part)


def _lock(handle: int, part: int) -> bool:
    """Lock one part, byte by number, or with 0 all of them; say whether that was possible."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1 if part else 0, part)
    except OSError as error:
        if error.errno in NO_LOCKS:
            log.warning("this file system has no locks: let no two runs write to one output")
        elif error.errno not in TAKEN:
            raise
        return error.errno in NO_LOCKS
    return True


def _is_named(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False

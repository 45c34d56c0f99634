"""A lock on an output, because two runs that write to one would spoil each other's work.

The system ends the lock together with its process, however that ends, so a kill leaves nothing in
the way: a file that it leaves is taken over, another user's too where that can be done. It is a
POSIX record lock and not one of `flock`: loader processes, which may live a moment longer than the
run that forked them, do not inherit it. It holds between the machines of a network file system as
far as that does locks at all.
"""

import errno
import fcntl
import os
import platform
import pwd
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medart_cli.data.files import FULL
from medart_cli.errors import ConfigError
from medart_cli.log import log

LOCK_NAME = ".medart.lock"  # in an output folder; beside a manifest it is .NAME.lock
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
TAKEN = (errno.EAGAIN, errno.EACCES)
MODE = 0o666  # less the umask, as any file: others shall see who holds it, and it holds no data


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
        ConfigError: Another run holds it, another user's file is in the way, or none can be made.
        OSError: The disk is full.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    handle = _take(file, output, part)
    try:
        yield
    finally:
        if _lock(handle, 0) and _is_named(handle, file):  # no other part is at work
            with suppress(OSError):  # in a folder where others' files stay: it is nobody's lock now
                file.unlink()
        os.close(handle)


def check_lock(file: Path, output: Path) -> None:
    """Find out early whether another run is at work, before models are loaded for nothing.

    Raises:
        ConfigError: It is, or another user's file is in the way.
    """
    try:
        there = file.is_file()
    except OSError:  # said when the folder is used
        return
    if there:
        with hold_lock(file, output):
            pass


def _take(file: Path, output: Path, part: int) -> int:
    handle = _open(file, output)
    try:
        if not _lock(handle, part):
            raise _refuse_taken(handle, output)
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


def _open(file: Path, output: Path) -> int:
    """Open a lock file for writing, made new where it is not there or was left by another user."""
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    except OSError as error:
        if error.errno in FULL:
            raise
        owner = _find_owner(file)
        if owner is None:
            raise ConfigError(
                f"{output}: no lock file can be created in {file.parent}: {error.strerror}; make "
                "that folder writable, or use another"
            ) from error
    with suppress(FileExistsError):  # another run was quicker: it is opened like any other
        _remove_left(file, output, owner)
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    return _open(file, output)


def _remove_left(file: Path, output: Path, owner: str) -> None:
    """Remove the lock file of another user, if it can be seen that no run holds it.

    Raises:
        ConfigError: One does, or that cannot be seen, or the folder does not allow it.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Shared, since the file is open for reading only; while it is held no run can begin.
            if not _lock(handle, 0, fcntl.LOCK_SH):
                raise _refuse_taken(handle, output)
            if _is_named(handle, file):
                file.unlink()
        finally:
            os.close(handle)
    except FileNotFoundError:  # its run has just ended
        return
    except OSError as error:
        raise ConfigError(
            f"{file}: is the lock file of user {owner} on {output}, and cannot be replaced "
            f"({error.strerror}); if no medart run of {owner} is active there, have the file "
            "removed, or use another output"
        ) from error


def _find_owner(file: Path) -> str | None:
    """Return the user whose file it is; None where there is none, or it may not be seen."""
    try:
        number = file.stat().st_uid
    except OSError:
        return None
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # of another machine
        return str(number)


def _refuse_taken(handle: int, output: Path) -> ConfigError:
    holder = os.read(handle, 200).decode("utf-8", "replace")
    return ConfigError(
        f"{output}: in use by another medart run{holder}; wait until it ends, or use another"
    )


def _lock(handle: int, part: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock one part, byte by number, or with 0 all of them; say whether that was possible."""
    try:
        fcntl.lockf(handle, kind | fcntl.LOCK_NB, 1 if part else 0, part)
    except OSError as error:
        if error.errno in NO_LOCKS:
            log.warning("this file system has no file locks: never run two medart on one output")
        elif error.errno not in TAKEN:
            raise
        return error.errno in NO_LOCKS
    return True


def _is_named(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False

"""Work in another process, for what one process cannot do to itself: locks, limits, kills."""

import os
import resource
from contextlib import contextmanager


@contextmanager
def elsewhere(opened, *arguments, **options):
    """Hold a context manager open in a forked process; yields its number."""
    here, there = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(there[1])
        with opened(*arguments, **options):
            os.write(here[1], b"held")
            os.read(there[0], 1)  # until the parent closes its end, or is gone
        os._exit(0)
    os.close(there[0])
    try:
        assert os.read(here[0], 4) == b"held"
        yield child
    finally:
        os.close(there[1])
        os.waitpid(child, 0)
        os.close(here[0])
        os.close(here[1])


@contextmanager
def largest_file(size):
    """Let no file become larger than `size` bytes, as a quota would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_user(number):
    """Have the rights of another user for a while, if this is root; else keep one's own."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(number)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)

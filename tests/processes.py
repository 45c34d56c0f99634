"""Work in another process, for what one process cannot do to itself: locks, limits, kills."""

import os
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

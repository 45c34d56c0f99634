"""Where medart keeps what it may need again: features, latents, embeddings, hashes."""

import os
import time
from contextlib import suppress
from pathlib import Path

from medart_cli.errors import ConfigError
from medart_cli.log import log

# Not chosen by medart: the cache shows what the images show.
OTHER_CACHE = "set MEDART_CACHE to a folder where copies of the images may lie"

# Below the cache, drafts of all its files: in one place, so that those of killed runs are found
# without a walk through the entries.
DRAFTS_NAME = "drafts"
LEFT_SECONDS = 3600  # a draft is written within seconds; one that is older is nobody's


def default_cache() -> Path:
    """Return the folder of all caches: $MEDART_CACHE, or medart in the user's cache folder.

    Raises:
        ConfigError: The user has no home folder, as a user id without a name in a container.
    """
    named = os.environ.get("MEDART_CACHE")
    if named:
        return Path(named)
    try:
        return Path.home() / ".cache" / "medart"
    except RuntimeError as error:
        raise ConfigError(f"medart's cache: this user has no home folder; {OTHER_CACHE}") from error


def make_cache(named: Path | None) -> Path:
    """Make the named folder of caches, or the default one, and return it.

    What runs that were killed left there half-written is removed.

    Raises:
        ConfigError: It cannot be made, or there is no default.
    """
    folder = named or default_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"{folder}: medart's cache cannot be made ({error.strerror}); {OTHER_CACHE}"
        ) from error
    _remove_left(folder / DRAFTS_NAME)
    return folder


def _remove_left(drafts: Path) -> None:
    """Remove drafts that no process can be writing any more, on whichever machine it was."""
    for draft in drafts.glob(".*.part"):
        with suppress(OSError):  # another run removes it too, or it is another user's
            if time.time() - draft.stat().st_mtime > LEFT_SECONDS:
                draft.unlink()


def make_drafts(cache: Path) -> Path:
    """Make the folder of drafts below a cache, and return it."""
    folder = cache / DRAFTS_NAME
    folder.mkdir(exist_ok=True, parents=True, mode=0o700)
    return folder


def try_cache() -> Path | None:
    """Return the default folder of caches for what can be had without; None where there is none."""
    try:
        return make_cache(None)
    except ConfigError as error:
        log.info("nothing is cached: %s", error)
        return None

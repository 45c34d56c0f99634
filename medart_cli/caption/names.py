"""Which image a name of a table means: paths of other machines, names without folder or ending."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from medart_cli.data.folders import IMAGE_ENDINGS
from medart_cli.errors import ConfigError
from medart_cli.log import log


def match_names(table: Collection[str], names: Sequence[str], option: str) -> dict[str, str]:
    """Find the image that each name of a table means; warn of names that mean none or several.

    A name of the table may leave out folders before, or have more of them, and may lack the
    ending. Where that fits no image, one of the same name in another folder or with another ending
    is taken, if image and name are the only ones so called.

    Args:
        table: Names, in the form of `plain_name`.
        names: Those of the images, in the same form.
        option: Which names the table, for messages.

    Returns:
        The image of each name that means one.

    Raises:
        ConfigError: No name does.
    """
    images = dict.fromkeys(names)
    near = _match_paths(table, images)
    far = _match_short(table, images, near)
    fits = near | far
    found = {name: image for name, image in fits.items() if image is not None}
    unsure = [name for name, image in fits.items() if image is None]
    if not found:
        why = f"{unsure[0]!r} matches several" if unsure else f"{next(iter(table))!r} matches none"
        raise ConfigError(
            f"{option}: none of its file names matches one image ({why}; an image is "
            f"{names[0]!r}); write the images' file names, with their folders"
        )
    if unsure:
        log.warning(
            "%s: %d names match several images and are skipped, such as %s; add their "
            "folders", option, len(unsure), unsure[0],
        )  # fmt: skip
    if far:
        name, image = next(iter(far.items()))
        log.warning("%s: %d names match a file in another folder or with another extension, "
                    "such as %s for %s", option, len(far), name, image)  # fmt: skip
    lost = [name for name in table if name not in fits]
    if lost:
        log.warning("%s: %d names in the table match no image, such as %s",
                    option, len(lost), lost[0])  # fmt: skip
    return found


def _match_paths(table: Iterable[str], images: Collection[str]) -> dict[str, str | None]:
    """Find for names the image whose path ends in them, or which they end in; None for several."""
    wholes, ends = _index(images), dict[int, dict[str, str | None]]()
    fits: dict[str, str | None] = {}
    for name in table:
        parts = name.split("/")
        if len(parts) not in ends:
            ends[len(parts)] = _index(images, len(parts))
        if name in images:
            fits[name] = name
        elif name in ends[len(parts)]:
            fits[name] = ends[len(parts)][name]
        else:
            tails = ("/".join(parts[start:]) for start in range(1, len(parts)))
            tail = next((tail for tail in tails if tail in wholes), None)
            if tail is not None:
                fits[name] = wholes[tail]
    return fits


def _match_short(
    table: Collection[str], images: Iterable[str], done: Collection[str]
) -> dict[str, str | None]:
    """Find images for other names where folder and ending differ, and no two are so called."""
    shorts: dict[str, str | None] = {}
    for path in images:
        short = _short_name(path)
        shorts[short] = None if short in shorts else path
    counts = Counter(_short_name(name) for name in table)
    return {
        name: image
        for name in table
        if name not in done and counts[_short_name(name)] == 1
        if (image := shorts.get(_short_name(name))) is not None
    }


def _index(images: Iterable[str], depth: int = 0) -> dict[str, str | None]:
    """Map the last parts of names (0: all), with and without ending, to the one image so called.

    Where several are so called, to None; names with their ending go before names without.
    """
    with_ending: dict[str, str | None] = {}
    without: dict[str, str | None] = {}
    for image in images:
        parts = image.split("/")
        if len(parts) < depth:
            continue
        name = "/".join(parts[-depth:])
        with_ending[name] = None if name in with_ending else image
        for short in _cut_endings(name):
            without[short] = image if without.get(short, image) == image else None
    return without | with_ending


def plain_name(name: str) -> str:
    """Compose a path's letters, and leave out what says nothing: `./` and `//`."""
    parts = unicodedata.normalize("NFC", name).split("/")
    return "/".join(part for part in parts if part not in ("", ".")) or name


def _cut_endings(name: str) -> Iterator[str]:
    """Give a name without its ending of images, without two of a.dcm.png, and so on.

    In a name like 1.2.826.7 what follows the last dot is no such ending.
    """
    while (ending := PurePosixPath(name).suffix).lower() in IMAGE_ENDINGS:
        name = name.removesuffix(ending)
        yield name


def _short_name(name: str) -> str:
    name = name.rsplit("/", 1)[-1]
    return [name, *_cut_endings(name)][-1]

"""The networks of `medart evaluate`, and the features of all images in the cache."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medart_cli import stop
from medart_cli.data.images import load_image
from medart_cli.errors import RunError
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.region import MaskedRegion
from medart_cli.evaluate.sets import UNREAD, ImageSet, find_copied
from medart_cli.log import log, progress
from medart_cli.metrics import color, copies
from medart_cli.metrics.arrays import Digests
from medart_cli.metrics.features import (
    INCEPTION_NAME,
    Extraction,
    Extractor,
    Files,
    build_plain,
    count_missing,
    derive_extractor,
    fill_cache,
    find_inception,
    load_inception,
)
from medart_cli.models.backbone import EMBEDDED_BACKBONE, load_backbone
from medart_cli.models.device import DTYPES, find_precision, join_processes
from medart_cli.options import parse_shard
from medart_cli.ranks import count_ranks, is_first, own_part, wait_for_all


@dataclass(frozen=True)
class Networks:
    """What is computed of each image.

    Attributes:
        main: The networks of --features, the first one being that of ranking.
        colors: Color histograms.
        copies: The network of copies on the whole image and on its middle, and the layout; empty
            where copies are not looked for.
        mirrored: The first two on mirrored images; those of images that may have been copied alone.
        more: What else is looked at in each image, as the classifier of --classifier.
        region: Where the masks of the real images lie, if they have any.
    """

    main: list[Extractor]
    colors: Extractor
    copies: list[Extractor]
    mirrored: list[Extractor] = field(default_factory=list)
    more: list[Extractor] = field(default_factory=list)
    region: MaskedRegion | None = None

    @property
    def parts(self) -> list[Extractor]:
        """Colors inside and around the masked region; of sets that are compared alone."""
        return [*self.region.extractors.values()] if self.region else []

    @property
    def all(self) -> list[Extractor]:
        """Every extractor once."""
        every = [*self.main, self.colors, *self.parts, *self.copies, *self.mirrored, *self.more]
        return list({item.fingerprint: item for item in every}.values())


def build_networks(config: EvaluateConfig, cache: Path) -> Networks:
    """Load the networks of --features, and derive what colors and copies need."""
    device = join_processes(config.device)
    names = config.features
    if names is None:
        there = config.inception is not None or (cache / INCEPTION_NAME).is_file()
        names = ["inception" if there else EMBEDDED_BACKBONE]
        if not there:
            log.info(
                "no Inception weights found: distances use %s features, not FID",
                EMBEDDED_BACKBONE,
            )
    main = [_build_network(name, config, device, cache) for name in names]
    colors = build_plain("colors", color.FINGERPRINT, color.COLOR_WIDTH, color.describe_colors)
    if not config.copies:
        return Networks(main, colors, [])
    layout = build_plain(
        "layout", copies.LAYOUT_FINGERPRINT, copies.LAYOUT_WIDTH, copies.describe_layout
    )
    whole = _choose_for_copies(main, config, device, cache)
    middle = derive_extractor(whole, "middle", copies.focus_image)
    mirrored = [derive_extractor(it, "mirrored", copies.mirror_image) for it in (whole, middle)]
    return Networks(main, colors, [whole, middle, layout], mirrored)


def _choose_for_copies(
    main: list[Extractor], config: EvaluateConfig, device: torch.device, cache: Path
) -> Extractor:
    """Return the network of copies: the first one, but in the place of Inception the embedded one.

    Its two views of each image, and two more of those that may have been copied, cost less than
    Inception's one, and what copies are seen through (docs/benchmarks.md) was measured with it.
    """
    if main[0].name != "inception":
        return main[0]
    named = (item for item in main if item.name == EMBEDDED_BACKBONE)
    return next(named, None) or _build_network(EMBEDDED_BACKBONE, config, device, cache)


def _build_network(
    name: str, config: EvaluateConfig, device: torch.device, cache: Path
) -> Extractor:
    if name == "inception":
        return load_inception(find_inception(config.inception, cache), device)
    precision = "fp32" if config.precision == "auto" else config.precision  # figures to compare
    dtype = DTYPES[find_precision(precision, device)]
    backbone = load_backbone(name, device=device, dtype=dtype, offline=config.offline)
    embed = partial(_run_network, backbone.module, dtype)
    return Extractor(name, backbone.fingerprint, backbone.width, backbone.prepare, embed, device)


def _run_network(module: nn.Module, dtype: torch.dtype, images: Tensor) -> Tensor:
    features: Tensor = module(images.to(dtype))
    return features


def extract(
    config: EvaluateConfig,
    hashed: tuple[list[ImageSet], dict[str, str]],
    networks: Networks,
    cache: Path,
) -> tuple[list[ImageSet], dict[str, str]]:
    """Bring the features of all images into the cache, and leave out what cannot be read.

    Several processes share the work through the cache, and so do shards.

    Args:
        config: The options.
        hashed: The sets with their keys, and why files could not be read, from `hash_sets`.
        networks: What is computed of each image.
        cache: Where features lie.

    Returns:
        The sets without unreadable images; and the reasons, by path.

    Raises:
        RunError: Fewer than two images of a set can be read.
    """
    sets, failures = hashed[0], dict(hashed[1])
    part = own_part(parse_shard(config.shard))
    extraction = Extraction(
        cache, load_image, config.batch_size, config.workers, (part.index, part.count)
    )
    files = _list_files(config, sets, networks)
    reasons = _fill(files, networks, extraction)
    wait_for_all()
    together = count_ranks() > 1 and config.shard is None
    if together and is_first():  # what no process could read, once more
        reasons |= _fill(files, networks, replace(extraction, part=(0, 1)))
    bad = np.array(list(reasons), dtype="S32")
    for item in sets:
        for row in np.flatnonzero(np.isin(item.keys, bad)):
            failures[str(item.record(row).path)] = reasons[item.keys[row]]
    for why in failures.values():
        log.warning("%s", why)
    return [_readable(item, bad) for item in sets], failures


def _list_files(config: EvaluateConfig, sets: list[ImageSet], networks: Networks) -> Files:
    """List the files of all sets; of those with the same bytes the last stands for all.

    What only some sets are looked at with is needed of their files alone.
    """
    keys = np.concatenate([item.keys for item in sets])
    unique, place = np.unique(keys[::-1], return_index=True)
    place = (len(keys) - 1 - place)[unique != UNREAD]
    ends = np.cumsum([len(item) for item in sets])

    def find(row: int) -> Path:
        number = int(np.searchsorted(ends, place[row], side="right"))
        before = ends[number] - len(sets[number])
        return sets[number].record(place[row] - before).path

    files = Files(unique[unique != UNREAD], find)
    compared, copied = sets[: 1 + len(config.synthetic)], [find_copied(config, sets)]
    for extractors, chosen in ((networks.parts, compared), (networks.mirrored, copied)):
        needed = np.isin(files.keys, np.concatenate([item.keys for item in chosen]))
        files.only.update({item.fingerprint: needed for item in extractors})
    return files


def _fill(files: Files, networks: Networks, extraction: Extraction) -> dict[bytes, str]:
    """Fill the cache; return why images could not be read, by key."""
    missing = count_missing(files, networks.all, extraction)
    reasons: dict[bytes, str] = {}
    if missing == 0:
        return reasons
    log.info("computing features of %d images", missing)
    with progress("features", missing // extraction.part[1]) as bar:
        for finished in fill_cache(files, networks.all, extraction):
            reasons |= {files.keys[row]: why for row, why in finished.items() if why is not None}
            bar.advance(count=len(finished))
            stop.check()
    return reasons


def _readable(item: ImageSet, bad: Digests) -> ImageSet:
    kept = np.flatnonzero((item.keys != UNREAD) & ~np.isin(item.keys, bad))
    if len(kept) < 2:
        raise RunError(
            f"{item.name}: only {len(kept)} of {len(item)} images can be read; metrics need 2"
        )
    return item.pick(kept)

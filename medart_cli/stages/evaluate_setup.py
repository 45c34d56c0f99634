"""What `medart evaluate` needs before it measures: the sets, the networks, the features."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor, nn

from medart_cli import stop
from medart_cli.config import EvaluateConfig, parse_shard
from medart_cli.data.images import load_image
from medart_cli.data.manifest import Record, hash_file, read_data
from medart_cli.errors import ConfigError, RunError
from medart_cli.log import log, progress
from medart_cli.metrics import color, copies
from medart_cli.metrics.features import (
    INCEPTION_NAME,
    Extraction,
    Extractor,
    count_missing,
    derive_extractor,
    fill_cache,
    find_inception,
    load_inception,
)
from medart_cli.models.backbone import EMBEDDED, load_backbone
from medart_cli.models.device import DTYPES, find_precision, join_processes
from medart_cli.ranks import own_part


@dataclass(frozen=True)
class ImageSet:
    """The images of one set.

    Attributes:
        name: Short and unique.
        records: One for each image.
        keys: SHA-256 of each image's bytes; empty until `extract` has read them.
    """

    name: str
    records: list[Record]
    keys: list[str]

    @property
    def groups(self) -> list[str]:
        """The patient of each image; where none is known, images of the same bytes are one."""
        return [
            str(record.fields.get("group_id") or key)
            for record, key in zip(self.records, self.keys, strict=True)
        ]

    def rows_of(self, label: str | None) -> list[int]:
        """Return the rows that have a label; all rows for None."""
        rows = range(len(self.records))
        return [row for row in rows if label is None or self.records[row].label == label]

    def count_labels(self) -> dict[str, int]:
        """Count the images of each label."""
        counts = Counter(record.label for record in self.records if record.label is not None)
        return dict(sorted(counts.items()))


@dataclass(frozen=True)
class Networks:
    """What is computed of each image.

    Attributes:
        main: The networks of --features, the first one being that of ranking and copies.
        colors: Color histograms.
        copies: The first network on the whole image, mirrored, on its middle, mirrored, and the
            layout; empty where copies are not looked for.
    """

    main: list[Extractor]
    colors: Extractor
    copies: list[Extractor]

    @property
    def all(self) -> list[Extractor]:
        """Every extractor once."""
        return [*self.main, self.colors, *self.copies[1:]]


def read_sets(config: EvaluateConfig) -> list[ImageSet]:
    """Read REAL, the synthetic sets and the held-out set, in this order.

    Raises:
        ConfigError: REAL or the held-out set holds a synthetic row, or a set has one image.
    """
    sources = [config.real, *config.synthetic, *([config.holdout] if config.holdout else [])]
    sets = []
    for index, (name, source) in enumerate(zip(_short_names(sources), sources, strict=True)):
        records = list(read_data(source, root=config.root))
        if index == 0 or index > len(config.synthetic):
            for record in records:
                if record.synthetic:
                    raise ConfigError(
                        f"{record.place}: is a synthetic image among the real ones; take it out"
                    )
        if len(records) < 2:
            raise ConfigError(f"{source}: holds {len(records)} image; a distance needs 2 or more")
        sets.append(ImageSet(name, records, []))
    return sets


def _short_names(sources: list[str]) -> list[str]:
    """Name each set by its folder, or by all of its path where folders share a name."""
    short = []
    for source in sources:
        path = Path(source)
        path = path.parent if path.name == "metadata.jsonl" else path
        short.append("standard input" if source == "-" else path.stem or path.resolve().name)
    names: list[str] = []
    for name, source in zip(short, sources, strict=True):
        unique = name if short.count(name) == 1 else source
        names.append(unique if unique not in names else f"{unique} ({len(names) + 1})")
    return names


def build_networks(config: EvaluateConfig, cache: Path) -> Networks:
    """Load the networks of --features, and derive what colors and copies need."""
    device = join_processes(config.device)
    names = config.features
    if names is None:
        there = config.inception is not None or (cache / INCEPTION_NAME).is_file()
        names = ["inception" if there else EMBEDDED]
        if not there:
            log.info("no Inception weights here: distances are in %s features, not FID", EMBEDDED)
    main = [_build_network(name, config, device, cache) for name in names]
    colors = _build_plain("colors", color.FINGERPRINT, color.WIDTH, color.describe_colors)
    if not config.copies:
        return Networks(main, colors, [])
    layout = _build_plain(
        "layout", copies.LAYOUT_FINGERPRINT, copies.LAYOUT_WIDTH, copies.describe_layout
    )
    whole = main[0]
    middle = derive_extractor(whole, "middle", copies.focus_image)
    spaces = [
        whole,
        derive_extractor(whole, "mirrored", copies.mirror_image),
        middle,
        derive_extractor(middle, "mirrored", copies.mirror_image),
        layout,
    ]
    return Networks(main, colors, spaces)


def _build_network(
    name: str, config: EvaluateConfig, device: torch.device, cache: Path
) -> Extractor:
    if name == "inception":
        return load_inception(find_inception(config.inception, cache), device)
    precision = "fp32" if config.precision == "auto" else config.precision  # figures to compare
    dtype = DTYPES[find_precision(precision, device)]
    backbone = load_backbone(name, device=device, dtype=dtype, offline=config.offline)
    module = backbone.module.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    embed = partial(_run_network, module, dtype)
    return Extractor(name, backbone.fingerprint, backbone.width, backbone.prepare, embed, device)


def _build_plain(
    name: str, facts: str, width: int, prepare: Callable[[Image.Image], Tensor]
) -> Extractor:
    """Make an extractor without a network: what `prepare` gives is the vector."""
    return Extractor(name, hashlib.sha256(facts.encode()).hexdigest(), width, prepare, _same)


def _same(prepared: Tensor) -> Tensor:
    return prepared


def _run_network(module: nn.Module, dtype: torch.dtype, images: Tensor) -> Tensor:
    features: Tensor = module(images.to(dtype))
    return features


def extract(
    config: EvaluateConfig, sets: Sequence[ImageSet], networks: Networks, cache: Path
) -> tuple[list[ImageSet], dict[str, str]]:
    """Hash all images, bring their features into the cache, and leave out what cannot be read.

    Several processes share the work through the cache, and so do shards.

    Returns:
        The sets with their keys, without unreadable images; and the reasons, by path.

    Raises:
        RunError: Fewer than two images of a set can be read.
    """
    failures: dict[str, str] = {}
    keys: list[list[str]] = []
    images: dict[str, Path] = {}
    with progress("hash", sum(len(item.records) for item in sets)) as bar:
        for item in sets:
            keys.append([_hash(record, failures) for record in item.records])
            bar.advance(count=len(item.records))
            stop.check()
    for item, found in zip(sets, keys, strict=True):
        images |= {key: rec.path for key, rec in zip(found, item.records, strict=True) if key}
    state, part = PartialState(), own_part(parse_shard(config.shard))
    extraction = Extraction(
        cache, load_image, config.batch_size, config.workers, (part.index, part.count)
    )
    reasons = _fill(images, networks, extraction)
    state.wait_for_everyone()
    together = state.num_processes > 1 and config.shard is None
    if together and state.is_main_process:  # what no process could read, once more
        reasons |= _fill(images, networks, replace(extraction, part=(0, 1)))
    for item, found in zip(sets, keys, strict=True):
        for record, key in zip(item.records, found, strict=True):
            if key in reasons:
                failures[str(record.path)] = reasons[key]
    for why in failures.values():
        log.warning("%s", why)
    return [_readable(*pair, failures) for pair in zip(sets, keys, strict=True)], failures


def _hash(record: Record, failures: dict[str, str]) -> str:
    try:
        return hash_file(record.path)
    except OSError as error:
        failures[str(record.path)] = f"{record.path}: {error.strerror}"
        return ""


def _fill(images: dict[str, Path], networks: Networks, extraction: Extraction) -> dict[str, str]:
    missing = count_missing(images, networks.all, extraction)
    reasons: dict[str, str] = {}
    if missing == 0:
        return reasons
    log.info("computing features of %d images", missing)
    with progress("features", missing // extraction.part[1]) as bar:
        for finished in fill_cache(images, networks.all, extraction):
            reasons |= {key: why for key, why in finished.items() if why is not None}
            bar.advance(count=len(finished))
            stop.check()
    return reasons


def _readable(item: ImageSet, keys: list[str], failures: dict[str, str]) -> ImageSet:
    pairs = [
        (record, key)
        for record, key in zip(item.records, keys, strict=True)
        if str(record.path) not in failures
    ]
    if len(pairs) < 2:
        raise RunError(
            f"{item.name}: only {len(pairs)} of {len(keys)} images can be read; a distance needs 2"
        )
    return ImageSet(item.name, [record for record, _ in pairs], [key for _, key in pairs])

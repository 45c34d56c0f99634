"""The images of `medart classify` as tensors: features from the cache, pixels for fine-tuning."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from medart_cli import stop
from medart_cli.ahead import map_ahead
from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.sets import Sets
from medart_cli.classify.splits import check_labels, check_same_classes, labels_of
from medart_cli.data.images import load_image
from medart_cli.data.manifest import HashedRecord, Record
from medart_cli.errors import ImageError
from medart_cli.log import log, progress
from medart_cli.metrics.features import (
    BATCHES_AHEAD,
    Extraction,
    Extractor,
    Files,
    count_missing,
    embed_images,
    fill_cache,
    pack_hashes,
    read_features,
)
from medart_cli.models.backbone import Backbone
from medart_cli.models.classifier import place_of, run_module


@dataclass(frozen=True)
class Images:
    """Decoded images of a set.

    Attributes:
        rows: Where they come from, N of them.
        labels: Class indices, (N,) int64.
        features: Of the untrained backbone, (N, D).
        pixels: Inputs of the network, (N, 3, S, S) float16; empty where the backbone is frozen.
    """

    rows: list[HashedRecord]
    labels: Tensor
    features: npt.NDArray[np.float32]
    pixels: Tensor

    def pick(self, indices: Sequence[int]) -> "Images":
        """Return some of the images."""
        index = torch.as_tensor(list(indices), dtype=torch.int64)
        pixels = self.pixels[index] if len(self.pixels) else self.pixels
        rows = [self.rows[i] for i in indices]
        return Images(rows, self.labels[index], self.features[index.numpy()], pixels)

    def join(self, other: "Images") -> "Images":
        """Return these images and then the others."""
        return Images(
            self.rows + other.rows,
            torch.cat([self.labels, other.labels]),
            np.concatenate([self.features, other.features]),
            torch.cat([self.pixels, other.pixels]),
        )


def load_sets(
    config: ClassifyConfig, sets: Sets, backbone: Backbone, cache: Path | None
) -> tuple[dict[str, Images], int]:
    """Decode all images; those that cannot be are named, left out and counted.

    With a cache only features are kept, and each image's are computed once for all runs.

    Raises:
        ConfigError: A class has no readable image left in the training or the test set.
    """
    extractor = build_extractor(backbone)
    broken = compute_features(config, sets, [extractor], cache) if cache else set()
    images = {}
    for name, rows in sets.rows.items():
        if cache:
            part = [row for row in rows if row.sha256 not in broken]
            pixels = torch.zeros(0, 3, 1, 1, dtype=torch.float16)
        else:
            part, pixels = _load_pixels(config, name, rows, backbone)
        found, real = check_labels(part, f"the {name} set"), name != "synthetic"
        check_same_classes(sets.classes, found, f"the {name} set", all_needed=real)
        if cache:
            keys = pack_hashes(row.sha256 for row in part)
            features = read_features(keys, extractor, cache)
        else:
            features = _encode_pixels(pixels, extractor, config.batch_size)
        indices = [sets.classes.index(label) for label in labels_of(part)]
        images[name] = Images(part, torch.tensor(indices, dtype=torch.int64), features, pixels)
    total = sum(len(rows) for rows in sets.rows.values())
    return images, total - sum(len(part.labels) for part in images.values())


def build_extractor(backbone: Backbone) -> Extractor:
    """Make an extractor of a backbone, for the cache."""
    facts = (backbone.name, backbone.fingerprint, backbone.width, backbone.prepare)
    device, _ = place_of(backbone.module)
    return Extractor(*facts, partial(run_module, backbone.module), device)


def compute_features(
    config: ClassifyConfig,
    sets: Sets,
    extractors: Sequence[Extractor],
    cache: Path,
    *,
    quiet: bool = False,
) -> set[str]:
    """Compute the features that the cache lacks; return the hashes of unreadable files.

    Why these cannot be read is said unless `quiet`.
    """
    paths = {row.sha256: row.path for rows in sets.rows.values() for row in rows}
    hashes = sorted(paths)
    files = Files(pack_hashes(hashes), lambda row: paths[hashes[row]])
    extraction = Extraction(cache, load_image, config.batch_size, config.workers)
    broken: set[str] = set()
    missing = count_missing(files, extractors, extraction)
    names = " and ".join(extractor.name for extractor in extractors)
    with progress(f"{names} features", missing) as bar:
        for finished in fill_cache(files, extractors, extraction):
            for row, reason in finished.items():
                if reason is not None:
                    broken.add(hashes[row])
                    if not quiet:
                        log.warning("%s", reason)
            bar.advance(count=len(finished))
            stop.check()
    return broken


def read_ahead(
    config: ClassifyConfig, records: Sequence[Record], prepare: Callable[[Image.Image], Tensor]
) -> Iterator[Tensor | ImageError]:
    """Read and prepare images in other threads, some batches ahead, in order."""

    def read(record: Record) -> Tensor | ImageError:
        try:
            return prepare(load_image(record.path))
        except ImageError as error:
            return error

    return map_ahead(read, records, threads=config.workers, ahead=BATCHES_AHEAD * config.batch_size)


def _load_pixels(
    config: ClassifyConfig, name: str, rows: list[HashedRecord], backbone: Backbone
) -> tuple[list[HashedRecord], Tensor]:
    kept: list[HashedRecord] = []
    pixels: list[Tensor] = []
    with progress(f"read {name} images", len(rows)) as bar:
        found = zip(rows, read_ahead(config, rows, backbone.prepare), strict=True)
        for row, image in found:
            if isinstance(image, ImageError):
                log.warning("%s", image)
            else:
                pixels.append(image.half())
                kept.append(row)
            bar.advance()
    return kept, torch.stack(pixels) if pixels else torch.zeros(0, 3, 1, 1).half()


def _encode_pixels(
    pixels: Tensor, extractor: Extractor, batch_size: int
) -> npt.NDArray[np.float32]:
    parts = []
    for batch in torch.split(pixels, batch_size):
        stop.check()
        parts.append(embed_images(extractor, batch.float()))
    return np.concatenate(parts)

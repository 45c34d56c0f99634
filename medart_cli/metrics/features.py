"""Images to features: one decoding for all extractors, in batches, each result cached by content.

A cache entry's key is the SHA-256 of the image file's bytes and the extractor's fingerprint
(weights, number format, resizing), so a stale entry cannot be hit. Entries lie in safetensors files
of many images each, so that 100,000 images make a few hundred files, and are read back
memory-mapped where they are many.
"""

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medart_cli.errors import ConfigError, ImageError, MissingModelError, RunError
from medart_cli.log import log

Features = npt.NDArray[np.float32]
INCEPTION_NAME = "inception-2015-12-05.pt"
# The TorchScript file that StyleGAN2-ADA and clean-fid use, 95,607,719 bytes; the same hash stands
# in k-diffusion (evaluation.py) and in several other public evaluation codes.
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/" + INCEPTION_NAME
)
INCEPTION_WIDTH = 2048
CACHE_FORMAT = 1
IMAGES_A_FILE = 1024  # rows of a cache file: 8 MB at a width of 2048
LARGE = 1 << 28  # bytes; larger feature tables are memory-mapped


@dataclass(frozen=True)
class Extractor:
    """A function from an image to a vector.

    Attributes:
        name: What users call it.
        fingerprint: Hash of everything its result depends on, but for the image.
        width: Length of the vector.
        prepare: RGB image -> tensor; runs in loader processes.
        embed: (B, ...) prepared tensors on `device` -> (B, width).
        device: Where `embed` computes.
    """

    name: str
    fingerprint: str
    width: int
    prepare: Callable[[Image.Image], Tensor]
    embed: Callable[[Tensor], Tensor]
    device: torch.device = torch.device("cpu")


@dataclass(frozen=True)
class Extraction:
    """How features are computed; none of it changes a feature beyond rounding.

    Attributes:
        cache: Folder of the cache.
        load: Reads an image file; raises `ImageError`.
        batch_size: Images at a time.
        workers: Processes that decode; 0 decodes in this one.
        part: This process's number and the number of processes that share the work.
    """

    cache: Path
    load: Callable[[Path], Image.Image]
    batch_size: int = 32
    workers: int = 0
    part: tuple[int, int] = (0, 1)


def find_inception(named: Path | None, cache: Path) -> Path:
    """Find the Inception weights, in the named place or in the cache folder.

    Raises:
        MissingModelError: They are not there; the message says how to get them.
        ConfigError: Their folder may be written by everyone.
    """
    path = named if named is not None else cache / INCEPTION_NAME
    if path.is_dir():
        path = path / INCEPTION_NAME
    if not path.is_file():
        raise MissingModelError(
            f"{path}: the Inception weights (95.6 MB) are not there; fetch {INCEPTION_URL} "
            f"(SHA-256 {INCEPTION_SHA256[:12]}...) to that place or name the file with "
            "--inception, or use --features efficientnet-lite0, which comes with medart"
        )
    for place in (path.resolve(), path.resolve().parent):
        if place.stat().st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"{place}: everyone may write here, and a TorchScript file is a program; move "
                f"{INCEPTION_NAME} to a folder of your own"
            )
    return path.resolve()


def load_inception(
    path: Path, device: torch.device, *, sha256: str = INCEPTION_SHA256
) -> Extractor:
    """Load Inception as clean-fid does, after checking the file's hash.

    Args:
        path: The TorchScript file; a program, hence the check.
        device: Where to compute.
        sha256: The hash it must have.

    Raises:
        ConfigError: The hash differs, or the file has another name than clean-fid looks for.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ConfigError(
            f"{path}: is not the known Inception file: SHA-256 {found}, expected {sha256}; fetch "
            f"{INCEPTION_URL} again"
        )
    if path.name != INCEPTION_NAME:
        raise ConfigError(f"{path}: must be called {INCEPTION_NAME}")
    network = InceptionV3W(str(path.parent), download=False).to(device).eval()
    facts = f"{found} cleanfid clean bicubic 299 float32"
    return Extractor(
        "inception",
        hashlib.sha256(facts.encode()).hexdigest(),
        INCEPTION_WIDTH,
        resize_for_inception,
        network,
        device,
    )


def derive_extractor(
    extractor: Extractor, name: str, change: Callable[[Image.Image], Image.Image]
) -> Extractor:
    """Make an extractor that changes the image first (mirrors it, say); `name` is the change's."""
    return replace(
        extractor,
        name=f"{extractor.name} {name}",
        fingerprint=hashlib.sha256(f"{extractor.fingerprint} {name}".encode()).hexdigest(),
        prepare=partial(_change_first, change, extractor.prepare),
    )


def _change_first(
    change: Callable[[Image.Image], Image.Image],
    prepare: Callable[[Image.Image], Tensor],
    image: Image.Image,
) -> Tensor:
    return prepare(change(image))


def resize_for_inception(image: Image.Image) -> Tensor:
    """Resize as clean-fid does in its mode `clean`: (3, 299, 299) float32 in [0, 255]."""
    return torch.from_numpy(build_resizer("clean")(np.array(image))).permute(2, 0, 1)


def fill_cache(
    images: dict[str, Path], extractors: Sequence[Extractor], extraction: Extraction
) -> Iterator[dict[str, str | None]]:
    """Compute the features that the cache lacks; leave the loop at any time, nothing is lost.

    Args:
        images: SHA-256 of a file's bytes -> a file that has them.
        extractors: What to compute.
        extraction: How.

    Yields:
        After each batch: the hashes that are finished, each with None or why it could not be read.
    """
    missing: dict[str, list[int]] = {}
    for index, extractor in enumerate(extractors):
        known = _index_cache(_cache_folder(extraction.cache, extractor)).keys()
        for key in images.keys() - known:
            missing.setdefault(key, []).append(index)
    rank, ranks = extraction.part
    groups: dict[tuple[int, ...], list[str]] = {}
    for key in sorted(images)[rank::ranks]:  # of all: what is missing may change while others work
        if key in missing:
            groups.setdefault(tuple(missing[key]), []).append(key)
    for needed, keys in groups.items():
        chosen = [extractors[index] for index in needed]
        yield from _compute({key: images[key] for key in keys}, chosen, extraction)


def count_missing(
    images: dict[str, Path], extractors: Sequence[Extractor], extraction: Extraction
) -> int:
    """Count the images for which `fill_cache` has something to compute."""
    missing: set[str] = set()
    for extractor in extractors:
        missing |= images.keys() - _index_cache(_cache_folder(extraction.cache, extractor)).keys()
    return len(missing)


def read_features(keys: Sequence[str], extractor: Extractor, cache: Path) -> Features:
    """Read (N, width) features from the cache, in the order of `keys`, memory-mapped if large.

    Raises:
        KeyError: The cache lacks one of them.
    """
    folder = _cache_folder(cache, extractor)
    index = _index_cache(folder)
    wanted: dict[Path, list[tuple[int, int]]] = {}
    for row, key in enumerate(keys):
        path, place = index[key]
        wanted.setdefault(path, []).append((row, place))
    table = _empty_table(len(keys), extractor.width, folder)
    for path, pairs in wanted.items():
        rows, places = np.array(pairs).T
        with safe_open(path, framework="numpy") as file:
            table[rows] = file.get_tensor("features")[places]
    return table


def _empty_table(rows: int, width: int, folder: Path) -> Features:
    if rows * width * 4 <= LARGE:
        return np.empty((rows, width), dtype=np.float32)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # nameless; lives as long as the mapping
            os.posix_fallocate(file.fileno(), 0, rows * width * 4)  # or a full disk would kill us
            return np.memmap(file, dtype=np.float32, mode="r+", shape=(rows, width))
    except OSError as error:
        raise RunError(
            f"{folder}: no room for a table of {rows * width * 4 / 1e9:.1f} GB ({error.strerror}); "
            "free some space and run the same command again"
        ) from error


def _cache_folder(cache: Path, extractor: Extractor) -> Path:
    return cache / "features" / extractor.fingerprint[:32]


def _index_cache(folder: Path) -> dict[str, tuple[Path, int]]:
    """Map each cached hash to its file and row."""
    index: dict[str, tuple[Path, int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                keys = file.get_tensor("keys")
        except (SafetensorError, OSError) as error:
            log.warning("%s: broken cache file (%s) is removed", path, error)
            path.unlink(missing_ok=True)
            continue
        index.update((key.tobytes().hex(), (path, row)) for row, key in enumerate(keys))
    return index


class _Images(Dataset[tuple[str, list[Tensor] | str]]):
    """Prepared images by row; a file that cannot be read gives its reason instead."""

    def __init__(
        self,
        images: dict[str, Path],
        prepares: list[Callable[[Image.Image], Tensor]],
        load: Callable[[Path], Image.Image],
    ) -> None:
        self._items, self._prepares, self._load = list(images.items()), prepares, load

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, row: int) -> tuple[str, list[Tensor] | str]:
        key, path = self._items[row]
        try:
            image = self._load(path)
        except ImageError as error:
            return key, str(error)
        return key, [prepare(image) for prepare in self._prepares]


def _keep_list(batch: list[tuple[str, list[Tensor] | str]]) -> list[tuple[str, list[Tensor] | str]]:
    return batch


def _compute(
    images: dict[str, Path], extractors: list[Extractor], extraction: Extraction
) -> Iterator[dict[str, str | None]]:
    dataset = _Images(images, [item.prepare for item in extractors], extraction.load)
    batches = DataLoader(
        dataset,
        batch_size=extraction.batch_size,
        num_workers=extraction.workers,
        collate_fn=_keep_list,
    )
    keys: list[str] = []
    rows: list[list[Features]] = [[] for _ in extractors]
    try:
        for batch in batches:
            good = [(key, item) for key, item in batch if not isinstance(item, str)]
            for index, extractor in enumerate(extractors):
                if good:
                    stacked = torch.stack([item[index] for _, item in good])
                    rows[index].append(_embed(extractor, stacked))
            keys += [key for key, _ in good]
            yield {key: item if isinstance(item, str) else None for key, item in batch}
            if len(keys) >= IMAGES_A_FILE:
                _flush(keys, rows, extractors, extraction.cache)
    finally:
        if keys:
            _flush(keys, rows, extractors, extraction.cache)


@torch.inference_mode()
def _embed(extractor: Extractor, prepared: Tensor) -> Features:
    found: Features = extractor.embed(prepared.to(extractor.device)).float().cpu().numpy()
    if found.shape != (len(prepared), extractor.width):
        raise ValueError(f"{extractor.name}: gave {found.shape}, expected width {extractor.width}")
    if not np.isfinite(found).all():
        raise RunError(f"{extractor.name}: gives features that are no numbers; try fp32")
    return found


def _flush(
    keys: list[str], rows: list[list[Features]], extractors: list[Extractor], cache: Path
) -> None:
    for parts, extractor in zip(rows, extractors, strict=True):
        features = np.concatenate(parts)[: len(keys)]
        _write_cache(_cache_folder(cache, extractor), keys[: len(features)], features, extractor)
        parts.clear()
    keys.clear()


def _write_cache(folder: Path, keys: list[str], features: Features, extractor: Extractor) -> None:
    for place in (folder.parent.parent, folder.parent, folder):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)  # features show what images show
    name = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
    raw = np.frombuffer(bytes.fromhex("".join(keys)), dtype=np.uint8).reshape(len(keys), 32)
    facts = {
        "format": CACHE_FORMAT,
        "extractor": extractor.name,
        "fingerprint": extractor.fingerprint,
    }
    draft = folder / f".{name}.{os.getpid()}.part"
    arrays: dict[str, npt.NDArray[Any]] = {"keys": raw, "features": features}
    try:
        save_file(arrays, draft, metadata={"medart": json.dumps(facts)})
        draft.replace(folder / f"{name}.safetensors")
    except (OSError, SafetensorError) as error:  # a full disk
        draft.unlink(missing_ok=True)
        raise RunError(
            f"{folder}: features could not be written ({error}); free some space and run the same "
            "command again"
        ) from error

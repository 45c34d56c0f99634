"""Images to features: one decoding for all extractors, in batches, each result cached by content.

A cache entry's key is the SHA-256 of the image file's bytes and the extractor's fingerprint
(weights, number format, resizing) with the versions of the libraries, all of it, and what is read
is checked against it, so a stale entry cannot be hit. Entries lie in safetensors files
of many images each, so that 100,000 images make a few hundred files, and are read back
memory-mapped where they are many.
"""

import hashlib
import json
import os
import platform
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
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

from medart_cli import stop
from medart_cli.ahead import map_ahead
from medart_cli.errors import ConfigError, ImageError, MissingModelError, RunError
from medart_cli.log import log
from medart_cli.metrics.arrays import Digests, Features, Indices, Mask
from medart_cli.versions import name_versions

INCEPTION_NAME = "inception-2015-12-05.pt"
# The TorchScript file that StyleGAN2-ADA and clean-fid use, 95,607,719 bytes; the same hash stands
# in k-diffusion (evaluation.py) and in several other public evaluation codes.
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/" + INCEPTION_NAME
)
INCEPTION_WIDTH = 2048
CACHE_FORMAT = 3
_DRAFTS_NAME = "drafts"  # below the cache; data/cache.py removes there what killed runs left
IMAGES_A_FILE = 1024  # rows of a cache file: 8 MB at a width of 2048
LARGE = 1 << 26  # bytes; larger feature tables are memory-mapped
COPIED = 1024  # rows of a table that are copied at once
BATCHES_AHEAD = 2  # batches of images that are read ahead
# Images that a CPU computes at once. Of more the intermediate results leave the CPU's caches, and
# blocks of more than 32 MB are taken back by the system and zeroed anew for each layer. With 4 in
# place of 16 EfficientNet-Lite0 takes a third less time, a ViT-B and a small DINOv2 5 to 12 % less,
# a ResNet-50 a fifth more, Inception a bit more.
CPU_IMAGES = 4
INCEPTION_CPU_IMAGES = 16


@dataclass(frozen=True)
class Extractor:
    """A function from an image to a vector.

    Attributes:
        name: What users call it.
        fingerprint: Hash of everything its result depends on, but for the image.
        width: Length of the vector.
        prepare: RGB image -> tensor; several threads run it at once.
        embed: (B, ...) prepared tensors on `device` -> (B, width).
        device: Where `embed` computes.
        cpu_images: How many images it takes at once on a CPU.
    """

    name: str
    fingerprint: str
    width: int
    prepare: Callable[[Image.Image], Tensor]
    embed: Callable[[Tensor], Tensor]
    device: torch.device = torch.device("cpu")
    cpu_images: int = CPU_IMAGES


@dataclass(frozen=True)
class Files:
    """Image files of which no two have the same bytes.

    Attributes:
        keys: SHA-256 of each, (N,), ascending.
        find: Row -> path of the file.
        only: Fingerprint of an extractor -> of which rows its features are needed, (N,); those of
            an extractor that is not named are needed of all.
    """

    keys: Digests
    find: Callable[[int], Path]
    only: dict[str, Mask] = field(default_factory=dict)


@dataclass(frozen=True)
class Extraction:
    """How features are computed; none of it changes a feature beyond rounding.

    Attributes:
        cache: Folder of the cache.
        load: Reads an image file; several threads run it at once; raises `ImageError`.
        batch_size: Images at a time.
        workers: Threads that read images; 0 reads them in this one.
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
            f"{path}: the Inception weights (95.6 MB) are not there; download {INCEPTION_URL} "
            f"(SHA-256 {INCEPTION_SHA256[:12]}...) to that place, give the file with medart "
            "evaluate --inception, or use --features efficientnet-lite0, which is bundled"
        )
    for place in (path.resolve(), path.resolve().parent):
        if place.stat().st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"{place}: writable by everyone, and a TorchScript file is a program; move "
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
            f"{path}: is not the known Inception file: SHA-256 {found}, expected {sha256}; "
            f"download {INCEPTION_URL} again"
        )
    if path.name != INCEPTION_NAME:
        raise ConfigError(f"{path}: must be called {INCEPTION_NAME}")
    network = InceptionV3W(str(path.parent), download=False).to(device).eval()
    if device.type == "cpu":
        network = network.to(memory_format=torch.channels_last)  # twice as fast there
    facts = f"{found} cleanfid clean bicubic 299 float32"
    return Extractor(
        "inception",
        hashlib.sha256(facts.encode()).hexdigest(),
        INCEPTION_WIDTH,
        resize_for_inception,
        network,
        device,
        INCEPTION_CPU_IMAGES,
    )


def derive_extractor(
    extractor: Extractor, name: str, change: Callable[[Image.Image], Image.Image]
) -> Extractor:
    """Make an extractor that changes the image first (mirrors it, say); `name` is the change's."""
    return replace(
        extractor,
        name=f"{extractor.name} {name}",
        fingerprint=hashlib.sha256(f"{extractor.fingerprint} {name}".encode()).hexdigest(),
        prepare=lambda image: extractor.prepare(change(image)),
    )


def build_plain(
    name: str, facts: str, width: int, prepare: Callable[[Image.Image], Tensor]
) -> Extractor:
    """Make an extractor without a network: what `prepare` gives is the vector.

    Args:
        name: What users call it.
        facts: Everything that the result depends on, but for the image.
        width: Length of the vector.
        prepare: RGB image -> (width,).
    """
    return Extractor(name, hashlib.sha256(facts.encode()).hexdigest(), width, prepare, _same)


def _same(prepared: Tensor) -> Tensor:
    return prepared


def resize_for_inception(image: Image.Image) -> Tensor:
    """Resize as clean-fid does in its mode `clean`: (3, 299, 299) float32 in [0, 255]."""
    return torch.from_numpy(build_resizer("clean")(np.array(image))).permute(2, 0, 1)


def pack_hashes(hashes: Iterable[str]) -> Digests:
    """Turn SHA-256 in hexadecimal into an array; its order is that of the text."""
    return np.fromiter((bytes.fromhex(item) for item in hashes), dtype="S32")


def fill_cache(
    files: Files, extractors: Sequence[Extractor], extraction: Extraction
) -> Iterator[dict[int, str | None]]:
    """Compute the features that the cache lacks; leave the loop at any time, nothing is lost.

    Args:
        files: Of what.
        extractors: What to compute.
        extraction: How.

    Yields:
        After each batch: the rows that are finished, each with None or why it could not be read.

    Raises:
        Stopped: A stop signal has arrived; what was computed is kept.
    """
    rank, ranks = extraction.part
    # The share is one of all: what is missing may change while others work.
    own = np.arange(len(files.keys))[rank::ranks]
    missing = _find_missing(files, extractors, extraction)[own]
    patterns, first = np.unique(missing, return_index=True)
    for pattern in patterns[np.argsort(first)]:
        chosen = [item for index, item in enumerate(extractors) if pattern >> index & 1]
        if chosen:
            yield from _compute(own[missing == pattern], files, chosen, extraction)


def count_missing(files: Files, extractors: Sequence[Extractor], extraction: Extraction) -> int:
    """Count the images for which `fill_cache` has something to compute."""
    return int(np.count_nonzero(_find_missing(files, extractors, extraction)))


def _find_missing(files: Files, extractors: Sequence[Extractor], extraction: Extraction) -> Indices:
    """Say what the cache lacks of each file, (N,): bit i stands for extractor i."""
    missing = np.zeros(len(files.keys), dtype=np.intp)
    for index, extractor in enumerate(extractors):
        places = _find_places(extraction.cache, extractor, files.keys)
        needed = files.only.get(extractor.fingerprint, True)
        missing[(places.files < 0) & needed] |= 1 << index
    return missing


def read_features(keys: Digests, extractor: Extractor, cache: Path) -> Features:
    """Read (N, width) features from the cache, in the order of `keys`, memory-mapped if large.

    Raises:
        KeyError: The cache lacks one of them.
    """
    if not len(keys):
        return np.empty((0, extractor.width), dtype=np.float32)
    unique, inverse = np.unique(keys, return_inverse=True)
    places = _find_places(cache, extractor, unique)
    if (places.files < 0).any():
        raise KeyError(unique[places.files < 0][:1].tobytes().hex())
    files, rows = places.files[inverse], places.rows[inverse]  # (N,), (N,)
    order = np.argsort(files, kind="stable")
    ends = np.cumsum(np.bincount(files, minlength=len(places.paths)))
    table = _empty_table(len(keys), extractor.width, _cache_folder(cache, extractor))
    for path, wanted in zip(places.paths, np.split(order, ends[:-1]), strict=True):
        if not len(wanted):
            continue
        with safe_open(path, framework="numpy") as file:
            features = file.get_tensor("features")
        for start in range(0, len(wanted), COPIED):
            part = wanted[start : start + COPIED]
            table[part] = features[rows[part]]
    return table


def _empty_table(rows: int, width: int, folder: Path) -> Features:
    if rows * width * 4 <= LARGE:
        return np.empty((rows, width), dtype=np.float32)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # nameless; lives as long as the mapping
            if hasattr(os, "posix_fallocate"):  # or a full disk would kill us; not on macOS
                os.posix_fallocate(file.fileno(), 0, rows * width * 4)
            return np.memmap(file, dtype=np.float32, mode="r+", shape=(rows, width))
    except OSError as error:
        raise RunError(
            f"{folder}: no space for a table of {rows * width * 4 / 1e9:.1f} GB "
            f"({error.strerror}); free some or use another --cache, and run the same command again"
        ) from error


def _cache_folder(cache: Path, extractor: Extractor) -> Path:
    return cache / "features" / _cache_key(extractor)


def _cache_key(extractor: Extractor) -> str:
    """Hash everything that a cached value depends on, but for the image."""
    facts = (str(CACHE_FORMAT), extractor.fingerprint, str(extractor.width), name_versions())
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


@dataclass(frozen=True)
class _Places:
    """Where the cache has the features of N keys: files[i] is an index of paths, or -1."""

    paths: list[Path]
    files: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]


def _find_places(cache: Path, extractor: Extractor, keys: Digests) -> _Places:
    """Look the keys, ascending and each once, up in the cache; of two places the last is taken.

    The files are gone through one by one: a cache of many more images costs no more memory. A file
    that is corrupt, or of another extractor, is skipped and stays: a shared disk may be away for a
    moment only.
    """
    folder, wanted = _cache_folder(cache, extractor), _cache_key(extractor)
    paths: list[Path] = []
    files, rows = np.full(len(keys), -1, dtype=np.int32), np.zeros(len(keys), dtype=np.int32)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                key = json.loads((file.metadata() or {}).get("medart", "{}")).get("key")
                cached = file.get_tensor("keys").view("S32")[:, 0]
        except (SafetensorError, OSError, ValueError) as error:
            log.warning(
                "%s: cannot be read (%s) and is skipped; remove it if it is corrupt",
                path,
                error,
            )
            continue
        if key != wanted:
            log.warning("%s: cached features do not match their key; skipped", path)
            continue
        place = np.searchsorted(keys, cached)
        found = np.flatnonzero(np.searchsorted(keys, cached, side="right") > place)
        files[place[found]], rows[place[found]] = len(paths), found
        paths.append(path)
    return _Places(paths, files, rows)


def _compute(
    rows: Indices, files: Files, extractors: list[Extractor], extraction: Extraction
) -> Iterator[dict[int, str | None]]:
    def read(place: tuple[int, Path]) -> tuple[int, list[Tensor] | str]:
        row, path = place
        try:
            image = extraction.load(path)
        except ImageError as error:
            return row, str(error)
        return row, [item.prepare(image) for item in extractors]

    size = extraction.batch_size
    places = ((row, files.find(row)) for row in rows.tolist())  # as they are needed
    images = map_ahead(read, places, threads=extraction.workers, ahead=BATCHES_AHEAD * size)
    done: list[int] = []
    features: list[list[Features]] = [[] for _ in extractors]
    try:
        while batch := list(islice(images, size)):
            good = [(row, item) for row, item in batch if not isinstance(item, str)]
            for index, extractor in enumerate(extractors):
                if good:
                    stop.check()  # between networks too: a batch may take one some seconds
                    stacked = torch.stack([item[index] for _, item in good])
                    features[index].append(embed_images(extractor, stacked))
            done += [row for row, _ in good]
            yield {row: item if isinstance(item, str) else None for row, item in batch}
            if len(done) >= IMAGES_A_FILE:
                _flush(files.keys[done], features, extractors, extraction.cache)
                done.clear()
    finally:
        if done:
            _flush(files.keys[done], features, extractors, extraction.cache)


@torch.inference_mode()
def embed_images(extractor: Extractor, prepared: Tensor) -> Features:
    """Compute the features of prepared images: (B, ...) on any device -> (B, width).

    Raises:
        RunError: Some are not finite.
    """
    size = extractor.cpu_images if extractor.device.type == "cpu" else len(prepared)
    parts = [extractor.embed(part.to(extractor.device)) for part in torch.split(prepared, size)]
    found: Features = torch.cat(parts).float().cpu().numpy()
    if found.shape != (len(prepared), extractor.width):
        raise ValueError(f"{extractor.name}: gave {found.shape}, expected width {extractor.width}")
    if not np.isfinite(found).all():
        raise RunError(f"{extractor.name}: gives features that are not finite; try fp32")
    return found


def _flush(
    keys: Digests, rows: list[list[Features]], extractors: list[Extractor], cache: Path
) -> None:
    for parts, extractor in zip(rows, extractors, strict=True):
        features = np.concatenate(parts)[: len(keys)]
        _write_cache(_cache_folder(cache, extractor), keys[: len(features)], features, extractor)
        parts.clear()


def _write_cache(folder: Path, keys: Digests, features: Features, extractor: Extractor) -> None:
    drafts = folder.parent.parent / _DRAFTS_NAME
    for place in (folder.parent.parent, folder.parent, folder, drafts):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)  # features show what images show
    name = hashlib.sha256(keys.tobytes().hex().encode()).hexdigest()[:32]
    raw = keys.view(np.uint8).reshape(len(keys), 32)
    facts = {
        "format": CACHE_FORMAT,
        "extractor": extractor.name,
        "fingerprint": extractor.fingerprint,
        "key": _cache_key(extractor),
    }
    draft = drafts / f".{name}.{platform.node()}.{os.getpid()}.part"
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

"""Where a base model lies, what it is, and the hashes that tell it from others; loads nothing."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models.hub import (
    DEMONSTRATION_KEY,
    TINY,
    check_weights,
    embedded_model,
    find_model,
    find_weights,
)

if TYPE_CHECKING:
    from transformers import T5Tokenizer

COMPONENTS = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
WEIGHTS = ("text_encoder", "transformer", "vae")
# Prompt lengths that the two pipelines of diffusers use by default, and the models were made for.
TOKEN_LIMITS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
# In configs, who wrote them and in which number format; those that begin with _ are such too.
NOTES = ("architectures", "dtype", "torch_dtype", "transformers_version")
VOCABULARY = (".json", ".model", ".txt")  # endings of a tokenizer's files
BASE_DOWNLOAD_SIZE = "transformer 2.4 GB, T5 text encoder 19 GB, VAE 0.3 GB"


def find_base(
    base: str, *, offline: bool = False, parts: Sequence[str] = COMPONENTS, option: str = "--base"
) -> Path:
    """Return the folder of a pipeline: a local one, the embedded one, or a hub id's.

    Args:
        base: Folder, `tiny`, or hub id, which is taken from the cache or the hub.
        offline: Do not ask the hub.
        parts: Folders of the pipeline that are needed; no other is fetched or missed.
        option: What of the command names it, for the message.

    Raises:
        MissingModelError: It is not there and may not or cannot be fetched, or lacks a file.
        ConfigError: It is not a PixArt pipeline.
    """
    if base == TINY:
        folder = embedded_model("base")
    else:
        some = [] if set(parts) == set(COMPONENTS) else parts
        size = "1 MB" if list(parts) == ["tokenizer"] else BASE_DOWNLOAD_SIZE
        folder = find_model(base, option=option, size=size, folders=some, offline=offline)
    _check_base(folder, parts)
    return folder


def _check_base(folder: Path, parts: Sequence[str]) -> None:
    pipeline = pipeline_class(folder)
    if pipeline not in TOKEN_LIMITS:
        raise ConfigError(f"{folder}: is a {pipeline}; use a PixArt-alpha or -Sigma base")
    for part in parts:
        if not (folder / part).is_dir():
            raise MissingModelError(f"{folder}: the folder {part} is missing; copy it too")
    for part in parts:
        if part in WEIGHTS:
            check_weights(folder / part)


def pipeline_class(folder: Path) -> str:
    """Return the class name in a pipeline folder's model_index.json.

    Raises:
        MissingModelError: There is no such file, or it is not one of diffusers.
    """
    index = folder / "model_index.json"
    try:
        return str(json.loads(index.read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingModelError(
            f"{folder}: no readable model_index.json; is this a diffusers pipeline folder?"
        ) from error


def is_demonstration(folder: Path) -> bool:
    """Say whether a pipeline was made for demonstrations and knows drawn phantoms only."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return index.get(f"_{DEMONSTRATION_KEY}") is True


def max_tokens(folder: Path) -> int:
    """Return how many T5 tokens a prompt may have: 120 for PixArt-alpha, 300 for Sigma."""
    return TOKEN_LIMITS[pipeline_class(folder)]


def hash_base(folder: Path, known: Mapping[Path, str] | None = None) -> dict[str, str]:
    """Return a SHA-256 over each thing of a base that training and drawing depend on.

    Those are the weights of its parts, the tokenizer, and the settings of parts and noise schedule,
    which hold the autoencoder's scaling factor.

    Args:
        folder: Pipeline folder.
        known: Hashes of weight files; others are read.
    """
    hashes = {part: hash_weights(folder / part, known) for part in WEIGHTS}
    for part in WEIGHTS:
        hashes[f"{part} config"] = _hash_files([folder / part / "config.json"])
    hashes["scheduler"] = _hash_files([folder / "scheduler" / "scheduler_config.json"])
    words = (folder / "tokenizer").iterdir()
    hashes["tokenizer"] = _hash_files(sorted(path for path in words if path.suffix in VOCABULARY))
    return hashes


def hash_weights(folder: Path, known: Mapping[Path, str] | None = None) -> str:
    """Return a SHA-256 over a part's weights; arguments as `hash_base`."""
    digest = hashlib.sha256()
    for path in find_weights(folder):
        digest.update((_blob_hash(path) or (known or {}).get(path) or _hash_file(path)).encode())
    return digest.hexdigest()


def find_unhashed(folder: Path, parts: Sequence[str] = WEIGHTS) -> list[Path]:
    """Return the weight files of a pipeline's parts that must be read for their hash."""
    files = [path for part in parts for path in find_weights(folder / part)]
    return [path for path in files if not _blob_hash(path)]


def _blob_hash(path: Path) -> str:
    """Return the SHA-256 by which the hub's cache names the file; empty elsewhere."""
    name = path.resolve().name
    return name if len(name) == 64 else ""


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_files(paths: Sequence[Path]) -> str:
    """Hash small files by what they say: of JSON neither layout nor notes of the libraries."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.is_file() else b""
        if path.suffix == ".json" and content:
            content = _canonical(content)
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _canonical(content: bytes) -> bytes:
    try:
        facts = json.loads(content)
    except ValueError:
        return content
    if isinstance(facts, dict):
        facts = {key: facts[key] for key in facts if key[0] != "_" and key not in NOTES}
    return json.dumps(facts, sort_keys=True).encode()


def normalize_prompt(text: str) -> str:
    """Bring a caption to the form that training, HLDF and sampling all use.

    The same as `PixArtAlphaPipeline` with `clean_caption=False`: its cleaning was made for captions
    from the web and would cut clinical ones.
    """
    return text.lower().strip()


def load_tokenizer(folder: Path) -> "T5Tokenizer":
    """Load the T5 tokenizer of a pipeline folder."""
    from transformers import T5Tokenizer  # takes most of a second, but not torch

    try:
        return T5Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (OSError, ValueError) as error:
        raise MissingModelError(f"{folder / 'tokenizer'}: cannot be read: {error}") from error

"""A cache of what frozen networks give: latents of images, embeddings of captions.

Keys are content: the bytes that went in, the weights that read them, every setting between, and the
versions of what computes. A stale entry can therefore not be hit, and two runs on the same data
share theirs. An entry says what it is of, and is taken only where it says the right thing.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medart_cli.data.cache import make_drafts
from medart_cli.data.files import draft_of
from medart_cli.errors import ImageError
from medart_cli.log import log
from medart_cli.versions import name_versions


@dataclass(frozen=True)
class TensorCache:
    """Tensors by key, each entry a safetensors file; without a folder it keeps nothing.

    Attributes:
        folder: Where the entries lie, in a folder of caches; readable by the user alone, as latents
            show the images.
        facts: What all keys have in common: hashes of weights and settings, image size, number
            format. The versions of libraries are added to it.
    """

    folder: Path | None
    facts: str

    def find(self, *parts: str) -> dict[str, Tensor] | None:
        """Return an entry, or None; a corrupt file, or one of something else, counts as none."""
        path = self._path(parts)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") != self._key(parts):
                    log.warning("%s: cache entry does not match its key; recomputed", path)
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            log.warning("%s: unreadable cache entry, recomputed: %s", path, error)
            return None

    def has(self, *parts: str) -> bool:
        """Say whether there is an entry, without reading it."""
        path = self._path(parts)
        return path is not None and path.is_file()

    def keep(self, tensors: dict[str, Tensor], *parts: str) -> None:
        """Store an entry in one move.

        Raises:
            OSError: The disk is full or lost.
        """
        path = self._path(parts)
        if path is None or self.folder is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with draft_of(path, shared=True, drafts=make_drafts(self.folder.parent)) as draft:
            entry = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
            save_file(entry, draft, metadata={"key": self._key(parts)})

    def get(self, make: Callable[[], dict[str, Tensor]], *parts: str) -> dict[str, Tensor]:
        """Return an entry; where there is none, make it and store it."""
        found = self.find(*parts)
        if found is None:
            found = make()
            self.keep(found, *parts)
        return found

    def _key(self, parts: tuple[str, ...]) -> str:
        whole = "\0".join((self.facts, name_versions(), *parts))
        return hashlib.sha256(whole.encode()).hexdigest()

    def _path(self, parts: tuple[str, ...]) -> Path | None:
        if self.folder is None:
            return None
        key = self._key(parts)
        return self.folder / key[:2] / f"{key}.safetensors"


def open_cache(folder: Path | None, kind: str, facts: str) -> TensorCache:
    """Open the cache of one kind (`latents`, `text`) under `folder`; None keeps nothing."""
    return TensorCache(None if folder is None else folder / kind, facts)


def image_to_tensor(image: Image.Image) -> Tensor:
    """Turn an RGB image into a (3, H, W) float32 tensor in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))  # (H, W, 3)
    return pixels.permute(2, 0, 1) / 127.5 - 1.0


def tensor_to_image(tensor: Tensor) -> Image.Image:
    """Turn a (3, H, W) tensor in [-1, 1] into an RGB image; values outside are clipped.

    Raises:
        ImageError: A value is not a finite number, so there is no picture.
    """
    if not torch.isfinite(tensor).all():
        raise ImageError("the decoded image has values that are not finite; try --precision fp32")
    unit = (tensor.detach().float().cpu() / 2 + 0.5).clamp(0, 1)
    return Image.fromarray((unit.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())

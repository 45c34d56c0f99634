"""By what an output is known: versions, beside every output and in every cache's keys."""

import platform
from functools import cache
from importlib import metadata

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "medart-cli")
# Another release of these may read or compute the same image or text a little differently.
COMPUTING = (
    "torch", "torchvision", "diffusers", "transformers", "tokenizers", "timm", "pillow", "numpy",
    "pydicom", "clean-fid",
)  # fmt: skip
SETTINGS_HEAD = "# Settings of medart "  # how settings.toml of an output begins
LOADER = "loader 2"  # of images; another where it may give other pixels


def read_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


@cache
def name_versions() -> str:
    """Name what every computed value depends on besides its own facts, for the keys of caches."""
    return "; ".join([LOADER, *(f"{name} {metadata.version(name)}" for name in COMPUTING)])

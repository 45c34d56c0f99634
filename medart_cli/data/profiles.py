"""Modality profiles: how captions of one kind of medical image are worded. TOML, see profiles/."""

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from medart_cli.errors import ConfigError


@dataclass(frozen=True)
class Profile:
    """One modality.

    Attributes:
        name: Its name, or the path it was read from.
        simple: The simple caption's form, with `{label}` in it.
        flips: Whether a mirrored image means the same.
    """

    name: str
    simple: str
    flips: bool

    def simple_caption(self, label: str | None) -> str:
        """Word the simple caption of the paper for a class name; folder names lose underscores."""
        if not label:
            return self.simple.split(" of {label}")[0]
        return self.simple.format(label=label.replace("_", " "))


def read_profile(name: str) -> Profile:
    """Read a packaged profile by name, or a TOML file of the user's own.

    Raises:
        ConfigError: There is no such profile, or it lacks a key.
    """
    packaged = resources.files("medart_cli") / "profiles"
    own = Path(name)
    source = own if own.suffix == ".toml" else packaged / f"{name}.toml"
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = sorted(item.name.removesuffix(".toml") for item in packaged.iterdir())
        raise ConfigError(
            f"--profile {name}: no such profile; there are {', '.join(known)}, or name a TOML file"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--profile {name}: cannot be read: {error}") from error
    simple, flips = table.get("simple"), table.get("flips")
    if not isinstance(simple, str) or "{label}" not in simple or not isinstance(flips, bool):
        raise ConfigError(
            f'--profile {name}: needs simple = "... of {{label}}" and flips = true or false'
        )
    return Profile(name, simple, flips)

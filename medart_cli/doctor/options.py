"""The options of `medart doctor`."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

from typer import Option

from medart_cli.errors import ConfigError
from medart_cli.options import RUN_ONLY, CommonConfig, complete_features, read_settings

_looking_option = partial(Option, rich_help_panel="Checks")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(CommonConfig):
    """Check this machine and the model files on its disk: what is there, and what is missing.

    Nothing is downloaded or written, and no weights are loaded. Exits with code 4 if a named model
    cannot be used. With --data it also estimates a fine-tuning on those images: memory, disk space,
    steps and hours; --config then takes settings of finetune, such as the recipe paper.
    """

    reads_others: ClassVar[bool] = True

    base: Annotated[
        str | None,
        _looking_option(help="Base model of finetune and sample, or a run folder with its base."),
    ] = None
    model: Annotated[str | None, _looking_option(help="Vision-language model for caption.")] = None
    features: Annotated[
        list[str] | None,
        _looking_option(
            autocompletion=complete_features,
            help="Feature network of evaluate or backbone of classify: inception, "
            "efficientnet-lite0, dinov2, ... (repeatable).",
        ),
    ] = None
    data: Annotated[
        str | None,
        _looking_option(
            help="Images to fine-tune on, for an estimate; --config says with which options of "
            "finetune."
        ),
    ] = None
    out: Annotated[
        Path | None,
        _looking_option(help="Output folder to check for write access and free space."),
        RUN_ONLY,
    ] = None
    hash: Annotated[
        bool,
        _looking_option("--hash", help="Also hash files above 500 MB, which may take minutes."),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.config is not None and self.data is None:
            own = {field.name for field in fields(self)}
            for name in read_settings(self.config, type(self)):
                if name.replace("-", "_") not in own and not name.startswith("_"):
                    raise ConfigError(
                        f"--config {self.config}: {name} is an option of another command; for an "
                        "estimate of finetune add --data IMAGES"
                    )

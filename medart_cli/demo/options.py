"""The options of `medart demo`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from medart_cli.errors import ConfigError
from medart_cli.options import RUN_ONLY, CommonConfig

_output_option = partial(Option, rich_help_panel="Output")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(CommonConfig):
    """Study phantom images with bundled tiny models, all stages: minutes, no GPU, no network.

    Writes demo/report.html: what fine-tuning changed, and what the color loss of HLDF changed.
    """

    keep: Annotated[
        Path | None,
        _output_option(
            help="Folder for the report and all outputs of the commands; by default only the "
            "report is kept, in demo."
        ),
        RUN_ONLY,
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision != "auto":
            raise ConfigError("--precision: has no effect here, demo chooses it for the device")
        if self.max_failures:
            raise ConfigError("--max-failures: has no effect here, demo draws its own images")

"""The options of `medart doctor`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from medart_cli.options import RUN_ONLY, CommonConfig, complete_features

_looking_option = partial(Option, rich_help_panel="What to look at")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(CommonConfig):
    """Look at this machine and the model files on its disk: what is there, and what is missing.

    Nothing is fetched, loaded or written. Ends with code 4 if a model that is named cannot be used.
    """

    base: Annotated[
        str | None,
        _looking_option(help="Base of finetune and sample, or a run folder with its base."),
    ] = None
    model: Annotated[str | None, _looking_option(help="Captioner of caption.")] = None
    features: Annotated[
        list[str] | None,
        _looking_option(
            autocompletion=complete_features,
            help="Network of evaluate or classify: inception, efficientnet-lite0, dinov2, ... "
            "(repeatable).",
        ),
    ] = None
    out: Annotated[
        Path | None,
        _looking_option(help="Output folder: can it be written, and is there room?"),
        RUN_ONLY,
    ] = None
    hash: Annotated[
        bool,
        _looking_option("--hash", help="Hash files above 500 MB too, which may take minutes."),
    ] = False

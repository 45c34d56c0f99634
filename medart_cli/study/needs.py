"""What the commands of a study need on this machine, looked for before the first of them runs.

Each command looks for its own models when it begins; in a study that may be hours later.
"""

from typing import Any

from medart_cli import cli, stop
from medart_cli.data.cache import make_cache
from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models.bases import check_format, find_base
from medart_cli.models.optimizers import check_optimizer
from medart_cli.shell import complete
from medart_cli.study.units import Plan, list_commands, read_unit


def check_needs(plan: Plan) -> None:
    """Look for the models and packages of the units that are not done yet.

    Raises:
        MissingModelError: A model is not there and may not or cannot be fetched; names the arm.
        ConfigError: A package is not installed, or a model is of the wrong kind.
    """
    units = [(arm, seed) for arm, seed in plan.units if read_unit(plan, arm, seed) is None]
    for arm, seed in {arm.name: (arm, seed) for arm, seed in units}.values():
        for words in list_commands(plan, arm, seed):
            settings = cli.read_options(complete(words, plan.config))
            try:
                with stop.at_once():
                    _look(words[0], settings, trained=arm.finetune is not None)
            except (ConfigError, MissingModelError) as error:
                place = f"arm {arm.name}: medart {words[0]}"
                raise type(error)(f"{place}: {error}") from error


def _look(command: str, settings: Any, *, trained: bool) -> None:  # noqa: ANN401 - of any command
    """Look for what one command needs, by the functions by which it finds it itself."""
    if command == "finetune":
        check_optimizer(settings.optimizer)
        check_format(settings.base_format)
        find_base(settings.base, offline=settings.offline)
    elif command == "sample":
        check_format(settings.base_format)
        base = settings.base if trained else settings.run
        if base is not None:
            find_base(base, offline=settings.offline, option="--base" if trained else "RUN")
    elif command == "classify":
        _look_for_backbone(settings.backbone, "--backbone", settings.offline)
    else:
        _look_for_measuring(settings)


def _look_for_measuring(settings: Any) -> None:  # noqa: ANN401 - options of evaluate
    """Look for the networks of evaluate. This loads torch, where there is something to look for."""
    for name in settings.features or ():
        if name == "inception":
            from medart_cli.metrics.features import find_inception

            find_inception(settings.inception, make_cache(settings.cache))
        else:
            _look_for_backbone(name, "--features", settings.offline)
    if settings.classifier is not None and not settings.classifier.is_dir():
        raise MissingModelError(
            f"--classifier {settings.classifier}: no such folder; give one that medart classify "
            "wrote"
        )
    if settings.captioner is not None:
        from medart_cli.models.captioner import find_captioner

        find_captioner(settings.captioner, offline=settings.offline, option="--captioner")


def _look_for_backbone(name: str, option: str, offline: bool) -> None:
    from medart_cli.models.backbone import EMBEDDED_BACKBONE, find_backbone

    if name != EMBEDDED_BACKBONE:
        find_backbone(name, offline=offline, option=option)

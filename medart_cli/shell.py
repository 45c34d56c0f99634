"""Run a medart command from another one, as a user's shell would, in the same process."""

import shlex
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from medart_cli import cli, stop
from medart_cli.errors import (
    ConfigError,
    MedartError,
    MissingModelError,
    RunError,
    Stopped,
    TooManyFailuresError,
)
from medart_cli.log import log
from medart_cli.options import CommonConfig

FAILURES: dict[int, type[MedartError]] = {
    kind.exit_code: kind
    for kind in (RunError, ConfigError, TooManyFailuresError, MissingModelError)
}


def complete(words: Sequence[str], config: CommonConfig) -> list[str]:
    """Add to a command what the one that runs it was told of the machine: device, network.

    Args:
        words: The command, without `medart`.
        config: Options of the command that runs it.
    """
    given = ["--offline"] if config.offline else []
    if config.device != "auto":
        given += ["--device", config.device]
    if config.max_failures:
        given += ["--max-failures", str(config.max_failures)]
    return [*words, *given]


def word_command(words: Sequence[str]) -> str:
    """Write a command as it would be typed."""
    return shlex.join(["medart", *words])


def ask_command(words: Sequence[str]) -> dict[str, Any]:
    """Run a command that only looks, and return its summary; nothing of it is printed.

    Args:
        words: The command, without `medart`.

    Raises:
        MedartError: It failed.
    """
    settings = cli.read_options(words)
    summary: dict[str, Any] = import_module(f"medart_cli.{words[0]}.run").run(settings)
    return summary


def type_command(words: Sequence[str], config: CommonConfig) -> None:
    """Run a command; it logs as the one that runs it does.

    Args:
        words: The command, without `medart`.
        config: Options of the command that runs it.

    Raises:
        MedartError: It failed, and has said why; the exit code is its own.
        Stopped: It was stopped by a signal.
        KeyboardInterrupt: By a second Ctrl-C.
    """
    stop.check()
    log.info("\n$ %s", word_command(words))
    words = [*words, *["--quiet"] * config.quiet, *["--verbose"] * config.verbose]
    with cli.inside_another():
        code = cli.call(words)
    if code == Stopped.exit_code:
        raise Stopped("stopped; run the same command again to resume")
    if code == cli.INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        kind = FAILURES.get(code, RunError)
        raise kind(f"{word_command(words[:1])} ended with exit code {code}, see above")

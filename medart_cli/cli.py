"""The commands: options from COMMAND/options.py, work from COMMAND/run.py, one line on stdout."""

import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from importlib import import_module
from typing import Annotated, Any, NoReturn, get_type_hints

import typer

from medart_cli import __version__, ranks, stop
from medart_cli.caption.options import CaptionConfig
from medart_cli.classify.options import ClassifyConfig
from medart_cli.demo.options import DemoConfig
from medart_cli.docs.options import DocsConfig
from medart_cli.doctor.options import DoctorConfig
from medart_cli.errors import (
    ConfigError,
    MedartError,
    MissingModelError,
    RunError,
    Stopped,
    TooManyFailuresError,
    find_full_memory,
)
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.log import log, start_log
from medart_cli.options import CommonConfig, check_bounds
from medart_cli.reader.options import ReaderConfig
from medart_cli.sample.options import SampleConfig
from medart_cli.study.options import StudyConfig

# The options of each command; its work is `run` in the module `run` of the folder of its name.
COMMANDS: dict[str, type[CommonConfig]] = {
    "caption": CaptionConfig,
    "finetune": FinetuneConfig,
    "sample": SampleConfig,
    "evaluate": EvaluateConfig,
    "classify": ClassifyConfig,
    "study": StudyConfig,
    "reader": ReaderConfig,
    "demo": DemoConfig,
    "doctor": DoctorConfig,
    "docs": DocsConfig,
}
TYPED = "COMMANDLINE"  # name of typer's source of a value that was typed
MULTI_PROCESS = ("caption", "finetune", "sample", "evaluate")  # may run as several processes
INTERRUPTED = 130  # what shells give after a SIGINT
LOST_PROCESS = (
    "another rank failed; see its error above, if it logged one; "
    "run the same command again to resume"
)

_at_work: list[str] = []  # names of the commands that run, each within the one before

app = typer.Typer(
    name="medart",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a few hundred private medical images into a text-to-image model you can trust.",
)


# Whether another command calls this one: then it does not say what comes next.
_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)


def main(arguments: list[str] | None = None) -> None:
    """Run medart, and end the process with its exit code."""
    sys.exit(call(arguments))


@contextmanager
def inside_another() -> Iterator[None]:
    """Let the commands of the block be called by another one, which says what comes next."""
    token = _INSIDE.set(True)
    try:
        yield
    finally:
        _INSIDE.reset(token)


def call(arguments: list[str] | None = None) -> int:
    """Run medart and return its exit code; a wrong request is one line on standard error.

    Without a word it shows its help, and has failed: in a script a command was forgotten.

    Args:
        arguments: The words after `medart`; those of this process by default.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        with redirect_stdout(sys.stderr):  # nobody's result
            app(["--help"], standalone_mode=False)
        return ConfigError.exit_code
    try:
        code = app(arguments, standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(error)
    except MedartError as error:  # from --config, which is read before the command runs
        typer.echo(f"medart: {_one_line(error)}", err=True)
        return error.exit_code
    return code if isinstance(code, int) else 0


def _refuse(error: typer.TyperException) -> int:
    """Print a usage error."""
    refusal, context = _word_value(error), getattr(error, "ctx", None)
    if refusal is None or context is None:
        typer.echo(f"medart: {error.format_message().rstrip('.')}; see --help", err=True)
        return error.exit_code
    typer.echo(f"medart {context.info_name}: {refusal}", err=True)
    return refusal.exit_code


def _word_value(error: typer.TyperException) -> ConfigError | None:
    """Word a usage error of a value as the options' own checks do; None for any other."""
    option, context = getattr(error, "param", None), getattr(error, "ctx", None)
    faults: list[Any] = getattr(error.__cause__, "errors", list)()  # pydantic's, who checks values
    if option is None or context is None or not faults:
        return None
    name, given, fault = option.opts[0], str(faults[0]["input"]), faults[0]["type"]
    source = context.get_parameter_source(option.name)
    place = (
        f"--config {context.params['config']}: " if source and source.name == "DEFAULT_MAP" else ""
    )
    if fault in ("greater_than_equal", "less_than_equal"):
        value = int(given) if given.strip().lstrip("-").isdecimal() else float(given)
        try:
            check_bounds(f"{place}{name}", value, option.min, option.max)
        except ConfigError as refusal:
            return refusal
    kinds = {"int_parsing": "a whole number", "int_from_float": "a whole number",
             "float_parsing": "a number", "bool_parsing": "true or false"}  # fmt: skip
    if fault in kinds:
        return ConfigError(f"{place}{name} {given}: must be {kinds[fault]}")
    if fault == "value_error":  # not among the choices, which the message names
        why = str(faults[0]["ctx"]["error"]).rstrip(".").replace(f"'{given}' is ", "")
        return ConfigError(f"{place}{name} {given}: {why.replace(chr(39), '')}")
    return None


def add_command(to: typer.Typer, name: str, act: Callable[..., object]) -> None:
    """Add a command, with the options of its class.

    Args:
        to: What gets it.
        name: Of the command.
        act: Takes `name`, the values of the options, and the names of those that were typed.
    """
    config_type = COMMANDS[name]

    def command(_call: typer.Context, **options: Any) -> object:  # noqa: ANN401 - of many types
        sources = {option: _call.get_parameter_source(option) for option in options}
        typed = {item for item, source in sources.items() if source and source.name == TYPED}
        return act(name, options, typed)

    signature = inspect.signature(config_type)
    common = {*inspect.signature(CommonConfig).parameters}
    ordered = sorted(signature.parameters.values(), key=lambda item: item.name in common)
    call = inspect.Parameter("_call", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[call, *ordered], return_annotation=None
    )
    hints = get_type_hints(config_type, include_extras=True)
    command.__annotations__ = {"_call": typer.Context, **hints}
    known = {"obj": config_type}  # for what reads --config
    parts = (inspect.getdoc(config_type) or "").split("\n\n")
    text = "\n\n".join(" ".join(part.split()) for part in parts)  # else lines break where ours do
    to.command(name, help=text, context_settings=known)(command)


def read_options(words: Sequence[str]) -> CommonConfig:
    """Read a command's options as its command line does, without running it.

    Args:
        words: The command, without `medart`.

    Raises:
        ConfigError: An option is unknown, or a value cannot work.
    """

    def act(name: str, options: dict[str, Any], typed: Collection[str]) -> CommonConfig:
        settings = COMMANDS[name](**options)
        settings.refuse_idle(typed)
        return settings

    reader = typer.Typer()
    add_command(reader, words[0], act)  # alone in its app, a command is called without its name
    try:
        settings: CommonConfig = reader([*words[1:]], standalone_mode=False)
    except typer.TyperException as error:
        refusal = _word_value(error)
        raise refusal or ConfigError(error.format_message().rstrip(".")) from error
    return settings


def run_command(name: str, options: dict[str, Any], typed: Collection[str]) -> int:
    """Run one command, print its result, and return the exit code: 0, 1, 2, 3, 4 or 75.

    Its work, in `<name>.run.run`, is imported here, so `medart --help` never loads torch.

    Args:
        name: Of the command.
        options: The values of its options.
        typed: Names of those that stand on the command line.
    """
    first, settings = True, None  # of several processes, rank 0 prints for all
    try:
        passed_over = ranks.check_environment()
        first = ranks.own_rank() == 0
        start_log(
            quiet=bool(options.get("quiet")), verbose=bool(options.get("verbose")), silent=not first
        )
        if passed_over is not None:
            log.info("%s", passed_over)
        settings = COMMANDS[name](**options)
        settings.refuse_idle(typed)
        _check_processes(name, options, settings.device)
        with redirect_stdout(sys.stderr):  # standard output is kept for the result alone
            work = import_module(f"medart_cli.{name}.run")
            stop.listen()
            summary = work.run(settings)
        if first:
            tell_result(settings, summary)
        failures = summary.get("failures", 0)
        if failures > settings.max_failures:
            raise TooManyFailuresError(
                f"{failures} rows failed, {settings.max_failures} allowed; the log above names "
                "them; raise --max-failures to accept that"
            )
        if not summary.get("ready", True):  # doctor's verdict, after its report
            raise MissingModelError(summary["problems"][0])
        if first:
            end_command(settings, str(summary["result"]))
    except (MedartError, OSError, RuntimeError, MemoryError) as caught:
        error = _explain(caught, settings)
        if error is None:
            raise
        log.debug("where it happened:", exc_info=caught)
        if first or not isinstance(error, Stopped | TooManyFailuresError):
            which = "" if first else f" (rank {ranks.own_rank()})"
            typer.echo(f"medart {name}{which}: {_one_line(error)}", err=True)
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:  # a second Ctrl-C, which does not wait
        typer.echo(
            f"medart {name}: interrupted; run the same command again to resume from what was saved",
            err=True,
        )
        return INTERRUPTED
    return 0


def tell_result(settings: CommonConfig, summary: dict[str, Any]) -> None:
    """Print the result; what another command runs only logs it, as that one is told to log."""
    result = json.dumps(summary) if settings.json else summary["result"]
    if _INSIDE.get():
        log.info("%s", result)
    else:
        typer.echo(result)


def end_command(settings: CommonConfig, result: str) -> None:
    """Let `make` see that the command is done, and say what comes next."""
    from medart_cli.data.finished import renew_times  # its libraries are loaded by now

    with suppress(OSError):  # where they are another user's make asks again, and nothing is wrong
        renew_times(settings.list_results(result), settings.list_sources(), settings.beside_sources)
    say_next(settings, result)


def say_next(settings: CommonConfig, result: str) -> None:
    """Say what to look at first, and what to run next, as a command that can be pasted."""
    if _INSIDE.get():
        return
    files, words = settings.suggest(result)
    there = [str(path) for path in files if path.exists()]
    if there:
        log.info("look at: %s", ", ".join(there))
    if words:
        log.info("next: %s", shlex.join(["medart", *words]))


def _explain(error: Exception, settings: CommonConfig | None) -> MedartError | OSError | None:
    """Turn an error into one that is shown as one line; None for an unexpected one."""
    if isinstance(error, MedartError | OSError):
        return error
    if ranks.is_lost_process(error):
        return RunError(LOST_PROCESS)
    full = find_full_memory(error)
    if full is None or settings is None:
        return None
    place = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    hints = settings.name_less_memory(full)
    return RunError(f"{place}the {full} is out of memory; run again with {hints}")


def _check_processes(name: str, options: dict[str, Any], device: str) -> None:
    """Refuse what cannot run as several processes, and join the other ranks."""
    if ranks.count_ranks() == 1:
        return
    if name not in MULTI_PROCESS:
        raise ConfigError(
            f"runs as one process only; {', '.join(MULTI_PROCESS)} can run as several"
        )
    values = [item for value in options.values() for item in _items(value)]
    if "-" in values:
        raise ConfigError("-: several processes cannot share standard input; use a file")
    log.info(
        "one of %d processes; waiting for the others at %s:%s",
        *(ranks.count_ranks(), os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]),
    )
    import_module("medart_cli.models.device").join_processes(device)


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"medart {__version__}")
        raise typer.Exit()


@app.callback()
def _medart(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def _run(name: str, options: dict[str, Any], typed: Collection[str]) -> NoReturn:
    if not _at_work:  # within another command, a stop signal that came before is for both
        stop.forget()
    _at_work.append(name)
    try:
        code = run_command(name, options, typed)
    finally:
        _at_work.pop()
    raise typer.Exit(code)


for _name in COMMANDS:
    add_command(app, _name, _run)

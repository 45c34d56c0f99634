"""Measure synthetic against real images: two sets or more -> metrics.json and report.html.

Here the sets are read and hashed, and a finished report is answered: without torch. What measures
is in measure.py.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medart_cli import stop
from medart_cli.data.cache import make_cache
from medart_cli.data.finished import FINISHED_NAME, find_finished
from medart_cli.data.output import Output, check_output
from medart_cli.evaluate.masks import hash_masks
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import Hashed, describe_work, read_sets
from medart_cli.evaluate.training import (
    check_drawn,
    describe_run,
    hash_and_settle,
    open_run,
    place_training,
)
from medart_cli.log import log
from medart_cli.ranks import ask_first, is_first


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Measure distances, colors and near-copies, overall and by label, and write the report."""
    cache = make_cache(config.cache)
    trained = open_run(config)
    sets = read_sets(config, place_training(config, trained))
    check_drawn(config, sets, trained)
    output = describe_output(config)
    if config.shard is None and is_first():
        check_output(output)
    hashed = None
    if ask_first(partial(may_be_finished, config)):
        hashed = hash_and_settle(config, sets, trained)
        weights = describe_run(config, hashed[0], trained)
        summary = ask_first(partial(find_summary, config, hashed, cache, weights))
        if summary is not None:
            log.info("%s: already finished; nothing it depends on has changed", config.out)
            return summary
    with stop.at_once():  # loads torch, which takes seconds
        from medart_cli.evaluate.measure import measure_sets

    return measure_sets(config, (sets, hashed), output, trained)


def may_be_finished(config: EvaluateConfig) -> bool:
    """Say whether the report might be finished already, so that looking closer is worth it."""
    again = not (config.shard or config.overwrite) and config.fail_on_copies is None
    return again and (config.out / FINISHED_NAME).is_file()


def find_summary(
    config: EvaluateConfig, hashed: Hashed, cache: Path, weights: Sequence[str]
) -> dict[str, Any] | None:
    """Return the summary of a finished report of the same images; None for any other."""
    more = [*weights, *hash_masks(hashed[0][0], cache)]
    made_of = describe_work(config, hashed, cache, more)
    return None if made_of is None else find_finished(config.out, made_of)


def describe_output(config: EvaluateConfig) -> Output:
    """Say what the report folder belongs to."""
    sets = (config.real, *config.synthetic, config.holdout, config.training)
    inputs = (*sets, config.run, config.classifier)
    return Output(
        *(config.out, "evaluate", config.settings(), config.name_run_only(), config.overwrite),
        inputs,
        formerly={"captions": EvaluateConfig.captions},  # it has no effect without --captioner
    )

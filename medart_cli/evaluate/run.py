"""Measure synthetic against real images: two sets or more -> metrics.json and report.html.

Here the sets are read and hashed, and a finished report is answered: without torch. What measures
is in measure.py.
"""

from functools import partial
from pathlib import Path
from typing import Any

from medart_cli import stop
from medart_cli.data.cache import make_cache
from medart_cli.data.finished import find_finished, hash_parts
from medart_cli.data.hashes import hash_model
from medart_cli.data.output import Output, check_output
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import ImageSet, describe_set, hash_sets, read_sets
from medart_cli.log import log
from medart_cli.ranks import ask_first, is_first
from medart_cli.versions import name_versions


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Measure distances, colors and near-copies, overall and by label, and write the report."""
    cache = make_cache(config.cache)
    sets = read_sets(config)
    output = describe_output(config)
    if config.shard is None and is_first():
        check_output(output)
    sets, failures = hash_sets(sets)
    made_of = None if failures else ask_first(partial(describe_work, config, sets, cache))
    again = not (config.shard or config.overwrite) and config.fail_on_copies is None
    if made_of is not None and again:
        summary = ask_first(partial(find_finished, config.out, made_of))
        if summary is not None:
            log.info("%s: is finished, and nothing it depends on has changed", config.out)
            return summary
    from medart_cli.evaluate.measure import measure_sets  # loads torch, which takes seconds

    return measure_sets(config, (sets, failures), output, made_of)


def describe_output(config: EvaluateConfig) -> Output:
    """Say what the report folder belongs to."""
    inputs = (config.real, *config.synthetic, config.holdout)
    return Output(
        config.out, "evaluate", config.settings(), config.name_run_only(), config.overwrite, inputs
    )


def describe_work(config: EvaluateConfig, sets: list[ImageSet], cache: Path) -> str | None:
    """Return a hash over all that the report depends on: settings, images, networks, versions.

    None where that cannot be told without loading a network, as one from the hub's cache.
    """
    own = [config.inception] if config.inception else []
    names = [*(config.features or ()), *map(str, own)]
    models = [hash_model(Path(name), cache, poll=stop.check) for name in names]
    fixed = ("inception", "efficientnet-lite0")  # their weights are known by the versions
    if any(model is None and name not in fixed for name, model in zip(names, models, strict=True)):
        return None
    there = sorted(path.name for path in cache.glob("inception*"))  # which network is the default
    settings = {
        name: value for name, value in config.settings().items() if name != "fail_on_copies"
    }
    parts = (settings, [describe_set(item) for item in sets], models, there, name_versions())
    return hash_parts(parts)

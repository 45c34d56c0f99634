"""Does synthetic data help: real, synthetic and test images -> CLF/ (classifier, scores, report).

With `--checkpoint` it only predicts: images -> OUT/predictions.jsonl. Here the sets are read and
kept apart, and a finished run is answered: without torch. What trains is in train.py.
"""

from importlib import metadata
from pathlib import Path
from typing import Any

from medart_cli import __version__, stop
from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.sets import Sets, read_sets
from medart_cli.data.cache import try_cache
from medart_cli.data.finished import find_finished, hash_parts
from medart_cli.data.hashes import hash_model
from medart_cli.data.output import Output, check_output
from medart_cli.data.profiles import read_profile
from medart_cli.log import log
from medart_cli.versions import name_versions

# Folders from before trainings were made equal are not continued: their regimes cannot be compared.
FORMERLY = {"equal": "neither steps nor the penalty of the probe"}


def run(config: ClassifyConfig) -> dict[str, Any]:
    """Train each regime with each seed, test all on the same real images, and compare."""
    if config.checkpoint is not None:
        with stop.at_once():  # loads torch, which takes seconds
            from medart_cli.classify.predict import predict_folder

        return predict_folder(config, config.checkpoint)
    flips = read_profile(config.profile).flips
    sets = read_sets(config)
    output = describe_output(config)
    made_of = None if sets.failures else describe_work(config, sets, flips)
    if check_output(output) and made_of is not None:
        summary = find_finished(config.out, made_of)
        if summary is not None:
            log.info("%s: already finished; nothing it depends on has changed", config.out)
            return summary
    with stop.at_once():
        from medart_cli.classify.train import train_regimes

    return train_regimes(config, sets, output, made_of)


def describe_output(config: ClassifyConfig) -> Output:
    """Say what the folder belongs to."""
    inputs, settings = (config.data, config.synthetic, config.test), config.settings()
    return Output(
        *(config.out, "classify", settings, config.name_run_only(), config.overwrite, inputs),
        formerly=FORMERLY,
    )


def describe_work(config: ClassifyConfig, sets: Sets, flips: bool) -> str | None:
    """Return a hash over all that the results depend on: settings, images, backbone, versions.

    None where that cannot be told without loading the backbone, as one from the hub's cache.
    """
    backbone = hash_model(Path(config.backbone), try_cache(), poll=stop.check)
    if backbone is None and config.backbone != "efficientnet-lite0":
        return None
    rows = [(name, row.fields, row.sha256) for name, part in sets.rows.items() for row in part]
    accounts = [account.facts() for account in sets.accounts]
    computing = [metadata.version(name) for name in ("scipy", "scikit-learn")]
    versions = (name_versions(), __version__, computing)
    return hash_parts((config.settings(), flips, rows, accounts, sets.checks, backbone, versions))

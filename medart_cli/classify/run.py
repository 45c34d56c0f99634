"""Does synthetic data help: real, synthetic and test images -> CLF/ (classifier, scores, report).

With `--checkpoint` it only predicts: images -> OUT/predictions.jsonl.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from medart_cli import stop
from medart_cli.classify.duplicates import drop_same
from medart_cli.classify.images import Images, load_sets
from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.predict import predict_folder
from medart_cli.classify.results import write_results
from medart_cli.classify.sets import Sets, describe_rows, read_sets
from medart_cli.classify.train import Setup, is_done, result_path, train_and_test
from medart_cli.data.cache import make_cache, try_cache
from medart_cli.data.files import draft_of
from medart_cli.data.manifest import write_manifest
from medart_cli.data.output import Output, open_output
from medart_cli.data.profiles import read_profile
from medart_cli.errors import ConfigError
from medart_cli.log import log
from medart_cli.models.backbone import load_backbone
from medart_cli.models.classifier import check_backbone, resize_input
from medart_cli.models.device import (
    find_device,
    find_precision,
    hush_libraries,
)

SPLIT_NAME = "split.jsonl"
# Folders from before trainings were made equal are not continued: their regimes cannot be compared.
FORMERLY = {"equal": "neither steps nor the penalty of the probe"}


def run(config: ClassifyConfig) -> dict[str, Any]:
    """Train each regime with each seed, test all on the same real images, and compare."""
    hush_libraries()
    device = find_device(config.device)
    if config.checkpoint is not None:
        return predict_folder(config, config.checkpoint, device)
    precision = find_precision(config.precision, device)
    flips = read_profile(config.profile).flips
    sets = read_sets(config)
    cache = make_cache(config.cache) if config.freeze or config.cache else try_cache()
    backbone = load_backbone(
        config.backbone, device=device, offline=config.offline, option="--backbone"
    )
    backbone = resize_input(backbone, config.image_size)
    check_backbone(backbone)
    backbone.module.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    sets, same = drop_same(config, sets, cache)
    inputs, settings = (config.data, config.synthetic, config.test), config.settings()
    output = Output(
        *(config.out, "classify", settings, config.name_run_only(), config.overwrite, inputs),
        formerly=FORMERLY,
    )
    with open_output(output):
        keep_split(config, sets)
        write_manifest(config.out / "duplicates.jsonl", same)
        images, lost = load_sets(config, sets, backbone, cache if config.freeze else None)
        setup = Setup(config, sets.classes, backbone, device, precision, flips)
        for regime in config.chosen_regimes:
            for seed in config.chosen_seeds:
                stop.check()
                if is_done(result_path(config.out, regime, seed), images["test"]):
                    log.info("%s, seed %d: done before", regime, seed)
                else:
                    train_and_test(setup, regime, seed, images)
        return finish(setup, sets, images, lost)


def keep_split(config: ClassifyConfig, sets: Sets) -> None:
    """Write which image belongs to which set; a folder made from other images is refused."""
    path, rows = config.out / SPLIT_NAME, describe_rows(sets)
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            old = [json.loads(line) for line in file]
        for number, (then, now) in enumerate(zip(old, rows, strict=False)):
            if then != now:
                raise _changed(config.out, f"row {number + 1} was {then}, is now {now}")
        if len(old) != len(rows):
            raise _changed(config.out, f"there were {len(old)} rows, now there are {len(rows)}")
    write_manifest(path, rows)


def _changed(folder: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{folder}: belongs to other images: {what}; name another folder, or start anew with "
        "--overwrite"
    )


def finish(setup: Setup, sets: Sets, images: dict[str, Images], lost: int) -> dict[str, Any]:
    """Compare the regimes, write results, and put the recommended classifier at the top."""
    config = setup.config
    results = {
        regime: [
            json.loads(result_path(config.out, regime, seed).read_text(encoding="utf-8"))
            for seed in config.chosen_seeds
        ]
        for regime in config.chosen_regimes
    }
    facts = {
        "classes": sets.classes,
        "backbone": setup.backbone.name,
        "trained": "last layer" if config.freeze else "all weights",
        "image_size": setup.backbone.image_size,
        "label_budget": config.label_budget,
        "equal": None if config.freeze or config.synthetic is None else config.equal,
        "inputs": [account.facts() for account in sets.accounts],
        "checks": sets.checks,
        "failures": sets.failures + lost,
        "demonstration": any(
            row.demonstration for part in images.values() for row in part.rows.records
        ),
    }
    summary = write_results(config, results, images, facts)
    source = config.out / "regimes" / summary["classifier"]["regime"] / "model"
    for path in sorted(source.iterdir()):
        with draft_of(config.out / path.name) as draft:
            shutil.copyfile(path, draft)
    return summary

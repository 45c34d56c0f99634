"""Predict with a classifier that is there: images -> OUT/predictions.jsonl."""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medart_cli import stop
from medart_cli.classify.images import read_ahead
from medart_cli.classify.options import ClassifyConfig
from medart_cli.data.cache import try_cache
from medart_cli.data.dataset import open_data
from medart_cli.data.hashes import hash_files, hash_model
from medart_cli.data.manifest import ManifestWriter, Record, repair_manifest, write_manifest
from medart_cli.data.output import Output, open_output
from medart_cli.errors import ImageError
from medart_cli.log import log, progress
from medart_cli.models.classifier import Classifier, load_classifier, run_module
from medart_cli.models.device import find_device, hush_libraries
from medart_cli.options import parse_levels

PREDICTIONS_NAME = "predictions.jsonl"
PREDICTED = ("predicted", "probabilities", "sha256")  # what a prediction adds to a row


def predict_folder(config: ClassifyConfig, folder: Path) -> dict[str, Any]:
    """Write one line an image, with the probability of each class; those that still hold stay."""
    hush_libraries("transformers")
    classifier = load_classifier(folder, find_device(config.device))
    records = open_data(config.data, root=config.root, levels=parse_levels(config.folders))
    paths = list({record.path for record in records})
    found, _ = hash_files(paths, cache=try_cache(), poll=stop.check)
    hashes = {record.file_name: found.get(record.path) for record in records}
    inputs = (config.data, config.checkpoint)
    settings = config.settings() | {"_classifier": hash_model(folder, try_cache(), poll=stop.check)}
    ignore = config.name_run_only() - {"data"}
    output = Output(config.out, "classify", settings, ignore, config.overwrite, inputs)
    path = config.out / PREDICTIONS_NAME
    with open_output(output):
        done = renew_rows(path, records, hashes)
        todo = [record for record in records if record.file_name not in done]
        if not todo:
            log.info("%s: already finished; all %d images are predicted", path, len(done))
        with (
            ManifestWriter(path) as writer,
            progress("predict", len(records), done=len(records) - len(todo)) as bar,
        ):
            images = zip(todo, read_ahead(config, todo, classifier.prepare), strict=True)
            while batch := list(islice(images, config.batch_size)):
                for row in _predict_batch(classifier, batch):
                    writer.append({**row, "sha256": hashes[row["file_name"]]})
                bar.advance(count=len(batch))
    rows = _read_rows(path)
    return {
        "result": str(path),
        "images": len(rows),
        "failures": len(records) - len(rows),
        "classes": classifier.classes,
        "accuracy": _score(rows, classifier.classes),
        "inputs": [records.account.facts()],
    }


def renew_rows(path: Path, records: Sequence[Record], hashes: Mapping[str, str | None]) -> set[str]:
    """Keep the predictions of images that are as they were, with what their rows say now.

    Returns:
        The file names of those.
    """
    repair_manifest(path)
    rows = _read_rows(path) if path.is_file() else []
    found = {row["file_name"]: row for row in rows}
    kept = []
    for record in records:
        old = found.get(record.file_name)
        if old is not None and old.get("sha256") == hashes[record.file_name]:
            kept.append(record.fields | {name: old[name] for name in PREDICTED})
    if len(found) > len({row["file_name"] for row in kept}):
        log.warning(
            "%s: %d predictions are of images that have changed or are missing, and are removed",
            path, len(found) - len({row["file_name"] for row in kept}),
        )  # fmt: skip
    if kept != rows:
        write_manifest(path, kept)
    return {row["file_name"] for row in kept}


def _read_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _predict_batch(
    classifier: Classifier, batch: list[tuple[Record, Tensor | ImageError]]
) -> list[dict[str, Any]]:
    """Predict the images that could be read; the others are named."""
    for _, image in batch:
        if isinstance(image, ImageError):
            log.warning("%s", image)
    read = [(record, image) for record, image in batch if isinstance(image, Tensor)]
    if not read:
        return []
    inputs = torch.stack([image for _, image in read])
    shares = run_module(classifier.module, inputs).double().softmax(dim=1)  # (B, K)
    return [
        record.fields | describe_prediction(row.tolist(), classifier.classes)
        for (record, _), row in zip(read, shares, strict=True)
    ]


def describe_prediction(shares: list[float], classes: list[str]) -> dict[str, Any]:
    """Word a prediction for a manifest: the likeliest class, and the probability of each."""
    return {
        "predicted": classes[max(range(len(classes)), key=shares.__getitem__)],
        "probabilities": dict(zip(classes, shares, strict=True)),
    }


def _score(rows: list[dict[str, Any]], classes: list[str]) -> float | None:
    """Give the accuracy where every image is labeled with a class of the classifier."""
    labels = [Record(row, Path(), "").label for row in rows]  # of a number its text
    strange = sorted({label for label in labels if label is not None} - {*classes})
    if strange:
        log.warning(
            "label %r is not a class of the classifier (%s); predicted, but not scored",
            *(strange[0], ", ".join(classes)),
        )
    if strange or None in labels or not rows:
        return None
    pairs = zip(labels, rows, strict=True)
    return sum(bool(label == row["predicted"]) for label, row in pairs) / len(rows)

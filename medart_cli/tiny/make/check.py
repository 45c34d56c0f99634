"""Measure the `tiny` models: is the prompt followed, are the captions right?

The judge of images is a classifier that `medart classify` trains on phantoms, which has never seen
a sample; captions are compared with what was drawn.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from medart_cli.caption import run as caption
from medart_cli.caption.options import CaptionConfig
from medart_cli.classify import run as classify
from medart_cli.classify.options import ClassifyConfig
from medart_cli.data.manifest import MANIFEST_NAME, read_manifest
from medart_cli.sample import run as sample
from medart_cli.sample.options import SampleConfig
from medart_cli.tiny.dataset import choose_phantoms, compare_captions, write_phantoms
from medart_cli.tiny.phantoms import PROFILE

PER_LABEL = 30  # samples and unseen phantoms of each class


def check_models(folder: Path, device: torch.device) -> dict[str, Any]:
    """Measure base and captioner of a folder.

    Args:
        folder: Holds `base` and `captioner`.
        device: Where to run.

    Returns:
        Shares from 0 to 1, and sizes in megabytes.
    """
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for part, count, seed in (("train", 120, 11), ("test", PER_LABEL, 12)):
            phantoms = choose_phantoms("base", per_label=count, seed=seed)
            write_phantoms(work / part, phantoms, seed=seed, captions=True)
        train = ClassifyConfig(
            data=str(work / "train"), test=str(work / "test"), out=work / "judge", seeds=1,
            image_size=64, epochs=12, device=str(device), offline=True,
        )  # fmt: skip
        judged = classify.run(train)
        drawn = SampleConfig(
            run=str(folder / "base"), from_data=str(work / "test"), out=work / "drawn",
            batch_size=32, device=str(device), offline=True,
        )  # fmt: skip
        sample.run(drawn)
        predict = ClassifyConfig(
            data=str(work / "drawn"), checkpoint=work / "judge", out=work / "seen",
            device=str(device), offline=True,
        )  # fmt: skip
        seen = classify.run(predict)
        return {
            "judge_accuracy": judged["regimes"]["real"]["mean"],
            "prompt_followed": seen["accuracy"],
            "prompt_followed_by_class": _by_class(
                work / "seen" / "predictions.jsonl", work / "drawn"
            ),
            "captions": {
                domain: _check_captions(folder / "captioner", work / domain, domain, device)
                for domain in ("base", "shifted")
            },
            "megabytes": {
                name: sum(
                    file.stat().st_size for file in (folder / name).rglob("*") if file.is_file()
                )
                / 1e6
                for name in ("base", "captioner")
            },
        }


def _by_class(predictions: Path, root: Path) -> dict[str, float]:
    right, all_rows = Counter[str](), Counter[str]()
    for record in read_manifest(predictions, root=root):
        label = record.label or ""
        all_rows[label] += 1
        right[label] += record.fields["predicted"] == label
    return {label: right[label] / count for label, count in sorted(all_rows.items())}


def _check_captions(
    captioner: Path, folder: Path, domain: str, device: torch.device
) -> dict[str, float]:
    phantoms = choose_phantoms(domain, per_label=PER_LABEL, seed=13)
    write_phantoms(folder, phantoms, seed=13)
    config = CaptionConfig(
        images=str(folder), model=str(captioner), base=str(captioner.parent / "base"),
        profile=PROFILE, batch_size=32, review=0, temperature=0.0, device=str(device), offline=True,
    )  # fmt: skip
    caption.run(config)
    texts = [record.text or "" for record in read_manifest(folder / MANIFEST_NAME)]
    return compare_captions(texts, phantoms)

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medart_cli.finetune.batches import draw_batch
from medart_cli.finetune.estimate import captions, needs
from medart_cli.finetune.estimate.captions import average_longest, count_captions, weigh_rows
from medart_cli.finetune.estimate.needs import find_shape, list_rows
from medart_cli.finetune.estimate.pace import Pace
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.setup import find_text_length
from medart_cli.models import hub
from tests.bench.bench_footprint import build_work

NOT_HERE = "PixArt-alpha/PixArt-XL-2-512x512"
SOME = ("red lesion", "a pink nevus with smooth border", "brown " * 12, "large pale cell nucleus")


@pytest.fixture
def captioned(images, tmp_path):
    """The images with captions of several lengths, one of them held out."""
    folder, lines = shutil.copytree(images, tmp_path / "captioned"), []
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        name, split = path.relative_to(folder).as_posix(), "val" if number == 7 else "train"
        text = "dark " * 30 if number == 7 else SOME[number % len(SOME)]
        lines.append(json.dumps({"file_name": name, "text": text, "split": split, "label": "a"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def settings(captioned, small_base, tmp_path):
    return FinetuneConfig(
        data=str(captioned), base=str(small_base), out=tmp_path / "out", resolution=32,
        device="cpu", batch_size=3, caption_dropout=0.4, hldf_every=1, train_text_encoder=False,
        cache=tmp_path / "cache",
    )  # fmt: skip


@pytest.fixture
def fetches(monkeypatch):
    def fetch(name, **_):
        raise FileNotFoundError(name)

    monkeypatch.setattr(hub, "snapshot_download", fetch)


def count(config):
    shape, _ = find_shape(config)
    return count_captions(config, shape.kind, shape.family, *list_rows(config))


def test_captions_are_as_long_as_those_of_real_batches(settings):
    found, work = count(settings), build_work(settings)
    batches = [draw_batch(work, number) for number in range(120)]
    lengths = np.array([[batch.text[0].shape[1], batch.prompts[0].shape[1]] for batch in batches])
    steps = lengths.std(axis=0) / np.sqrt(len(lengths))
    means = np.array([found.step, found.color])
    assert (abs(lengths.mean(axis=0) - means) < 0.5 + 3 * steps).all()
    assert lengths.max() <= found.longest and found.how == "counted"


def test_no_batch_is_longer_than_the_longest_caption_also_of_those_held_out(settings):
    work = build_work(settings)  # without the one that is held out
    trained = max(len(work.texts.find(row.text.strip())["embeds"]) for row in work.rows)
    assert count(replace(settings, val_every=0)).longest == trained
    assert count(settings).longest == 31 > trained


def test_compiled_blocks_see_the_length_that_a_run_pads_to(settings):
    config = replace(settings, compile=True, val_every=0)
    work, found = build_work(settings), count(config)
    assert found.step == found.color == found.longest == find_text_length(work)


def test_the_mean_of_the_longest_is_that_of_all_batches():
    lengths, weights = np.array([4, 9, 2, 9]), np.array([0.1, 0.2, 0.4, 0.3])
    every = np.array(np.meshgrid(*[range(4)] * 3)).reshape(3, -1)
    expected = (lengths[every].max(axis=0) * weights[every].prod(axis=0)).sum()
    assert average_longest(lengths, weights, 3) == pytest.approx(expected)


def test_balanced_labels_count_alike():
    assert weigh_rows(["a", "a", "a", "b"], balance=True).tolist() == [*[1 / 6] * 3, 1 / 2]


def test_without_its_tokenizer_captions_are_counted_at_full_length(settings, fetches):
    found = count(replace(settings, base=NOT_HERE))
    assert (found.step, found.color, found.longest, found.how) == (120, 120, 120, "full length")
    assert found.stored == 120 * len({*SOME, "held out", ""})


def test_what_is_counted_goes_into_memory_cache_and_the_line(settings, monkeypatch):
    monkeypatch.setattr(needs, "measure_pace", lambda *_: Pace(1, None, 1))
    config = replace(settings, hldf_every=0, batch_size=200)
    counted = needs.estimate_run(config)
    monkeypatch.setattr(captions, "find_tokenizer", lambda config: None)
    full = needs.estimate_run(config)
    assert counted["captions"]["longest"] < full["captions"]["longest"] == 120
    assert counted["captions"]["stored"] < full["captions"]["stored"]
    assert counted["memory"]["step_gb"] < full["memory"]["step_gb"]
    told = [needs.format_estimate(facts)[-1] for facts in (counted, full)]
    assert f"captions of {counted['captions']['step']} tokens" in told[0]
    assert told[1].endswith("measured now; captions counted at full length, 120 tokens")


def test_the_tokenizer_alone_is_enough_to_count_with(settings, small_base, monkeypatch):
    def fetch(name, allow_patterns=None, **_):
        if allow_patterns is None or any(it.startswith("transformer") for it in allow_patterns):
            raise FileNotFoundError(name)
        return str(small_base)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    found = count(replace(settings, base=NOT_HERE))
    assert found == count(settings) and found.how == "counted"


def test_images_without_captions_take_the_template_and_memory_for_any(settings, images):
    found = count(replace(settings, data=str(images)))
    assert found.how == "template" and found.step < found.longest == 120
    assert found.word().startswith(f"template captions of {found.step} tokens")


def test_five_thousand_captions_are_counted_in_a_moment(tmp_path, settings):
    folder = Path(settings.data)
    one = next(folder.rglob("*.png")).relative_to(folder).as_posix()
    texts = (f"a large nevus with brown border, number {number}" for number in range(5000))
    lines = [json.dumps({"file_name": one, "text": text}) for text in texts]
    (folder / "many.jsonl").write_text("\n".join(lines) + "\n")
    config = replace(settings, data=str(folder / "many.jsonl"), base="tiny")
    began = time.process_time()
    found = count(config)
    assert found.how == "counted" and time.process_time() - began < 5

import json
import threading

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from medart_cli import stop
from medart_cli.errors import RunError
from medart_cli.finetune import batches, setup
from medart_cli.finetune import train as stage
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.rows import read_training_rows
from medart_cli.models.bases import hash_base

OPTIONS = ("--resolution", 16, "--steps", 4, "--preview-every", 0, "--hldf-steps", 2, "--quiet")


@pytest.fixture
def build_work(images, small_base, tmp_path):
    def build(**options):
        config = FinetuneConfig(
            data=str(images), base=str(small_base), out=tmp_path / "run", resolution=16,
            hldf_steps=3, hldf_every=2, device="cpu", **options,
        )  # fmt: skip
        data = read_training_rows(config)
        named = (small_base, hash_base(small_base))
        work = setup.build_work(config, named, data.rows, setup.build_accelerator(config))
        setup.cache_images(work)
        setup.cache_captions(work)
        setup.prepare_training(work, 10)
        return work

    return build


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple):
        return all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("frozen", [True, False])
def test_a_batch_is_the_same_whoever_reads_it(build_work, frozen):
    work = build_work(
        train_text_encoder=not frozen, accumulate=2, batch_size=2, flip=True, min_snr=5.0,
        caption_dropout=0.4,
    )  # fmt: skip
    ahead = list(batches.draw_ahead(work, 1, 4))
    assert len(ahead) == 6
    for number, batch in enumerate(ahead, start=2):
        again = batches.draw_batch(work, number)
        for name, value in vars(batch).items():
            assert same(value, getattr(again, name)), name
        assert (batch.text is not None) == frozen
        due = number // 2 % 2 == 1  # steps 2 and 4
        assert (batch.prompts is not None) == (frozen and due)


@pytest.mark.parametrize("cached", [True, False])
def test_another_thread_reads_unless_the_autoencoder_would_run_in_it(
    build_work, cached, monkeypatch
):
    work = build_work(train_text_encoder=False, use_cache=cached)
    readers = set()
    read = batches.read_latents
    monkeypatch.setattr(
        batches,
        "read_latents",
        lambda *given: readers.add(threading.current_thread()) or read(*given),
    )
    assert len(list(batches.draw_ahead(work, 0, 3))) == 3
    assert (readers == {threading.main_thread()}) != cached


class Waits(TorchDispatchMode):
    """Counts what reads a number off a device, by name; `tolist` of a CPU is not dispatched."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.found = []
        tolist = torch.Tensor.tolist
        monkeypatch.setattr(
            torch.Tensor, "tolist", lambda tensor: self.found.append("tolist") or tolist(tensor)
        )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.found.append("item")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", ["score", "published"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_step_waits_for_the_device_once(build_work, monkeypatch, frozen, loss):
    work = build_work(
        train_text_encoder=not frozen, accumulate=2, hldf_loss=loss, min_snr=5.0, ema=0.9,
        lr_schedule="cosine",
    )  # fmt: skip
    steps = [list(pair) for pair in zip(*[batches.draw_ahead(work, 0, 4)] * 2, strict=True)]
    for step, drawn in enumerate(steps, start=1):
        with Waits(monkeypatch) as waits:
            losses = stage.take_step(work, step, drawn)
        # transformers looks into the mask in each pass of T5: before the rest of its loss begins.
        passes = 0 if frozen else len(drawn) * (1 + ("color_loss" in losses))
        assert waits.found == ["item"] * passes + ["tolist"], step
        assert ("color_loss" in losses) == (step % 2 == 0)


def test_a_wait_is_counted(monkeypatch):
    with Waits(monkeypatch) as waits:
        assert float(torch.ones(2).sum()) == 2
        assert torch.ones(2).sum() > 1
        torch.ones(2).tolist()
    assert waits.found == ["item", "item", "tolist"]


def train(medart, images, base, out, *options):
    words = ("--base", base, "--out", out, "--freeze-text-encoder", "--hldf-every", 2)
    return medart("finetune", images, *words, *OPTIONS, *options)


def test_an_error_of_the_reader_ends_the_run_at_its_step_and_it_goes_on(
    medart, images, small_base, tmp_path, monkeypatch
):
    read = batches.read_embeds
    calls, before = [], threading.active_count()

    def fail(work, captions):
        calls.append(captions)
        if len(calls) == 5:  # of steps 1, 2 (twice), 3, then 4
            raise RunError("the text cache lost an entry while in use; run the same command again")
        return read(work, captions)

    whole = tmp_path / "whole"
    assert train(medart, images, small_base, whole)[0] == 0
    monkeypatch.setattr(batches, "read_embeds", fail)
    code, _, errors = train(medart, images, small_base, tmp_path / "run", "--save-every", 1)
    assert code == 1
    assert errors.splitlines()[-1] == (
        "medart finetune: the text cache lost an entry while in use; run the same command again"
    )
    assert threading.active_count() == before
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["step"] == 3
    monkeypatch.setattr(batches, "read_embeds", read)
    assert train(medart, images, small_base, tmp_path / "run", "--save-every", 1)[0] == 0
    assert_same(whole, tmp_path / "run")


def test_a_stop_while_a_batch_is_read_saves_and_the_next_call_goes_on(
    medart, images, small_base, tmp_path, monkeypatch
):
    draw, numbers, before = batches.draw_batch, [], threading.active_count()

    def stopped(work, number):
        numbers.append(number)
        if number == 2:
            stop._received.append(("SIGTERM", 0.0))
        return draw(work, number)

    whole = tmp_path / "whole"
    assert train(medart, images, small_base, whole)[0] == 0
    monkeypatch.setattr(batches, "draw_batch", stopped)
    monkeypatch.setattr(stop, "_received", [])
    assert train(medart, images, small_base, tmp_path / "run")[0] == 75
    assert threading.active_count() == before
    assert json.loads((tmp_path / "run/run.json").read_text())["step"] in (1, 2)
    monkeypatch.setattr(batches, "draw_batch", draw)
    monkeypatch.setattr(stop, "_received", [])
    assert train(medart, images, small_base, tmp_path / "run")[0] == 0
    assert_same(whole, tmp_path / "run")


def assert_same(one, other):
    first, second = (load_file(run / "transformer/adapter_model.safetensors")
                     for run in (one, other))  # fmt: skip
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

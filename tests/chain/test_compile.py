"""--compile: each kind of pass is compiled once, and trains and draws what plain code does."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from medart_cli.finetune import heldout
from medart_cli.models import compiled
from medart_cli.models.compiled import CODE_CACHE
from tests.small import build_base
from tests.small_klein import build_klein
from tests.small_prx import build_prx
from tests.small_sana import build_sana

ROOT = Path(__file__).parents[2]
BASES = {"pixart": build_base, "sana": build_sana, "prx": build_prx, "klein": build_klein}
TRAIN = (
    *("--resolution", 16, "--batch-size", 2, "--hldf-every", 2, "--hldf-steps", 3),
    *("--hldf-grad-steps", 2, "--hldf-guidance", 2, "--preview-every", 2, "--preview-count", 1),
    *("--val-fraction", 0.4, "--val-every", 2, "--caption-dropout", 0.4, "--device", "cpu"),
)
MODES = {
    "none": ("--hldf-checkpoint", "none"),
    "step": ("--hldf-checkpoint", "step", "--freeze-text-encoder"),
    "block": ("--hldf-checkpoint", "block", "--gradient-checkpointing", "--ema", 0.9),
    "full": ("--method", "full", "--freeze-text-encoder"),
}


@pytest.fixture(autouse=True)
def traced_alone(monkeypatch, request):
    """Trace blocks as always, and run what was traced as it is: machine code takes minutes."""
    torch._dynamo.reset()
    # Else pytest's capturing makes PyTorch write down all that it traces, which takes minutes.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    backend = "inductor" if "machine" in request.node.name else "eager"
    monkeypatch.setattr(compiled, "BACKEND", backend)
    monkeypatch.setattr(heldout, "LEAST_DRAWS", 4)
    monkeypatch.delenv(compiled.CODE_CACHE, raising=False)
    compiled.check_compiler.cache_clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def images(images, tmp_path):
    """The images with captions of several lengths."""
    folder, lines = shutil.copytree(images, tmp_path / "images"), []
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        text = " ".join(["red lesion", "with brown border", "small cell nucleus"][: 1 + number % 3])
        name = path.relative_to(folder).as_posix()
        lines.append({"file_name": name, "text": text, "label": path.parent.name})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def train(medart, data, base, out, *options):
    words = ("finetune", data, "--base", base, "--out", out)
    code, _, errors = medart(*words, *TRAIN, *options)
    assert code == 0, errors
    return errors


def compare(one, other, *, rtol=1e-3, atol=2e-5):
    [first, second] = (
        {(path.parent.name, name): tensor
         for path in sorted(run.glob("t*/*.safetensors"))
         for name, tensor in load_file(path).items()}
        for run in (one, other)
    )  # fmt: skip
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=rtol, atol=atol)


def list_compiled(errors):
    """Name where something was compiled, and how many graphs."""
    return re.findall(r"^(.+): (\d+) graphs of blocks compiled", errors, re.MULTILINE)


@pytest.mark.parametrize(
    "mode", ["none", *(pytest.param(it, marks=pytest.mark.nightly) for it in MODES if it != "none")]
)
def test_each_kind_of_pass_is_compiled_once_and_trains_the_same(
    medart, images, small_base, tmp_path, mode
):
    plain, fast = tmp_path / "plain", tmp_path / "fast"
    train(medart, images, small_base, plain, "--steps", 6, *MODES[mode])
    errors = train(medart, images, small_base, fast, "--steps", 6, "--compile", *MODES[mode])
    # Held-out images, and the noise loss; color losses without and with gradient. A preview has
    # the shape of a held-out batch here: two rows, without gradient.
    assert list_compiled(errors) == [("step 1", "2"), ("step 2", "2")]
    compare(plain, fast)
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (plain, fast)
    ]
    for one, other in zip(*rows, strict=True):
        for name in ("loss", "color_loss", "val_loss", "grad_norm"):
            assert one.get(name, 0) == pytest.approx(other.get(name, 0), rel=1e-3)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["sana", "prx", "klein"])
def test_the_other_bases_compile_and_train_the_same(medart, images, tmp_path, kind):
    base = BASES[kind](tmp_path / "base")
    size = ("--resolution", 32) if kind == "klein" else ()
    options = ("--freeze-text-encoder", "--steps", 4, *size)
    plain, fast = tmp_path / "plain", tmp_path / "fast"
    train(medart, images, base, plain, *options)
    errors = train(medart, images, base, fast, "--compile", *options)
    classes = 2 if kind == "klein" else 1
    assert list_compiled(errors) == [(f"step {step}", str(2 * classes)) for step in (1, 2)]
    compare(plain, fast)


@pytest.mark.nightly
def test_a_run_is_resumed_with_it_or_without(medart, images, small_base, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(medart, images, small_base, whole, "--steps", 4, "--compile")
    train(medart, images, small_base, run, "--steps", 2, "--compile")
    train(medart, images, small_base, run, "--steps", 4, "--compile")
    compare(whole, run, rtol=0, atol=0)
    mixed = tmp_path / "mixed"
    train(medart, images, small_base, mixed, "--steps", 2)
    train(medart, images, small_base, mixed, "--steps", 4, "--compile")
    compare(whole, mixed)


def test_sample_draws_the_same_images_from_blocks_compiled_once(
    medart, images, small_base, tmp_path
):
    run = tmp_path / "run"
    train(medart, images, small_base, run, "--steps", 1)
    words = ("--from", images, "--count", 7, "--steps", 3,
             "--device", "cpu")  # fmt: skip
    assert medart("sample", run, *words, "--out", tmp_path / "plain")[0] == 0
    code, _, errors = medart("sample", run, *words, "--out", tmp_path / "fast", "--compile")
    assert code == 0, errors
    assert list_compiled(errors) == [("rows 0 to 3", "1")]  # also for the three of the last batch
    for row in range(7):
        one, other = (Image.open(tmp_path / out / f"{row:06d}.png") for out in ("plain", "fast"))
        gap = torch.tensor(list(one.tobytes())) - torch.tensor(list(other.tobytes()))
        assert gap.abs().max() <= 1


@pytest.mark.nightly
def test_machine_code_trains_the_same_also_in_two_processes(
    images, small_base, tmp_path, monkeypatch
):
    monkeypatch.delenv(CODE_CACHE, raising=False)  # which a run in this process may have set
    words = ("finetune", images, "--base", small_base, *TRAIN, "--steps", 4)
    launch = ("torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29471", "-m")
    for out, before, more in (
        ("plain", (), ("--batch-size", 4)),
        ("one", (), ("--batch-size", 4, "--compile")),
        ("two", launch, ("--compile",)),
    ):
        line = (sys.executable, "-m", *before, "medart_cli", *words, *more, "--out", tmp_path / out)
        done = subprocess.run(
            [str(word) for word in line], cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MEDART_CACHE": str(tmp_path / "cache")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if more[-1] == "--compile":
            steps = [step for step, _ in list_compiled(done.stderr)]
            assert steps == ["step 1", "step 2"]
    assert (tmp_path / "cache/compiled").stat().st_mode & 0o77 == 0
    compare(tmp_path / "plain", tmp_path / "one")
    compare(tmp_path / "plain", tmp_path / "two", rtol=1e-2, atol=1e-4)


def test_dora_is_refused(medart, images, small_base, tmp_path):
    code, _, errors = medart(
        *("finetune", images, "--out", tmp_path / "run", "--compile", "--method", "dora")
    )
    assert code == 2
    assert errors.splitlines() == [
        "medart finetune: --compile: peft's DoRA layers cannot be compiled; use --method lora or "
        "rslora"
    ]


def test_without_a_compiler_nothing_begins(medart, images, small_base, tmp_path, monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setenv("MEDART_CACHE", str(tmp_path / "cache"))
    told = (
        r"--compile: nothing can be compiled on this machine: .+; install g\+\+, or leave "
        r"--compile out\n"
    )
    words = ("--out", tmp_path / "out", "--device", "cpu", "--compile", "--quiet")
    for command in (
        ("finetune", images, "--base", small_base),
        ("sample", small_base, "--prompt", "nevus"),
    ):
        code, output, errors = medart(*command, *words)
        assert (code, output) == (2, ""), errors
        assert re.fullmatch(f"medart {command[0]}: {told}", errors), errors
        assert not (tmp_path / "out").exists()


def test_a_block_that_is_no_single_graph_ends_the_run(
    medart, images, small_base, tmp_path, monkeypatch
):
    from diffusers.models.attention import BasicTransformerBlock

    forward = BasicTransformerBlock.forward

    def broken(self, *given, **named):
        torch._dynamo.graph_break()
        return forward(self, *given, **named)

    monkeypatch.setattr(BasicTransformerBlock, "forward", broken)
    words = ("finetune", images, "--base", small_base, *TRAIN)
    code, _, errors = medart(*words, "--compile", "--out", tmp_path / "run")
    assert code == 1
    assert errors.splitlines()[-1].startswith(
        "medart finetune: --compile: PyTorch cannot compile BasicTransformerBlock: "
    )

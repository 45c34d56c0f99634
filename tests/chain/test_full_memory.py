"""A GPU's memory that is full is one line for every command, with options that the command has."""

import re
from dataclasses import replace

import pytest
import torch

from medart_cli.cli import COMMANDS
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.sample.options import SampleConfig
from tests.jobs import build_parts, command

WORK = {  # where each command computes
    "caption": "medart_cli.models.captioner.Captioner._generate",
    "finetune": "medart_cli.finetune.train.take_step",
    "sample": "medart_cli.sample.draw.draw_images",
    "evaluate": "medart_cli.evaluate.networks._run_network",
    "classify": "medart_cli.classify.train.train_phase",
}
HINTS = {
    "caption": "llava, one image at a time: the GPU is out of memory; run again with "
    "--load-in 4bit, a smaller --image-side, a smaller --model or --device cpu",
    "finetune": "step 1: the GPU is out of memory; run again with --gradient-checkpointing, "
    "--hldf-checkpoint step, --offload text-encoder-layers (of a frozen text encoder, not nf4), "
    "--base-format nf4 (under adapters), a smaller --resolution or --device cpu",
    "sample": "the GPU is out of memory; run again with a smaller --batch-size, "
    "--offload text-encoder-layers (not with nf4), --base-format nf4, a smaller --resolution or "
    "--device cpu",
    "evaluate": "the GPU is out of memory; run again with a smaller --batch-size, "
    "--offload text-encoder-layers (with --run), --precision bf16 or --device cpu",
    "classify": "the GPU is out of memory; run again with a smaller --batch-size, a smaller "
    "--image-size, --freeze or --device cpu",
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return build_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(autouse=True)
def empty_cache(own_cache, tmp_path, monkeypatch):
    """Let everything be computed, also what other tests have in the suite's cache."""
    monkeypatch.setenv("MEDART_CACHE", str(tmp_path / "cache"))


def run_full(medart, monkeypatch, words, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(WORK[words[0]], refuse)
    code, output, errors = medart(*words)
    [line] = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    return code, output, line


@pytest.mark.parametrize("stage", WORK)
def test_a_full_gpu_is_one_line_that_says_what_to_lower(
    stage, medart, monkeypatch, parts, tmp_path
):
    words = command(stage, parts, tmp_path)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 ...")
    code, output, line = run_full(medart, monkeypatch, words, error)
    assert (code, output) == (1, "")
    assert line.startswith(f"medart {stage}: ")
    assert line.endswith(HINTS[stage])


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
     RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
     MemoryError()],
    ids=["cublas", "torch", "python"],
)  # fmt: skip
def test_other_words_for_a_full_memory_are_known(error, medart, monkeypatch, parts, tmp_path):
    code, _, line = run_full(medart, monkeypatch, command("sample", parts, tmp_path), error)
    place = "GPU" if "CUDA" in str(error) else "machine"
    assert code == 1 and f": the {place} is out of memory; run again with a smaller --b" in line
    assert ("--device cpu" in line) == (place == "GPU")


def test_an_error_that_nobody_expected_keeps_its_traceback(monkeypatch, parts, tmp_path):
    def refuse(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(WORK["sample"], refuse)
    from medart_cli.cli import main

    with pytest.raises(RuntimeError, match="a bug"):
        main(command("sample", parts, tmp_path))


@pytest.mark.parametrize(
    "kind", [kind for kind in COMMANDS.values() if kind.less_memory], ids=lambda kind: kind.__name__
)
def test_hints_name_options_that_the_command_has(kind):
    options = {"--" + name.replace("_", "-") for name in kind.__dataclass_fields__}
    for name, _, text in kind.less_memory:
        assert name in kind.__dataclass_fields__
        assert {*re.findall(r"--[a-z-]+", text)} <= options


def test_what_is_spent_is_not_named():
    spent = SampleConfig(
        run="r", prompt=["a"], out="o", batch_size=1, precision="bf16", base_format="nf4",
        offload="text-encoder",
    )  # fmt: skip
    assert spent.name_less_memory("GPU") == "a smaller --resolution or --device cpu"
    assert spent.name_less_memory("machine") == "a smaller --resolution"
    moved = replace(spent, offload="none")
    assert moved.name_less_memory("GPU").startswith("--offload text-encoder-layers (not with nf4),")
    assert moved.name_less_memory("machine") == "a smaller --resolution"  # its own is full
    frozen = EvaluateConfig(real="r", synthetic=["s"], out="o", batch_size=1, precision="bf16")
    assert frozen.name_less_memory("machine") == "more memory"

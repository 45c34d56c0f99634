"""FSDP: two processes that hold half of the weights each train what one process trains."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import CPUOffloadPolicy

from medart_cli.errors import ConfigError
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.setup import check_blocks, check_sharding
from medart_cli.models.families import find_family
from tests.small import build_base
from tests.small_klein import build_klein
from tests.small_prx import build_prx
from tests.small_sana import build_sana

ROOT = Path(__file__).parents[1]
TRAIN = (
    *("--method", "full", "--freeze-text-encoder", "--device", "cpu", "--precision", "fp32"),
    *("--resolution", 16, "--hldf-every", 2, "--hldf-steps", 4, "--caption-dropout", 0.3),
    *("--hldf-grad-steps", 2, "--hldf-grad-draws", 1, "--val-fraction", 0.25, "--val-every", 4),
    *(
        "--accumulate",
        2,
        "--ema",
        0.9,
        "--save-every",
        2,
        "--preview-every",
        2,
        "--preview-count",
        1,
    ),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_base, images):
    """Runs of four steps by the settings that docs/cluster.md gives, and what was said."""
    place = tmp_path_factory.mktemp("fsdp")
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    settings = re.search(r"```yaml\n(.*?)```", page, re.DOTALL).group(1)
    (place / "fsdp.yaml").write_text(settings)

    def train(out, steps, batch):
        words = ("finetune", images, "--base", small_base, *TRAIN, "--out", place / out)
        return [str(word) for word in (*words, "--steps", steps, "--batch-size", batch)]

    def start(name, launcher, module, commands):
        (place / f"{name}.json").write_text(json.dumps(commands))
        done = subprocess.run(
            [sys.executable, *launcher, "-m", module, str(place / f"{name}.json")],
            cwd=ROOT, capture_output=True, text=True, timeout=600,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MEDART_CACHE": str(place / "cache")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    port = 29000 + os.getpid() % 300
    launch = ("-m", "accelerate.commands.launch", "--config_file", place / "fsdp.yaml")
    said = start(
        "sharded", [*map(str, launch), "--main_process_port", str(port)], "tests.sharded",
        [train("resumed", 2, 1), train("resumed", 4, 1), train("whole", 4, 1),
         train("changed", 2, 1)],
    )  # fmt: skip
    plain = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port + 1))
    start("plain", plain, "tests.several", [train("changed", 4, 1)])
    start("one", (), "tests.several", [train("one", 4, 2)])
    return place, said


def read_tensors(folder):
    return {
        f"{path.name}:{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_near(first, second, tolerance):
    first, second = read_tensors(first), read_tensors(second)
    assert first.keys() == second.keys()
    assert len(first) > 50
    for name, tensor in first.items():
        assert tensor.shape == second[name].shape, name
        assert torch.allclose(tensor, second[name], rtol=0, atol=tolerance), name


def test_each_process_holds_half_of_the_weights(runs):
    assert "FSDP: this process has 50 % of the trained weights" in runs[1]


def test_shards_train_what_one_process_trains(runs):
    place, _ = runs
    assert_near(place / "whole" / "transformer", place / "one" / "transformer", 2e-5)
    steps = "checkpoints/step-000004"
    assert_near(place / "whole" / steps, place / "one" / steps, 2e-5)
    assert (place / "whole" / "previews" / "step-000004.png").is_file()


def read_curve(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}


def test_the_held_out_loss_is_that_of_one_process_also_with_shards(runs):
    place, _ = runs
    one = read_curve(place / "one")
    assert {*one} == {0, 4}
    assert read_curve(place / "whole") == pytest.approx(one, rel=1e-5)
    for name in ("resumed", "changed"):  # each has stopped after step 2
        curve = read_curve(place / name)
        assert {*curve} == {0, 2, 4}
        assert {step: curve[step] for step in one} == pytest.approx(one, rel=1e-5)


def test_resume_is_exact(runs):
    place, _ = runs
    assert_near(place / "resumed" / "transformer", place / "whole" / "transformer", 0)
    steps = "checkpoints/step-000004"  # optimizer and averages too
    assert_near(place / "resumed" / steps, place / "whole" / steps, 0)


def test_a_sharded_run_goes_on_without_shards(runs):
    place, _ = runs
    assert_near(place / "changed" / "transformer", place / "one" / "transformer", 2e-5)


@pytest.mark.parametrize(
    ("options", "kind", "second", "message"),
    [
        ({"method": "lora"}, "FSDP", True, "use --method full --freeze-text-encoder"),
        ({"method": "full"}, "FSDP", True, "use --method full --freeze-text-encoder"),
        ({"method": "full", "train_text_encoder": False}, "FSDP", False, "fsdp_version 2"),
        ({"method": "full", "compile": True}, "FSDP", True, "--compile: not with FSDP"),
        ({"method": "lora"}, "DEEPSPEED", False, "settings ask for DEEPSPEED"),
    ],
)
def test_other_sharding_is_refused(options, kind, second, message):
    config = FinetuneConfig(data="images", out=Path("run"), **options)
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(name=kind), is_fsdp2=second)
    with pytest.raises(ConfigError, match=message):
        check_sharding(config, accelerator)


def test_fsdp_settings_that_change_how_weights_are_held_are_refused():
    config = FinetuneConfig(
        data="images", out=Path("run"), method="full", train_text_encoder=False, optimizer="adamw"
    )
    plain = {"cpu_offload": None, "cpu_ram_efficient_loading": False,
             "activation_checkpointing": False}  # fmt: skip

    def check(**changed):
        plugin = SimpleNamespace(**plain | changed)
        check_sharding(
            config,
            SimpleNamespace(
                distributed_type=SimpleNamespace(name="FSDP"), is_fsdp2=True,
                state=SimpleNamespace(fsdp_plugin=plugin),
            ),
        )  # fmt: skip

    check()
    for changed in (
        {"cpu_offload": CPUOffloadPolicy()},
        {"cpu_ram_efficient_loading": True},
        {"activation_checkpointing": True},
    ):
        with pytest.raises(ConfigError, match="must have fsdp_offload_params"):
            check(**changed)


@pytest.mark.parametrize(
    ("build", "blocks"),
    [
        (build_base, "BasicTransformerBlock"),
        (build_sana, "SanaTransformerBlock"),
        (build_prx, "PRXBlock"),
        (build_klein, "Flux2SingleTransformerBlock,Flux2TransformerBlock"),
    ],
)
def test_blocks_of_another_base_are_refused_and_its_own_named(build, blocks, tmp_path):
    base = build(tmp_path)
    transformer = find_family(base).load_transformer(base, torch.float32, torch.device("cpu"))

    def state(names):
        plugin = SimpleNamespace(transformer_cls_names_to_wrap=names)
        return SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))

    for fine in (None, [], blocks.split(",")):
        check_blocks(state(fine), transformer)
    with pytest.raises(ConfigError, match=f"no OtherBlock; .*_cls_to_wrap to {blocks}$"):
        check_blocks(state([*blocks.split(","), "OtherBlock"]), transformer)
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert all(f"`{name}" in page or f",{name}`" in page for name in blocks.split(","))

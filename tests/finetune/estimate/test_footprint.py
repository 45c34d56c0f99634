from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from medart_cli.finetune import train
from medart_cli.finetune.batches import draw_batch
from medart_cli.finetune.estimate.footprint import Reckoner
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.models import pixart
from medart_cli.models.adapters import add_adapter
from medart_cli.models.shapes import count_numbers, known_shape, read_shape
from medart_cli.models.sizes import BASE_SIZES
from tests.bench.bench_footprint import build_work, measure
from tests.small import build_base
from tests.small_klein import build_klein
from tests.small_prx import build_prx
from tests.small_sana import build_sana

BUILDERS = {"pixart": build_base, "sana": build_sana, "prx": build_prx, "klein": build_klein}
ERROR = 0.1  # of estimates, at sizes where a few kB matter


@pytest.fixture
def compare(tmp_path, images):
    """Take real steps of a small base; returns estimate and measurement for each kind of step."""

    def run(name, modes=("step",), side=64, **chosen):
        base = BUILDERS[name](tmp_path / "base")
        options = {"hldf_steps": 2, "hldf_every": 2, "train_text_encoder": False} | chosen
        config = FinetuneConfig(
            data=str(images), base=str(base), out=tmp_path / "out", resolution=side, device="cpu",
            **options,
        )  # fmt: skip
        work = build_work(config)
        train.take_step(work, 1, [draw_batch(work, 0)])
        with torch.no_grad():
            texts = sorted({row.text for row in work.rows})
            tokens = train.embed_captions(work, texts)[0].shape[1]
        reckoner = Reckoner(read_shape(base), side, tokens, gpu=False)
        pairs = {}
        for mode in modes:
            work.config, work.recompute = replace(config, hldf_checkpoint=mode), mode
            found = reckoner.reckon(work.config, work.facts["precision"], mode)
            held = sum(found.parts.values())
            pairs[mode] = found.hldf - held, measure(work, 2)
        pairs["normal"] = found.step - held, measure(work, 3)
        return pairs

    return run


def check(pairs):
    for name, (estimate, measured) in pairs.items():
        assert estimate == pytest.approx(measured, rel=ERROR), name


@pytest.mark.parametrize("name", BUILDERS)
def test_the_estimate_is_what_steps_take(compare, name):
    # A batch of 4 for klein: up to a MB that no operation returns is not reckoned.
    check(compare(name, batch_size=4 if name == "klein" else 1))


def test_the_estimate_is_what_steps_take_in_each_mode(compare):
    check(compare("pixart", ("none", "block")))


def test_batches_decoded_one_by_one_and_recomputed_blocks_are_reckoned(compare):
    check(compare("pixart", batch_size=2, gradient_checkpointing=True))


def test_a_trained_text_encoder_and_full_weights_are_reckoned(compare):
    check(compare("pixart", train_text_encoder=True, method="full"))


def test_bf16_and_the_published_loss_are_reckoned(compare):
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        check(compare("pixart", ("block",), precision="bf16", hldf_loss="published"))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_what_is_held_is_counted_exactly(tmp_path, images):
    base = build_base(tmp_path / "base")
    config = FinetuneConfig(
        data=str(images), base=str(base), out=tmp_path / "out", ema=0.9, device="cpu"
    )
    work = build_work(config)
    train.take_step(work, 1, [draw_batch(work, 0)])
    found = Reckoner(read_shape(base), 32, 20, gpu=False).reckon(config, "fp32", "step")

    def size(model):
        return sum(it.numel() * it.element_size() for it in [*model.parameters(), *model.buffers()])

    state = [it for held in work.optimizer.state.values() for it in held.values() if it.dim()]
    assert found.parts == {
        "transformer": size(work.transformer),
        "text encoder": size(work.text_encoder),
        "autoencoder": size(work.vae),
        "optimizer state": sum(4 * it.numel() for it in state),
        "average (EMA)": sum(4 * it.numel() for it in work.ema.shadow_params),
    }
    assert found.trained == sum(it.numel() for it in work.parameters)


@pytest.mark.parametrize("method", ["dora", "rslora", "lokr", "loha"])
def test_each_kind_of_adapter_is_reckoned(tmp_path, method):
    base = build_base(tmp_path / "base")
    config = FinetuneConfig(data="-", out=Path(), method=method, hldf_every=0, rank=2)
    found = Reckoner(read_shape(base), 32, 20, gpu=False).reckon(config, "fp32", "step")
    device = torch.device("cpu")
    parts = {
        pixart.load_transformer(base, torch.float32, device): pixart.FAMILY.targets,
        pixart.load_text_encoder(base, torch.float32, device): pixart.FAMILY.text_targets,
    }
    added = [
        add_adapter(part, method, rank=2, alpha=None, targets=targets)
        for part, targets in parts.items()
    ]
    trained = [it.numel() for part in added for it in part.parameters() if it.requires_grad]
    assert found.trained == sum(trained) and found.step > 0


def test_a_quantized_base_is_smaller_by_what_its_layers_store(tmp_path):
    shape = known_shape(BASE_SIZES["pixart"])
    config = FinetuneConfig(data="-", out=Path(), hldf_every=0)
    reckoner = Reckoner(shape, 512, 20, gpu=True)
    held = {
        kind: reckoner.reckon(replace(config, base_format=kind), "bf16", "step").parts
        for kind in (None, "int8", "nf4")
    }
    # docs/benchmarks.md: counted on layers of bitsandbytes, without adapters.
    for part, sizes in {
        "transformer": (1.22, 0.63, 0.34),
        "text encoder": (9.52, 5.90, 4.15),
    }.items():
        saved = [held[None][part] - held[kind][part] for kind in ("int8", "nf4")]
        assert saved == pytest.approx([1e9 * (sizes[0] - it) for it in sizes[1:]], rel=0.02)


@pytest.fixture(scope="module")
def full_size():
    """The estimate of PixArt-XL with T5-XXL on a card."""
    return Reckoner(known_shape(BASE_SIZES["pixart"]), 512, 20, gpu=True)


def test_offloading_takes_the_text_encoder_off_the_card(full_size):
    config = FinetuneConfig(data="-", out=Path(), hldf_every=0, train_text_encoder=False)
    plain = full_size.reckon(config, "bf16", "step")
    moved = full_size.reckon(replace(config, offload="text-encoder"), "bf16", "step")
    assert plain.reading > 9e9 and plain.peak == plain.reading
    assert moved.reading is None and moved.peak == moved.step == plain.step


def test_by_layers_the_card_holds_two_and_the_embeddings(full_size):
    config = FinetuneConfig(data="-", out=Path(), hldf_every=0, train_text_encoder=False)
    plain = full_size.reckon(config, "bf16", "step")
    by_layers = replace(config, offload="text-encoder-layers")
    found = full_size.reckon(by_layers, "bf16", "step")
    # T5-XXL: 24 layers of 193 million weights, 132 million of embeddings, and what a pass takes.
    working = plain.reading * 0.03 / 1.03
    assert found.reading - working == pytest.approx(2 * (2 * 193e6 + 132e6), rel=0.01)
    assert found.step == plain.step and found.parts == plain.parts
    less = full_size.reckon(replace(by_layers, base_format="int8"), "bf16", "step")
    assert 0.5 < (less.reading - working) / (found.reading - working) < 0.9
    each = full_size.reckon(replace(by_layers, use_cache=False), "bf16", "step")
    held = full_size.reckon(replace(config, use_cache=False), "bf16", "step")
    assert each.reading is None and each.parts == found.parts
    assert each.step == max(found.step, sum(found.parts.values()) + found.reading)
    assert held.step - each.step > 7e9


def test_on_a_cpu_nothing_is_saved_by_moving_the_text_encoder(tmp_path):
    config = FinetuneConfig(data="-", out=Path(), hldf_every=0, train_text_encoder=False)
    reckoner = Reckoner(read_shape(build_base(tmp_path / "base")), 32, 20, gpu=False)
    plain = reckoner.reckon(config, "fp32", "step")
    for offload in ("text-encoder", "text-encoder-layers"):
        assert reckoner.reckon(replace(config, offload=offload), "fp32", "step") == plain


def test_layers_are_extrapolated_to_the_exact_number_of_weights():
    shape = known_shape(BASE_SIZES["klein"])
    config = FinetuneConfig(data="-", out=Path(), hldf_every=0, train_text_encoder=False)
    found = Reckoner(shape, 512, 20, gpu=True).reckon(config, "bf16", "step")
    whole = shape.build_transformer()
    added = add_adapter(whole, "lora", rank=8, alpha=None, targets=shape.family.targets)
    adapters = sum(it.numel() for name, it in added.named_parameters() if "lora_" in name)
    assert found.trained == adapters
    expected = 2 * (count_numbers(added) - adapters) + 4 * adapters
    assert found.parts["transformer"] == pytest.approx(expected, rel=1e-3)  # small buffers

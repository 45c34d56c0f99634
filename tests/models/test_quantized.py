import copy
import gc
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from medart_cli.diffusion.losses import color_moments
from medart_cli.diffusion.solver import solve
from medart_cli.errors import ConfigError
from medart_cli.models import adapters, bases, quantized
from medart_cli.models.bases import find_kind, load_tokenizer
from medart_cli.models.families import build_denoiser, find_family
from tests.small import build_base
from tests.small_klein import build_klein
from tests.small_prx import build_prx
from tests.small_sana import build_sana

bitsandbytes = pytest.importorskip("bitsandbytes")

CPU = torch.device("cpu")
FORMATS = ["bf16", "int8", "nf4"]
BUILDERS = {"pixart": build_base, "sana": build_sana, "prx": build_prx, "klein": build_klein}


@pytest.fixture(scope="module", params=BUILDERS)
def base(request, tmp_path_factory):
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param) / "base")


class Blocks(nn.Module):
    """Two blocks between layers that are not quantized."""

    def __init__(self, width=64):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(width, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.last = nn.Linear(width, width)
        self.requires_grad_(False)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x).tanh()
        return self.last(x)


def quantize(model, base_format, dtype=torch.float32):
    return quantized.quantize(model, base_format, dtype, CPU)


def read_weights(layer):
    """The weights that a quantized layer stands for, by the library's own functions."""
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        return bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    if layer.scale is not None:
        return bitsandbytes.functional.int8_vectorwise_dequant(layer.weight.data, layer.scale)
    return layer.weight.float()


def build_plain(plain, model):
    """The same model of ordinary layers, with the weights that the quantized ones stand for."""
    twin = copy.deepcopy(plain)
    for name in quantized.list_quantized(plain):
        layer = model.get_submodule(name)
        assert type(layer) is not nn.Linear
        twin.get_submodule(name).weight.data = read_weights(layer)
    return twin


@pytest.mark.parametrize("base_format", FORMATS)
def test_a_layer_holds_what_the_library_rounds_its_weights_to(base_format):
    plain = Blocks()
    model = quantize(copy.deepcopy(plain), base_format)
    weight, held = plain.blocks[0].weight, read_weights(model.blocks[0])
    if base_format == "bf16":
        wanted = weight.bfloat16().float()
    elif base_format == "int8":
        codes, scale, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.half())
        wanted = bitsandbytes.functional.int8_vectorwise_dequant(codes, scale)
    else:
        codes, state = bitsandbytes.functional.quantize_4bit(
            weight, quant_type="nf4", compress_statistics=True
        )
        wanted = bitsandbytes.functional.dequantize_4bit(codes, state)
    assert torch.equal(held, wanted)
    error = ((held - weight).norm() / weight.norm()).item()
    assert error == pytest.approx({"bf16": 1.7e-3, "int8": 5e-3, "nf4": 0.08}[base_format], rel=0.4)
    assert type(model.first) is nn.Linear and type(model.last) is nn.Linear


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("base_format", FORMATS)
def test_a_pass_and_its_gradient_are_those_of_the_weights_it_stands_for(base_format, training):
    plain = Blocks()
    model = quantize(copy.deepcopy(plain), base_format).train(training)
    twin, x = build_plain(plain, model), torch.randn(2, 5, 64)
    with torch.no_grad():
        drawn = model(x)  # before, as HLDF draws: it must not change what comes after
    found = []
    for one in (model, twin):
        place = x.clone().requires_grad_()
        result = one(place)
        found.append((result, torch.autograd.grad(result.square().sum(), place)[0]))
    torch.testing.assert_close(drawn, found[1][0])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("base_format", FORMATS)
def test_under_autocast_a_layer_computes_in_bf16_as_any_other(base_format):
    plain = Blocks().to(torch.bfloat16)
    model = quantize(copy.deepcopy(plain), base_format, torch.bfloat16)
    twin, x = build_plain(plain, model).to(torch.bfloat16), torch.randn(2, 64)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(x).float(), twin(x).float(), rtol=2e-2, atol=2e-2)
        assert model(x).dtype == twin(x).dtype == torch.bfloat16


@pytest.mark.parametrize("base_format", FORMATS)
def test_in_fp16_no_sum_overflows_that_the_weights_it_stands_for_can_hold(base_format):
    plain = Blocks(width=256).half()
    model = quantize(copy.deepcopy(plain), base_format, torch.float16).blocks[0]
    x = 500 * torch.sign(read_weights(model)[:1]).half()  # what gives the first row its largest sum
    wanted = functional.linear(x.float(), read_weights(model).float(), plain.blocks[0].bias.float())
    assert 1000 < wanted.max() < 60_000
    torch.testing.assert_close(model(x).float(), wanted, rtol=5e-3, atol=2)


def test_on_a_cpu_a_quantized_part_lets_its_file_go(base):
    family = find_family(base)
    for load in (family.load_transformer, family.load_text_encoder):
        loaded = quantized.load_frozen_base(load, base, torch.float32, CPU, "bf16")
        shared = [it for it in loaded.parameters() if it.untyped_storage().nbytes() != it.nbytes]
        assert not shared
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(base) not in maps.read_text()


@pytest.mark.parametrize("base_format", FORMATS)
def test_activation_checkpointing_frees_what_a_layer_read(base_format):
    layer, kept = quantize(Blocks(), base_format).blocks[0], []

    def run(x):
        doubled = x * 2
        kept.append(weakref.ref(doubled))
        return layer(doubled)

    result = checkpoint(run, torch.randn(2, 64, requires_grad=True), use_reentrant=False)
    gc.collect()
    assert kept[0]() is None
    result.square().sum().backward()


def test_what_is_quantized_takes_the_bytes_of_its_format():
    plain = Blocks(width=256)
    rest = quantized.count_bytes(plain) - 2 * 4 * 256**2
    taken = {it: quantized.count_bytes(quantize(copy.deepcopy(plain), it)) for it in FORMATS}
    bits = {name: 8 * (count - rest) / (2 * 256**2) for name, count in taken.items()}
    assert bits["bf16"] == 16
    assert bits["int8"] == 8 + 32 / 256  # a float32 for each row
    assert bits["nf4"] == pytest.approx(4.127, abs=0.01)  # QLoRA, section 3


def find_color_loss(base, transformer, vae, text):
    """A color loss through three solver steps with guidance, in float32."""
    family = find_family(base)
    scheduler, (embeds, mask) = family.load_scheduler(base), text
    shape = (1, family.latent_channels(vae), 4, 4)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    denoise = build_denoiser(
        family, transformer, (embeds[:1], mask[:1]), (embeds[1:], mask[1:]), 4.5
    )
    latents = solve(denoise, noise, family.renew_scheduler(scheduler, 4), 3)
    return color_moments(family.decode_latents(vae, latents)).square().sum()


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("base_format", FORMATS)
def test_the_gradient_of_the_color_loss_is_that_of_the_weights_it_stands_for(
    base, base_format, kind
):
    family = find_family(base)
    load = partial(family.load_transformer, base, torch.float32, CPU)
    vae, reader = family.load_vae(base, CPU), family.load_text_encoder(base, torch.float32, CPU)
    with torch.no_grad():
        text = family.read_prompts(
            load_tokenizer(base), reader, ["a nevus", ""], pad=False, limit=find_kind(base).tokens
        )
    model = quantize(load(), base_format)
    twin = build_plain(load(), model)
    found, starts = [], []
    for one in (model, twin):
        torch.manual_seed(0)
        adapted = adapters.add_adapter(one, kind, rank=4, alpha=None, targets=family.targets)
        trained = [weight for weight in adapted.parameters() if weight.requires_grad]
        for place, weight in enumerate(trained):  # a start that is a change, and the same for both
            generator = torch.Generator().manual_seed(place)
            weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
            if starts:  # peft rounds DoRA's magnitudes to the number format of the weights
                weight.data.copy_(starts[place])
        starts = starts or [weight.detach().clone() for weight in trained]
        with torch.no_grad():
            find_color_loss(base, adapted, vae, text)
        loss = find_color_loss(base, adapted, vae, text)
        found.append((loss, torch.autograd.grad(loss, trained, allow_unused=True)))
    (loss, own), (other_loss, other) = found
    torch.testing.assert_close(loss, other_loss, rtol=1e-4, atol=1e-6)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in own) > 20
    for one, two in zip(own, other, strict=True):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-4 * float(two.norm() + 1))


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_most_weights_of_a_base_are_quantized_and_no_layer_outside_its_blocks(base, part):
    model = getattr(find_family(base), f"load_{part}")(base, torch.float32, CPU)
    names = quantized.list_quantized(model)
    assert names
    assert all(any(word.isdigit() for word in name.split(".")) for name in names)
    assert not any("wo" in name.split(".") for name in names)  # of T5
    assert not {"proj_out", "lm_head"} & {name.split(".")[0] for name in names}


def test_a_text_encoder_reads_with_the_weights_it_stands_for(base):
    family = find_family(base)
    load = partial(family.load_text_encoder, base, torch.float32, CPU)
    read = partial(family.read_prompts, load_tokenizer(base))
    for base_format in FORMATS:
        model = quantize(load(), base_format)
        with torch.no_grad():
            own, other = (
                read(one, ["a nevus"], pad=False, limit=find_kind(base).tokens)[0]
                for one in (model, build_plain(load(), model))
            )
        torch.testing.assert_close(own, other, rtol=2e-3, atol=1e-3)


def test_a_format_whose_package_is_missing_is_refused(monkeypatch):
    monkeypatch.setattr(bases, "find_spec", lambda name: None)
    told = "--base-format nf4: bitsandbytes is not installed; pip install bitsandbytes"
    with pytest.raises(ConfigError, match=told):
        bases.check_format("nf4")
    bases.check_format("bf16")
    bases.check_format(None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; not run on one so far")
@pytest.mark.parametrize("base_format", FORMATS)
def test_a_model_that_was_set_aside_computes_as_before(base_format):
    device = torch.device("cuda")
    model = quantized.quantize(Blocks(), base_format, torch.float32, device)
    x = torch.randn(2, 64, device=device)
    before = model(x)
    model.to("cpu")
    model.to(device)
    assert torch.equal(model(x), before)

import gc
import weakref
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from diffusers.hooks import group_offloading
from torch import nn

from medart_cli.errors import ConfigError
from medart_cli.models import adapters
from medart_cli.models.bases import find_kind, load_tokenizer
from medart_cli.models.families import find_family
from medart_cli.models.offload import (
    BY_LAYERS,
    LAYERS_HELD,
    check_offload,
    fetch_layers,
    find_reader,
    find_stack,
    list_layers,
    load_reader,
)
from medart_cli.models.quantized import load_frozen_base
from tests.small import build_base
from tests.small_klein import build_klein
from tests.small_prx import build_prx
from tests.small_sana import build_sana

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BUILDERS = {"pixart": build_base, "sana": build_sana, "prx": build_prx, "klein": build_klein}
PROMPTS = ["large brown lesion with irregular border", ""]


@pytest.fixture(scope="module", params=BUILDERS)
def base(request, tmp_path_factory):
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param) / "base")


def load(base, place=CPU, base_format=None):
    dtype = torch.float32
    return load_frozen_base(find_family(base).load_text_encoder, base, dtype, place, base_format)


def read(base, text_encoder):
    """The embeddings of each prompt, one by one, as the commands read them."""
    family, tokenizer, limit = find_family(base), load_tokenizer(base), find_kind(base).tokens
    with torch.no_grad():
        return [
            family.read_prompts(tokenizer, text_encoder, [prompt], pad=False, limit=limit)[0]
            for prompt in PROMPTS
        ]


def same(found, expected):
    return all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def size(tensors):
    return sum(it.numel() * it.element_size() for it in tensors)


class Ledger:
    """What diffusers has on the device of computation: the groups it has moved there, and not back.

    Attributes:
        most: Most bytes at a time.
        astray: Weights that were used while they were not there.
    """

    def __init__(self, monkeypatch):
        self.there, self.most, self.astray = {}, 0, set()
        group = group_offloading.ModuleGroup
        bring, away = group.onload_, group.offload_

        def onload(it):
            bring(it)
            self.there |= {id(tensor): tensor for tensor in self.list_tensors(it)}
            self.most = max(self.most, size(self.there.values()))

        def offload(it):
            away(it)
            for tensor in self.list_tensors(it):
                self.there.pop(id(tensor), None)

        monkeypatch.setattr(group, "onload_", onload)
        monkeypatch.setattr(group, "offload_", offload)

    @staticmethod
    def list_tensors(group):
        return [*(it for module in group.modules for it in module.parameters()), *group.parameters]

    def watch(self, model):
        """Note each weight that a module of its own uses while it is not there."""

        def check(module, _):
            self.astray |= {id(it) for it in module.parameters(False)} - self.there.keys()

        for module in model.modules():
            if not [*module.children()]:
                module.register_forward_pre_hook(check)


@pytest.fixture
def ledger(monkeypatch):
    return Ledger(monkeypatch)


@pytest.fixture
def no_gpu(monkeypatch):
    """Let diffusers prefetch as on a GPU, without one: nothing is copied, streams do nothing."""

    class Stream:
        def synchronize(self):
            pass

    backend = SimpleNamespace(
        Stream=Stream, stream=lambda _: nullcontext(), current_stream=lambda: Stream()
    )

    @contextmanager
    def pinned(group):
        yield group.cpu_param_dict

    group = group_offloading.ModuleGroup
    monkeypatch.setattr(group_offloading, "TorchDeviceBackend", lambda device: backend)
    monkeypatch.setattr(group_offloading, "send_to_device", lambda given, *_, **__: given)
    monkeypatch.setattr(group, "_pinned_memory_tensors", pinned)
    monkeypatch.setattr(group, "_transfer_tensor_to_device", lambda *_: None)


def measure(text_encoder):
    """Bytes of each layer, and of all that stands outside."""
    layers = [size(layer.parameters()) for layer in list_layers(text_encoder)]
    return layers, size(text_encoder.parameters()) - sum(layers)


def test_by_layers_never_more_than_one_is_there_and_embeddings_are_the_same(base, ledger):
    text_encoder = load(base)
    expected, (layers, outside) = read(base, text_encoder), measure(text_encoder)
    fetch_layers(text_encoder, CPU)
    ledger.watch(find_stack(text_encoder))
    assert same(read(base, text_encoder), expected)
    assert ledger.most == outside + max(layers) < size(text_encoder.parameters())
    assert not ledger.astray and not ledger.there


def test_on_a_gpu_the_next_layer_is_there_too_and_no_more(base, ledger, no_gpu):
    text_encoder = load(base)
    expected, (layers, outside) = read(base, text_encoder), measure(text_encoder)
    fetch_layers(text_encoder, GPU)
    ledger.watch(find_stack(text_encoder))
    assert same(read(base, text_encoder), expected)
    most = max(one + after for one, after in pairwise(layers))
    assert ledger.most == outside + most <= outside + LAYERS_HELD * max(layers)
    assert not ledger.astray and not ledger.there


@pytest.mark.parametrize("base_format", ["bf16", "int8"])
def test_a_quantized_text_encoder_is_read_by_layers(tmp_path, base_format, ledger):
    if base_format == "int8":
        pytest.importorskip("bitsandbytes")
    base = build_base(tmp_path / "base")
    expected = read(base, load(base, base_format=base_format))
    moved = load_reader(lambda place: load(base, place, base_format), BY_LAYERS, CPU)
    assert same(read(base, moved), expected)
    assert 0 < ledger.most < size(moved.parameters())


def test_a_quantized_text_encoder_is_prefetched_with_its_scales(tmp_path, ledger, no_gpu):
    pytest.importorskip("bitsandbytes")
    base = build_base(tmp_path / "base")
    expected, moved = read(base, load(base, base_format="int8")), load(base, base_format="int8")
    layers, outside = measure(moved)
    fetch_layers(moved, GPU)
    assert same(read(base, moved), expected)
    assert ledger.most == outside + sum(layers)  # there are two


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_text_encoder_with_trained_adapters_is_read_by_layers(tmp_path, kind, ledger):
    base = build_base(tmp_path / "base")
    trained = adapters.add_adapter(
        load(base), kind=kind, rank=2, alpha=None, targets=find_family(base).text_targets
    )
    for name, weight in trained.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    adapters.save_part(trained, tmp_path / "run" / "text_encoder")

    def load_trained(place):
        return adapters.load_trained_text_encoder(base, tmp_path / "run", torch.float32, place)

    expected = read(base, load_trained(CPU))
    assert not same(expected, read(base, load(base)))
    moved = load_reader(load_trained, BY_LAYERS, CPU)
    assert same(read(base, moved), expected)
    assert 0 < ledger.most < size(moved.parameters()) and not ledger.there


def test_the_text_encoder_computes_where_offload_says():
    assert [find_reader(it, GPU).type for it in ("none", BY_LAYERS, "text-encoder")] == [
        "cuda", "cuda", "cpu",
    ]  # fmt: skip
    assert (
        load_reader(str, "none", GPU) == "cuda" and load_reader(str, "text-encoder", GPU) == "cpu"
    )


def test_the_weights_are_let_go(tmp_path):
    text_encoder = load(build_base(tmp_path / "base"))
    fetch_layers(text_encoder, CPU)
    there = weakref.ref(text_encoder)
    del text_encoder
    gc.collect()
    assert there() is None


def test_nf4_by_layers_and_fp16_on_the_cpu_are_refused():
    with pytest.raises(ConfigError, match="--offload text-encoder-layers: layers in nf4 cannot"):
        check_offload(BY_LAYERS, "auto", "nf4")
    for offload, base_format in ((BY_LAYERS, "int8"), (BY_LAYERS, None), ("text-encoder", "nf4")):
        check_offload(offload, "bf16", base_format)
    check_offload(BY_LAYERS, "fp16")
    with pytest.raises(ConfigError, match="--offload text-encoder: not with --precision fp16"):
        check_offload("text-encoder", "fp16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_reads_by_layers_what_it_reads_with_all_weights(base):
    expected, there = read(base, load(base, GPU)), torch.cuda.memory_allocated()
    text_encoder = load_reader(lambda place: load(base, place), BY_LAYERS, GPU)
    found = read(base, text_encoder)
    assert all(it.is_cuda for it in found) and same(found, expected)
    assert text_encoder.device.type == "cpu" and torch.cuda.memory_allocated() - there < 1 << 16

"""A quantized base through finetune, a stop, sample and merge, for each kind of base."""

import json
import re

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from medart_cli.models import adapters, quantized
from medart_cli.models.families import find_family
from tests.small import build_base
from tests.small_klein import build_klein
from tests.small_prx import build_prx
from tests.small_sana import build_sana

pytest.importorskip("bitsandbytes")

CPU = torch.device("cpu")
FROZEN = ("--freeze-text-encoder",)
# How to build a small one, an image side that is 4 or 8 latents, and what it needs besides.
KINDS = {
    "pixart": (build_base, 16, ()),
    "sana": (build_sana, 16, FROZEN),
    "prx": (build_prx, 16, FROZEN),
    "klein": (build_klein, 32, FROZEN),
}


one_kind = pytest.mark.parametrize("kind", ["pixart"], indirect=True)


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    build, side, options = KINDS[request.param]
    return build(tmp_path_factory.mktemp(request.param) / "base"), side, options


@pytest.fixture
def train(kind, images, tmp_path, medart):
    def run(out, *options, steps=4, code=0):
        base, side, own = kind
        found, _, err = medart(
            "finetune", images, "--base", base, "--out", tmp_path / out, "--resolution", side,
            "--steps", steps, "--preview-every", 0, "--hldf-every", 2,
            "--hldf-steps", 2, "--device", "cpu", *own, *options,
        )  # fmt: skip
        assert found == code, err
        return tmp_path / out

    return run


@pytest.fixture
def draw(kind, images, tmp_path, medart):
    def run(source, out, *options, code=0):
        words = ("--from", images, "--count", 2, "--steps", 2, "--resolution", kind[1])
        found, _, err = medart(
            "sample", source, *words, "--out", tmp_path / out, "--device", "cpu", *options
        )
        assert found == code, err
        if code:
            return err
        pictures = sorted((tmp_path / out).glob("0*.png"))
        facts = json.loads((tmp_path / out / "sample.json").read_text())
        return [path.read_bytes() for path in pictures], facts["base_format"], err

    return run


def weights(run):
    files = sorted(run.glob("t*/adapter_model.safetensors"))
    return {(it.parent.name, key): value for it in files for key, value in load_file(it).items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_resumed_run_is_the_uninterrupted_one_and_is_merged_in_full_precision(kind, train):
    options = ("--base-format", "nf4", "--learning-rate", "1e-2")
    options += ("--preview-every", 2, "--preview-count", 1)
    whole = train("whole", *options, "--merge")
    half = train("half", *options, steps=2)
    train("half", *options, steps=4)
    assert same(weights(whole), weights(half))
    assert json.loads((whole / "run.json").read_text())["base_format"] == "nf4"

    load = find_family(kind[0]).load_transformer
    plain = load(kind[0], torch.float32, CPU)
    wanted = adapters.load_adapter(plain, whole / "transformer", merge=True).state_dict()
    merged = load(whole / "merged", torch.float32, CPU).state_dict()
    assert merged.keys() == wanted.keys()
    assert all(torch.equal(merged[key], wanted[key]) for key in wanted)
    original = load(kind[0], torch.float32, CPU).state_dict()
    assert 0 < sum(torch.equal(merged[key], original[key]) for key in original) < len(original)
    config = json.loads((whole / "merged" / "transformer" / "config.json").read_text())
    assert "quantization_config" not in config
    assert "(on a base in nf4)" in (whole / "merged" / "README.md").read_text()


@one_kind
def test_a_run_is_not_continued_in_another_format(train):
    train("run", "--base-format", "nf4", steps=1)
    train("run", "--base-format", "int8", steps=2, code=2)
    train("run", steps=2, code=2)


@one_kind
@pytest.mark.parametrize("base_format", ["int8", "nf4"])
def test_recomputing_gives_the_same_weights(train, base_format):
    options = ("--base-format", base_format, "--hldf-checkpoint")
    plain = weights(train("plain", *options, "none"))
    other = weights(train("step", *options, "step", "--gradient-checkpointing"))
    for key in plain:
        torch.testing.assert_close(other[key], plain[key], atol=1e-6, rtol=1e-5)


@one_kind
def test_a_cache_of_embeddings_belongs_to_its_format(train, tmp_path):
    cache, seen = ("--cache", tmp_path / "cache", *FROZEN), set()
    for name in (None, "bf16", "int8", "nf4"):
        options = ("--base-format", name) if name else ()
        train(f"run-{name}", *options, *cache, steps=1)
        entries = {*(tmp_path / "cache" / "text").rglob("*.safetensors")}
        assert len(entries - seen) == 3, name  # two captions and the empty one
        seen = entries


@pytest.mark.parametrize("kind", ["sana"], indirect=True)  # which reads each prompt by itself
def test_a_cache_changes_nothing(train):
    options = ("--base-format", "nf4")
    with_cache = weights(train("with", *options, steps=2))
    assert same(with_cache, weights(train("without", *options, "--no-cache", steps=2)))


@one_kind
def test_images_are_drawn_on_the_base_that_was_trained_on_unless_asked_otherwise(train, draw):
    run = train("run", "--base-format", "nf4", "--learning-rate", "1e-2")
    own, own_format, err = draw(run, "own")
    named, named_format, _ = draw(run, "named", "--base-format", "nf4")
    assert own == named and own_format == named_format == "nf4"
    assert "sampling on" not in err
    err = draw(run, "layers", "--offload", "text-encoder-layers", code=2)
    assert "layers in nf4 cannot be moved one by one; use --offload text-encoder or" in err
    full, full_format, err = draw(run, "full", "--base-format", "full")
    assert full != own and full_format is None
    assert "trained on a base in nf4, sampling on one in full precision" in err
    again, again_format, _ = draw(train("plain"), "int8", "--base-format", "int8")
    assert again != own and again_format == "int8"


@one_kind
def test_a_plain_base_is_drawn_in_a_format_too(kind, draw):
    plain, plain_format, _ = draw(kind[0], "plain")
    small, small_format, _ = draw(kind[0], "small", "--base-format", "nf4")
    assert plain != small and (plain_format, small_format) == (None, "nf4")


@one_kind
@pytest.mark.parametrize("base_format", [None, "int8", "nf4"])
def test_plain_peft_puts_the_adapters_on_a_base_of_any_format(kind, train, base_format):
    base, family = kind[0], find_family(kind[0])
    run = train("run", "--base-format", "nf4", steps=1)
    model = quantized.load_frozen_base(
        family.load_transformer, base, torch.float32, CPU, base_format
    )
    loaded = PeftModel.from_pretrained(model, str(run / "transformer")).state_dict()
    for (part, key), value in weights(run).items():
        if part == "transformer":
            name = re.sub(r"(lora_[AB]|lora_embedding_[AB])", r"\1.default", key)
            assert torch.equal(loaded[name], value), key


@one_kind
def test_what_cannot_be_quantized_is_refused_in_one_line(train, kind, images, tmp_path, medart):
    words = ("finetune", images, "--base", kind[0], "--out", tmp_path / "run", "--base-format")
    for options, told in {
        ("nf4", "--method", "full"): "--base-format nf4: is for a frozen base under adapters; ",
        ("bf16", "--precision", "bf16"): "--base-format: has no effect with --precision bf16",
    }.items():
        code, _, err = medart(*words, *options)
        assert code == 2 and told in err and err.count("\n") == 1, err
        assert not (tmp_path / "run").exists()
    run = train("done", steps=1)
    code, _, err = medart("sample", run, "--merge-to", tmp_path / "m", "--base-format", "int8")
    assert code == 2 and "--base-format: has no effect without --out" in err


@one_kind
def test_the_color_loss_falls_on_a_quantized_base(train):
    options = ("--hldf-every", 1, "--learning-rate", "1e-2", "--batch-size", 4)
    run = train("run", "--base-format", "nf4", *options, steps=12)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    colors = [row["color_loss"] for row in rows]
    assert sum(colors[-4:]) < 0.9 * sum(colors[:4])

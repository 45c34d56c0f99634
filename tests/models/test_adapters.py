import pytest
import torch
from diffusers import PixArtAlphaPipeline
from torch import nn

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models import adapters, pixart
from tests.small import DAMAGES, build_base, damage

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora", "lokr", "loha"])
def test_fresh_adapters_change_nothing_and_saved_ones_come_back(small_base, tmp_path, kind):
    latents, times = torch.randn(1, 4, 8, 8), torch.tensor([500])
    text = torch.randn(1, 3, 16), torch.ones(1, 3, dtype=torch.long)

    def load():
        return pixart.load_transformer(small_base, torch.float32, CPU)

    def add(model):
        return adapters.add_adapter(model, kind, rank=4, alpha=None, targets=pixart.FAMILY.targets)

    plain = pixart.predict_noise(load(), latents, times, *text)
    adapted = add(load())
    torch.testing.assert_close(pixart.predict_noise(adapted, latents, times, *text), plain)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    moved = pixart.predict_noise(adapted, latents, times, *text)
    assert not torch.allclose(moved, plain, atol=1e-3)

    (tmp_path / "saved").mkdir()
    adapters.save_part(adapted, tmp_path / "saved")
    assert adapters.is_adapter(tmp_path / "saved")
    assert {path.suffix for path in (tmp_path / "saved").iterdir()} == {".json", ".safetensors"}
    restored = add(load())
    adapters.restore_part(restored, tmp_path / "saved")
    assert torch.equal(pixart.predict_noise(restored, latents, times, *text), moved)
    merged = adapters.load_adapter(load(), tmp_path / "saved", merge=True)
    torch.testing.assert_close(
        pixart.predict_noise(merged, latents, times, *text), moved, rtol=1e-3, atol=1e-4
    )


def test_the_start_is_gaussian_and_the_factor_is_alpha_over_rank(small_base):
    model = pixart.load_transformer(small_base, torch.float32, CPU)
    adapted = adapters.add_adapter(model, "lora", rank=8, alpha=None, targets=["proj_out"])
    layer = adapted.base_model.model.proj_out
    assert layer.scaling["default"] == 1.0
    assert layer.lora_B["default"].weight.abs().max() == 0
    # peft draws A from N(0, 1 / rank^2)
    assert layer.lora_A["default"].weight.std().item() == pytest.approx(1 / 8, rel=0.2)


@pytest.mark.parametrize("kind", ["lora", "lokr", "loha"])
def test_adapters_of_a_half_precision_model_are_trained_in_float32(small_base, kind):
    model = pixart.load_transformer(small_base, torch.bfloat16, CPU)
    adapted = adapters.add_adapter(model, kind, rank=2, alpha=None, targets=["to_q"])
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    latents, times = torch.randn(1, 4, 8, 8), torch.tensor([500])
    text = torch.randn(1, 3, 16), torch.ones(1, 3, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        pixart.predict_noise(adapted, latents, times, *text).square().sum().backward()
    assert any(p.grad.abs().max() > 0 for p in trained)


@pytest.mark.parametrize("kind", ["lokr", "loha"])
def test_the_factor_of_products_is_alpha_over_rank_whatever_the_rank(small_base, kind):
    def change(rank, alpha):
        model = pixart.load_transformer(small_base, torch.float32, CPU)
        torch.manual_seed(0)
        adapted = adapters.add_adapter(model, kind, rank=rank, alpha=alpha, targets=["proj_out"])
        for parameter in adapted.parameters():
            parameter.data.fill_(0.5)
        return adapted.base_model.model.proj_out.get_delta_weight("default")

    for rank in (2, 64):  # 64 is more than the layer has: LoKr's second factor is whole
        torch.testing.assert_close(change(rank, None), change(rank, float(rank)))
        torch.testing.assert_close(change(rank, 3.0 * rank), 3 * change(rank, None))


def test_an_embedding_gets_lora_and_is_refused_to_what_cannot_change_it():
    model = nn.Sequential()
    model.words = nn.Embedding(8, 4)
    adapters.add_adapter(model, "lora", rank=2, alpha=None, targets=["words"])
    for kind in ("lokr", "loha"):
        model = nn.Sequential()
        model.words = nn.Embedding(8, 4)
        with pytest.raises(ConfigError, match=f"words: is an embedding, which --method {kind}"):
            adapters.add_adapter(model, kind, rank=2, alpha=None, targets=["words"])


def test_a_target_that_matches_nothing_is_named(small_base):
    model = pixart.load_text_encoder(small_base, torch.float32, CPU)
    told = "target wi: matches no module of T5EncoderModel; use one of wi_"
    with pytest.raises(ConfigError, match=told):
        adapters.add_adapter(model, "lora", rank=2, alpha=None, targets=["q", "wi"])


def test_a_target_that_is_a_block_of_layers_is_refused_and_its_layers_are_named(small_base):
    model = pixart.load_transformer(small_base, torch.float32, CPU)
    told = r"ff: is not a layer but a FeedForward; use one of ff\.net\.0"
    with pytest.raises(ConfigError, match=told):
        adapters.add_adapter(model, "lora", rank=2, alpha=None, targets=["ff"])


def test_a_merged_run_is_drawn_at_its_own_size_by_the_stock_pipeline(tmp_path):
    base = build_base(tmp_path / "base", sample_size=64, latent_levels=4)
    merged = tmp_path / "merged"
    adapters.merge_run(base, base, merged, resolution=256)
    prompt = {"prompt": "red lesion", "num_inference_steps": 2, "clean_caption": False}
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    own = PixArtAlphaPipeline.from_pretrained(base)(
        **prompt, latents=noise.clone(), height=256, width=256, output_type="np"
    ).images
    stock = PixArtAlphaPipeline.from_pretrained(merged)(
        **prompt, latents=noise.clone(), output_type="np"
    ).images
    assert stock.shape == (1, 256, 256, 3)
    assert abs(stock - own).max() < 1e-5
    transformer = pixart.load_transformer(merged, torch.float32, CPU)
    assert pixart.native_size(merged, transformer, pixart.load_vae(merged, CPU)) == 256


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_adapters_come_back_whole_or_not_at_all(small_base, tmp_path, part, how):
    targets = ["to_q"] if part == "transformer" else ["q"]

    def load():
        loader = getattr(pixart, f"load_{part}")
        return loader(small_base, torch.float32, CPU)

    def add():
        return adapters.add_adapter(load(), "lora", rank=2, alpha=None, targets=targets)

    (tmp_path / "saved").mkdir()
    adapters.save_part(add(), tmp_path / "saved")
    damage(tmp_path / "saved", how)
    for bring_back in (
        lambda: adapters.load_adapter(load(), tmp_path / "saved"),
        lambda: adapters.restore_part(add(), tmp_path / "saved"),
    ):
        with pytest.raises(MissingModelError, match=f"saved: {DAMAGES[how]}"):
            bring_back()


def test_a_grouped_convolution_is_refused_since_its_adapter_cannot_be_merged():
    model = nn.Sequential()
    model.conv_depth = nn.Conv2d(4, 4, 3, groups=4)
    model.conv_point = nn.Conv2d(4, 4, 1)
    with pytest.raises(ConfigError, match=r"conv_depth: is a grouped convolution, whose adapters"):
        adapters.add_adapter(model, "lora", rank=2, alpha=None, targets=["conv_depth"])
    adapted = adapters.add_adapter(model, "lora", rank=2, alpha=None, targets=["conv_*"])
    assert [name for name, _ in adapted.named_modules() if name.endswith("lora_A.default")] == [
        "base_model.model.conv_point.lora_A.default"
    ]

"""Small models of random weights, of the same classes and in the same folders as the real ones.

Also a command, for trying medart by hand: python -m tests.small FOLDER
"""

import json
import sys
from pathlib import Path

import sentencepiece
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

WORDS = """a medical image of melanoma nevus seborrheic keratosis basophil eosinophil monocyte
dermoscopic microscopic photograph shows small large round brown dark red blue lesion with
irregular smooth border surface texture cell nucleus skin pink pale""".split()


def build_base(
    folder: Path,
    *,
    sigma: bool = False,
    sample_size: int = 32,
    latent_levels: int = 2,
    seed: int = 0,
    hub_layout: bool = True,
    layers: int = 2,
) -> Path:
    """Save a PixArt pipeline folder; by default laid out like the hub's PixArt-XL-2-512x512."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(folder / "tokenizer")
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=256, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu", dropout_rate=0.1,
        )
    )  # fmt: skip
    for parameter in text_encoder.parameters():  # T5's own start is far too loud at this width
        parameter.data.normal_(0, 0.3)
    text_encoder.save_pretrained(folder / "text_encoder", max_shard_size="8KB")
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=layers, cross_attention_dim=24,
        sample_size=sample_size, caption_channels=16, norm_num_groups=8,
        use_additional_conditions=False if sigma else None,
    )  # fmt: skip
    transformer.save_pretrained(folder / "transformer")
    channels = (16, 16, 16, 16)[:latent_levels]
    AutoencoderKL(
        block_out_channels=channels, norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * latent_levels,
        up_block_types=("UpDecoderBlock2D",) * latent_levels,
        scaling_factor=0.13025 if sigma else 0.18215,
    ).save_pretrained(folder / "vae")  # fmt: skip
    DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=2e-2, beta_schedule="linear", solver_order=2,
        algorithm_type="dpmsolver++", solver_type="midpoint",
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    name = "Transformer2DModel" if hub_layout else "PixArtTransformer2DModel"
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": name}))
    index = {
        "_class_name": "PixArtSigmaPipeline" if sigma else "PixArtAlphaPipeline",
        "_diffusers_version": "0.22.0",
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", name],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def build_tokenizer(folder: Path) -> None:
    """Train a sentencepiece model on a few words; save `spiece.model` alone, as the hub has it."""
    folder.mkdir(parents=True)
    sentences = [" ".join(WORDS[start:] + WORDS[:start]) for start in range(len(WORDS))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(folder / "spiece"), vocab_size=120,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()


DAMAGES = {
    "missing": "1 weights are missing, such as ",
    "misshapen": "1 weights have another shape, such as ",
    "unexpected": "1 weights are unexpected, such as more.weight",
}


def damage(folder: Path, how: str) -> None:
    """Take a matrix out of a model's weights, cut it, or add one that the model does not know."""
    files = {path: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    matrices = {
        key: path for path, held in files.items() for key in held if held[key].dim() in (2, 4)
    }
    key = next(key for key in sorted(matrices) if "shared" not in key)
    path = matrices[key]
    if how == "missing":
        del files[path][key]
    elif how == "misshapen":
        files[path][key] = files[path][key][:-1].contiguous()
    else:
        key = "more.weight"
        files[path][key] = torch.zeros(2)
    save_file(files[path], path, metadata={"format": "pt"})
    for index in folder.glob("*.index.json"):
        facts = json.loads(index.read_text())
        facts["weight_map"] = {key: path.name for path, held in files.items() for key in held}
        index.write_text(json.dumps(facts))


if __name__ == "__main__":
    build_base(Path(sys.argv[1]))

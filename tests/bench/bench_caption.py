"""Images per second of batched captioning against one by one, same model, one run.

Random weights and a fixed number of new tokens, so that only speed is measured:
    python -m tests.bench.bench_caption --shape 8b      # LLaVA-NeXT 8B, on a GPU of 24 GB or more
    python -m tests.bench.bench_caption --shape small   # on a CPU
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
)

from medart_cli.data.profiles import read_profile
from medart_cli.models.captioner import Captioner
from medart_cli.models.chat import build_chat
from medart_cli.models.device import find_device, hush_libraries
from medart_cli.models.questions import Question, Sampling
from tests.small_captioner import TEMPLATE, build_tokenizer

# Text and vision sizes: those of llava-hf/llama3-llava-next-8b-hf, and a sixtieth of it.
SHAPES = {
    "8b": (
        {
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128320,
            "max_position_embeddings": 8192, "rope_theta": 500000.0,
        },
        {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "projection_dim": 768,
        },
        336,
    ),
    "small": (
        {
            "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
            "num_attention_heads": 12, "num_key_value_heads": 4, "vocab_size": 32064,
            "max_position_embeddings": 4096,
        },
        {
            "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6,
            "num_attention_heads": 6, "projection_dim": 384,
        },
        112,
    ),
}  # fmt: skip


def build_captioner(shape: str, device: torch.device, new_tokens: int) -> Captioner:
    """Make a model of that shape in memory, as if it had been loaded."""
    text, vision, side = SHAPES[shape]
    tokenizer = build_tokenizer()
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    tiles = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(image_size=side, patch_size=14, **vision),
        text_config=LlamaConfig(**text),
        image_grid_pinpoints=tiles,
        image_token_index=image_token,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    captioner = Captioner(
        Path(shape), device=device, dtype=dtype, sampling=Sampling(max_new_tokens=new_tokens)
    )
    torch.set_default_dtype(dtype)
    with device:
        captioner.model = LlavaNextForConditionalGeneration(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=tiles,
        ),
        tokenizer,
        chat_template=TEMPLATE,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    captioner.prepare(build_chat(Path(shape), processor, [tokenizer.eos_token_id]))
    captioner.model.generation_config.min_new_tokens = new_tokens  # none ends early
    return captioner


def measure(captioner: Captioner, questions: list[Question], batch_size: int) -> float:
    """Return images per second."""
    captioner.batch_size = batch_size
    started = time.perf_counter()
    count = sum(item is not None for item in captioner.ask(questions))
    assert count == len(questions)
    if captioner.device.type == "cuda":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--new-tokens", type=int, default=120)
    parser.add_argument("--image-side", type=int, default=512)
    options = parser.parse_args()
    hush_libraries("transformers", "diffusers")
    device = find_device(options.device)
    torch.manual_seed(0)
    captioner = build_captioner(options.shape, device, options.new_tokens)
    # The small tokenizer makes about one token of each letter: as many as the real prompt has.
    prompt = read_profile("dermoscopy").build_prompt({"label": "nevus"})[:150]
    noise = np.random.default_rng(0)
    shape = (options.image_side, options.image_side, 3)
    questions = [
        Question(Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)), prompt, seed)
        for seed in range(options.images)
    ]
    measure(captioner, questions[:1], 1)  # the first call warms up
    alone = measure(captioner, questions, 1)
    facts = {
        "shape": options.shape,
        "parameters": sum(item.numel() for item in captioner.model.parameters()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "images": options.images,
        "new_tokens": options.new_tokens,
        "one_by_one_images_per_second": alone,
    }
    for size in options.batch_sizes:
        batched = measure(captioner, questions, size)
        facts[f"batch_{size}"] = {"images_per_second": batched, "times_as_fast": batched / alone}
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()

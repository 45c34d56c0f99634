"""Small LLaVA and LLaVA-NeXT models of random weights, with their real processors and templates.

Also a command, for trying medart by hand: python -m tests.small_captioner FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

# The words of the models' turns, as llava-hf's own templates have them.
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<image>\n"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SIDE = 28  # pixels the vision tower sees
PATCH = 14


def build_llava(folder: Path, *, seed: int = 0, width: int = 32) -> Path:
    """Save a LLaVA-1.5-class model: one view of the image."""
    tokenizer = build_tokenizer()
    settings = {"patch_size": PATCH, "vision_feature_select_strategy": "default"}
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer,
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
        **settings,
    )
    torch.manual_seed(seed)
    config = LlavaConfig(**_parts(tokenizer, width), image_seq_length=(SIDE // PATCH) ** 2)
    return _save(folder, LlavaForConditionalGeneration(config), processor)


def build_llava_next(folder: Path, *, seed: int = 0, width: int = 32) -> Path:
    """Save a LLaVA-NeXT-class model, as the paper's: the whole image and its tiles."""
    tokenizer = build_tokenizer()
    tiles = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(
            size={"shortest_edge": SIDE},
            crop_size={"height": SIDE, "width": SIDE},
            image_grid_pinpoints=tiles,
        ),
        tokenizer,
        chat_template=TEMPLATE,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    torch.manual_seed(seed)
    config = LlavaNextConfig(**_parts(tokenizer, width), image_grid_pinpoints=tiles)
    return _save(folder, LlavaNextForConditionalGeneration(config), processor)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer on two sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = "A dermoscopic image of a nevus. It shows brown colors and a round border on the skin."
    tokenizer.train_from_iterator(
        [words],
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<s>", "</s>", "<pad>", "<image>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def _parts(tokenizer: PreTrainedTokenizerFast, width: int) -> dict:
    vision = CLIPVisionConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2,
        image_size=SIDE, patch_size=PATCH, projection_dim=width,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=2048, initializer_range=0.6,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
    }


def _save(folder: Path, model: torch.nn.Module, processor: Any) -> Path:
    # As hub models have it: settings that would draw at random, if they were obeyed.
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.9,
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    build_llava_next(Path(sys.argv[1]))

"""Train the `tiny` captioner: a LLaVA that sees phantoms and tells their attributes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from medart_cli.data.profiles import Profile, read_profile
from medart_cli.log import progress
from medart_cli.models.hub import DEMONSTRATION_KEY
from medart_cli.tiny.make.training import BATCH_SIZE, LEARNING_RATE, build_trapezoid, step_optimizer
from medart_cli.tiny.phantoms import DOMAINS, PROFILE, SIDE, Phantom, describe_phantom, draw_phantom

PATCH = 8  # pixels a side of what one image token stands for
TOKENS = (SIDE // PATCH) ** 2
IGNORED = -100  # a label that transformers leaves out of the loss
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<image>\n"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_captioner(out: Path, *, steps: int, seed: int, device: torch.device) -> None:
    """Train on fresh phantoms of both domains, and save in fp16.

    It is asked just as `medart caption --profile phantom` asks, and learns the answer alone.

    Args:
        out: Folder to write, in the layout of transformers.
        steps: Optimizer steps of 32 images.
        seed: Of weights and images.
        device: Where to train.
    """
    profile = read_profile(PROFILE)
    processor = build_processor(profile)
    torch.manual_seed(seed)
    model = build_model(processor.tokenizer).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-2
    )
    schedule = build_trapezoid(optimizer, steps)
    generator = np.random.default_rng([seed, 5])
    with progress("captioner", steps) as bar:
        for _ in range(steps):
            batch = draw_dialogs(generator, processor, profile)
            loss = model(**{name: item.to(device) for name, item in batch.items()}).loss
            step_optimizer(loss, model, optimizer, schedule)
            bar.advance({"loss": loss.item()})
    model.generation_config = GenerationConfig(
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    setattr(model.config, DEMONSTRATION_KEY, True)
    model.half().save_pretrained(out)
    processor.save_pretrained(out)


def build_processor(profile: Profile) -> LlavaProcessor:
    """Make the processor: 64-pixel images, and a byte-level tokenizer that knows the captions."""
    generator = np.random.default_rng(0)
    phantoms = [describe_phantom(generator, domain) for domain in DOMAINS for _ in range(2000)]
    texts = [text for item in phantoms for text in (ask(profile, item), item.caption())]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=["<s>", "</s>", "<pad>", "<image>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return LlavaProcessor(
        images, fast, chat_template=TEMPLATE, patch_size=PATCH,
        num_additional_image_tokens=1, vision_feature_select_strategy="default",
    )  # fmt: skip


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Make the untrained model: a CLIP vision tower before a Llama, 128 wide."""
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        image_size=SIDE, patch_size=PATCH, projection_dim=128,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision, text_config=text, image_seq_length=TOKENS,
            vision_feature_layer=-1,  # the last; the default leaves one layer out
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )  # fmt: skip


def ask(profile: Profile, phantom: Phantom) -> str:
    """Word the question as the caption stage does."""
    return profile.build_prompt({"label": phantom.label})


def draw_dialogs(
    generator: np.random.Generator, processor: LlavaProcessor, profile: Profile
) -> dict[str, Tensor]:
    """Draw phantoms with their questions and answers; only the answers count in the loss."""
    phantoms = [
        describe_phantom(generator, "shifted" if generator.random() < 0.35 else "base")
        for _ in range(BATCH_SIZE)
    ]
    images = [draw_phantom(item, generator) for item in phantoms]
    talks = [[_question(profile, item)] for item in phantoms]
    asked = processor.apply_chat_template(talks, add_generation_prompt=True)
    tokenizer = processor.tokenizer
    rows, labels = [], []
    for text, phantom in zip(asked, phantoms, strict=True):
        question = tokenizer(text.replace("<image>", "<image>" * TOKENS)).input_ids
        answer = [*tokenizer(" " + phantom.caption()).input_ids, tokenizer.eos_token_id]
        rows.append(question + answer)
        labels.append([IGNORED] * len(question) + answer)
    return {
        "pixel_values": processor.image_processor(images, return_tensors="pt").pixel_values,
        "input_ids": _stack(rows, tokenizer.pad_token_id),
        "attention_mask": _stack([[1] * len(row) for row in rows], 0),
        "labels": _stack(labels, IGNORED),
    }


def _question(profile: Profile, phantom: Phantom) -> dict[str, Any]:
    content = [{"type": "image"}, {"type": "text", "text": ask(profile, phantom)}]
    return {"role": "user", "content": content}


def _stack(rows: list[list[int]], filler: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])

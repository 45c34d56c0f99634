"""Small captioners of random weights, one of each family, with the family's own processor.

Nothing is taken from a hub: the tokenizer is trained here, and the chat template is written here
with the family's own marks of turns, images and thoughts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers as hf
from transformers import GenerationConfig, PreTrainedTokenizerFast

from tests.small_captioner import build_llava, build_llava_next, build_tokenizer

WIDTH = 32
CHATML = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
GEMMA = ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n")
GLM = ("<|user|>\n", "<|assistant|>\n")
MISTRAL = ("[INST]", "[/INST]")
LLAMA = ("<|start_header_id|>user<|end_header_id|>\n\n",
         "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")  # fmt: skip
COHERE = ("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
          "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>")  # fmt: skip
THINK = ("<think>", "</think>")
SWITCH = (
    "{%% if enable_thinking is defined and enable_thinking is false %%}%s\n\n%s\n\n"
    "{%% else %%}%s\n{%% endif %%}"
)


@dataclass(frozen=True)
class Family:
    """How one family is built and how it writes its thoughts.

    Attributes:
        build: Tokenizer and chat template -> processor and model.
        turns: What its template writes before a question and after it.
        image: What its template writes for an image.
        named: Tokens that its processor asks the tokenizer for by name.
        more: Further special tokens.
        thought: Marks of a thought.
        switch: Whether its template can be asked for no thoughts, by `enable_thinking`.
        opened: Whether its template opens a thought.
    """

    build: Callable
    turns: tuple[str, str]
    image: str
    named: dict[str, str]
    more: tuple[str, ...] = ()
    thought: tuple[str, str] = THINK
    switch: bool = False
    opened: bool = False

    def template(self) -> str:
        """Write the chat template."""
        before, after = self.turns
        if self.switch:
            after += SWITCH % (*self.thought, self.thought[0])
        elif self.opened:
            after += self.thought[0] + "\n"
        return (
            "{% for message in messages %}" + before + "{% for item in message['content'] %}"
            "{% if item['type'] == 'image' %}" + self.image + "{% else %}{{ item['text'] }}"
            "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}"
            + after + "{% endif %}"
        )  # fmt: skip

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Train a tokenizer that knows the family's special tokens."""
        trained = build_tokenizer()
        marks = [mark.partition("thought")[0] for mark in self.thought]  # of Gemma's, the token
        own = [*self.named.values(), *self.more, *marks]
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=trained.backend_tokenizer,
            bos_token="<s>", eos_token="</s>", pad_token="<pad>",
            extra_special_tokens=self.named,
        )  # fmt: skip
        tokenizer.add_special_tokens(
            {"additional_special_tokens": list(dict.fromkeys(own))},
            replace_extra_special_tokens=False,
        )
        return tokenizer


def build(name: str, folder: Path) -> Path:
    """Save a small model of a family as the hub would have it."""
    family = FAMILIES[name]
    if not isinstance(family, Family):
        return family(folder)
    tokenizer = family.tokenizer()
    torch.manual_seed(0)
    processor, model = family.build(tokenizer, family.template())
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def number(tokenizer, token: str) -> int:
    """Return the id of a token."""
    return tokenizer.convert_tokens_to_ids(token)


def text(tokenizer, **more) -> dict:
    """Size a small language model."""
    return {
        "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 4096, "initializer_range": 0.6, "head_dim": WIDTH // 2,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, **more,
    }  # fmt: skip


def vision(**more) -> dict:
    """Size a small vision tower."""
    return {
        "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 2, "initializer_range": 0.3, **more,
    }  # fmt: skip


def ropes(**more) -> dict:
    """Split the rotary dimensions over time, height and width."""
    return {"rope_type": "default", "rope_theta": 10000.0, **more}


def qwen_ids(tokenizer) -> dict:
    """Name the tokens of an image as Qwen's models do."""
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>",
             "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    return {name: number(tokenizer, token) for name, token in names.items()}


def build_onevision(tokenizer, template):
    tiles = [[28, 56], [56, 28], [56, 56]]
    images = hf.LlavaOnevisionImageProcessor(
        size={"height": 28, "width": 28}, image_grid_pinpoints=tiles
    )
    processor = hf.LlavaOnevisionProcessor(
        images, tokenizer, hf.LlavaOnevisionVideoProcessor(), num_image_tokens=4,
        vision_feature_select_strategy="full", chat_template=template,
    )  # fmt: skip
    config = hf.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14,
                       "vision_use_head": False, **vision()},
        text_config={"model_type": "qwen2", **text(tokenizer)}, image_grid_pinpoints=tiles,
        image_token_index=number(tokenizer, "<image>"),
        video_token_index=number(tokenizer, "<video>"),
    )  # fmt: skip
    return processor, hf.LlavaOnevisionForConditionalGeneration(config)


def build_qwen(kind, tokenizer, template):
    patch = 14 if kind in ("Qwen2", "Qwen2_5_") else 16
    side = 2 * patch
    images = hf.Qwen2VLImageProcessor(min_pixels=side**2, max_pixels=16 * side**2, patch_size=patch)
    processors = {"Qwen2": hf.Qwen2VLProcessor, "Qwen2_5_": hf.Qwen2_5_VLProcessor}
    videos = hf.Qwen2VLVideoProcessor if kind in processors else hf.Qwen3VLVideoProcessor
    processor = processors.get(kind, hf.Qwen3VLProcessor)(
        images, tokenizer, videos(), chat_template=template
    )
    tower = {"depth": 2, "num_heads": 2, "patch_size": patch, "initializer_range": 0.3}
    rope = ropes(mrope_section=[2, 3, 3])
    if kind == "Qwen2":
        tower |= {"embed_dim": WIDTH, "hidden_size": WIDTH}
    else:
        tower |= {"hidden_size": WIDTH, "out_hidden_size": WIDTH, "intermediate_size": 2 * WIDTH}
    more = {"rope_parameters": rope}
    if kind == "Qwen2_5_":
        tower |= {"window_size": 4 * patch, "fullatt_block_indexes": [1]}
    elif kind == "Qwen3":
        tower |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        rope |= {"mrope_interleaved": True}
    elif kind == "Qwen3_5":
        tower |= {"num_position_embeddings": 16}
        rope |= {"mrope_interleaved": True, "partial_rotary_factor": 1.0}
        more |= {"layer_types": ["linear_attention", "full_attention"],
                 "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
                 "linear_num_value_heads": 4,
                 "initializer_range": 3.0}  # fmt: skip
    names = {"Qwen3_5": "Qwen3_5Config", "Qwen3": "Qwen3VLConfig"}
    config = getattr(hf, names.get(kind, f"{kind}VLConfig"))(
        vision_config=tower, text_config=text(tokenizer, **more), **qwen_ids(tokenizer)
    )
    classes = {"Qwen3_5": "Qwen3_5ForConditionalGeneration"}
    model = getattr(hf, classes.get(kind, f"{kind}VLForConditionalGeneration"))
    return processor, model(config)


def build_gemma3(tokenizer, template):
    processor = hf.Gemma3Processor(
        hf.Gemma3ImageProcessor(size={"height": 28, "width": 28}), tokenizer,
        chat_template=template, image_seq_length=1,
    )  # fmt: skip
    config = hf.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14,
                       "vision_use_head": False, **vision()},
        text_config=text(tokenizer, sliding_window=16, query_pre_attn_scalar=16,
                         layer_types=["sliding_attention", "full_attention"],
                         tie_word_embeddings=False),
        mm_tokens_per_image=1, tie_word_embeddings=False,
        boi_token_index=number(tokenizer, "<start_of_image>"),
        eoi_token_index=number(tokenizer, "<end_of_image>"),
        image_token_index=number(tokenizer, "<image_soft_token>"),
    )  # fmt: skip
    return processor, hf.Gemma3ForConditionalGeneration(config)


def build_gemma4(tokenizer, template):
    processor = hf.Gemma4Processor(
        hf.Gemma4AudioFeatureExtractor(), hf.Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70),
        tokenizer, hf.Gemma4VideoProcessor(), chat_template=template, image_seq_length=70,
    )  # fmt: skip
    names = {"image_token_id": "<|image|>", "boi_token_id": "<|image>", "eoi_token_id": "<image|>",
             "video_token_id": "<|video|>", "audio_token_id": "<|audio|>",
             "boa_token_id": "<|audio>", "eoa_token_index": "<audio|>"}  # fmt: skip
    config = hf.Gemma4Config(
        vision_config={"patch_size": 4, "num_key_value_heads": 2, "head_dim": WIDTH // 2,
                       "position_embedding_size": 1024, **vision()},
        text_config=text(tokenizer, sliding_window=64, hidden_size_per_layer_input=8,
                         vocab_size_per_layer_input=len(tokenizer),
                         layer_types=["sliding_attention", "full_attention"],
                         tie_word_embeddings=False),
        tie_word_embeddings=False,
        **{name: number(tokenizer, token) for name, token in names.items()},
    )  # fmt: skip
    return processor, hf.Gemma4ForConditionalGeneration(config)


def build_internvl(tokenizer, template):
    images = hf.GotOcr2ImageProcessor(
        size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4
    )
    processor = hf.InternVLProcessor(
        images, tokenizer, hf.InternVLVideoProcessor(), image_seq_length=1, chat_template=template
    )
    config = hf.InternVLConfig(
        vision_config={"image_size": [28, 28], "patch_size": [14, 14], **vision()},
        text_config={"model_type": "qwen2", **text(tokenizer)},
        image_token_id=number(tokenizer, "<IMG_CONTEXT>"), image_seq_length=1,
    )  # fmt: skip
    return processor, hf.InternVLForConditionalGeneration(config)


def build_idefics3(tokenizer, template):
    images = hf.Idefics3ImageProcessor(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    processor = hf.Idefics3Processor(images, tokenizer, image_seq_len=1, chat_template=template)
    config = hf.Idefics3Config(
        vision_config={"image_size": 28, "patch_size": 14, **vision()},
        text_config={"model_type": "llama", **text(tokenizer)},
        image_token_id=number(tokenizer, "<image>"), scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return processor, hf.Idefics3ForConditionalGeneration(config)


def build_pixtral(tokenizer, template):
    images = hf.PixtralImageProcessor(
        size={"longest_edge": 112}, patch_size={"height": 14, "width": 14}
    )
    processor = hf.PixtralProcessor(images, tokenizer, patch_size=14, chat_template=template)
    config = hf.LlavaConfig(
        vision_config={"model_type": "pixtral", "image_size": 112, "patch_size": 14,
                       **vision(head_dim=16)},
        text_config={"model_type": "mistral", **text(tokenizer)},
        image_token_index=number(tokenizer, "[IMG]"), vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )  # fmt: skip
    return processor, hf.LlavaForConditionalGeneration(config)


def build_mistral3(tokenizer, template):
    images = hf.PixtralImageProcessor(
        size={"longest_edge": 56}, patch_size={"height": 7, "width": 7}
    )
    processor = hf.PixtralProcessor(
        images, tokenizer, patch_size=7, spatial_merge_size=2, chat_template=template
    )
    config = hf.Mistral3Config(
        vision_config={"model_type": "pixtral", "image_size": 56, "patch_size": 7,
                       **vision(head_dim=16)},
        text_config={"model_type": "mistral", **text(tokenizer)},
        image_token_index=number(tokenizer, "[IMG]"), spatial_merge_size=2,
    )  # fmt: skip
    return processor, hf.Mistral3ForConditionalGeneration(config)


def build_mllama(tokenizer, template):
    images = hf.MllamaImageProcessor(size={"height": 28, "width": 28}, max_image_tiles=4)
    processor = hf.MllamaProcessor(images, tokenizer, chat_template=template)
    config = hf.MllamaConfig(
        vision_config={"hidden_size": WIDTH, "num_hidden_layers": 2, "num_global_layers": 1,
                       "attention_heads": 2, "intermediate_size": 2 * WIDTH, "image_size": 28,
                       "patch_size": 14, "max_num_tiles": 4, "intermediate_layers_indices": [0],
                       "vision_output_dim": 2 * WIDTH,
                       "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2],
                                                   [3, 1], [4, 1]]},
        text_config=text(tokenizer, vocab_size=len(tokenizer), cross_attention_layers=[1]),
        image_token_index=number(tokenizer, "<|image|>"),
    )  # fmt: skip
    return processor, hf.MllamaForConditionalGeneration(config)


def build_glm(kind, tokenizer, template):
    images = getattr(hf, f"{kind}ImageProcessor")(
        size={"shortest_edge": 28**2, "longest_edge": 2 * 16 * 28**2}, patch_size=14
    )
    processor = getattr(hf, f"{kind}Processor")(
        images, tokenizer, getattr(hf, f"{kind}VideoProcessor")(), chat_template=template
    )
    names = {"image_token_id": "<|image|>", "video_token_id": "<|video|>",
             "image_start_token_id": "<|begin_of_image|>",
             "image_end_token_id": "<|end_of_image|>",
             "video_start_token_id": "<|begin_of_video|>",
             "video_end_token_id": "<|end_of_video|>"}  # fmt: skip
    config = getattr(hf, f"{kind}Config")(
        vision_config={"depth": 2, "hidden_size": WIDTH, "num_heads": 2, "image_size": 112,
                       "patch_size": 14, "out_hidden_size": WIDTH, "intermediate_size": 2 * WIDTH,
                       "initializer_range": 0.3},
        text_config=text(tokenizer, rope_parameters=ropes(mrope_section=[2, 3, 3])),
        **{name: number(tokenizer, token) for name, token in names.items()},
    )  # fmt: skip
    return processor, getattr(hf, f"{kind}ForConditionalGeneration")(config)


def build_ovis2(tokenizer, template):
    images = hf.Ovis2ImageProcessor(
        size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4
    )
    processor = hf.Ovis2Processor(images, tokenizer, image_seq_length=4, chat_template=template)
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    config = hf.Ovis2Config(
        vision_config={"image_size": 28, "patch_size": 14, "vocab_size": 64, **vision()},
        text_config={"model_type": "qwen2", **text(tokenizer)}, hidden_size=WIDTH,
        vocab_size=len(tokenizer), image_token_id=number(tokenizer, "<IMG_ATOM>"),
        visual_indicator_token_ids=[number(tokenizer, mark) for mark in marks],
    )  # fmt: skip
    return processor, hf.Ovis2ForConditionalGeneration(config)


def build_aya(tokenizer, template):
    images = hf.GotOcr2ImageProcessor(
        size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4
    )
    processor = hf.AyaVisionProcessor(
        images, tokenizer, patch_size=14, img_size=28, downsample_factor=2, chat_template=template
    )
    config = hf.AyaVisionConfig(
        vision_config={"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14,
                       "vision_use_head": False, **vision()},
        text_config={"model_type": "cohere2", "layer_norm_eps": 1e-5, "sliding_window": 16,
                     "layer_types": ["sliding_attention", "full_attention"], **text(tokenizer)},
        image_token_index=number(tokenizer, "<|IMG_PATCH|>"), downsample_factor=2,
    )  # fmt: skip
    return processor, hf.AyaVisionForConditionalGeneration(config)


def build_cohere2(tokenizer, template):
    images = hf.Cohere2VisionImageProcessor(
        size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4, patch_size=4
    )
    processor = hf.Cohere2VisionProcessor(images, tokenizer, chat_template=template)
    config = hf.Cohere2VisionConfig(
        vision_config={"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 4,
                       "vision_use_head": False, **vision()},
        text_config={"model_type": "cohere2", "layer_norm_eps": 1e-5, "sliding_window": 16,
                     "layer_types": ["sliding_attention", "full_attention"], **text(tokenizer)},
        image_token_id=number(tokenizer, "<|IMG_PATCH|>"), downsample_factor=2,
        alignment_intermediate_size=2 * WIDTH,
    )  # fmt: skip
    return processor, hf.Cohere2VisionForConditionalGeneration(config)


def build_lfm2(tokenizer, template):
    images = hf.Lfm2VlImageProcessor(
        encoder_patch_size=14, tile_size=56, max_num_patches=64, min_image_tokens=1,
        max_image_tokens=16, do_image_splitting=False,
    )  # fmt: skip
    processor = hf.Lfm2VlProcessor(images, tokenizer, chat_template=template)
    config = hf.Lfm2VlConfig(
        vision_config={"model_type": "siglip2_vision_model", "patch_size": 14, "num_patches": 16,
                       "vision_use_head": False, **vision()},
        text_config={"model_type": "lfm2", **text(tokenizer),
                     "layer_types": ["conv", "full_attention"]},
        image_token_id=number(tokenizer, "<image>"), projector_hidden_size=WIDTH,
    )  # fmt: skip
    return processor, hf.Lfm2VlForConditionalGeneration(config)


def build_llama4(tokenizer, template):
    images = hf.Llama4ImageProcessor(size={"height": 28, "width": 28}, max_patches=4)
    processor = hf.Llama4Processor(images, tokenizer, patch_size=14, chat_template=template)
    config = hf.Llama4Config(
        vision_config={"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH,
                       "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
                       "patch_size": 14, "vision_output_dim": WIDTH,
                       "projector_input_dim": WIDTH, "projector_output_dim": WIDTH},
        text_config=text(tokenizer, intermediate_size_mlp=2 * WIDTH, num_local_experts=2,
                         interleave_moe_layer_step=2, attention_chunk_size=2048),
        boi_token_index=number(tokenizer, "<|image_start|>"),
        eoi_token_index=number(tokenizer, "<|image_end|>"),
        image_token_index=number(tokenizer, "<|patch|>"),
    )  # fmt: skip
    return processor, hf.Llama4ForConditionalGeneration(config)


def build_molmo2(tokenizer, template):
    images = hf.Molmo2ImageProcessor(
        size={"height": 56, "width": 56}, patch_size=14, max_crops=4, overlap_margins=[1, 1]
    )
    processor = hf.Molmo2Processor(
        images, hf.Molmo2VideoProcessor(), tokenizer, chat_template=template
    )
    names = {
        "image_start_token_id": "<im_start>",
        "low_res_image_start_token_id": "<low_res_im_start>",
        "image_end_token_id": "<im_end>",
        "image_patch_id": "<im_patch>",
        "frame_start_token_id": "<frame_start>",
        "frame_end_token_id": "<frame_end>",
    }
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": WIDTH // 2}
    config = hf.Molmo2Config(
        vision_config={**vision(num_hidden_layers=3), **heads, "image_size": [56, 56],
                       "patch_size": 14, "num_position_embeddings": 16},
        adapter_config={"vision_feature_layer": [2, 1], "hidden_size": WIDTH, **heads,
                        "intermediate_size": 2 * WIDTH, "text_hidden_size": WIDTH},
        text_config=text(tokenizer, additional_vocab_size=8),
        **{name: number(tokenizer, token) for name, token in names.items()},
    )  # fmt: skip
    return processor, hf.Molmo2ForConditionalGeneration(config)


def build_idefics2(tokenizer, template):
    images = hf.Idefics2ImageProcessor(
        size={"shortest_edge": 28, "longest_edge": 56}, do_image_splitting=False
    )
    processor = hf.Idefics2Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    config = hf.Idefics2Config(
        vision_config={"image_size": 56, "patch_size": 14, **vision()},
        perceiver_config={"hidden_size": WIDTH, "resampler_n_latents": 4, "resampler_depth": 1,
                          "resampler_n_heads": 2, "resampler_head_dim": 16,
                          "num_key_value_heads": 2},
        text_config={"model_type": "mistral", **text(tokenizer)},
        image_token_id=number(tokenizer, "<image>"),
    )  # fmt: skip
    return processor, hf.Idefics2ForConditionalGeneration(config)


def build_exaone(tokenizer, template):
    images = hf.Qwen2VLImageProcessor(min_pixels=28**2, max_pixels=16 * 28**2, patch_size=14)
    processor = hf.Exaone4_5_Processor(
        images, tokenizer, hf.Qwen2VLVideoProcessor(), chat_template=template
    )
    config = hf.Exaone4_5_Config(
        vision_config={"depth": 2, "hidden_size": WIDTH, "out_hidden_size": WIDTH, "num_heads": 2,
                       "num_key_value_heads": 2, "intermediate_size": 2 * WIDTH, "patch_size": 14,
                       "window_size": 56, "fullatt_block_indexes": [1], "initializer_range": 0.3},
        text_config={"model_type": "exaone4", **text(tokenizer), "sliding_window": 16,
                     "layer_types": ["sliding_attention", "full_attention"]},
        image_token_id=number(tokenizer, "<|image_pad|>"),
        video_token_id=number(tokenizer, "<|video_pad|>"),
    )  # fmt: skip
    return processor, hf.Exaone4_5_ForConditionalGeneration(config)


def build_kimi(tokenizer, template):
    images = hf.Kimi_K25ImageProcessor(patch_size=14)
    processor = hf.Kimi_K25Processor(
        images, tokenizer, hf.Kimi_K25VideoProcessor(), chat_template=template
    )
    names = {"image_token_id": "<|media_pad|>", "video_token_id": "<|kimi_k25_video_placeholder|>",
             "vision_start_token_id": "<|media_begin|>",
             "vision_end_token_id": "<|media_end|>"}  # fmt: skip
    experts = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1,
               "topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": WIDTH,
               "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
               "qk_nope_head_dim": 8, "head_dim": 8}  # fmt: skip
    config = hf.Kimi_K25Config(
        vision_config={**vision(), "patch_size": 14, "pos_emb_height": 8, "pos_emb_width": 8},
        text_config={"model_type": "deepseek_v3", **text(tokenizer), **experts},
        projection_hidden_size=WIDTH,
        **{name: number(tokenizer, token) for name, token in names.items()},
    )  # fmt: skip
    return processor, hf.Kimi_K25ForConditionalGeneration(config)


def build_qwen_moe(tokenizer, template):
    processor, _ = build_qwen("Qwen3", tokenizer, template)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH}
    config = hf.Qwen3VLMoeConfig(
        vision_config={"depth": 2, "num_heads": 2, "patch_size": 16, "hidden_size": WIDTH,
                       "out_hidden_size": WIDTH, "intermediate_size": 2 * WIDTH,
                       "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
                       "initializer_range": 0.3},
        text_config=text(tokenizer, **experts, rope_parameters=ropes(
            mrope_section=[2, 3, 3], mrope_interleaved=True)),
        **qwen_ids(tokenizer),
    )  # fmt: skip
    return processor, hf.Qwen3VLMoeForConditionalGeneration(config)


def build_glm_moe(tokenizer, template):
    processor, dense = build_glm("Glm4v", tokenizer, template)
    own = dense.config.to_dict()
    experts = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1,
               "topk_group": 1, "first_k_dense_replace": 1,
               "moe_intermediate_size": WIDTH}  # fmt: skip
    own["vision_config"].pop("model_type")
    config = hf.Glm4vMoeConfig(
        vision_config=own["vision_config"],
        text_config=text(tokenizer, **experts, rope_parameters=ropes(
            mrope_section=[2, 3, 3], partial_rotary_factor=1.0)),
        **{name: value for name, value in own.items() if name.endswith("token_id")},
    )  # fmt: skip
    return processor, hf.Glm4vMoeForConditionalGeneration(config)


def of(function, kind):
    """Bind the kind of a family that has several."""
    return lambda tokenizer, template: function(kind, tokenizer, template)


VISION = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
        "<|video_pad|>")  # fmt: skip
BOXES = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
         "<|image|>", "<|video|>", "<|user|>", "<|assistant|>")  # fmt: skip
IMG = ("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]")
AYA = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "<image>",
       "TILE_GLOBAL", *(f"TILE_{index}" for index in range(1, 13)))  # fmt: skip
TURN = ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>",
        "<|CHATBOT_TOKEN|>")  # fmt: skip
GEMMA3 = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
          "image_token": "<image_soft_token>"}  # fmt: skip
GEMMA4 = {"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>",
          "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}  # fmt: skip
MOLMO = ("<|image|>", "<|video|>", "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>",
         "<frame_start>", "<im_end>", "<frame_end>", "<im_low>")  # fmt: skip
INTERN = {"start_image_token": "<img>", "end_image_token": "</img>",
          "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}  # fmt: skip
COMMAND = {
    "boi_token": "<|START_OF_IMG|>",
    "eoi_token": "<|END_OF_IMG|>",
    "image_token": "<|IMG_PATCH|>",
    "img_line_break_token": "<|IMG_LINE_BREAK|>",
}
ROWS = tuple(f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6))
LLAMA4 = ("<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>",
          "<|tile_y_separator|>", "<|eot_id|>")  # fmt: skip

FAMILIES: dict[str, Family | Callable[[Path], Path]] = {
    "LLaVA-1.5": build_llava,
    "LLaVA-NeXT": build_llava_next,
    "LLaVA-OneVision": Family(
        build_onevision, CHATML, "<image>\n", {"image_token": "<image>"}, ("<video>", *QWEN)
    ),
    "Qwen2-VL": Family(of(build_qwen, "Qwen2"), CHATML, VISION, {}, QWEN),
    "Qwen2.5-VL": Family(of(build_qwen, "Qwen2_5_"), CHATML, VISION, {}, QWEN),
    "Qwen3-VL": Family(of(build_qwen, "Qwen3"), CHATML, VISION, {}, QWEN),
    "Qwen3-VL-Thinking": Family(
        of(build_qwen, "Qwen3"), CHATML, VISION, {}, QWEN, opened=True
    ),
    "Qwen3.5": Family(of(build_qwen, "Qwen3_5"), CHATML, VISION, {}, QWEN, switch=True),
    "Qwen3-VL-MoE": Family(build_qwen_moe, CHATML, VISION, {}, QWEN),
    "Gemma 3": Family(build_gemma3, GEMMA, "<start_of_image>", GEMMA3),
    "MedGemma": Family(
        build_gemma3, GEMMA, "<start_of_image>", GEMMA3,
        thought=("<unused94>thought\n", "<unused95>"),
    ),
    "Gemma 4": Family(
        build_gemma4, ("<|turn>user\n", "<turn|>\n<|turn>model\n"), "<|image|>", GEMMA4,
        ("<|turn>", "<turn|>", "<|video|>"),
        thought=("<|channel>thought\n", "<channel|>"), switch=True,
    ),
    "InternVL3": Family(build_internvl, CHATML, "<IMG_CONTEXT>\n", INTERN, QWEN),
    "Idefics2": Family(
        build_idefics2, ("User:", "<end_of_utterance>\nAssistant:"), "<image>", {},
        ("<fake_token_around_image>", "<image>", "<end_of_utterance>"),
    ),
    "Idefics3": Family(
        build_idefics3, ("User:", "<end_of_utterance>\nAssistant:"), "<image>", {},
        ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *ROWS),
    ),
    "Pixtral": Family(build_pixtral, MISTRAL, "[IMG]", {}, IMG),
    "Mistral 3": Family(
        build_mistral3, MISTRAL, "[IMG]", {}, IMG, thought=("[THINK]", "[/THINK]")
    ),
    "Llama 3.2 Vision": Family(
        build_mllama, LLAMA, "<|image|>", {}, ("<|image|>", "<|python_tag|>", "<|eot_id|>")
    ),
    "Llama 4": Family(build_llama4, LLAMA, "<|image|>", {}, LLAMA4),
    "GLM-4V": Family(
        of(build_glm, "Glm4v"), GLM, "<|begin_of_image|><|image|><|end_of_image|>", {}, BOXES,
        opened=True,
    ),
    "GLM-4.6V": Family(
        of(build_glm, "Glm46V"), GLM, "<|begin_of_image|><|image|><|end_of_image|>", {}, BOXES,
        switch=True,
    ),
    "GLM-4.5V": Family(
        build_glm_moe, GLM, "<|begin_of_image|><|image|><|end_of_image|>", {}, BOXES, switch=True,
    ),
    "EXAONE 4.5": Family(build_exaone, CHATML, VISION, {}, QWEN, switch=True),
    "Kimi K2.5": Family(
        build_kimi, CHATML, "<|media_begin|><|media_pad|><|media_end|>", {},
        ("<|media_begin|>", "<|media_pad|>", "<|media_end|>", "<|kimi_k25_video_placeholder|>",
         *QWEN),
        opened=True,
    ),
    "Ovis2": Family(
        build_ovis2, CHATML, "<image>\n", {},
        ("<image>", "<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>",
         "<IMG_END>", *QWEN),
    ),
    "Molmo2": Family(
        build_molmo2, ("<s>" + CHATML[0], CHATML[1]), "<|image|>", {}, (*MOLMO, *QWEN)
    ),
    "Aya Vision": Family(build_aya, COHERE, "<image>", {}, (*AYA, *TURN)),
    "Command A Vision": Family(
        build_cohere2, COHERE, "<|IMG_PATCH|>", COMMAND, (*AYA, *TURN),
        thought=("<|START_THINKING|>", "<|END_THINKING|>"),
    ),
    "LFM2-VL": Family(
        build_lfm2, CHATML, "<image>", {"image_token": "<image>"},
        ("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *QWEN),
    ),
}  # fmt: skip

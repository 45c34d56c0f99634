"""Small image classifiers of timm and transformers, saved as the real ones are."""

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

CPU = torch.device("cpu")


CLASSES = ["melanoma", "nevus", "other thing"]


def draw_image(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save_timm(folder, name="test_efficientnet", **options):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **options)
    save_for_hf(model, folder, safe_serialization=True)
    return folder


def save_vit(folder):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=16, num_labels=5,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_resnet(folder):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4)
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder

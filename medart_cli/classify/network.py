"""The network of `medart classify`, a backbone and one linear layer, and how it learns."""

import copy
import math

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from medart_cli.models.backbone import Backbone
from medart_cli.models.classifier import place_of

# Inverse strength of the L2 penalty of the probe. Of 0.003 to 0.1 the best compromise of accuracy
# and log loss over blood cells and skin lesions, 50 images a class.
PROBE_C = 0.02
ABSENT = -30.0  # logit of a class the probe never saw: its probability is nil, gradients are finite
SMALLEST_CROP = 0.75  # side of the smallest part that `augment` enlarges to the whole image


def fit_probe(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: int,
    *,
    balance: bool,
    worth: int | None = None,
) -> nn.Linear:
    """Fit the last layer by logistic regression on features of mean 0 and mean variance 1.

    One scale serves all features: to standardize each one would blow up those that hardly vary in
    a few dozen images, which costs 0.01 to 0.02 of balanced accuracy.

    Args:
        features: (N, D).
        labels: Class indices, (N,).
        classes: How many classes there are; one that no label names is never predicted.
        balance: Weigh classes by the inverse of their counts.
        worth: How many images they count as against the penalty, which is fixed; each as one by
            default. With one `worth`, images repeated k times give the layer that they give once.

    Returns:
        A layer on the plain features: center and scale are folded into its weights.
    """
    center = features.mean(axis=0, dtype=np.float64)  # (D,)
    scale = float(np.sqrt(features.var(axis=0, dtype=np.float64).mean())) or 1.0
    strength = PROBE_C * (1.0 if worth is None else worth / len(labels))
    probe = LogisticRegression(
        C=strength, max_iter=2000, class_weight="balanced" if balance else None
    ).fit((features - center) / scale, labels)
    weight, bias = probe.coef_, probe.intercept_
    if len(probe.classes_) == 2:  # scikit-learn keeps one row: the logit of the second class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scale
    bias = bias - weight @ center
    layer = nn.Linear(features.shape[1], classes)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(ABSENT)
        layer.weight[probe.classes_] = torch.from_numpy(weight).float()
        layer.bias[probe.classes_] = torch.from_numpy(bias).float()
    return layer


def build_network(backbone: Backbone, head: nn.Linear) -> nn.Sequential:
    """Copy a backbone and put a last layer on it, ready for fine-tuning.

    The network stays in evaluation mode while it is trained: batch statistics of a few dozen images
    are worse than those of ImageNet, and without dropout a run depends on its generator alone.
    """
    device, _ = place_of(backbone.module)
    network = nn.Sequential(copy.deepcopy(backbone.module), copy.deepcopy(head)).to(device)
    return network.eval()


def weigh_classes(labels: Tensor, classes: int) -> Tensor:
    """Give each class the inverse of its count, 1 on average over the images: (K,)."""
    counts = torch.bincount(labels, minlength=classes)  # (K,)
    present = int((counts > 0).sum())
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), 0.0)


def draw_order(
    labels: Tensor, classes: int, generator: torch.Generator, count: int, *, balance: bool
) -> Tensor:
    """Draw the order of the `count` images of an epoch: all in turn, or (`balance`) by class.

    Where `count` is not the number of images there are, they are repeated several times, the
    last time only so far; with `balance` all classes are drawn equally often.
    """
    if not balance:
        passes = range(math.ceil(count / len(labels)))
        orders = [torch.randperm(len(labels), generator=generator) for _ in passes]
        return torch.cat(orders)[:count]
    weights = weigh_classes(labels, classes)[labels]
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def augment(images: Tensor, generator: torch.Generator, *, flips: bool) -> Tensor:
    """Enlarge a random part of each image to its whole size, and mirror it where that is allowed.

    Colors are left alone: in stains and skin they carry the diagnosis.

    Args:
        images: (B, 3, S, S).
        generator: On the CPU.
        flips: Whether a mirrored image means the same.

    Returns:
        Images of the same shape.
    """
    count = len(images)
    scale = SMALLEST_CROP + (1 - SMALLEST_CROP) * torch.rand(count, generator=generator)  # (B,)
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - scale)[:, None]  # (B, 2)
    signs = torch.randint(0, 2, (count, 2), generator=generator) * 2 - 1  # (B, 2)
    move = torch.zeros(count, 2, 3)  # affine maps from output to input places in [-1, 1]
    move[:, 0, 0] = scale * (signs[:, 0] if flips else 1)
    move[:, 1, 1] = scale * (signs[:, 1] if flips else 1)
    move[:, :, 2] = shift
    grid = functional.affine_grid(
        move.to(images.device, images.dtype), list(images.shape), align_corners=False
    )
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )

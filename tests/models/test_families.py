"""Every kind of base has its record, its words, and a scheduler that the solver can use."""

from importlib import import_module
from inspect import signature

import pytest
import torch

from medart_cli.models.bases import KINDS
from medart_cli.models.families import Family, find_family
from tests.small import build_base


@pytest.mark.parametrize("name", KINDS)
def test_each_pipeline_has_a_family_and_says_its_license(name):
    kind = KINDS[name]
    family = import_module(f"medart_cli.models.{kind.module}").FAMILY
    assert isinstance(family, Family)
    assert kind.license and kind.size and kind.call and kind.tokens >= 77
    assert family.targets


def test_functions_that_are_alike_have_the_same_arguments():
    families = [import_module(f"medart_cli.models.{kind.module}").FAMILY for kind in KINDS.values()]
    names = "load_transformer load_vae load_scheduler load_text_encoder read_prompts predict "
    for name in (names + "encode_images decode_latents").split():
        assert len({tuple(signature(getattr(one, name)).parameters) for one in families}) == 1, name


def test_the_family_of_a_folder_is_that_of_its_pipeline(tmp_path):
    base = build_base(tmp_path / "base")
    family = find_family(base)
    vae = family.load_vae(base, torch.device("cpu"))
    scheduler = family.renew_scheduler(family.load_scheduler(base), 8)
    scheduler.set_timesteps(3, device=torch.device("cpu"))
    assert len(scheduler.timesteps) == 3
    assert family.latent_channels(vae) == 4

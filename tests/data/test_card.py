"""The card of a run is one that the hub reads."""

import tomllib

from medart_cli.data.card import build_card


def test_the_model_card_has_front_matter_that_the_hub_reads():
    from huggingface_hub import ModelCard

    facts = {
        "base_name": "PixArt-alpha/PixArt-XL-2-512x512", "method": "lora",
        "trained": ["transformer"],
        "step": 40, "resolution": 512, "settings": {"hldf_every": 500, "data": 'a "b"'},
        "data": {"images": 3, "labels": {"nevus": 3}, "hash": "ab" * 32}, "demonstration": False,
        "patients": None,
        "figures": {"loss": 0.1, "color_losses": 0}, "hldf": None,
    }  # fmt: skip
    card = ModelCard(build_card(facts))
    assert card.data.base_model == "PixArt-alpha/PixArt-XL-2-512x512"
    assert card.data.library_name == "peft"
    assert "text-to-image" in card.data.to_yaml()
    assert "| nevus | 3 |" in card.text
    assert "Not for diagnosis" in card.text
    assert "without HLDF" in card.text
    assert "demonstration" not in card.text
    settings = card.text.split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(settings) == facts["settings"]
    assert "have no scientific meaning" in build_card(facts | {"demonstration": True})
    trained = {"hldf": {"loss": "score"}, "figures": {"color_losses": 2}}
    assert (
        "40 optimizer steps at 512 pixels,\nwith the HLDF color loss (the energy score) in 2"
        in (build_card(facts | trained))
    )

"""A small study.json, for tests of what is made of it."""

from dataclasses import asdict

from medart_cli.study.contrasts import contrast


def build_facts():
    """Two arms, two measures, three seeds."""
    measures = [
        {"key": "frechet", "title": "Frechet distance", "better": "lower"},
        {"key": "color_variety", "title": "color variety", "better": "one"},
    ]
    lora = {"frechet": [90.0, 100.0, 110.0], "color_variety": [0.8, 0.9, 1.0]}
    score = {"frechet": [71.0, 80.0, 89.0], "color_variety": [0.8, 1.0, 0.9]}
    return {
        "seeds": [0, 1, 2], "features": "net's", "reference": "lora", "measures": measures,
        "floors": {"frechet": 12.0}, "gains": {},
        "arms": [
            {
                "name": name, "title": title, "each": each, "finetune": [], "color_loss": None,
                "mean": {key: sum(it) / 3 for key, it in each.items()},
                "deviation": {"frechet": 10.0, "color_variety": 0.1},
            }
            for name, title, each in (("lora", "LoRA & <co>", lora), ("score", "score_x", score))
        ],
        "differences": {
            "score": {
                "frechet": asdict(contrast([-19.0, -20.0, -21.0])),
                "color_variety": asdict(contrast([0.0, 0.1, -0.1])),
            }
        },
    }  # fmt: skip

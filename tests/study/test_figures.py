import json
from dataclasses import replace

import pytest
from scipy import stats

from medart_cli.study.arms import ARMS
from medart_cli.study.figures import find_gain, gather_figures
from medart_cli.study.options import StudyConfig
from medart_cli.study.units import Plan

SEEDS = 3


def report(name, value):
    """What of an evaluation is read, with one value throughout."""
    channel = {"value": value, "floor": 0.01, "interval": [0, 1], "beyond_floor": False}
    channels = dict.fromkeys(("red", "green", "blue"), channel)
    return {
        "features": [{"name": "net", "title": "net's", "frechet": "Frechet", "kernel": "kernel"}],
        "comparisons": [{
            "set": name, "features": "net", "label": None, "recall": 0.5,
            "frechet": {"value": 100 * value}, "kernel": {"value": value},
            "floor": {"frechet": {"real": 1.0}, "kernel": {"real": 0.0}}, "closeness": None,
        }],
        "color": [{
            "mean": channels, "spread": channels, "variety": channels, "collapsed": [],
            "energy": {"value": value, "floor": [0.0, 0.02]},
        }],
        "copies": [{"share": 0.25, "excess": value > 3, "copied": {"share": 0.125}}],
        "membership": {"auc": 0.6, "p_value": 0.004 if value > 3 else 0.2},
        "diversity": [{"vendi": {"ratio": 0.8}, "collapsed": ["nevus"] if value > 3 else []}],
        "recognition": [],
        "sets": [{"name": "test", "n": 40, "patients": None, "labels": {}}],
        "demonstration": False, "ranking": None,
    }  # fmt: skip


def classifier(gain, *, control=True):
    score = {"scores": {"balanced_accuracy": {"mean": 0.5}}}
    gap = {"balanced_accuracy": {"value": gain, "low": gain - 0.2, "high": gain + 0.2}}
    mix = score | {
        "difference_to_real": gap,
        "difference_to_control": {key: it | {"value": 9.0} for key, it in gap.items()}
        if control
        else {},
    }
    return {
        "regimes": {"real": score, "mix": mix},
        "sets": {"test": {"images": 40, "patients": None}},
    }


@pytest.fixture
def plan(tmp_path):
    config = StudyConfig(data="x", out=tmp_path, seeds=SEEDS)
    return Plan(config, [ARMS[name] for name in ("lora", "score")], (tmp_path, tmp_path), True)


def write_units(plan, value):
    """Write what the units measured; `value` takes arm and seed."""
    for arm, seed in plan.units:
        for name, facts in (("report", report("images", value(arm.name, seed))),
                            ("classifier", classifier(0.1 * seed, control=False))):  # fmt: skip
            (plan.folder(arm, seed) / name).mkdir(parents=True)
            (plan.folder(arm, seed) / name / "metrics.json").write_text(json.dumps(facts))
    for seed in plan.seeds:
        folder = plan.config.out / "compare" / f"seed-{seed}"
        folder.mkdir(parents=True)
        pair = {
            "first": "a", "second": "b",
            "root": {"value": -0.5, "level": 0.99, "interval": [-0.6, -0.4]},
            "color": {"root": {"value": 0.25, "level": 0.95, "interval": [0.15, 0.35]}},
        }  # fmt: skip
        sets = [{"name": it, "n": 40, "patients": 20} for it in ("test", "a", "b")]
        facts = {"sets": sets, "ranking": {"pairs": [pair]}}
        (folder / "metrics.json").write_text(json.dumps(facts))


def test_means_deviations_and_differences_are_over_the_seeds(plan):
    write_units(plan, lambda arm, seed: (1.0 if arm == "lora" else 2.0) + 0.1 * seed**2)
    facts = gather_figures(plan)
    lora, score = facts["arms"]
    assert lora["each"]["kernel"] == pytest.approx([1.0, 1.1, 1.4])
    assert lora["mean"]["frechet"] == pytest.approx(100 * 3.5 / 3)
    assert lora["deviation"]["kernel"] == pytest.approx(0.2081666)
    known = facts["differences"]["score"]["kernel"]
    assert known["each"] == pytest.approx((1.0, 1.0, 1.0))
    # Variety is best at 1: what is compared is the distance from it.
    assert facts["differences"]["score"]["color_variety"]["value"] == pytest.approx(1.0)
    assert facts["floors"]["frechet"] == 1.0 and facts["floors"]["color_energy"] == 0.02


def test_pairs_are_taken_as_arm_less_reference_whichever_comes_first(plan):
    write_units(plan, lambda arm, seed: 1.0)
    known = gather_figures(plan)["differences"]["score"]
    assert known["distance"]["value"] == 0.5  # the report has LoRA less the score
    assert known["color_distance"]["value"] == -0.25
    # The interval at 99 % of 20 patients gives back the standard error.
    error = 0.1 / stats.t.ppf(0.995, 19)
    assert known["distance"]["images_variance"] == pytest.approx(error**2)
    assert known["distance"]["images"] == 20


def test_without_pairs_the_root_of_the_color_energy_is_compared_over_seeds_alone(plan):
    write_units(plan, lambda arm, seed: 1.0 if arm == "lora" else 9.0)
    for path in plan.config.out.glob("compare/*/metrics.json"):
        facts = json.loads(path.read_text()) | {"ranking": {"winner": None}}
        path.write_text(json.dumps(facts))
    known = gather_figures(plan)["differences"]["score"]
    assert "distance" not in known
    assert known["color_distance"]["value"] == pytest.approx(2.0)
    assert known["color_distance"]["images_variance"] == 0


def test_the_gain_is_to_real_images_in_as_many_steps_where_there_are_such(plan):
    one = find_gain({"classifier": classifier(0.1)})
    assert one == pytest.approx((9.0, 0.2 / 1.959964))
    assert find_gain({"classifier": classifier(0.1, control=False)})[0] == 0.1
    assert find_gain({"classifier": None}) is None
    write_units(plan, lambda arm, seed: 1.0)
    gain = gather_figures(plan)["gains"]["lora"]
    assert gain["value"] == pytest.approx(0.1) and gain["images"] == 40


def test_a_unit_whose_report_suspects_copies_is_marked(plan):
    write_units(plan, lambda arm, seed: 4.0 if (arm, seed) == ("lora", 1) else 1.0)
    lora, score = gather_figures(plan)["arms"]
    assert lora["suspected"] == lora["recognized"] == [False, True, False]
    assert lora["collapsed"] == [[], ["diversity: nevus"], []]
    assert not any(score["suspected"]) and not any(score["recognized"])


def test_a_measure_that_no_unit_has_is_not_listed(plan):
    write_units(plan, lambda arm, seed: 1.0)
    for path in plan.config.out.glob("*/*/classifier/metrics.json"):
        path.unlink()
    facts = gather_figures(plan)
    keys = [item["key"] for item in facts["measures"]]
    assert "kernel" in keys and "accuracy_mix" not in keys
    assert facts["gains"] == {"lora": None, "score": None}


def test_the_units_share_the_error_of_saying_that_weights_tell(plan):
    write_units(plan, lambda arm, seed: 4.0 if seed == 1 else 1.0)
    facts = gather_figures(plan)  # 6 units: 0.05 / 6 is more than the 0.004 of seed 1
    assert [arm["recognized"] for arm in facts["arms"]] == [[False, True, False]] * 2
    more = replace(plan, config=replace(plan.config, seeds=9))
    write_units(replace(more, config=replace(more.config, seed=3, seeds=6)), lambda *_: 1.0)
    facts = gather_figures(more)  # and 0.05 / 18 is less
    assert [arm["recognized"] for arm in facts["arms"]] == [[False] * 9] * 2

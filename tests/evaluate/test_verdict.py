import numpy as np

from medart_cli.evaluate.verdict import (
    find_close,
    find_suspected,
    qualify_winner,
    tell_patients,
    tell_ranking,
    tell_recall,
)
from medart_cli.metrics.comparison import Effort, compare_features


def test_a_set_is_suspected_by_closeness_or_by_its_near_copies():
    comparison = {"features": "f", "label": None, "closeness": {"p_value": 0.5}}
    close = {"closeness": {"p_value": 0.0005}}
    facts = {
        "features": [{"name": "f"}],
        "comparisons": [comparison | {"set": "a"}, comparison | {"set": "b"} | close],
        "copies": [{"set": "a", "excess": True, "copies": 9, "n": 10}],
    }
    found = find_suspected(facts)
    assert set(found) == {"a", "b"}
    assert "9 of its 10 images being near-copies" in found["a"]
    assert "closer than sets from the same source (all images together)" in found["b"]
    facts["copies"][0]["excess"] = False
    assert set(find_suspected(facts)) == {"b"}


def test_a_label_counts_as_close_beyond_the_rate_of_all_labels_together():
    comparison = {"set": "a", "features": "f"}
    p_values = {None: 0.5, "x": 0.004, "y": 0.006}
    facts = {
        "features": [{"name": "f"}],
        "comparisons": [
            comparison | {"label": label, "closeness": {"p_value": p_value}}
            for label, p_value in p_values.items()
        ],
    }
    assert find_close(facts) == {"a": ["x"]}


def test_what_speaks_against_a_winner_is_said():
    facts = {"ranking": {"winner": "a"}, "color": [{"set": "a", "collapsed": ["x"]}], "copies": []}
    facts["diversity"] = [{"set": "a", "collapsed": ["x", "y"]}, {"set": "b", "collapsed": []}]
    assert qualify_winner(facts) == (
        "; but its color variety has collapsed; but its diversity has collapsed (x, y); "
        "near-copies were not checked"
    )
    facts["ranking"]["winner"] = None
    assert qualify_winner(facts) == ""


def test_patients_are_known_alone_or_unknown():
    said = [
        tell_patients({"sets": [{"name": "real", "n": 9, "patients": count}]})[0]
        for count in (None, 9, 4)
    ]
    assert said[0].startswith("real: patients are unknown: ")
    assert said[1] == "real: 9 images, each from a different patient."
    assert said[2] == "real: 9 images of 4 patients; by patient."


def test_the_ranking_has_a_line_for_each_pair_and_marks_what_is_sure():
    sure = {"value": -0.2, "interval": [-0.3, -0.1]}
    open_ = {"value": 0.1, "interval": [-0.1, 0.3]}
    pair = {"first": "a", "second": "b", "distance": sure, "by_label": None, "labels": {}}
    pair["color"] = {"mean": {"value": 0.1, "interval": None}, "energy": open_}
    ranking = {"order": ["a", "b"], "winner": "a", "reason": "why", "reference": "real"}
    lines = tell_ranking(ranking | {"n_reference": 30, "pairs": [pair]})
    assert lines == [
        "ranking by the distance to 30 images of real: a, b; winner: a (why)",
        "a less b (below zero is nearer): distance -0.200 [-0.300, -0.100] *, color means +0.100, "
        "color energy +0.100 [-0.100, +0.300]",
    ]


def test_the_recall_stands_beside_that_of_the_halves():
    real, synthetic = np.random.default_rng(0).normal(size=(2, 30, 5))
    found = compare_features(real, synthetic, np.arange(30), Effort(bootstrap=0))
    place = {"set": "syn", "features": "dinov2", "label": None}
    facts = {"features": [{"name": "dinov2"}], "comparisons": [place | found]}
    (line,) = tell_recall(facts)
    assert "(at n = 15 " in line and "halves of the real set" in line

import pytest

from medart_cli.evaluate.answers import answer_ranking, answer_sets, name_colors


def build_gaps(beyond=(), **means):
    """Build an item of `color` in metrics.json, with the mean gaps of some channels."""
    channels = ("red", "green", "blue", "saturation")
    item = {
        measure: {
            channel: {"value": 0.0, "beyond_floor": f"{channel} {measure}" in beyond}
            for channel in channels
        }
        for measure in ("mean", "spread", "histogram")
    }
    for channel, value in means.items():
        item["mean"][channel] = {"value": value, "beyond_floor": True}
    names = [*beyond, *(f"{channel} mean" for channel in means)]
    return item | {"set": "syn", "n": 40, "beyond_floor": names, "collapsed": [],
                   "variety_collapsed": False}  # fmt: skip


def build_facts(synthetic=100.0, **changed):
    floor = {"n": 20, "frechet": {"real": 50.0, "real_highest": 60.0, "synthetic": synthetic}}
    comparison = {"set": "syn", "features": "net", "label": None, "n_real": 40, "n_synthetic": 30,
                  "floor": floor, "closeness": None}  # fmt: skip
    copies = {"set": "syn", "n": 400, "copies": 0, "interval": [0.0, 0.009], "excess": False}
    return {
        "features": [{"name": "net", "frechet": "FID"}], "comparisons": [comparison],
        "color": [build_gaps()], "diversity": [{"set": "syn", "collapsed": []}],
        "copies": [copies], "membership": None, "ranking": None, "settings": {}, **changed,
    }  # fmt: skip


def marks(facts):
    return [it.mark for it in answer_sets(facts)["syn"]]


def texts(facts):
    return [it.text for it in answer_sets(facts)["syn"]]


def test_a_set_is_as_many_times_as_far_as_the_figures_say():
    assert texts(build_facts(105.0))[0].startswith("About 2.1 times as far from the real images")
    assert "(FID, 20 against 20 images)" in texts(build_facts(105.0))[0]
    assert marks(build_facts(105.0)) == ["bad", "good", "good"]
    assert marks(build_facts(60.0))[0] == "good" and marks(build_facts(60.1))[0] == "bad"


def test_what_cannot_be_told_is_called_unclear():
    facts = build_facts(copies=[])
    facts["comparisons"][0]["floor"] = None
    facts["color"][0]["variety_collapsed"] = None
    assert marks(facts) == ["unclear", "unclear", "unclear"]
    few = "Too few images (40 real, 30 synthetic)"
    assert texts(facts)[0] == f"{few} to say how near synthetic ones are."
    few = {"set": "syn", "n": 18, "copies": 0, "interval": [0.0, 0.176], "excess": False}
    answer = answer_sets(build_facts(copies=[few]))["syn"][2]
    assert (answer.mark, answer.link) == ("unclear", "copies")
    assert answer.text == (
        "No near-copies of these real images found among 18 synthetic images; with so few, the "
        "true share may be up to 18 %."
    )
    told = answer_sets(build_facts(settings={"training": "images"}))["syn"][2].text
    assert told.startswith("No near-copies of training images found among 400 synthetic images")


def test_copies_and_leaks_are_bad_however_near_the_images_are():
    many = {"set": "syn", "n": 40, "copies": 9, "interval": [0.1, 0.4], "excess": True}
    facts = build_facts(40.0, copies=[many])
    assert marks(facts) == ["bad", "good", "bad"]
    assert texts(facts)[0].startswith("Nearer than real images are to each other: suspected")
    facts = build_facts(membership={"shown": True})
    assert answer_sets(facts)["syn"][2].mark == "bad"
    assert "the weights tell which images they were trained on" in texts(facts)[2]
    assert answer_sets(build_facts(membership={"shown": False}))["syn"][2].mark == "good"


def test_colors_in_the_masked_region_and_around_it_count_as_those_of_the_image():
    def look(inside, around):
        parts = {"region": {"color": [inside]}, "surround": {"color": [around]}}
        return answer_sets(build_facts(region={"parts": parts}))["syn"][1]

    found = look(build_gaps(), build_gaps())
    assert found.mark == "good"
    assert "same source, also in the masked region and around the masked region, and" in found.text
    found = look(build_gaps(red=-0.1), build_gaps(red=0.1, green=0.1, blue=0.1))
    assert (found.mark, found.text) == (
        "bad",
        "Colors: in the masked region too little red; around the masked region too bright.",
    )
    found = look(build_gaps(), build_gaps() | {"collapsed": ["nevus"]})
    assert found.text == "Too much alike (nevus around the masked region)."


def test_pictures_that_are_all_alike_are_said_before_their_colors():
    facts = build_facts(color=[build_gaps(red=0.1)])
    assert texts(facts)[1] == "Colors: too much red."
    facts["diversity"][0]["collapsed"] = ["nevus"]
    assert texts(facts)[1] == "Too much alike (nevus), and too much red."
    assert answer_sets(facts)["syn"][1].link == "diversity"


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (build_gaps(), ""),
        (build_gaps(red=0.1, green=0.2, blue=0.1), "too bright"),
        (build_gaps(red=-0.1, green=-0.2, blue=-0.1), "too dark"),
        (build_gaps(red=0.1, blue=-0.1), "too much red, too little blue"),
        (build_gaps(saturation=-0.1), "too pale"),
        (build_gaps(["red histogram", "blue histogram"]), "distributed otherwise (red, blue)"),
    ],
)
def test_colors_are_named_by_the_direction_in_which_they_are_off(item, words):
    assert name_colors(item) == words


def test_of_several_sets_the_nearest_is_named_where_it_is_shown():
    assert answer_ranking(build_facts()) is None
    ranking = {"order": ["a", "b"], "winner": "a", "reason": "nearer"}
    told = answer_ranking(build_facts(ranking=ranking))
    assert (told.mark, told.text) == ("good", "Of 2 sets, a is nearest to the real images.")
    told = answer_ranking(build_facts(ranking=ranking | {"winner": None, "reason": "by chance"}))
    assert (told.mark, told.text) == (
        "unclear", "No set is shown to be the nearest: by chance.",
    )  # fmt: skip

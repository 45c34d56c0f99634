import pytest

from medart_cli.evaluate.diversity import find_collapsed, show_diversity, tell_diversity

VENDI = {"n": 30, "real": 20.0, "synthetic": 8.0, "ratio": 0.4, "interval": [0.3, 0.5]}
PART = {"vendi": VENDI, "diversity_collapsed": True, "diversity_note": None}
LESS = {"vendi": None, "diversity_collapsed": None, "diversity_note": "n = 3: diversity needs 5"}


def build(whole=PART, **labels):
    every = {"all images together": whole, **labels}
    names = [name for name, part in every.items() if part["diversity_collapsed"]]
    return {"set": "syn", "features": "f", **whole, "labels": labels, "collapsed": names}


def test_a_collapse_of_one_class_is_named():
    whole = PART | {"diversity_collapsed": False, "vendi": VENDI | {"ratio": 0.9}}
    item = build(whole, nevus=PART, melanoma=LESS)
    assert tell_diversity(item) == (
        "diversity (Vendi score at n = 30) 0.90 times that of real images [0.30, 0.50]; mode "
        "collapse, synthetic images are alike in: nevus (0.40)"
    )
    assert find_collapsed({"diversity": [item]}) == {"syn": ["nevus"]}
    assert "all images together (0.40)" in tell_diversity(build())


@pytest.mark.parametrize("vendi", [None, VENDI | {"interval": None}])
def test_what_cannot_be_said_has_its_reason(vendi):
    item = build(LESS | {"vendi": vendi})
    assert "n = 3: diversity needs 5" in tell_diversity(item)
    head, rows = show_diversity(item)["table"]
    assert len(rows) == 1 and len(rows[0]) == len(head)


def test_the_table_has_a_row_for_each_label_and_marks_what_has_collapsed():
    head, rows = show_diversity(build(nevus=PART, melanoma=LESS))["table"]
    assert [row[0] for row in rows] == ["all *", "nevus *", "melanoma"]
    assert all(len(row) == len(head) for row in rows)
    assert rows[1][1:] == ["30", "20.0", "8.0", "0.40 [0.30, 0.50]"]

import base64
import hashlib
import json
import re
from html import unescape

import pytest
from PIL import Image

from medart_cli.caption import review
from medart_cli.caption.edits import hash_text
from medart_cli.caption.review import build_review
from medart_cli.data.account import Account
from medart_cli.data.manifest import Record

ATTRIBUTES = {"the colors": ["brown"], "the border": ["border"]}
AUDIT = {"images": 4, "color_texts": 0} | {
    f"{name}_{kind}": 0.25 for name in ("repeat", "blank", "other") for kind in ("same", "overlap")
}

FOUND = Account("images").facts()


@pytest.fixture
def rows(tmp_path):
    Image.new("RGB", (600, 300), "brown").save(tmp_path / "a.png")
    texts = ["A brown spot.", "A brown spot.", "A border.", None, "Mine."]
    states = ["ok", "ok", "simple", "rejected", None]
    return [
        Record(
            {"file_name": "a.png" if text else "none.png", "label": f"<b>{index}"}
            | ({"text": text} if text else {})
            | ({"caption": {"status": state}} if state else {}),
            tmp_path,
            str(index),
        )
        for index, (text, state) in enumerate(zip(texts, states, strict=True))
    ]


def test_the_page_counts_states_attributes_and_twins(rows):
    page = build_review(rows, ATTRIBUTES, None, FOUND, most=10, manifest="m")
    assert "<th scope='row'>the colors</th><td>2</td><td>50%</td>" in page
    assert "<th scope='row'>the border</th><td>1</td><td>25%</td>" in page
    assert "<th scope='row'>A brown spot.</th><td>2</td>" in page
    assert "<th scope='row'>rejected</th><td>1</td>" in page
    assert "5 images (set images; without labels, patients unknown) and 4 captions" in page
    assert "Does the model look" not in page


def test_texts_that_repeat_are_listed_up_to_the_most_and_the_rest_is_counted(rows, monkeypatch):
    assert "<p>None.</p>" in build_review(rows[2:], ATTRIBUTES, None, FOUND, most=0, manifest="m")
    monkeypatch.setattr(review, "MOST_TWINS", 1)
    page = build_review([*rows, rows[2]], ATTRIBUTES, None, FOUND, most=0, manifest="m")
    assert (
        "<th scope='row'>A brown spot.</th><td>2</td>" in page
        and "<th scope='row'>A border.</th>" not in page
    )
    assert "and 1 more" in page and "<p>None.</p>" not in page


def test_an_image_that_cannot_be_read_is_a_gray_place_beside_the_others(rows):
    assert build_review(rows, ATTRIBUTES, None, FOUND, most=10, manifest="m").count("<figure>") == 5


def test_doubtful_rows_come_first_and_the_most_is_kept_to(rows):
    page = build_review(rows, ATTRIBUTES, None, FOUND, most=3, manifest="m")
    places = [page.index(f">{number}. ") for number in (4, 3, 1)]
    assert places == sorted(places) and page.count("<figure>") == 3
    assert (
        build_review(rows[2:4], ATTRIBUTES, None, FOUND, most=2, manifest="m").count("<figure>")
        == 2
    )


def test_doubtful_rows_do_not_crowd_out_the_others(rows):
    page = build_review([rows[3]] * 9 + rows[:2], ATTRIBUTES, None, FOUND, most=4, manifest="m")
    assert page.count("· rejected") == 2 and page.count("· ok") == 2


def test_names_and_texts_of_the_data_are_escaped(rows):
    page = build_review(rows, ATTRIBUTES, None, FOUND, most=10, manifest="m")
    assert "<b>" not in page and "&lt;b&gt;" in page


def test_the_audit_has_a_table_of_its_own(rows):
    page = build_review(rows, ATTRIBUTES, AUDIT, FOUND, most=0, manifest="m")
    assert "<th scope='row'>a blank image</th><td>25%</td><td>25%</td>" in page
    assert page.count("<figure>") == 0


def test_flagged_texts_come_before_others_and_are_counted(rows):
    flag = "says blue, which the image hardly shows"
    facts = {"status": "ok", "flags": [flag]}
    flagged = [rows[0], rows[1].with_fields(caption=facts), rows[4]]
    page = build_review(flagged, ATTRIBUTES, None, FOUND, most=10, manifest="m")
    assert page.index(">2. ") < page.index(">1. ") < page.index(">3. ")
    assert (
        f"<th scope='row'>{flag}</th><td>1</td>" in page and f"<p class='flags'>{flag}</p>" in page
    )
    assert "<h2>Flags</h2>" not in build_review(
        rows, ATTRIBUTES, None, FOUND, most=10, manifest="m"
    )


def test_what_a_person_has_accepted_or_written_comes_last(rows):
    seen = [rows[0].with_fields(caption={"status": it}) for it in ("accepted", "edited", "ok")]
    page = build_review(seen, ATTRIBUTES, None, FOUND, most=10, manifest="m")
    assert page.index(">3. ") < page.index(">1. ") < page.index(">2. ")


def test_the_page_says_what_is_not_on_it(rows):
    page = build_review(rows, ATTRIBUTES, None, FOUND, most=2, manifest="m")
    assert "3 images are not on this page" in " ".join(page.split())
    page = build_review(rows, ATTRIBUTES, None, FOUND, most=5, manifest="m")
    assert "not on this page:" not in page


def test_each_image_has_what_is_saved_of_it_and_the_page_has_its_script(rows):
    text = """</script> & "quoted" it's"""
    odd = rows[0].with_fields(text=text)
    page = build_review([odd], ATTRIBUTES, None, FOUND, most=1, manifest="m")
    (cells,) = re.findall(r"data-row='([^']*)'", page)
    row = json.loads(unescape(cells))
    assert (row["file_name"], row["text"], row["status"]) == ("a.png", text, "ok")
    assert row["written"] == hash_text(text) and page.count("</script>") == 2
    policy = unescape(page.split("<title>")[0])
    for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy.split("script-src")[1]
    bare = build_review(rows, ATTRIBUTES, None, FOUND, most=0, manifest="m")
    assert "<script>" not in bare  # nothing to decide

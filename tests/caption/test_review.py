import pytest
from PIL import Image

from medart_cli.caption import review
from medart_cli.caption.review import build_review, status_of
from medart_cli.data.account import Account
from medart_cli.data.manifest import Record

ATTRIBUTES = {"the colors": ["brown"], "the border": ["border"]}
AUDIT = {"images": 4} | {
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


def test_the_status_says_how_a_text_came_about(rows):
    assert [status_of(row) for row in rows] == ["ok", "ok", "simple", "rejected", "kept"]
    assert status_of(Record({"file_name": "a"}, rows[0].folder, "")) == "none"


def test_the_page_counts_states_attributes_and_twins(rows):
    page = build_review(rows, ATTRIBUTES, None, FOUND, 10)
    assert "<td>the colors</td><td>2</td><td>50%</td>" in page
    assert "<td>the border</td><td>1</td><td>25%</td>" in page
    assert "<td>A brown spot.</td><td>2</td>" in page
    assert "<td>rejected</td><td>1</td>" in page
    assert "5 images, 4 captions" in page and "Does the model look" not in page


def test_texts_that_repeat_are_listed_up_to_the_most_and_the_rest_is_counted(rows, monkeypatch):
    assert "<p>None.</p>" in build_review(rows[2:], ATTRIBUTES, None, FOUND, 0)
    monkeypatch.setattr(review, "MOST_TWINS", 1)
    page = build_review([*rows, rows[2]], ATTRIBUTES, None, FOUND, 0)
    assert "<td>A brown spot.</td><td>2</td>" in page and "<td>A border.</td>" not in page
    assert "and 1 more" in page and "<p>None.</p>" not in page


def test_an_image_that_cannot_be_read_is_a_gray_place_beside_the_others(rows):
    assert build_review(rows, ATTRIBUTES, None, FOUND, 10).count("<figure>") == 5


def test_doubtful_rows_come_first_and_the_most_is_kept_to(rows):
    page = build_review(rows, ATTRIBUTES, None, FOUND, 3)
    places = [page.index(f">{number}. ") for number in (4, 3, 1)]
    assert places == sorted(places) and page.count("<figure>") == 3
    assert build_review(rows[2:4], ATTRIBUTES, None, FOUND, 2).count("<figure>") == 2


def test_doubtful_rows_do_not_crowd_out_the_others(rows):
    page = build_review([rows[3]] * 9 + rows[:2], ATTRIBUTES, None, FOUND, 4)
    assert page.count("· rejected") == 2 and page.count("· ok") == 2


def test_names_and_texts_of_the_data_are_escaped(rows):
    page = build_review(rows, ATTRIBUTES, None, FOUND, 10)
    assert "<b>" not in page and "&lt;b&gt;" in page


def test_the_audit_has_a_table_of_its_own(rows):
    page = build_review(rows, ATTRIBUTES, AUDIT, FOUND, 0)
    assert "<td>a blank image</td><td>25%</td><td>25%</td>" in page
    assert page.count("<figure>") == 0

from collections import Counter

from medart_cli.caption.answers import answer_captions, word_captions
from medart_cli.data.account import Account

AUDIT = {"images": 20, "blank_same": 0.1, "other_same": 0.05}


def marks(states, flagged=0, audit=None):
    return [it.mark for it in answer_captions(states, flagged, audit)]


def test_images_without_a_caption_are_bad_news_and_template_captions_no_good_ones():
    assert marks({"ok": 9, "rejected": 1}, audit=AUDIT)[0] == "bad"
    assert marks({"ok": 9, "simple": 1}, audit=AUDIT)[0] == "unclear"
    assert marks({"ok": 9, "shortened": 1}, audit=AUDIT)[0] == "good"
    (first, *_) = answer_captions({"none": 2, "rejected": 1, "ok": 7}, 0, None)
    assert first.text == "3 of 10 images have no caption."


def test_a_model_is_said_to_look_where_that_was_measured():
    assert marks({"ok": 5}) == ["good", "unclear", "unclear"]
    assert marks({"ok": 5}, audit=AUDIT)[1] == "good"
    assert marks({"ok": 5}, audit=AUDIT | {"other_same": 0.8})[1] == "bad"
    assert len(marks({"simple": 5})) == 2  # no model was asked


def test_captions_are_doubtful_until_a_person_has_read_them():
    assert marks({"accepted": 4, "edited": 1}, audit=AUDIT)[-1] == "good"
    assert marks({"accepted": 4, "ok": 1}, audit=AUDIT)[-1] == "unclear"
    last = answer_captions({"ok": 5}, 2, AUDIT)[-1]
    assert (last.mark, last.link) == ("unclear", "flags")
    assert last.text.startswith("2 captions say what a rule doubts")


def test_what_is_shown_is_counted_with_what_wrote_it():
    found = Account("derm/images").facts() | {"labels": {"nevus": 6, "melanoma": 4}, "patients": 8}
    told = word_captions(found, {"ok": 9, "none": 1}, Counter({"hub/llava": 9}))
    assert told == (
        "Shown: 10 images (set images; 2 labels, 8 patients) and 9 captions, written by llava (9)."
    )

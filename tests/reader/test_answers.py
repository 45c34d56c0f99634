import json

import pytest

from medart_cli.errors import ConfigError
from medart_cli.reader.answers import read_key, read_reading, read_readings

IMAGES = [{"image": f"{place:016x}", "kind": ("real", "synthetic")[place % 2], "label": None,
           "group": str(place)} for place in range(4)]  # fmt: skip
KEY = {"format": 1, "kit": "abc", "images": IMAGES}


@pytest.fixture
def write(tmp_path):
    def save(name, answers, **facts):
        path = tmp_path / name
        text = json.dumps({"format": 1, "kit": "abc", "reader": "A", "answers": answers, **facts})
        path.write_text(text, encoding="utf-8")
        return path

    return save


def answer(place, said="real", **facts):
    return {"image": IMAGES[place]["image"], "answer": said, **facts}


def test_answers_stand_at_the_places_of_their_images(write):
    path = write(
        "a.json",
        [answer(2, "synthetic", confidence=5, seconds=2.5), answer(0, confidence=None, seconds=1)],
    )
    reading = read_reading(path, KEY)
    assert (reading.reader, reading.answered, reading.seconds) == ("A", 2, 3.5)
    assert reading.said.tolist() == [0, -1, 1, -1]
    assert reading.confidence.tolist() == [0, 0, 5, 0]


@pytest.mark.parametrize("name", ["", " ", None, 7])
def test_a_reader_without_a_name_has_that_of_the_file(write, name):
    assert read_reading(write("b-7.json", [answer(0)], reader=name), KEY).reader == "b-7"


@pytest.mark.parametrize(
    ("answers", "facts", "told"),
    [
        ([answer(0)], {"kit": "other"}, "a.json: holds answers to another kit, 'other'"),
        ([answer(0)], {"format": 2}, "is no answer file"),
        ({"a": 1}, {}, "is no answer file"),
        ([{"image": "none", "answer": "real"}], {}, "answer 1: names no image of the kit"),
        (["real"], {}, "answer 1: names no image of the kit"),
        ([answer(0), answer(0)], {}, "answer 2: is a second one to image"),
        ([answer(0, "Real")], {}, "answer 1: is neither real nor synthetic"),
        ([answer(0, None)], {}, "answer 1: is neither real nor synthetic"),
        ([answer(0, confidence=6)], {}, "its confidence is not 1 to 5"),
        ([answer(0, confidence="3")], {}, "its confidence is not 1 to 5"),
        ([answer(0, confidence=True)], {}, "its confidence is not 1 to 5"),
        ([answer(0, seconds=-1)], {}, "its seconds are no time"),
        ([answer(0, seconds="1")], {}, "its seconds are no time"),
    ],
)
def test_a_wrong_answer_file_is_refused_with_its_place(write, answers, facts, told):
    with pytest.raises(ConfigError, match=told):
        read_reading(write("a.json", answers, **facts), KEY)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"[1]", "is no JSON object"),
        (b"not JSON", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"", "is not JSON"),
    ],
)
def test_a_file_that_is_no_json_is_one_error(tmp_path, data, told):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ConfigError, match=told):
        read_reading(tmp_path / "a.json", KEY)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="none.json: cannot be read: No such file"):
        read_reading(tmp_path / "none.json", KEY)


def test_two_files_of_one_reader_are_refused(write):
    paths = [write("a.json", [answer(0)]), write("b.json", [answer(0)])]
    with pytest.raises(ConfigError, match=r"a.json and .*b.json: both are of reader 'A'"):
        read_readings(paths, KEY)
    others = [paths[0], write("c.json", [answer(1)], reader="C")]
    assert [item.reader for item in read_readings(others, KEY)] == ["A", "C"]


def test_a_folder_without_a_key_is_no_kit(tmp_path):
    with pytest.raises(ConfigError, match="is no reader study kit"):
        read_key(tmp_path)
    for damaged in ("{}", '{"format": 1, "images": [{}]}', '{"format": 2, "images": []}'):
        (tmp_path / "key.json").write_text(damaged)
        with pytest.raises(ConfigError, match="is not a key of this version"):
            read_key(tmp_path)

import json
from collections import Counter

from datasets import load_dataset
from PIL import Image

from medart_cli.data.dataset import read_data
from medart_cli.tiny.dataset import choose_phantoms, write_phantoms


def test_as_many_of_each_class_are_chosen_and_the_seed_decides():
    chosen = choose_phantoms("shifted", per_label=5, seed=1)
    assert set(Counter(item.label for item in chosen).values()) == {5}
    assert chosen == choose_phantoms("shifted", per_label=5, seed=1)
    assert chosen != choose_phantoms("shifted", per_label=5, seed=2)


def test_phantoms_lie_as_a_data_set_that_says_what_it_is(tmp_path):
    chosen = choose_phantoms("base", per_label=1, seed=1)
    write_phantoms(tmp_path / "images", chosen, seed=1, captions=True)
    rows = list(read_data(tmp_path / "images"))
    assert [row.text for row in rows] == [item.caption() for item in chosen]
    assert all(row.phantom for row in rows)
    with Image.open(rows[0].path) as image:
        assert json.loads(image.text["medart"]) == {"phantom": True}
    loaded = load_dataset("imagefolder", data_dir=str(tmp_path / "images"), split="train")
    assert len(loaded) == 9


def test_images_without_captions_have_their_label_only(tmp_path):
    write_phantoms(tmp_path, choose_phantoms("shifted", per_label=1, seed=0), seed=0)
    assert all(row.text is None and row.label for row in read_data(tmp_path))

import json
import shutil
from collections import Counter

import pytest
from PIL import Image

from medart_cli.data.dataset import read_data
from medart_cli.sample.shapes import choose_by_row, choose_shapes
from tests.finetune.test_buckets import save_images

TRAIN = ("--steps", 1, "--resolution", 16, "--hldf-every", 0, "--preview-every", 0, "--quiet")
SIZES = [(40, 30)] * 4 + [(30, 40)] * 2 + [(32, 32)]
COUNTS = {(12, 20): 60, (16, 16): 30, (20, 12): 10}


def sizes_of(folder):
    return [Image.open(record.path).size for record in read_data(folder)]


def near(sizes, shares):
    counts = Counter(sizes)
    return all(abs(counts[size] - share) <= 1 for size, share in shares.items())


class Rows(list):
    """Rows by the path of their image."""

    account = None

    def find_path(self, row):
        return self[row]


def test_rows_without_an_image_get_each_shape_in_its_share():
    found = [choose_by_row(row, COUNTS) for row in range(1000)]
    for shape, count in Counter(found).items():
        assert abs(count - 10 * COUNTS[shape]) <= 5
    for start in range(0, 1000, 50):  # and so do a few of them
        few = Counter(found[start : start + 50])
        assert all(abs(few[shape] - COUNTS[shape] / 2) <= 2 for shape in COUNTS)


def test_more_rows_leave_the_shapes_of_the_others_alone():
    assert choose_shapes(Rows([None] * 9), COUNTS) == choose_shapes(Rows([None] * 20), COUNTS)[:9]


def test_a_row_has_the_bucket_of_its_image_and_an_unreadable_one_is_said(tmp_path, said):
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    Image.new("RGB", (50, 31)).save(paths[0])
    Image.new("RGB", (40, 70)).save(paths[1])
    paths[2].write_bytes(b"torn")
    found = choose_shapes(Rows([*paths, paths[0]]), COUNTS)
    assert found[:2] == [(12, 20), (20, 12)] and found[3] == found[0]
    assert found[2] in COUNTS
    assert any("2.png" in line and "drawn at the shape of another image" in line for line in said)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return save_images(tmp_path_factory.mktemp("photos") / "images", SIZES)


@pytest.fixture
def run(medart, small_base, photos, tmp_path):
    code, _, errors = medart("finetune", photos, "--base", small_base, "--out", tmp_path / "run",
                             "--buckets", "--merge", *TRAIN)  # fmt: skip
    assert code == 0, errors
    return tmp_path / "run"


@pytest.fixture
def sample(medart, tmp_path):
    def draw(source, *options, out="syn", code=0):
        words = ("sample", source, "--out", tmp_path / out, "--steps", 2, "--quiet", *options)
        ended, _, errors = medart(*words)
        assert ended == code, errors
        return tmp_path / out, errors

    return draw


def test_images_are_drawn_at_the_shape_of_the_image_whose_caption_it_is(sample, run, photos):
    own = {(40, 30): (20, 12), (30, 40): (12, 20), (32, 32): (16, 16)}
    for source in (run, run / "merged", run / "checkpoints/step-000001"):
        out, _ = sample(source, "--from", photos, "--overwrite")
        real = [Image.open(record.path).size for record in read_data(photos)]
        assert sizes_of(out) == [own[size] for size in real]
    prompts, _ = sample(run, "--prompt", "red lesion", "--count", 14, out="prompts")
    assert near(sizes_of(prompts), {(20, 12): 8, (12, 20): 4, (16, 16): 2})


def test_neither_batches_nor_shards_change_an_image(sample, run, photos):
    whole, _ = sample(run, "--from", photos, "--batch-size", 1)
    other, _ = sample(run, "--from", photos, "--batch-size", 3, "--shard", "1/2", out="parts")
    sample(run, "--from", photos, "--batch-size", 3, "--shard", "2/2", out="parts")
    sample(run, "--from", photos, "--batch-size", 3, out="parts")
    assert sizes_of(whole) == sizes_of(other)
    for record in read_data(whole):
        pair = [Image.open(folder / record.file_name) for folder in (whole, other)]
        gap = max(abs(a - b) for a, b in zip(*(it.tobytes() for it in pair), strict=True))
        assert gap <= 1  # the rounding of a pass depends on its size


def test_a_stopped_sampling_goes_on_to_the_same_images(sample, run, photos):
    whole, _ = sample(run, "--from", photos, "--batch-size", 2)
    pictures = {path.name: path.read_bytes() for path in whole.glob("0*.png")}
    lines = (whole / "metadata.jsonl").read_text()
    for name in ("000001.png", "000005.png"):
        (whole / name).unlink()
    sample(run, "--from", photos, "--batch-size", 2)
    assert {path.name: path.read_bytes() for path in whole.glob("0*.png")} == pictures
    assert (whole / "metadata.jsonl").read_text() == lines


def test_captions_whose_images_are_gone_get_the_shapes_of_training(sample, run, photos, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    rows = [{"file_name": f"{i}.png", "text": "a lesion"} for i in range(7)]
    (alone / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, errors = sample(run, "--from", alone / "metadata.jsonl")
    assert near(sizes_of(out), {(20, 12): 4, (12, 20): 2, (16, 16): 1})
    assert "of 7 of 7 captions the image is not there" in errors


def test_the_shape_can_be_chosen(sample, run, photos, small_base):
    assert sizes_of(sample(run, "--prompt", "a", "--size", "12x28")[0]) == [(28, 12)]
    squares, _ = sample(run, "--from", photos, "--no-buckets", out="squares")
    assert {*sizes_of(squares)} == {(16, 16)}
    larger, _ = sample(run, "--from", photos, "--resolution", 32, out="larger")
    assert {*sizes_of(larger)} == {(36, 28), (28, 36), (32, 32)}
    plain, _ = sample(small_base, "--from", photos, "--buckets", "--resolution", 16, out="plain")
    assert {*sizes_of(plain)} == {(20, 12), (12, 20), (16, 16)}


def test_a_shape_that_cannot_be_is_refused(sample, run, small_base):
    for options, told in (
        (("--size", "12"), "--size 12: must be HEIGHTxWIDTH in pixels"),
        (("--size", "13x16"), "--size 13x16: this base needs multiples of 4"),
        (("--size", "16x16", "--resolution", 16), "--size: says the shape; leave out"),
        (("--size", "16x16", "--buckets"), "--size: says the shape; leave out"),
    ):
        _, errors = sample(run, "--prompt", "a", *options, code=2)
        assert told in errors
    _, errors = sample(small_base, "--prompt", "a", "--buckets", code=2)
    assert "was not trained with buckets, and prompts have no shape; use --from" in errors


def test_the_cards_say_the_shapes(run):
    told = "Trained with aspect buckets of about 16 x 16 pixels, height x width (images): 12x20 (4)"
    for folder in (run, run / "merged"):
        assert told in " ".join((folder / "README.md").read_text().split())
    assert "height=12, width=20," in (run / "merged/README.md").read_text()


def test_a_run_on_a_merged_one_has_shapes_of_its_own(medart, sample, run, photos, tmp_path):
    base = shutil.copytree(run / "merged", tmp_path / "merged")
    words = ("finetune", photos, "--base", base, "--out", tmp_path / "second", "--merge", *TRAIN)
    assert medart(*words)[0] == 0
    for source in (tmp_path / "second", tmp_path / "second/merged"):
        out, _ = sample(source, "--from", photos, "--overwrite")
        assert {*sizes_of(out)} == {(16, 16)}

"""The kit tells nobody what is real: neither the page nor its order, files or names."""

import base64
import io
import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from medart_cli.reader.kit import share_out

REAL, SYNTHETIC = "real_patient_series", "drawn_by_the_model"
SECRET = "Jane Doe 1952"


def draw(seed, size):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def save_real(path, seed):
    """Save a photograph as cameras do: JPEG, with EXIF, in a size of its own."""
    exif = Image.Exif()
    exif[0x9286] = SECRET
    exif[0x013B] = SECRET
    image = Image.fromarray(draw(seed, (60 + 4 * (seed % 3), 48)))
    image.save(path, quality=80, exif=exif, dpi=(72, 72), comment=SECRET.encode())


def save_synthetic(path, seed):
    facts = PngImagePlugin.PngInfo()
    facts.add_itxt("medart", json.dumps({"synthetic": True, "prompt": "a melanoma"}))
    Image.fromarray(draw(seed, (64, 64))).save(path, pnginfo=facts)


@pytest.fixture
def sets(tmp_path):
    rows = []
    for index in range(14):
        label = ("melanoma", "nevus")[index < 4]  # 4 and 10
        place = tmp_path / REAL / label / f"IMG_{index:04d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        save_real(place, index)
    for index in range(12):
        label = ("melanoma", "nevus")[index % 2]
        place = tmp_path / SYNTHETIC / f"{index:06d}.png"
        place.parent.mkdir(exist_ok=True)
        save_synthetic(place, 100 + index)
        rows.append({"file_name": place.name, "label": label, "synthetic": True})
    write_rows(tmp_path / SYNTHETIC, rows)
    return tmp_path / REAL, tmp_path / SYNTHETIC


def write_rows(folder, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines)


@pytest.fixture
def make(medart, sets, tmp_path):
    def run(*options, out="kit", code=0):
        result = medart("reader", *sets, "--out", tmp_path / out, *options)
        assert result[0] == code, result[2]
        return result

    return run


def key_of(folder):
    return json.loads((folder / "key.json").read_text("utf-8"))


def files_on(folder):
    """Return the name and the bytes of each image on a page, in its order."""
    page = (folder / "reader.html").read_text("utf-8")
    found = re.findall(r"<img data-image='(\w+)' src='data:image/(\w+);base64,([\w+/=]+)'", page)
    return [(name, kind, base64.b64decode(data)) for name, kind, data in found]


def parts_of(kind, data):
    """Name the parts of a PNG or JPEG file and what they say, but for the pixels."""
    if kind == "png":
        place, found = 8, []
        while place < len(data):
            length = int.from_bytes(data[place : place + 4], "big")
            name, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
            found.append((name, body if name == b"IHDR" else b""))
            place += length + 12
        return sorted({*found})
    with Image.open(io.BytesIO(data)) as image:
        return image.size, image.mode, image.layer, image.quantization, image.info


def test_the_page_holds_nothing_of_what_the_key_says(make, tmp_path):
    make()
    page = (tmp_path / "kit/reader.html").read_bytes()
    plain = re.sub(rb"base64,[\w+/=]+", b"", page).decode()
    key = key_of(tmp_path / "kit")
    assert len(key["images"]) == 20
    for item in key["images"]:
        name = item["file_name"]
        stem = name.rpartition("/")[2].partition(".")[0]
        for told in (name, stem, item["sha256"], item["sha256"][:12], item["group"]):
            assert told not in plain
    for word in (REAL, SYNTHETIC, "melanoma", "nevus", "key.json", str(tmp_path), "seed", ".jpg"):
        assert word not in plain
    for _, _, data in files_on(tmp_path / "kit"):
        assert SECRET.encode() not in data and b"medart" not in data and b"Exif" not in data
    # What is said of an image is its name, its pixels and its number, the same for both kinds.
    tags = re.findall(r"<img ([^>]*)>", plain)
    forms = {re.sub(r"'[0-9a-f]{16}'|Image \d+", "", tag) for tag in tags}
    assert len(tags) == 20 and len(forms) == 1


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_the_files_of_both_kinds_are_of_one_form(make, tmp_path, encoding):
    make("--encoding", encoding)
    kinds = {item["image"]: item["kind"] for item in key_of(tmp_path / "kit")["images"]}
    files = files_on(tmp_path / "kit")
    assert len({len(name) for name, _, _ in files}) == 1
    assert {kind for _, kind, _ in files} == {encoding}
    forms = [(kinds[name], repr(parts_of(kind, data))) for name, kind, data in files]
    assert len({form for _, form in forms}) == 1
    assert {kind for kind, _ in forms} == {"real", "synthetic"}
    for _, _, data in files:
        with Image.open(io.BytesIO(data)) as image:
            assert (image.size, image.mode) == ((48, 48), "RGB")
            assert not image.getexif()


def test_there_are_as_many_of_each_kind_for_each_label(make, tmp_path, said):
    make("--count", 8)
    counts = Counter((it["label"], it["kind"]) for it in key_of(tmp_path / "kit")["images"])
    assert set(counts.values()) == {4} and len(counts) == 4
    make("--count", 50, out="all")  # 4 real images of a nevus, 6 synthetic ones of each
    counts = Counter((it["label"], it["kind"]) for it in key_of(tmp_path / "all")["images"])
    assert {label: count for (label, _), count in counts.items()} == {"nevus": 4, "melanoma": 6}
    assert "10 images of each kind instead of 50: there are no more" in said


def test_a_count_is_shared_out_evenly_as_far_as_there_are_images():
    assert share_out({"a": 9, "b": 1, "c": 9}, 7) == {"a": 3, "b": 1, "c": 3}
    assert share_out({"a": 2, "b": 1}, 50) == {"a": 2, "b": 1}


def test_the_same_images_and_seed_make_the_same_kit_and_another_seed_another(make, tmp_path):
    for out, seed in (("one", 0), ("two", 0), ("three", 1)):
        make("--seed", seed, "--count", 4, out=out)
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    assert (one / "reader.html").read_bytes() == (two / "reader.html").read_bytes()
    names = [{item["image"] for item in key_of(folder)["images"]} for folder in (one, three)]
    assert names[0].isdisjoint(names[1]) and key_of(one)["kit"] != key_of(three)["kit"]


def test_order_and_names_depend_on_the_bytes_of_the_images_not_on_the_seed_alone(
    make, sets, tmp_path
):
    """One who has the page, the code and the seed must not be able to work out the key."""
    make("--count", 4, out="one")
    save_real(sets[0] / "nevus/IMG_0000.jpg", 77)  # one file of all is another
    make("--count", 4, out="two")
    one, two = (key_of(tmp_path / name)["images"] for name in ("one", "two"))
    assert {it["image"] for it in one}.isdisjoint({it["image"] for it in two})
    orders = []
    for number in range(12):
        save_real(sets[0] / "nevus/IMG_0000.jpg", 200 + number)
        make("--count", 4, out=f"kit{number}")
        orders.append([it["kind"] for it in key_of(tmp_path / f"kit{number}")["images"]])
    shares = np.mean([[kind == "real" for kind in order] for order in orders], axis=0)
    assert len({tuple(order) for order in orders}) > 6
    assert ((shares > 0) & (shares < 1)).all()  # every place had both kinds


def test_a_finished_kit_is_left_as_it_is_and_one_of_other_images_refused(make, sets, tmp_path):
    make("--count", 4)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kit").iterdir()}
    code, output, _ = make("--count", 4)
    assert output == f"{tmp_path / 'kit/reader.html'}\n"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kit").iterdir()} == before
    assert "count was 4 and is now 5" in make("--count", 5, code=2)[2]
    (sets[0] / "nevus/IMG_0000.jpg").unlink()
    assert "its images changed" in make("--count", 4, code=2)[2]
    make("--count", 4, "--overwrite")
    (tmp_path / "kit/reader.html").write_text("spoiled")  # then it is written again
    make("--count", 4)
    assert len(files_on(tmp_path / "kit")) == 8


def test_one_image_of_each_patient_comes_first(make, sets, tmp_path):
    names = sorted(path.relative_to(sets[0]).as_posix() for path in sets[0].rglob("*.jpg"))
    groups = [f"P{index % 5 if 'melanoma' in name else 9 + index}" for index, name in
              enumerate(names)]  # fmt: skip
    rows = [{"file_name": name, "label": name.split("/")[0], "group_id": group}
            for name, group in zip(names, groups, strict=True)]  # fmt: skip
    write_rows(sets[0], rows)
    make("--count", 8)
    patients = [it["group"] for it in key_of(tmp_path / "kit")["images"] if it["kind"] == "real"]
    assert len(patients) == 8 == len({*patients})


def test_broken_files_are_failures_and_both_kinds_stay_as_many(make, sets, tmp_path):
    for path in sorted((sets[0] / "melanoma").iterdir())[:5]:
        path.write_bytes(path.read_bytes()[:200] + path.name.encode())
    _, _, said = make("--count", 50, code=3)
    assert "5 rows failed" in said
    key = key_of(tmp_path / "kit")
    assert len(key["failures"]) == 5
    assert Counter(it["kind"] for it in key["images"]) == {"real": 9, "synthetic": 9}
    make("--count", 50, "--max-failures", 5)


def test_what_may_tell_the_kinds_apart_is_said(make, sets, said):
    make("--image-size", 100)
    assert "some images are scaled up" in " ".join(said)
    for seed, path in enumerate(sets[0].rglob("*.jpg")):
        Image.fromarray(draw(seed, (400, 300))).save(path)
    make(out="other")  # 64 pixels
    assert "which may show as sharpness; --image-size 32 hides it" in " ".join(said)
    said.clear()
    make("--image-size", 32, out="small")
    assert "sharpness" not in " ".join(said)


def test_one_small_image_that_makes_all_small_is_named(make, sets, tmp_path, said):
    Image.fromarray(draw(5, (20, 20))).save(sets[0] / "nevus/IMG_0000.jpg")
    make()
    assert key_of(tmp_path / "kit")["image_size"] == 20
    assert "nevus/IMG_0000.jpg is so small that all images" in " ".join(said)
    assert "or use --image-size 56" in " ".join(said)


def test_sets_without_a_common_label_are_used_with_a_warning(make, sets, tmp_path, said):
    rows = [{"file_name": f"{index:06d}.png", "synthetic": True} for index in range(12)]
    write_rows(sets[1], rows)
    make("--count", 5)
    assert "no label in common" in " ".join(said)
    assert Counter(it["kind"] for it in key_of(tmp_path / "kit")["images"]) == {
        "real": 5, "synthetic": 5,
    }  # fmt: skip


def test_labels_of_one_set_alone_are_left_out(make, sets, tmp_path, said):
    (sets[0] / "psoriasis").mkdir()
    save_real(sets[0] / "psoriasis" / "IMG_0099.jpg", 99)
    make()
    assert "labels of one set only, whose images are left out: psoriasis" in said
    assert {it["label"] for it in key_of(tmp_path / "kit")["images"]} == {"melanoma", "nevus"}


def test_synthetic_images_among_the_real_ones_and_files_of_both_sets_are_refused(
    make, sets, tmp_path
):
    (sets[1] / "copy.jpg").write_bytes((sets[0] / "nevus/IMG_0000.jpg").read_bytes())
    with (sets[1] / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "copy.jpg", "label": "nevus"}) + "\n")
    assert "is the same file as" in make(code=2)[2]
    save_synthetic(sets[0] / "nevus" / "odd.png", 3)
    assert "a synthetic image in the real images (its file says so)" in make(code=2)[2]


def test_too_few_images_are_refused(make, sets):
    for path in [*sets[0].rglob("*.jpg")][1:]:
        path.unlink()
    assert "a study needs 2 or more" in make(code=2)[2]

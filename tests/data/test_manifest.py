"""Reading, checking, appending and mending manifests."""

import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medart_cli.data.dataset import read_data
from medart_cli.data.manifest import (
    ManifestWriter,
    Record,
    clean_group,
    hash_file,
    parse_line,
    read_manifest,
    repair_manifest,
    write_manifest,
)
from medart_cli.errors import ConfigError, ManifestError

HERE = Path("/nowhere")


def write_image(path, color=(200, 30, 60), size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def read_text(tmp_path, content, **options):
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(content)
    return list(read_manifest(path, **options))


READ_ALL = """
    import resource, sys
    from pathlib import Path
    from medart_cli.data.manifest import (read_manifest,)
    for count, _ in enumerate(read_manifest(Path(sys.argv[1])), start=1):
        if count == 1000:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_manifest_is_read_in_little_memory(tmp_path):
    path = tmp_path / "metadata.jsonl"
    with path.open("w") as file:
        for index in range(200_000):
            file.write(f'{{"file_name": "{index:06}.png", "text": "A nevus."}}\n')
    command = [sys.executable, "-c", textwrap.dedent(READ_ALL), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, growth = (int(part) for part in done.stdout.split())
    assert count == 200_000
    assert growth < 2000  # KiB


def test_order_and_unknown_keys_are_kept(tmp_path):
    lines = [{"zoom": [1, {"a": None}], "file_name": f"{i}.png", "age": 4.5} for i in (3, 1, 2)]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    records = read_text(tmp_path, content)
    assert [record.fields for record in records] == lines
    assert list(records[0].fields) == ["zoom", "file_name", "age"]
    changed = records[0].with_fields(text="new", age=5)
    assert changed.fields == {**lines[0], "text": "new", "age": 5}
    assert list(changed.fields) == ["zoom", "file_name", "age", "text"]
    assert records[0].fields == lines[0]


def test_a_record_gives_its_fields_by_name():
    line = b'{"file_name": "a/b.png", "text": "t", "label": "l", "split": "val", "synthetic": true}'
    record = parse_line(line, "m:1", Path("/data"))
    assert (record.path, record.text, record.label) == (Path("/data/a/b.png"), "t", "l")
    assert (record.split, record.synthetic, record.place) == ("val", True, "m:1")
    bare = parse_line(b'{"file_name": "b.png", "text": null}', "m:2", Path("/data"))
    assert (bare.text, bare.label, bare.split, bare.synthetic) == (None, None, None, False)


BAD = {
    "text": (b"hello", "is not a JSON object"),
    "torn": (b'{"file_name": "a.png", "te', "is not a JSON object"),
    "list": (b'["a.png"]', "is a JSON list, not an object"),
    "number": (b"3", "is a JSON int, not an object"),
    "two objects": (b'{"file_name": "a.png"}{"file_name": "b.png"}', "is not a JSON object"),
    "raw NUL": (b'{"file_name": "a\x00.png"}', "is not a JSON object"),
    "NUL bytes alone": (b"\x00\x00\x00\x00", "is not a JSON object"),
    "twice the same key": (
        b'{"file_name": "a", "label": "x", "label": "y"}',
        "'label' is repeated",
    ),
    "a twin inside": (b'{"file_name": "a", "caption": {"k": 1, "k": 2}}', "'k' is repeated"),
    "text is a number": (b'{"file_name": "a", "text": 5}', "text must be str, not int"),
    "label is a list": (b'{"file_name": "a", "label": [5]}', "label must be str or int, not list"),
    "caption is a text": (
        b'{"file_name": "a", "caption": "red"}',
        "caption must be dict, not str; a text belongs under the key text",
    ),
    "file_name is a list": (b'{"file_name": ["a"]}', "file_name must be str, not list"),
    "group is true": (b'{"file_name": "a", "group_id": true}', "group_id must be str or int"),
    "group is a float": (b'{"file_name": "a", "group_id": 1.5}', "group_id must be str or int"),
    "synthetic is 1": (b'{"file_name": "a", "synthetic": 1}', "synthetic must be bool"),
    "caption is text": (b'{"file_name": "a", "caption": "c"}', "caption must be dict"),
    "another split": (b'{"file_name": "a", "split": "dev"}', "split must be train, val or test"),
    "no name": (b'{"text": "a"}', "no file_name"),
    "empty name": (b'{"file_name": ""}', "no file_name"),
    "null name": (b'{"file_name": null}', "no file_name"),
    "Latin-1": ('{"file_name": "ä.png"}'.encode("latin-1"), "is not UTF-8 text"),
    "UTF-16": ('{"file_name": "a.png"}'.encode("utf-16"), "is not UTF-8 text"),
    "NaN": (b'{"file_name": "a", "age": NaN}', "is not a JSON object"),
    "Infinity": (b'{"file_name": "a", "age": [-Infinity]}', "is not a JSON object"),
    "a float too large": (b'{"file_name": "a", "age": 1e999}', "is not a JSON object"),
    "a number of 5000 digits": (b'{"file_name": "a", "n": ' + b"9" * 5000 + b"}", "is not a JSON"),
    "half a surrogate pair": (b'{"file_name": "a", "text": "\\ud800"}', "half a surrogate pair"),
    "half a pair in a key": (b'{"file_name": "a", "\\udfff": 1}', "half a surrogate pair"),
    "deep": (b'{"file_name": "a", "x": ' + b"[" * 300 + b"]" * 300 + b"}", "nested deeper"),
    "bottomless": (b'{"file_name": "a", "text": ' + b"[" * 200_000, "nested deeper"),
    "deep where text belongs": (
        b'{"file_name": "a", "text": ' + b"[" * 900 + b"]" * 900 + b"}",
        "nested deeper",
    ),
    "10 MB": (b'{"file_name": "a", "text": "' + b"x" * 10_000_000 + b'"}', "longer than 1 MiB"),
    "up": (b'{"file_name": "../a.png"}', "is outside the manifest's folder"),
    "up and down": (b'{"file_name": "x/../../a.png"}', "is outside the manifest's folder"),
    "absolute": (b'{"file_name": "/etc/passwd"}', "is outside the manifest's folder"),
    "line end in a name": (b'{"file_name": "a\\nb.png"}', "control character"),
    "escaped NUL in a name": (b'{"file_name": "a\\u0000.png"}', "control character"),
    "C1 control in a name": (b'{"file_name": "a\\u009b.png"}', "control character"),
    "backslash": (b'{"file_name": "..\\\\..\\\\a.png"}', "has a backslash"),
}


@pytest.mark.parametrize(("line", "reason"), BAD.values(), ids=BAD)
def test_a_malformed_line_is_an_error_that_names_file_and_line(tmp_path, line, reason):
    with pytest.raises(ManifestError) as caught:
        read_text(tmp_path, b'{"file_name": "good.png"}\n' + line + b"\n")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'metadata.jsonl'}:2: ")
    assert reason in message
    assert len(message) < 500 + len(str(tmp_path))


def test_a_wrong_value_is_not_repeated_in_the_message():
    with pytest.raises(ManifestError) as caught:
        parse_line(b'{"file_name": "a", "text": ["Jane Doe"]}', "m:1", HERE)
    assert "Jane" not in str(caught.value)


def test_byte_order_mark_line_ends_of_windows_and_blank_lines_are_read(tmp_path):
    content = b'\xef\xbb\xbf{"file_name": "a.png"}\r\n\r\n   \n{"file_name": "b.png"}\r\n'
    records = read_text(tmp_path, content)
    assert [record.file_name for record in records] == ["a.png", "b.png"]
    assert records[1].place.endswith(":4")


def test_a_last_line_without_its_end_is_read(tmp_path):
    assert len(read_text(tmp_path, b'{"file_name": "a.png"}\n{"file_name": "b.png"}')) == 2


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf"])
def test_a_manifest_without_a_record_is_refused(tmp_path, content):
    with pytest.raises(ManifestError, match="is empty"):
        read_text(tmp_path, content)


def test_root_allows_absolute_and_upward_names_that_stay_inside(tmp_path, monkeypatch):
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    lines = [{"file_name": "a/../b.png"}, {"file_name": str(root / "c.png")}]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    records = read_text(tmp_path, content, root=root)
    assert records[0].path.resolve() == root / "b.png"
    assert records[1].path == root / "c.png"
    monkeypatch.chdir(tmp_path)  # a root that is relative to the working folder means the same
    assert len(read_text(tmp_path, content, root=Path("images"))) == 2


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", "../images-2/x.png", "link/../x.png"])
def test_root_refuses_names_that_leave_it(tmp_path, name):
    root = tmp_path / "images"
    root.mkdir()
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    with pytest.raises(ManifestError, match="is outside --root"):
        read_text(tmp_path, json.dumps({"file_name": name}).encode(), root=root)


@pytest.mark.parametrize("name", ["out.png", "out/x.png", "in/out/x.png", "gone.png"])
def test_links_that_lead_out_of_the_folder_need_a_root(tmp_path, name):
    root = tmp_path / "images"
    (root / "in").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.png").write_bytes(b"")
    (root / "out.png").symlink_to(tmp_path / "secret" / "x.png")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "in" / "out").symlink_to("../../secret")
    (root / "gone.png").symlink_to(tmp_path / "images-2")
    manifest = root / "metadata.jsonl"
    manifest.write_text(json.dumps({"file_name": name}) + "\n")
    with pytest.raises(ManifestError, match=f"is a link that leads out of {root}; .*--root {root}"):
        list(read_data(root))
    assert [record.file_name for record in read_data(root, root=root)] == [name]


def test_links_that_stay_inside_are_followed_and_the_folder_may_be_a_link(tmp_path):
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    (root / "b").symlink_to("a")
    (root / "c.png").symlink_to("a/x.png")
    (tmp_path / "link").symlink_to(root)
    rows = [{"file_name": name} for name in ("b/x.png", "c.png", "none/y.png")]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [record.fields for record in read_data(tmp_path / "link")] == rows


def test_standard_input_is_read_relative_to_the_working_folder_or_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for root, folder in ((None, tmp_path), (Path("/data"), Path("/data"))):
        stream = io.TextIOWrapper(io.BytesIO(b'{"file_name": "a.png"}\n'))
        monkeypatch.setattr(sys, "stdin", stream)
        assert [record.path for record in read_data("-", root=root)] == [folder / "a.png"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"junk\n")))
    with pytest.raises(ManifestError, match="^standard input:1: "):
        list(read_data("-"))


def test_a_folder_with_a_manifest_is_read_through_it(tmp_path):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "extra.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "label": "x"}\n')
    from_folder = list(read_data(tmp_path))
    assert [record.file_name for record in from_folder] == ["a.png"]
    assert list(read_data(str(tmp_path / "metadata.jsonl"))) == from_folder


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_no_data_is_an_error(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=name):
        list(read_data(tmp_path / name))


def test_an_image_given_as_manifest_is_refused(tmp_path):
    write_image(tmp_path / "a.png")
    with pytest.raises(ManifestError, match="a.png: is a PNG image, not a manifest"):
        list(read_data(tmp_path / "a.png"))


def test_what_is_appended_is_read_again(tmp_path):
    rows = [
        {"file_name": "a.png", "text": "Ein Naevus, 3 µm, \u2028 \U0001f9ec \x00", "group_id": 7},
        {"file_name": "b/c.png", "caption": {"model": "m", "attempts": 2}, "new": [1.5, None]},
    ]
    path = tmp_path / "new" / "metadata.jsonl"
    with ManifestWriter(path) as writer:
        writer.append(rows[0])
    with ManifestWriter(path) as writer:
        writer.append(rows[1])
    assert [record.fields for record in read_manifest(path)] == rows
    write_manifest(tmp_path / "copy.jsonl", rows)
    assert (tmp_path / "copy.jsonl").read_bytes() == path.read_bytes()


def test_each_line_is_on_its_way_before_the_next_is_begun(tmp_path):
    path = tmp_path / "metadata.jsonl"
    with ManifestWriter(path) as writer:
        writer.append({"file_name": "a.png"})
        assert path.read_bytes() == b'{"file_name": "a.png"}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", object()])
def test_what_is_no_json_is_not_written(tmp_path, value):
    path = tmp_path / "metadata.jsonl"
    with ManifestWriter(path) as writer:
        writer.append({"file_name": "a.png"})
        with pytest.raises((ValueError, TypeError)):
            writer.append({"file_name": "b.png", "x": value})
    with pytest.raises((ValueError, TypeError)):
        write_manifest(path, [{"file_name": "b.png", "x": value}])
    assert path.read_bytes() == b'{"file_name": "a.png"}\n'
    assert os.listdir(tmp_path) == ["metadata.jsonl"]


WHOLE = b'{"file_name": "a.png"}\n'


@pytest.mark.parametrize(
    "torn", [b"{", b'{"file_name": "b.png", "text": "' + b"x" * 200_000, b'{"t": "\xc3', b"\0" * 99]
)
def test_a_torn_last_line_is_cut_off_with_a_warning(tmp_path, caplog, torn):
    path = tmp_path / "metadata.jsonl"
    for before in (b"", WHOLE * 3):
        path.write_bytes(before + torn)
        caplog.clear()
        with caplog.at_level("WARNING", logger="medart"):
            repair_manifest(path)
        assert path.read_bytes() == before
        assert "truncated by a crash" in caplog.text


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(WHOLE + b'{"file_name": "by hand.png"}')
    with ManifestWriter(path) as writer:
        writer.append({"file_name": "c.png"})
    names = [record.file_name for record in read_manifest(path)]
    assert names == ["a.png", "by hand.png", "c.png"]


def test_a_file_that_is_no_manifest_is_not_cut(tmp_path):
    path = tmp_path / "metadata.jsonl"
    for content in (b'[\n  {"file_name": "a.png"},', b"name,label\na.png,nevus"):
        path.write_bytes(content)
        with pytest.raises(ManifestError, match="is not a record"):
            ManifestWriter(path)
        assert path.read_bytes() == content


def test_a_last_line_that_is_too_long_to_be_ours_is_not_cut(tmp_path):
    path = tmp_path / "metadata.jsonl"
    content = WHOLE + b'{"file_name": "b.png", "text": "' + b"x" * 2_000_000
    path.write_bytes(content)
    with pytest.raises(ManifestError, match="is not a record"):
        repair_manifest(path)
    assert path.read_bytes() == content


def test_a_whole_manifest_needs_no_mending(tmp_path):
    path = tmp_path / "metadata.jsonl"
    repair_manifest(path)
    assert not path.exists()
    for content in (b"", WHOLE, WHOLE + b"\n"):
        path.write_bytes(content)
        repair_manifest(path)
        assert path.read_bytes() == content


WRITE_FOREVER = """
    import sys
    from pathlib import Path
    from medart_cli.data.manifest import (ManifestWriter,)
    with ManifestWriter(Path(sys.argv[1])) as writer:
        print("ready", flush=True)
        for index in range(10**9):
            writer.append({"file_name": f"{index:09}.png", "text": "word " * (index * 7919 % 900)})
"""


def test_a_killed_writer_leaves_whole_lines_and_its_successor_goes_on(tmp_path):
    path, chance = tmp_path / "metadata.jsonl", random.Random(0)
    command = [sys.executable, "-c", textwrap.dedent(WRITE_FOREVER), str(path)]
    total = 0
    for _ in range(5):
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(chance.uniform(0.001, 0.1))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        repair_manifest(path)
        names = [record.file_name for record in read_manifest(path)]
        assert len(names) > total  # nothing that stood there is lost
        newest = names[total:]
        assert newest == [f"{index:09}.png" for index in range(len(newest))]
        total = len(names)


FILL = """
    import resource, sys
    from pathlib import Path
    from medart_cli.data.manifest import (ManifestWriter, write_manifest,)
    path = Path(sys.argv[1])
    row = {"file_name": "a.png", "text": "x" * 100}
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    for write in (lambda: [ManifestWriter(path).append(row) for _ in range(99)],
                  lambda: write_manifest(path, [row] * 99)):
        try:
            write()
        except OSError as error:
            print(error.errno, error.strerror, error.filename == str(path))
"""


def test_a_full_disk_is_an_error_and_leaves_no_torn_line(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 0
    path = tmp_path / "metadata.jsonl"
    command = [sys.executable, "-c", textwrap.dedent(FILL), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["27 File too large True"] * 2  # 27: EFBIG
    content = path.read_bytes()
    assert content.endswith(b"\n") and len(content) > 800
    assert all(record.text == "x" * 100 for record in read_manifest(path))
    assert os.listdir(tmp_path) == ["metadata.jsonl"]


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert hash_file(tmp_path / "a") == known


def write_set(folder):
    rows = []
    with ManifestWriter(folder / "metadata.jsonl") as writer:
        for index, label in enumerate(["nevus", "melanoma", "nevus"]):
            write_image(folder / f"{index}.png", color=(index * 50, 0, 0))
            rows.append({"file_name": f"{index}.png", "text": f"µ {label} {index}", "label": label})
            writer.append(rows[-1])
    return rows


def load_with_datasets(folder, cache):
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(cache))["train"]


def test_datasets_reads_the_same_texts_and_labels(tmp_path):
    rows = write_set(tmp_path / "set")
    loaded = load_with_datasets(tmp_path / "set", tmp_path / "cache")
    assert loaded["text"] == [row["text"] for row in rows]
    assert loaded["label"] == [row["label"] for row in rows]
    assert [image.getpixel((0, 0))[0] for image in loaded["image"]] == [0, 50, 100]


def test_datasets_passes_over_an_image_that_the_manifest_does_not_list(tmp_path):
    rows = write_set(tmp_path / "set")
    write_image(tmp_path / "set" / "contact-sheet.png")  # as sample lays one beside its images
    loaded = load_with_datasets(tmp_path / "set", tmp_path / "cache")
    assert loaded["text"] == [row["text"] for row in rows]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = "file_name text label group_id split sha256 caption synthetic".split()
ROWS = st.dictionaries(st.sampled_from(KEYS) | st.text(), JSON | st.sampled_from(["a.png", "val"]))


def parse_or_refuse(raw):
    try:
        return parse_line(raw, "m:1", HERE)
    except ManifestError as error:
        assert str(error).startswith("m:1: ")
        return None


@settings(max_examples=150, deadline=None)
@given(JSON | ROWS, st.booleans())
def test_any_json_value_gives_a_record_or_a_manifest_error(value, ascii_only):
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    record = parse_or_refuse(raw)
    if record is not None:
        assert isinstance(record, Record)
        assert record.fields == value
        assert record.path.is_relative_to(HERE)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_record_or_a_manifest_error(raw):
    parse_or_refuse(raw)
    parse_or_refuse(b'{"file_name": "a", "text": "' + raw + b'"}')


@settings(max_examples=50, deadline=None)
@given(row=ROWS.map(lambda row: {**row, "file_name": "a.png"}))
def test_what_is_read_can_be_written_and_read_again(tmp_path_factory, row):
    record = parse_or_refuse(json.dumps(row).encode())
    if record is not None:
        path = tmp_path_factory.mktemp("set") / "metadata.jsonl"
        write_manifest(path, [record.fields])
        assert [again.fields for again in read_manifest(path)] == [record.fields]


@pytest.mark.parametrize(
    ("spellings", "group"),
    [(("7", "007", "7.0", 7, " 07 "), "7"), (("0", "00", "0.0", 0), "0"), (("7a", "7A"), "7a"),
     (("007a",), "007a"), (("1.20",), "1.20"), (("1.2.826.0",), "1.2.826.0")],
)  # fmt: skip
def test_zeros_around_a_number_make_no_other_patient(spellings, group):
    assert {clean_group(spelling) for spelling in spellings} == {group}


@pytest.mark.parametrize("text", ["[\n", '[{"file_name": "a.png"},\n', '  [{"a": 1},'])
def test_an_array_is_refused_as_one(tmp_path, text):
    with pytest.raises(ManifestError, match="x:1: .*: an array begins here; write one object per"):
        parse_line(text.encode(), "x:1", tmp_path)

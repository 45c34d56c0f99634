import hashlib
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image, ImageOps
from safetensors import safe_open
from torch import Tensor, nn

from medart_cli import stop
from medart_cli.errors import ConfigError, ImageError, MissingModelError, RunError, Stopped
from medart_cli.metrics import features
from medart_cli.metrics.features import (
    INCEPTION_NAME,
    Extraction,
    Extractor,
    Files,
    derive_extractor,
    fill_cache,
    find_inception,
    load_inception,
    pack_hashes,
)
from tests.processes import largest_file

CPU = torch.device("cpu")


class StandIn(nn.Module):
    """The interface of the Inception file that clean-fid uses, with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 16, 9, stride=12), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(16, 2048, 3, stride=4), nn.AdaptiveAvgPool2d(1)),
        )

    def forward(self, x: Tensor, return_features: bool = True) -> Tensor:
        return self.layers((x - 128) / 128)


def save_stand_in(folder):
    torch.manual_seed(0)
    path = folder / INCEPTION_NAME
    torch.jit.script(StandIn()).save(str(path))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def load(path):
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ImageError(f"{path}: cannot be decoded") from error


def save_images(folder, count, seed=0):
    random = np.random.default_rng(seed)
    images = {}
    for index in range(count):
        path = folder / f"{index:02}.png"
        size = (30 + index, 40, 3)
        Image.fromarray(random.integers(0, 255, size, dtype=np.uint8)).save(path)
        images[hashlib.sha256(path.read_bytes()).hexdigest()] = path
    return images


def prepare_small(image, size=8):
    return torch.from_numpy(np.array(image.resize((size, size)))).flatten() / 255


def build_extractor(name="plain", width=192):
    return Extractor(
        name, hashlib.sha256(name.encode()).hexdigest(), width, prepare_small, torch.clone
    )


def list_files(images):
    hashes = sorted(images)
    return Files(pack_hashes(hashes), lambda row: images[hashes[row]])


def fill(images, extractors, extraction):
    return {
        sorted(images)[row]: why
        for batch in fill_cache(list_files(images), extractors, extraction)
        for row, why in batch.items()
    }


def count_missing(images, extractors, extraction):
    return features.count_missing(list_files(images), extractors, extraction)


def read_features(hashes, extractor, cache):
    return features.read_features(pack_hashes(hashes), extractor, cache)


def test_stand_in_inception_gives_the_features_of_clean_fid(tmp_path):
    (tmp_path / "images").mkdir()
    images = save_images(tmp_path / "images", 5)
    path, sha256 = save_stand_in(tmp_path)
    extractor = load_inception(path, CPU, sha256=sha256)
    extraction = Extraction(tmp_path / "cache", load, batch_size=2)
    fill(images, [extractor], extraction)
    found = read_features(list(images), extractor, extraction.cache)
    expected = cleanfid.get_folder_features(
        str(tmp_path / "images"),
        InceptionV3W(str(tmp_path), download=False),
        num_workers=0,
        device=CPU,
        verbose=False,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_an_inception_file_of_another_hash_is_not_loaded(tmp_path):
    path, _ = save_stand_in(tmp_path)
    with pytest.raises(ConfigError, match="is not the known Inception file: SHA-256"):
        load_inception(path, CPU)


def test_missing_inception_weights_say_where_to_get_them(tmp_path):
    with pytest.raises(MissingModelError, match="95.6 MB.*https://nvlabs.*--inception"):
        find_inception(None, tmp_path)


def test_inception_is_found_in_the_cache_or_by_name(tmp_path):
    path, _ = save_stand_in(tmp_path)
    tmp_path.chmod(0o700)
    for named in (None, path, tmp_path):
        assert find_inception(named, tmp_path) == path.resolve()


def test_inception_in_a_folder_that_everyone_may_write_is_refused(tmp_path):
    path, _ = save_stand_in(tmp_path)
    tmp_path.chmod(0o1777)
    with pytest.raises(ConfigError, match="writable by everyone"):
        find_inception(path, tmp_path)


def test_a_second_run_computes_nothing_and_reads_the_same(tmp_path):
    images = save_images(tmp_path, 7)
    extraction = Extraction(tmp_path / "cache", load, batch_size=3)
    plain, other = build_extractor(), build_extractor("other")
    assert count_missing(images, [plain], extraction) == 7
    assert set(fill(images, [plain], extraction)) == set(images)
    assert count_missing(images, [plain], extraction) == 0
    assert fill(images, [plain], extraction) == {}
    assert count_missing(images, [plain, other], extraction) == 7
    fill(images, [plain, other], extraction)
    order = list(images)[::-1]
    found = read_features(order, plain, extraction.cache)
    expected = np.stack([prepare_small(load(images[key])).numpy() for key in order])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, read_features(order, other, extraction.cache))
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (5, 0), (3, 2)])
def test_batch_size_and_worker_count_change_no_feature(tmp_path, batch_size, workers):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(192, 16), nn.Tanh()).eval()
    extractor = Extractor("net", "f" * 64, 16, prepare_small, network)
    images = save_images(tmp_path, 7)
    tables = []
    for name, pair in (("a", (4, 0)), ("b", (batch_size, workers))):
        extraction = Extraction(tmp_path / name, load, *pair)
        fill(images, [extractor], extraction)
        tables.append(read_features(list(images), extractor, extraction.cache))
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-5, atol=1e-6)


def test_a_cpu_computes_a_batch_in_pieces_and_the_features_are_those_of_the_whole():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    network, sizes = nn.Sequential(*layers).eval(), []
    batch = torch.rand(37, 3, 40, 40)

    def embed(images):
        sizes.append(len(images))
        return network(images)

    whole = network(batch).detach().numpy()
    for together, wanted in ((16, [16, 16, 5]), (features.CPU_IMAGES, [4] * 9 + [1])):
        sizes.clear()
        extractor = Extractor("net", "f" * 64, 8, prepare_small, embed, cpu_images=together)
        found = features.embed_images(extractor, batch)
        assert sizes == wanted
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


def test_processes_that_share_the_work_together_do_all_of_it(tmp_path):
    images = save_images(tmp_path, 5)
    extractor = build_extractor()
    shares = [
        set(fill(images, [extractor], Extraction(tmp_path / f"cache{rank}", load, part=(rank, 2))))
        for rank in range(2)
    ]
    assert shares[0] | shares[1] == set(images) and not shares[0] & shares[1]
    both = Extraction(tmp_path / "cache0", load)
    assert count_missing(images, [extractor], both) == len(shares[1])


def test_an_unreadable_file_is_named_and_the_others_are_computed(tmp_path):
    images = save_images(tmp_path, 3)
    broken = next(iter(images))
    images[broken].write_bytes(b"no image")
    extraction = Extraction(tmp_path / "cache", load)
    reasons = fill(images, [build_extractor()], extraction)
    assert reasons.pop(broken) == f"{images[broken]}: cannot be decoded"
    assert set(reasons.values()) == {None} and len(reasons) == 2
    with pytest.raises(KeyError):
        read_features([broken], build_extractor(), extraction.cache)


def test_a_loop_that_is_left_keeps_what_was_computed(tmp_path):
    images = save_images(tmp_path, 6)
    extraction = Extraction(tmp_path / "cache", load, batch_size=2)
    batches = fill_cache(list_files(images), [build_extractor()], extraction)
    done = next(batches)
    batches.close()
    assert count_missing(images, [build_extractor()], extraction) == 6 - len(done)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_between_two_networks_keeps_the_batches_that_both_have_seen(
    tmp_path, monkeypatch, workers
):
    monkeypatch.setattr(stop, "_received", [])
    images, passes = save_images(tmp_path, 6), []

    def embed(prepared):
        passes.append(len(prepared))
        if len(passes) == 3:  # the first network's second batch
            stop._note(signal.SIGTERM, None)
        return prepared.clone()

    pair = [replace(build_extractor(name), embed=embed) for name in ("one", "two")]
    extraction = Extraction(tmp_path / "cache", load, batch_size=2, workers=workers)
    with pytest.raises(Stopped, match="SIGTERM"):
        fill(images, pair, extraction)
    assert passes == [2, 2, 2]
    assert [count_missing(images, [item], extraction) for item in pair] == [4, 4]
    monkeypatch.setattr(stop, "_received", [])
    assert len(fill(images, pair, extraction)) == 4


def test_a_derived_extractor_sees_the_changed_image_under_another_key(tmp_path):
    images = save_images(tmp_path, 2)
    plain = build_extractor()
    mirrored = derive_extractor(plain, "mirrored", ImageOps.mirror)
    extraction = Extraction(tmp_path / "cache", load)
    fill(images, [plain, mirrored], extraction)
    found = read_features(list(images), mirrored, extraction.cache)
    expected = prepare_small(ImageOps.mirror(load(next(iter(images.values()))))).numpy()
    np.testing.assert_array_equal(found[0], expected)
    assert mirrored.fingerprint != plain.fingerprint


def test_many_images_make_several_files_and_large_tables_are_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "IMAGES_A_FILE", 2)
    images = save_images(tmp_path, 5)
    extraction = Extraction(tmp_path / "cache", load, batch_size=1)
    fill(images, [build_extractor()], extraction)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 3
    plain = read_features(list(images), build_extractor(), extraction.cache)
    monkeypatch.setattr(features, "LARGE", 100)
    mapped = read_features(list(images), build_extractor(), extraction.cache)
    assert isinstance(mapped, np.memmap) and not isinstance(plain, np.memmap)
    np.testing.assert_array_equal(mapped, plain)
    with largest_file(50), pytest.raises(RunError, match="no space for a table .*File too large"):
        read_features(list(images), build_extractor(), extraction.cache)


def test_a_broken_cache_file_is_computed_again(tmp_path):
    images = save_images(tmp_path, 3)
    extraction = Extraction(tmp_path / "cache", load)
    fill(images, [build_extractor()], extraction)
    next((tmp_path / "cache").rglob("*.safetensors")).write_bytes(b"torn")
    assert len(fill(images, [build_extractor()], extraction)) == 3


def test_a_value_is_kept_under_all_that_it_depends_on_and_checked_against_it(tmp_path, monkeypatch):
    images = save_images(tmp_path, 3)
    extraction = Extraction(tmp_path / "cache", load)
    plain = build_extractor()
    fill(images, [plain], extraction)
    alike = replace(plain, fingerprint=plain.fingerprint[:32] + "0" * 32)
    assert len(fill(images, [alike], extraction)) == 3  # the first 32 digits are not enough
    monkeypatch.setattr(features, "name_versions", lambda: "torch of another release")
    assert len(fill(images, [plain], extraction)) == 3
    folder = features._cache_folder(extraction.cache, plain)
    for path in folder.iterdir():
        path.unlink()
    other = features._cache_folder(extraction.cache, alike)
    other.mkdir(exist_ok=True)
    fill(images, [alike], extraction)
    shutil.copy(next(other.iterdir()), folder)  # under a name that it does not belong to
    with pytest.raises(KeyError):
        read_features(list(images), plain, extraction.cache)


def save_features(folder, keys, values, extractor):
    table = np.repeat(np.float32(values)[:, None], extractor.width, axis=1)
    features._write_cache(features._cache_folder(folder, extractor), keys, table, extractor)


def test_of_an_image_that_is_cached_twice_the_last_file_counts(tmp_path):
    extractor = build_extractor()
    keys = pack_hashes(hashlib.sha256(bytes([row])).hexdigest() for row in range(40))
    save_features(tmp_path, keys[:30], range(30), extractor)
    save_features(tmp_path, keys[20:], range(120, 140), extractor)
    folder = features._cache_folder(tmp_path, extractor)
    (folder / "zz.safetensors").write_bytes(b"torn")  # it stays: a disk may be away for a moment
    wanted = keys[[5, 25, 39, 5]]
    found = features.read_features(wanted, extractor, tmp_path)[:, 0]
    names = [path.name for path in sorted(folder.iterdir())]
    assert "zz.safetensors" in names and len(names) == 3
    first = hashlib.sha256(keys[:30].tobytes().hex().encode()).hexdigest()[:32]
    twice = 25 if names[1].startswith(first) else 125
    assert list(found) == [5, twice, 139, 5]


def test_a_hash_that_ends_in_zeros_is_found_and_written_whole(tmp_path):
    extractor = build_extractor()
    hashes = ["ab" * 31 + "00", "cd" * 30 + "0000", "ab" * 32]
    keys = pack_hashes(hashes)
    save_features(tmp_path, keys, [1, 2, 3], extractor)
    [path] = features._cache_folder(tmp_path, extractor).iterdir()
    with safe_open(path, framework="numpy") as file:
        assert file.get_tensor("keys").tobytes().hex() == "".join(hashes)
    assert list(read_features(hashes[::-1], extractor, tmp_path)[:, 0]) == [3, 2, 1]
    with pytest.raises(KeyError, match="ab" * 30 + "0000"):
        read_features(["ab" * 30 + "0000"], extractor, tmp_path)


def test_many_rows_of_few_images_and_no_rows_at_all_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "COPIED", 7)
    extractor = build_extractor()
    keys = np.sort(pack_hashes(hashlib.sha256(bytes([row])).hexdigest() for row in range(9)))
    save_features(tmp_path, keys[:4], range(4), extractor)
    save_features(tmp_path, keys[4:], range(4, 9), extractor)
    rows = np.random.default_rng(0).integers(9, size=100)
    found = features.read_features(keys[rows], extractor, tmp_path)
    np.testing.assert_array_equal(found[:, 0], rows)
    assert features.read_features(keys[:0], extractor, tmp_path).shape == (0, 192)
    extraction = Extraction(tmp_path, load)
    assert features.count_missing(Files(keys[:0], Path), [extractor], extraction) == 0


def test_features_that_are_no_numbers_end_the_run(tmp_path):
    extractor = Extractor("bad", "0" * 64, 192, prepare_small, partial(torch.mul, float("nan")))
    with pytest.raises(RunError, match="bad: gives features that are not finite"):
        fill(save_images(tmp_path, 2), [extractor], Extraction(tmp_path / "cache", load))

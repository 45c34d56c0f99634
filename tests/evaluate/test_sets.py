import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from medart_cli.errors import RunError
from medart_cli.evaluate.networks import build_networks, extract
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import code_labels, hash_sets, read_sets
from medart_cli.metrics.features import Extraction, Files, count_missing, read_features

SMALL = {"input_size": (3, 32, 32)}  # of timm's models


def save_images(folder, count, seed):
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return str(folder)


def build_config(tmp_path, **options):
    names = {"real": 4, "a/syn": 3, "b/syn": 3}
    real, first, second = (
        save_images(tmp_path / name, count, seed)
        for seed, (name, count) in enumerate(names.items())
    )
    return EvaluateConfig(
        real=real, synthetic=[first, second], out=tmp_path / "out", workers=0, device="cpu",
        cache=tmp_path / "cache", **options,
    )  # fmt: skip


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2, pretrained_cfg_overlay=SMALL)
    save_for_hf(model, tmp_path / "clf", safe_serialization=True)
    return str(tmp_path / "clf")


def test_sets_are_named_by_folder_and_those_above_where_folders_share_a_name(tmp_path):
    config = build_config(tmp_path)
    names = [item.name for item in read_sets(config)]
    assert names == ["real", "a/syn", "b/syn"]


def test_a_set_given_twice_gets_two_names(tmp_path):
    config = build_config(tmp_path)
    same = EvaluateConfig(real=config.real, synthetic=[config.real], out=config.out)
    names = [item.name for item in read_sets(same)]
    assert len(set(names)) == 2


def test_groups_are_patients_and_else_equal_files(tmp_path, network):
    config = build_config(tmp_path, features=[network])
    real = Path(config.real)
    (real / "3.png").write_bytes((real / "2.png").read_bytes())
    rows = [{"file_name": f"{index}.png"} for index in range(4)]
    rows[0]["group_id"] = rows[1]["group_id"] = "p7"
    (real / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets, failures = extract(
        config, hash_sets(read_sets(config)), build_networks(config, config.cache), config.cache
    )
    groups = sets[0].groups
    assert groups[0] == groups[1] != groups[2] == groups[3] and not failures
    assert sets[0].name_groups()[0] == b"p7"


def write_rows(folder, rows):
    lines = [
        json.dumps({"file_name": f"{row % 4}.png"} | fields) for row, fields in enumerate(rows)
    ]
    (Path(folder) / "metadata.jsonl").write_text("\n\n".join(lines))


def test_codes_of_groups_are_in_the_order_of_their_names_and_found_in_another_set(tmp_path):
    config = build_config(tmp_path)
    names = ["p9", "long" * 30, 7, "p10", "", None, 0, "long" * 30, "émile", "7", "wide" * 30]
    write_rows(config.real, [{"group_id": name} for name in names])
    write_rows(config.synthetic[0], [{"group_id": name} for name in ("p10", 7, "no", "", None)])
    real, other, _ = read_sets(config)
    keys = np.array([bytes([row]) * 32 for row in range(len(names))], dtype="S32")
    real = replace(real, keys=keys)
    known = ["" if name is None else str(name) for name in names]  # 0 is a patient, "" is none
    texts = [name or key.hex() for name, key in zip(known, keys, strict=True)]
    np.testing.assert_array_equal(real.groups, np.unique(texts, return_inverse=True)[1])
    assert list(real.find_groups(other)) == [real.groups[3], real.groups[2], -1, -1, -1]
    picked = real.pick(np.array([0, 3]))
    assert [record.fields["group_id"] for record in picked] == ["p9", "p10"]
    assert list(picked.groups) == [1, 0]


def test_labels_are_counted_without_unreadable_images(tmp_path):
    config = build_config(tmp_path)
    write_rows(config.real, [{"label": name} for name in ("b", "a", None, "b", "", "c")])
    real = read_sets(config)[0]
    assert real.count_labels() == {"a": 1, "b": 2, "c": 1}  # an empty label is none
    assert [list(real.rows_of(name)) for name in ("b", "", "other")] == [[0, 3], [], []]
    picked = real.pick(np.arange(1, 4))
    assert picked.count_labels() == {"a": 1, "b": 1} and list(picked.rows_of("b")) == [2]
    assert len(picked.rows_of(None)) == 3


def test_labels_have_codes_that_two_sets_share(tmp_path):
    config = build_config(tmp_path)
    write_rows(config.real, [{"label": name} for name in ("b", "a", None, "b")])
    write_rows(config.synthetic[0], [{"label": name} for name in ("c", "a", "b", "a")])
    real, item, _ = read_sets(config)
    names, (first, second) = code_labels([real, item])
    assert names == ["b", "a", "c"]
    assert list(first) == [0, 1, -1, 0] and list(second) == [2, 1, 0, 1]


def test_without_inception_the_embedded_network_is_taken_and_copies_cost_three_more(tmp_path):
    networks = build_networks(build_config(tmp_path), tmp_path / "cache")
    assert [item.name for item in networks.all] == [
        "efficientnet-lite0",
        "colors",
        "efficientnet-lite0 middle",
        "layout",
        "efficientnet-lite0 mirrored",
        "efficientnet-lite0 middle mirrored",
    ]
    assert [item.name for item in networks.mirrored] == [it.name for it in networks.all[-2:]]
    assert len({item.fingerprint for item in networks.all}) == 6


def test_only_images_that_may_have_been_copied_are_read_mirrored(tmp_path, network):
    config = build_config(tmp_path, features=[network])
    networks = build_networks(config, config.cache)
    sets, _ = extract(config, hash_sets(read_sets(config)), networks, config.cache)
    real, synthetic = (item.keys for item in sets[:2])
    for extractor in networks.mirrored:
        assert len(read_features(real, extractor, config.cache)) == len(real)
        with pytest.raises(KeyError):
            read_features(synthetic, extractor, config.cache)


def test_a_set_with_one_readable_image_ends_the_run(tmp_path, network):
    config = build_config(tmp_path, features=[network], copies=False)
    for name in ("0.png", "1.png"):
        (tmp_path / "a" / "syn" / name).write_bytes(b"torn")
    networks = build_networks(config, config.cache)
    with pytest.raises(RunError, match="only 1 of 3 images can be read"):
        extract(config, hash_sets(read_sets(config)), networks, config.cache)


def test_two_processes_share_the_features_and_write_one_report(tmp_path, network):
    config = build_config(tmp_path, features=[network])
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port",
        str(29600 + os.getpid() % 300), "-m", "medart_cli", "evaluate", config.real,
        *config.synthetic, "--features", network, "--out", str(config.out), "--device", "cpu",
        "--cache", str(config.cache), "--bootstrap", "0", "--workers", "0",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("Distances in the features") == 1
    facts = json.loads((config.out / "metrics.json").read_text())
    assert [item["n"] for item in facts["sets"]] == [4, 3, 3]
    networks = build_networks(config, config.cache)
    sets, _ = extract(config, hash_sets(read_sets(config)), networks, config.cache)
    keys = np.unique(np.concatenate([item.keys for item in sets]))
    extraction = Extraction(config.cache, Image.open)
    of_all = [item for item in networks.all if item not in networks.mirrored]
    assert count_missing(Files(keys, Path), of_all, extraction) == 0
    own = np.unique(sets[0].keys)
    assert count_missing(Files(own, Path), networks.mirrored, extraction) == 0

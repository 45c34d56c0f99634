import json

import pytest

from medart_cli.errors import ConfigError
from medart_cli.evaluate.contents import describe_contents, find_origin, saw_synthetic
from medart_cli.evaluate.options import EvaluateConfig

ROWS = [
    {"set": "train", "sha256": "aa" * 32, "group_id": " P1 "},
    {"set": "test", "sha256": "bb" * 32, "group_id": "P2"},
    {"set": "synthetic", "sha256": "cc" * 32, "group_id": "P3"},
]


@pytest.fixture
def folder(tmp_path):
    clf = tmp_path / "clf"
    for regime in ("real", "mix"):
        (clf / "regimes" / regime / "model").mkdir(parents=True)
    (clf / "split.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    write_regime(clf, "real")
    return clf


def write_regime(folder, name):
    (folder / "metrics.json").write_text(json.dumps({"classifier": {"regime": name, "seed": 0}}))


def test_a_classifier_of_real_images_has_seen_its_training_images_and_their_patients(folder):
    for place in (folder, folder / "regimes" / "real" / "model"):
        origin = find_origin(place)
        assert origin.hashes == {"aa" * 32} and origin.groups == {"p1"}
        assert not saw_synthetic(origin.regime)


def test_one_of_a_regime_with_synthetic_images_has_seen_these_too(folder):
    write_regime(folder, "mix")
    for place in (folder, folder / "regimes" / "mix" / "model"):
        origin = find_origin(place)
        assert origin.hashes == {"aa" * 32, "cc" * 32} and origin.groups == {"p1"}
        assert saw_synthetic(origin.regime)


@pytest.mark.parametrize("how", ["missing", "torn", "other", "elsewhere"])
def test_a_folder_that_does_not_say_what_it_was_trained_on_is_refused(folder, tmp_path, how):
    if how == "missing":
        (folder / "split.jsonl").unlink()
    elif how == "torn":
        (folder / "split.jsonl").write_text('{"set": "tr')
    elif how == "other":
        (folder / "metrics.json").write_text("{}")
    place = tmp_path / "x" if how == "elsewhere" else folder
    with pytest.raises(ConfigError, match="does not say which images it was trained on"):
        find_origin(place)


def test_the_hash_of_a_report_covers_classifier_captioner_profile_and_classes(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(b"1")
    (tmp_path / "own.toml").write_text('simple = "A {label}"\nflips = true\n')
    (tmp_path / "classes.toml").write_text('mel = "melanoma"\n')
    captioner = tmp_path / "vlm"
    captioner.mkdir()
    (captioner / "chat_template.jinja").write_text("a")
    config = EvaluateConfig(
        real="a", synthetic=["b"], out=tmp_path / "r", classifier=folder, captioner=str(captioner),
        profile=str(tmp_path / "own.toml"), classes=tmp_path / "classes.toml",
    )  # fmt: skip
    seen = [describe_contents(config, tmp_path / "cache")]
    for path, text in (
        (folder / "model.safetensors", "2"),
        (folder / "split.jsonl", json.dumps(ROWS[0])),
        (captioner / "chat_template.jinja", "b"),
        (tmp_path / "own.toml", 'simple = "B {label}"\nflips = true\n'),
        (tmp_path / "classes.toml", 'mel = "nevus"\n'),
    ):
        path.write_text(text)
        seen.append(describe_contents(config, tmp_path / "cache"))
    assert len({str(item) for item in seen}) == 6 and not any(None in item for item in seen)


def test_a_captioner_of_the_hub_is_unknown_and_the_embedded_one_is_not(tmp_path):
    parts = {"real": "a", "synthetic": ["b"], "out": tmp_path / "r"}
    assert describe_contents(EvaluateConfig(**parts), tmp_path) == []
    assert describe_contents(EvaluateConfig(**parts, captioner="tiny"), tmp_path) == []
    assert describe_contents(EvaluateConfig(**parts, captioner="a/b"), tmp_path) == [None]

import json
import logging

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models import backbone, captioner, hub
from medart_cli.models.bases import find_base
from tests.small_captioner import build_llava


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """A package folder of its own, into which a test may put embedded models."""
    monkeypatch.setattr(hub.resources, "files", lambda package: tmp_path / package)
    return tmp_path / "medart_cli" / "tiny"


def test_tiny_names_the_embedded_models(embedded, small_base, tmp_path):
    embedded.mkdir(parents=True)
    (embedded / "base").symlink_to(small_base)
    build_llava(embedded / "captioner")
    assert hub.embedded_model("base") == embedded / "base"
    assert find_base("tiny", offline=True) == embedded / "base"
    assert captioner.find_captioner("tiny") == embedded / "captioner"


@pytest.mark.parametrize("find", [find_base, captioner.find_captioner])
def test_an_installation_without_embedded_models_says_so(embedded, find):
    with pytest.raises(
        MissingModelError, match="tiny: this installation lacks its folder .*reinstall"
    ):
        find("tiny")


def test_a_local_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "snapshot_download", None)  # would fail if it were asked
    assert hub.find_model(str(tmp_path), option="--base", size="1 GB") == tmp_path


def test_a_hub_model_is_fetched_without_pickles_and_without_code(tmp_path, monkeypatch):
    asked = []

    def fetch(name, **options):
        asked.append((name, options))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = hub.find_model("a/b", option="--model", size="1 GB", revision="v2")
    assert (found, asked[0][0]) == (tmp_path, "a/b")
    assert asked[0][1]["revision"] == "v2"
    assert asked[0][1]["local_files_only"] is False
    assert "*.safetensors" in asked[0][1]["allow_patterns"]
    hub.find_model("a/b", option="--base", size="1 GB", folders=["vae"], offline=True)
    assert asked[1][1]["local_files_only"] is True
    assert {"model_index.json", "vae/*.json", "vae/*.safetensors"} <= set(
        asked[1][1]["allow_patterns"]
    )
    for _, options in asked:
        endings = {pattern.rpartition(".")[2] for pattern in options["allow_patterns"]}
        assert endings == {"json", "jinja", "txt", "model", "safetensors"}


def test_offline_a_missing_model_says_what_to_fetch_where_and_how_to_name_it(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingModelError) as caught:
        hub.find_model("a/b", option="--base", size="5 GB", folders=["tokenizer"], offline=True)
    assert str(caught.value) == (
        "a/b: no such folder, not in the local cache, and the hub was not asked (offline); on a "
        "machine with internet run `hf download a/b --include model_index.json --include "
        "'tokenizer/*' --local-dir FOLDER` (5 GB), copy FOLDER here and give it as --base"
    )


def test_the_environment_can_say_offline_too(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingModelError, match="local cache, and the hub was not asked"):
        hub.find_model("a/b", option="--base", size="5 GB")


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("no route\nmore"), hub.HTTPError("proxy"), OSError("full")]
)
def test_a_network_that_fails_is_one_line_with_the_reason(monkeypatch, error):
    def fail(name, **options):
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(MissingModelError) as caught:
        hub.find_model("a/b", option="--base", size="5 GB")
    reason = f"cannot be fetched ({type(error).__name__}: {str(error).splitlines()[0]})"
    assert reason in str(caught.value)
    assert "more" not in str(caught.value)


@pytest.mark.parametrize("name", ["tyni", "./a/b", "/a/b", "a/b/c", "a b/c", "~/a", "file/here"])
def test_what_cannot_be_on_the_hub_is_never_asked_for(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", None)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "here").touch()
    told = "no such folder, and not a hub id .*; give the model with --model"
    with pytest.raises(MissingModelError, match=told):
        hub.find_model(name, option="--model", size="1 GB")


def test_a_hub_id_may_hold_a_version_number():
    assert hub.is_hub_id("owner/model-v1.5")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pytorch_model.bin": ""}, r"only pickled weights \(pytorch_model.bin\), which can run"),
        ({"model.ckpt": "", "config.json": "{}"}, "only pickled weights"),
        ({"config.json": "{}"}, "no weights; put"),
        ({"model.safetensors.index.json": "no"}, "cannot be read; copy it again"),
        ({"model.safetensors.index.json": "[]"}, "cannot be read; copy it again"),
        (
            {"model.safetensors.index.json": '{"weight_map": {"w": "two"}}', "one": ""},
            "two missing, which model.safetensors.index.json names",
        ),
    ],
)
def test_weights_that_are_missing_or_pickled_are_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(MissingModelError, match=message):
        hub.check_weights(tmp_path)


def test_truncated_weights_are_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(MissingModelError, match="is not a complete safetensors file"):
        hub.check_weights(tmp_path)


def test_pickles_beside_safetensors_do_no_harm(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    for name in ("model.fp16.safetensors", "pytorch_model.bin"):
        (tmp_path / name).touch()
    hub.check_weights(tmp_path)
    assert [path.name for path in hub.find_weights(tmp_path)] == ["model.safetensors"]


@pytest.mark.parametrize("find", ["captioner", "backbone"])
def test_a_model_that_needs_its_own_code_is_refused(tmp_path, find):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    config = {"model_type": "brand-new", "auto_map": {"AutoModel": "modeling_new.NewModel"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling_new.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(ConfigError, match="needs custom code .* which medart never runs"):
        if find == "captioner":
            captioner.find_captioner(str(tmp_path))
        else:
            backbone.load_backbone(str(tmp_path), device=torch.device("cpu"))


def test_code_that_is_not_needed_is_ignored_and_said_so(tmp_path, caplog):
    config = {"model_type": "llava", "auto_map": {"AutoModel": "modeling_llava.Llava"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.INFO, logger="medart"):
        logging.getLogger("medart").propagate = True
        hub.check_code(tmp_path)
    assert "not run" in caplog.text


def test_weights_of_a_variant_alone_are_refused_as_the_libraries_would(tmp_path):
    for name in ("model.fp16.safetensors", "model.safetensors.index.fp16.json"):
        (tmp_path / name).write_text("{}")
    assert hub.find_weights(tmp_path) == []
    with pytest.raises(MissingModelError, match="has only variants of its weights"):
        hub.check_weights(tmp_path)


def test_the_index_of_a_variant_is_passed_over(tmp_path):
    plain = tmp_path / "model.safetensors.index.json"
    plain.write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    (tmp_path / "model-00001-of-00001.safetensors").touch()
    (tmp_path / "model.fp16.safetensors.index.json").write_text("{}")
    (tmp_path / "model.safetensors.index.fp16.json").write_text("{}")
    assert [path.name for path in hub.find_weights(tmp_path)] == [
        "model-00001-of-00001.safetensors"
    ]


def test_weights_are_counted_from_the_header(tmp_path):
    save_file(
        {"a": torch.zeros(3, 4), "b": torch.zeros(()), "c": torch.zeros(0, 9)}, tmp_path / "w"
    )
    assert hub.count_parameters(tmp_path / "w") == 13


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"),
        ("gpt-5", "gpt-5"),
        ("/data/of/ann/Qwen3-VL/", "Qwen3-VL"),
        ("./models/llava", "llava"),
        ("~/llava", "llava"),
        ("C:\\ann\\llava", "llava"),
        ("C:/ann/llava", "llava"),
        ("/root/hub/models--Qwen--Qwen3-VL-8B-Instruct/snapshots/0", "Qwen/Qwen3-VL-8B-Instruct"),
    ],
)
def test_outputs_name_a_model_without_a_path(model, name):
    assert hub.public_name(model) == name

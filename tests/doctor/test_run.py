import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from medart_cli.doctor import run as doctor
from medart_cli.doctor.models import Model, count_memory, read_file
from medart_cli.doctor.options import DoctorConfig
from medart_cli.models import hub, pixart
from medart_cli.options import DEFAULT_BASE, DEFAULT_CAPTIONER
from tests.small_captioner import build_llava

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
LLAVA = "llava-hf/llama3-llava-next-8b-hf"


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MEDART_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def look(medart):
    """Run doctor --json; returns exit code, facts, standard error."""

    def run(*options):
        code, output, errors = medart("doctor", "--json", *options)
        return code, json.loads(output), errors

    return run


@pytest.fixture
def base(small_base, tmp_path):
    return shutil.copytree(small_base, tmp_path / "base")


def of(facts, kind, name):
    found = [item for item in facts["models"] if (item["kind"], item["name"]) == (kind, str(name))]
    assert len(found) == 1
    return found[0]


def test_a_base_that_is_there_is_ready_with_all_its_files(look, base):
    code, facts, errors = look("--base", base)
    assert (code, facts["result"], facts["problems"], errors) == (0, "ready", [], "")
    model = of(facts, "base", base)
    named = {item["path"]: item for item in model["files"]}
    assert "tokenizer/spiece.model" in named
    for path in hub.find_weights(base / "text_encoder"):
        item = named[path.relative_to(base).as_posix()]
        assert (item["bytes"], len(item["sha256"])) == (path.stat().st_size, 64)
    vae = pixart.load_vae(base, torch.device("cpu"))
    assert model["parameters"]["vae"] == sum(p.numel() for p in vae.parameters())
    assert model["parameters"].keys() == {"text_encoder", "transformer", "vae"}
    assert [item["kind"] for item in facts["models"]] == ["base"]


def test_the_report_reads_well_and_is_all_of_standard_output(medart, base):
    code, output, errors = medart("doctor", "--base", base)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "Machine", "", "Packages", "", "Models", "", "Folders", "", "Ready.",
    ]  # fmt: skip
    at = lines.index(f"  base            {base}: ready")
    assert lines[at + 1] == "    family        PixArt-alpha"
    assert lines[at + 2].startswith("    license       CreativeML Open RAIL++-M; forbids medical")
    assert any("transformer/diffusion_pytorch_model.safetensors" in line for line in lines)


def test_every_missing_part_is_named_with_its_place_and_the_code_is_4(look, base):
    shutil.rmtree(base / "vae")
    shard = hub.find_weights(base / "text_encoder")[1]
    shard.unlink()
    code, facts, errors = look("--base", base)
    assert (code, facts["result"], facts["ready"]) == (4, "not ready", False)
    problems = of(facts, "base", base)["problems"]
    assert len(problems) == 2
    assert f"{base}/text_encoder: {shard.name} missing" in problems[0]
    assert f"{base}: the folder vae is missing" in problems[1]
    assert facts["problems"] == problems
    assert errors == f"medart doctor: {problems[0]}\n"


def test_pickles_alone_are_refused_with_the_reason(look, base):
    weights = hub.find_weights(base / "transformer")[0]
    weights.rename(weights.with_suffix(".bin"))
    code, facts, _ = look("--base", base)
    model = of(facts, "base", base)
    assert (code, model["pickled_only"], model["memory_gb"]) == (4, True, None)
    assert "only pickled weights" in model["problems"][0]


def test_a_torn_file_is_found_without_loading_the_model(look, base):
    weights = hub.find_weights(base / "transformer")[0]
    weights.write_bytes(weights.read_bytes()[:-100])
    code, facts, _ = look("--base", base)
    assert code == 4
    assert f"{weights}: is not a complete safetensors file" in facts["problems"][0]


def test_a_hub_model_that_is_not_here_says_what_to_download(look):
    code, facts, errors = look("--base", DEFAULT_BASE, "--model", LLAVA)
    assert code == 4
    for kind, name in (("base", DEFAULT_BASE), ("captioner", LLAVA)):
        model = of(facts, kind, name)
        assert model["fetch"] == f"hf download {name} --local-dir FOLDER"
        assert (model["folder"], model["files"]) == (None, [])
    assert f"hf download {DEFAULT_BASE}" in errors


def test_captioning_needs_the_tokenizer_of_the_base_too(look, tmp_path):
    folder = build_llava(tmp_path / "llava")
    code, facts, _ = look("--model", folder)
    assert code == 4
    assert of(facts, "captioner", folder)["problems"] == []
    tokenizer = of(facts, "tokenizer", DEFAULT_BASE)
    assert "--include 'tokenizer/*'" in tokenizer["fetch"]
    assert facts["problems"] == tokenizer["problems"]


def lose_template(folder):
    (folder / "chat_template.jinja").unlink()


def write_template(text):
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def tear_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lose_images(folder):
    (folder / "processor_config.json").unlink()


def lose_end(folder):
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        path = folder / name
        table = json.loads(path.read_text("utf-8"))
        for part in (table, table.get("text_config", {})):
            part |= {"eos_token_id": None, "eos_token": None}
        path.write_text(json.dumps(table), "utf-8")


def be_another(kind):
    """Be a model of another class; of those that caption cannot use, none has a chat template."""

    def change(folder):
        lose_template(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))

    return change


@pytest.mark.parametrize(
    ("spoil", "code", "told"),
    [
        (lose_template, 2, "no chat template"),
        (write_template("{{ messages[0]['content'] }}"), 2, "takes only text"),
        (write_template("{% for"), 2, "cannot be used with an image"),
        (write_template("{{ messages[0]['content'][-1]['text'] }}"), 2, "writes no image"),
        (tear_weights, 4, "not a complete safetensors file"),
        (lose_images, 4, "its processor cannot be loaded"),
        (be_another("phi4_multimodal"), 2, "not an image-text-to-text model"),
        (be_another("florence2"), 2, "no chat template"),
        (be_another("blip-2"), 2, "no chat template"),
        (be_another("kosmos-2"), 2, "no chat template"),
        (lose_end, 2, "no token ends its answers"),
    ],
    ids=["no-template", "string", "torn-template", "no-image", "torn", "no-processor", "phi-4",
         "florence-2", "blip-2", "kosmos-2", "no-end"],
)  # fmt: skip
def test_a_captioner_is_not_ready_for_the_reason_that_caption_gives(
    look, medart, images, base, tmp_path, spoil, code, told
):
    folder = build_llava(tmp_path / "llava")
    spoil(folder)
    found, facts, errors = look("--model", folder, "--base", base)
    assert (found, facts["result"]) == (4, "not ready")
    reason = of(facts, "captioner", folder)["problems"][0]
    assert told in reason and "\n" not in reason and reason in errors
    out = tmp_path / "texts.jsonl"
    done, _, said = medart("caption", images, "--out", out, "--model", folder, "--base", base)
    assert done == code
    assert said.splitlines()[-1] == f"medart caption: {reason}"
    assert not out.exists()


def test_a_base_in_the_hubs_cache_is_found_there(look, base, tmp_path):
    cached = tmp_path / "hub" / "models--a--b"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123abc")
    shutil.copytree(base, cached / "snapshots" / "0123abc")
    code, facts, _ = look("--base", "a/b")
    assert (code, of(facts, "base", "a/b")["folder"]) == (0, str(cached / "snapshots" / "0123abc"))


def test_without_a_name_the_defaults_are_shown_and_none_is_required(look, medart):
    code, facts, errors = look()
    assert (code, facts["ready"], errors) == (0, True, "")
    assert of(facts, "base", DEFAULT_BASE)["problems"]
    assert of(facts, "captioner", DEFAULT_CAPTIONER)["problems"]
    assert of(facts, "features", "inception")["fetch"].endswith("inception-2015-12-05.pt")
    lite = of(facts, "features", "efficientnet-lite0")
    assert lite["problems"] == [] and len(lite["files"][0]["sha256"]) == 64
    code, output, _ = medart("doctor")
    assert code == 0
    assert f"base            {DEFAULT_BASE}: missing" in output
    assert f"hf download {DEFAULT_BASE} --local-dir FOLDER" in output
    assert output.endswith("to check whether it can be used.\n")


def test_another_file_is_not_taken_for_inception(look, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "inception-2015-12-05.pt").write_text("something else")
    code, facts, _ = look("--features", "inception")
    assert code == 4
    assert "has the wrong SHA-256" in facts["problems"][0]


def test_features_are_looked_for_by_name_and_folder(look, tmp_path):
    assert look("--features", "efficientnet-lite0")[0] == 0
    code, facts, _ = look("--features", "dinov2", "--features", tmp_path)
    assert code == 4
    model = of(facts, "features", "dinov2")
    assert model["fetch"] == "hf download facebook/dinov2-base --local-dir FOLDER"
    assert f"{tmp_path}: has no config.json" in facts["problems"][1]


def test_a_run_folder_is_looked_through_to_its_base(look, medart, images, base, tmp_path):
    run = tmp_path / "run"
    quick = ("--resolution", 16, "--steps", 1, "--hldf-every", 0, "--preview-every", 0, "--quiet")
    assert medart("finetune", images, "--base", base, "--out", run, *quick)[0] == 0
    code, facts, _ = look("--base", run)
    assert code == 0
    paths = [item["path"] for item in of(facts, "run", run)["files"]]
    assert "transformer/adapter_model.safetensors" in paths
    assert of(facts, "base", base)["problems"] == []
    weights = hub.find_weights(base / "vae")[0]
    save_file({"other": torch.zeros(2)}, weights)
    code, facts, _ = look("--base", run)
    assert code == 4
    assert f"its vae is not that of {run}" in facts["problems"][0]
    shutil.rmtree(base)
    code, facts, _ = look("--base", run)
    assert code == 4 and str(base) in facts["problems"][0]
    (run / "run.json").write_text('{"status": "running"}')
    code, facts, _ = look("--base", run)
    assert code == 4 and "this run is not finished" in facts["problems"][0]


def test_all_keys_are_documented(look, base):
    text = PAGE.read_text(encoding="utf-8").partition("## What doctor reports")[2]
    _, facts, _ = look("--base", base)
    keys = facts.keys() | facts["models"][0].keys() | facts["folders"][0].keys()
    keys |= facts["models"][0]["files"][0].keys() | facts["optional"]["bitsandbytes"].keys()
    keys |= {"index", "name", "total_gb", "free_gb", "cores", "memory_gb"}  # of GPUs and the CPU
    assert {key for key in keys if f"`{key}`" not in text} == set()


def test_large_files_are_hashed_only_when_asked_or_when_the_cache_knows(tmp_path, monkeypatch):
    monkeypatch.setattr("medart_cli.doctor.models.HASH_AT_ONCE", 3)
    large, known = tmp_path / "large", tmp_path / ("0" * 64)
    large.write_text("large")
    known.write_text("large")
    (tmp_path / "link").symlink_to(known)
    assert read_file(large, tmp_path, False)["sha256"] is None
    assert len(read_file(large, tmp_path, True)["sha256"]) == 64
    assert read_file(tmp_path / "link", tmp_path, False)["sha256"] == "0" * 64


@pytest.mark.parametrize(
    ("device", "room", "fit"),
    [
        ("cuda:1", 14.0, "weights fit"),
        ("cuda:1", 12.0, "does not fit"),
        ("cpu", 64.0, "CPU: slow"),
        ("cpu", 12.0, "does not fit"),
    ],
)
def test_memory_is_weights_times_bytes_against_what_is_free(device, room, fit):
    model = Model("base", "x", True, parameters={"transformer": 6_000_000_000, "vae": 250_000_000})
    facts = {
        "device": device, "precision": "bf16", "cpu": {"memory_gb": room},
        "gpus": [{"free_gb": 0.0}, {"free_gb": room}],
    }  # fmt: skip
    count_memory(model, facts)
    assert (model.memory_gb, model.fit) == (13.0, fit)


def test_a_package_that_cannot_be_imported_is_named_and_the_report_still_stands(
    medart, base, monkeypatch
):
    load = doctor.import_module

    def fail(name):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nmore")
        return load(name)

    monkeypatch.setattr(doctor, "import_module", fail)
    code, output, errors = medart("doctor", "--base", base)
    assert code == 4
    message = "torchvision: cannot be imported: operator torchvision::nms does not exist"
    assert message in output and message in errors
    assert output.endswith("Not ready.\n")


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    find = doctor.metadata.version

    def lacking(name):
        if name == "peft":
            raise doctor.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(doctor.metadata, "version", lacking)
    versions, problems = doctor.read_packages()
    assert versions["peft"] is None
    assert problems[0].startswith("peft: is not installed; pip install 'peft>=")
    assert len(problems) == 1


def test_a_package_that_is_too_old_is_named(monkeypatch):
    find = doctor.metadata.version
    monkeypatch.setattr(
        doctor.metadata, "version", lambda name: "4.57.0" if name == "transformers" else find(name)
    )
    _, problems = doctor.read_packages()
    assert len(problems) == 1
    assert problems[0].startswith("transformers: is 4.57.0; pip install 'transformers>=5")


def test_a_gpu_that_is_not_there_is_a_problem(look):
    code, facts, _ = look("--device", f"cuda:{torch.cuda.device_count()}")
    assert (code, facts["device"]) == (4, None)
    assert "PyTorch sees" in facts["problems"][0]


def test_folders_tell_whether_they_can_be_written(look, tmp_path):
    file = tmp_path / "file"
    file.touch()
    code, facts, _ = look("--out", file / "below")
    assert code == 4
    assert facts["problems"] == [f"{file / 'below'}: is not writable; use another folder"]
    folders = {item["use"]: item for item in facts["folders"]}
    assert folders["hub cache"]["writable"] and not folders["hub cache"]["exists"]
    assert folders["working folder"]["free_gb"] > 0


def test_doctor_writes_nothing_and_asks_no_network(look, base, tmp_path, monkeypatch):
    def fetch(name, **options):
        assert options["local_files_only"] is True
        raise FileNotFoundError(name)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    before = sorted(tmp_path.rglob("*"))
    assert look()[0] == 0
    assert look("--base", base, "--features", "dinov2")[0] == 4
    assert sorted(tmp_path.rglob("*")) == before


def test_a_user_without_a_home_folder_sees_what_to_set(medart, monkeypatch):
    monkeypatch.delenv("MEDART_CACHE")
    monkeypatch.setenv("HOME", "~")  # as it is resolved for a user id without a name
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    code, output, _ = medart("doctor")
    assert code == 0
    for use, name in (("medart cache", "MEDART_CACHE"), ("hub cache   ", "HF_HOME")):
        assert f"  {use}    none, because this user has no home folder; set {name}\n" in output
    assert "curl --create-dirs -o $MEDART_CACHE/inception" in output
    code, _, errors = medart("doctor", "--base", DEFAULT_BASE)
    assert code == 4 and "this user has no home folder for models from the hub" in errors


def test_little_shared_memory_is_told_where_there_are_several_gpus(look):
    _, facts, _ = look()
    gpu = {"name": "a card", "total_gb": 80.0, "free_gb": 80.0}
    facts["gpus"] = [gpu | {"index": index} for index in range(2)]
    for size, told in ((0.067, True), (64.0, False)):
        facts["cpu"]["shared_gb"] = size
        lines = doctor.format_report(facts)
        assert any("docker run --shm-size=1g" in line for line in lines) == told
    assert not any("/dev/shm" in line for line in doctor.format_report(facts | {"gpus": []}))


def test_an_estimate_of_fine_tuning_stands_in_the_report(base, images, tmp_path):
    recipe = tmp_path / "own.toml"
    recipe.write_text("epochs = 2.0\nrank = 4\nresolution = 32\nhldf_every = 8\n")
    before = sorted(tmp_path.rglob("*"))
    facts = doctor.run(DoctorConfig(data=str(images), config=str(recipe), base=str(base)))
    assert facts["ready"] and sorted(tmp_path.rglob("*")) == before
    found = facts["estimate"]
    assert (found["images"], found["steps"], found["hldf_steps"]) == (8, 16, 2)
    text = PAGE.read_text(encoding="utf-8").partition("## What doctor reports")[2]
    keys = found.keys() | found["memory"].keys() | found["disk"].keys() | found["time"].keys()
    assert {key for key in keys if f"`{key}`" not in text} == set()
    assert "Fine-tuning, estimated" in facts["result"]
    assert "16 on 8 images, 2 of them with HLDF" in facts["result"]


@pytest.mark.parametrize(("peak", "fit"), [(11.0, "fits"), (13.0, "does not fit")])
def test_where_training_is_estimated_a_base_is_judged_by_its_peak(monkeypatch, peak, fit):
    asked = {"estimate": {"memory": {"peak_gb": peak}, "problems": []}, "result": "lines"}
    monkeypatch.setattr(doctor, "ask_command", lambda words: asked)
    names = (("base", "x"), ("base", "y"), ("captioner", "x"))
    facts = {
        "device": "cuda:0", "gpus": [{"free_gb": 12.0}],
        "models": [{"kind": kind, "name": name, "fit": "weights fit"} for kind, name in names],
    }  # fmt: skip
    config = DoctorConfig(data="images", base="x")
    assert doctor.ask_finetune(config, facts) == (["lines"], [])
    assert [model["fit"] for model in facts["models"]] == [fit, "weights fit", "weights fit"]


def test_settings_of_finetune_need_images(medart):
    code, output, errors = medart("doctor", "--config", "low-memory")
    assert (code, output) == (2, "")
    assert errors == (
        "medart doctor: --config low-memory: method is an option of another command; for an "
        "estimate of finetune add --data IMAGES\n"
    )


def test_a_wrong_setting_of_finetune_is_named(medart, images, tmp_path):
    recipe = tmp_path / "own.toml"
    recipe.write_text("rnk = 4\n")
    code, output, errors = medart("doctor", "--data", images, "--config", recipe)
    assert (code, output) == (2, "")
    assert "finetune has no option rnk; did you mean rank?" in errors

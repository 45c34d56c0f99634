import base64
import csv
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
from datasets import load_dataset
from PIL import Image
from typer.testing import CliRunner

from medart_cli.cli import app
from medart_cli.data.dataset import read_data
from medart_cli.data.manifest import read_manifest
from medart_cli.data.profiles import KEY_TYPES, PROMPT, read_profile
from medart_cli.models.bases import load_tokenizer, write_chat
from medart_cli.options import DEFAULT_CAPTIONER
from tests.small import build_base
from tests.small_captioner import build_llava
from tests.small_klein import build_klein
from tests.stub_server import prompt_of, serve

DATA = Path(__file__).parents[2] / "../shared/data/isic2017_dermoscopy"
LABELS = ("melanoma", "nevus")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"base": str(build_base(root / "base")), "model": str(build_llava(root / "llava"))}


@pytest.fixture
def images(tmp_path):
    return make_images(tmp_path / "images", 6)


@pytest.fixture(autouse=True)
def _signals():
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    kept[signal.SIGUSR1] = signal.getsignal(signal.SIGUSR1)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def make_images(folder, count):
    for index in range(count):
        label = LABELS[index % len(LABELS)]
        (folder / label).mkdir(parents=True, exist_ok=True)
        color = (40 * index % 256, 90, 200 - index)
        Image.new("RGB", (20 + 4 * (index % 9), 24), color).save(
            folder / label / f"{index:03d}.png"
        )
    return folder


def caption(images, *options):
    return CliRunner().invoke(app, ["caption", str(images), *map(str, options)])


def ask_stub(stub, models, images, *options):
    common = ("--endpoint", stub.url, "--base", models["base"], "--profile", "dermoscopy")
    return caption(images, *common, *options)


def rows_of(images):
    path = images if images.is_file() else images / "metadata.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def beginning(body):
    """Return the simple caption that a prompt asks for."""
    return prompt_of(body).split('exactly with: "')[1].split('"')[0]


def good(body):
    return f"{beginning(body)}, a round brown spot {body['seed']}."


def image_of(body):
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    return base64.b64decode(url.split(",")[1])


def test_a_folder_gets_a_manifest_with_where_each_text_came_from(images, models):
    with serve(good) as stub:
        result = ask_stub(stub, models, images)
    assert result.exit_code == 0
    assert result.stdout == f"{images / 'metadata.jsonl'}\n"
    rows = rows_of(images)
    assert [row["file_name"] for row in rows] == sorted(row["file_name"] for row in rows)
    assert len(rows) == 6
    for row in rows:
        assert row["text"].startswith(f"A dermoscopic image of {row['label']}, a round brown spot")
        facts = row["caption"]
        assert (facts["model"], facts["profile"], facts["status"]) == (
            "stub-model", "dermoscopy", "ok",
        )  # fmt: skip
        assert facts["attempts"] == 1 and str(facts["seed"]) in row["text"]
        assert len(facts["prompt"]) == 12 and facts["revision"] is None
    assert not list(images.glob(".*"))


def test_any_transformers_model_captions_through_its_own_template(images, models):
    options = ("--model", models["model"], "--base", models["base"], "--max-new-tokens", 8)
    result = caption(images, *options, "--attempts", 2, "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["statuses"]["simple"] == 6 and summary["failures"] == 0
    row = rows_of(images)[0]
    assert row["text"] == "A medical image of melanoma"  # random weights say nothing acceptable
    assert row["caption"]["revision"].startswith("sha256:")
    assert row["caption"]["faults"] and row["caption"]["attempts"] == 2


def test_neither_batch_size_nor_concurrency_changes_a_text(models, tmp_path):
    local = ("--model", models["model"], "--base", models["base"], "--max-new-tokens", 6)
    found = []
    for size in (1, 4):
        folder = make_images(tmp_path / f"local-{size}", 5)
        assert caption(folder, *local, "--batch-size", size, "--attempts", 2).exit_code == 0
        found.append((folder / "metadata.jsonl").read_bytes())
    assert found[0] == found[1]
    for size in (1, 5):
        folder = make_images(tmp_path / f"stub-{size}", 5)
        with serve(good) as stub:
            assert ask_stub(stub, models, folder, "--concurrency", size).exit_code == 0
        found.append((folder / "metadata.jsonl").read_bytes())
    assert found[2] == found[3]


def test_another_seed_makes_other_draws(models, tmp_path):
    seeds = []
    for seed in (0, 0, 1):
        folder = make_images(tmp_path / f"run-{len(seeds)}", 3)
        with serve(good) as stub:
            ask_stub(stub, models, folder, "--seed", seed)
        seeds.append([row["caption"]["seed"] for row in rows_of(folder)])
    assert seeds[0] == seeds[1] and not set(seeds[0]) & set(seeds[2])


def test_a_refused_text_is_asked_for_again_with_another_seed(images, models):
    seen = set()

    def reply(body):
        first = image_of(body) not in seen
        seen.add(image_of(body))
        return "I cannot help with that." if first else good(body)

    with serve(reply) as stub:
        assert ask_stub(stub, models, images).exit_code == 0
    assert {row["caption"]["attempts"] for row in rows_of(images)} == {2}
    assert len({body["seed"] for body in stub.requests}) == 12


def test_after_the_last_attempt_the_simple_caption_stands(images, models):
    with serve(lambda body: f"{beginning(body)}, brown, or else a nevus or melanoma.") as stub:
        result = ask_stub(stub, models, images, "--attempts", 3, "--json")
    assert json.loads(result.stdout)["statuses"]["simple"] == 6
    assert len(stub.requests) == 18
    for row in rows_of(images):
        assert row["text"] == f"A dermoscopic image of {row['label']}"
        other = "melanoma" if row["label"] == "nevus" else "nevus"
        assert row["caption"]["faults"] == [f"names another class: {other}"]


def test_no_thought_of_a_model_enters_a_caption(images, models):
    """A thought quotes the prompt, and with it the beginning of a caption."""

    def reply(body):
        thought = f'It says: begin with "{beginning(body)}". {beginning(body)}, brown? Then so.'
        return f"<think>\n{thought}\n</think>\n\n{good(body)}"

    with serve(reply) as stub:
        assert ask_stub(stub, models, images).exit_code == 0
    for row in rows_of(images):
        assert row["text"].startswith(f"A dermoscopic image of {row['label']}, a round brown spot")
        assert row["caption"]["status"] == "ok" and "think" not in row["text"]


def think_only(body):
    thought = f"{beginning(body)}, brown. Now I have to"
    message = {"role": "assistant", "content": None, "reasoning_content": thought}
    return 200, {"choices": [{"message": message, "finish_reason": "length"}]}, {}


def test_an_answer_that_is_only_reasoning_is_asked_for_again(images, models):
    seen = set()

    def reply(body):
        first = image_of(body) not in seen
        seen.add(image_of(body))
        return think_only(body) if first else good(body)

    with serve(reply) as stub:
        result = ask_stub(stub, models, images, "--json")
    assert {row["caption"]["attempts"] for row in rows_of(images)} == {2}
    assert json.loads(result.stdout)["faults"] == {} and "thought" not in result.stderr


def test_a_model_that_only_thinks_is_said_and_counted(images, models):
    with serve(think_only) as stub:
        result = ask_stub(stub, models, images, "--attempts", 2, "--json")
    summary = json.loads(result.stdout)
    assert summary["statuses"]["simple"] == 6 and summary["faults"] == {"is only reasoning": 6}
    assert "6 images have the template caption, since the model thought" in result.stderr
    for advice in ("--max-new-tokens", "at the server", "does not think"):
        assert advice in result.stderr
    assert len(stub.requests) == 12
    assert {tuple(row["caption"]["faults"]) for row in rows_of(images)} == {("is only reasoning",)}


def test_a_long_text_whose_shorter_form_is_only_thought_about_is_truncated(images, models):
    def reply(body):
        return think_only(body) if "too long" in prompt_of(body) else f"{good(body)} {LONG}"

    with serve(reply) as stub:
        ask_stub(stub, models, images)
    for row in rows_of(images):
        assert row["caption"]["status"] == "shortened" and "I have to" not in row["text"]


def test_one_row_that_a_model_cannot_read_fails_alone(images, models):
    names = [f"{LABELS[index % 2]}/{index:03d}.png" for index in range(6)]
    sites = ["arm", "an <image> of it", "leg", "back", "arm", "leg"]
    (images / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": name, "site": site}) + "\n"
                for name, site in zip(names, sites, strict=True))
    )  # fmt: skip
    options = ("--context", "Site: {site}.", "--model", models["model"], "--base", models["base"])
    small = ("--max-new-tokens", 4, "--attempts", 1, "--json")
    result = caption(images, *options, *small)
    assert result.exit_code == 3
    rows = rows_of(images)
    assert [row["caption"]["status"] for row in rows] == (
        ["simple", "rejected", "simple", "simple", "simple", "simple"]
    )
    assert rows[1]["caption"]["error"] == (
        "the model cannot read it (24 x 24 pixels): its prompt holds <image>, a control token of "
        "this model; remove it from the manifest's columns"
    )
    assert caption(images, *options, *small, "--max-failures", 1).exit_code == 0


def test_greedy_decoding_does_not_ask_for_the_same_words_again(images, models):
    with serve(lambda body: "No.") as stub:
        assert ask_stub(stub, models, images, "--temperature", 0).exit_code == 0
    assert len(stub.requests) == 6


def count_tokens(models, text):
    return len(load_tokenizer(Path(models["base"]))(text.lower().strip()).input_ids)


LONG = " ".join(f"Its skin is brown with a border of nucleus {index}." for index in range(40))


def test_a_text_that_is_only_too_long_is_shortened_by_the_model(images, models):
    def reply(body):
        if "too long" in prompt_of(body):
            assert LONG in prompt_of(body)
            return f"{beginning(body)}, brown and short."
        return f"{beginning(body)}, brown. {LONG}"

    with serve(reply) as stub:
        ask_stub(stub, models, images)
    for row in rows_of(images):
        assert row["text"].endswith(", brown and short.")
        assert row["caption"]["status"] == "shortened" and row["caption"]["attempts"] == 1
    assert len(stub.requests) == 12


def test_a_text_that_stays_too_long_is_cut_at_a_sentence_end_within_the_limit(images, models):
    with serve(lambda body: f"{beginning(body)}, brown. {LONG}") as stub:
        ask_stub(stub, models, images)
    for row in rows_of(images):
        assert row["caption"]["status"] == "shortened"
        whole = f"A dermoscopic image of {row['label']}, brown. {LONG}"
        assert row["text"].endswith(".") and whole.startswith(row["text"])
        assert count_tokens(models, row["text"]) <= 120
        longer = row["text"] + whole[len(row["text"]) :].split(".")[0] + "."
        assert count_tokens(models, longer) > 120


def test_the_limit_is_that_of_the_base_pipeline(images, models, tmp_path):
    sigma = build_base(tmp_path / "sigma", sigma=True)
    with serve(lambda body: f"{beginning(body)}, brown. {LONG}") as stub:
        ask_stub(stub, models, images, "--base", sigma)
    counts = [count_tokens(models, row["text"]) for row in rows_of(images)]
    assert all(200 < count <= 300 for count in counts)


def test_a_base_that_reads_chats_leaves_a_caption_what_the_template_does_not_take(
    images, models, tmp_path
):
    base = build_klein(tmp_path / "klein")
    with serve(lambda body: f"{beginning(body)}, brown. {LONG}") as stub:
        ask_stub(stub, models, images, "--base", base)
    tokenizer = load_tokenizer(base)
    for row in rows_of(images):
        read = len(tokenizer(write_chat(tokenizer, row["text"])).input_ids)
        assert 512 - 60 < read <= 512  # whole sentences, of less than 60 letters


def test_of_the_base_pipeline_the_tokenizer_is_enough(images, models, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(Path(models["base"]) / "tokenizer", base / "tokenizer")
    shutil.copy(Path(models["base"]) / "model_index.json", base)
    with serve(good) as stub:
        assert ask_stub(stub, models, images, "--base", base).exit_code == 0


def test_a_text_cut_by_the_token_limit_of_the_answer_loses_its_torn_sentence(images, models):
    def reply(body):
        text = f"{beginning(body)}, brown. Its border is rou"
        choice = {"message": {"content": text}, "finish_reason": "length"}
        return 200, {"choices": [choice]}, {}

    with serve(reply) as stub:
        ask_stub(stub, models, images)
    assert {row["text"].split(", ")[1] for row in rows_of(images)} == {"brown."}


def test_an_unreadable_image_gets_a_line_with_the_error_and_no_text(images, models):
    (images / "nevus" / "001.png").write_bytes(b"no image")
    with serve(good) as stub:
        result = ask_stub(stub, models, images)
        assert result.exit_code == 3
        row = rows_of(images)[3]
        assert row["file_name"] == "nevus/001.png" and "text" not in row
        assert row["caption"]["status"] == "rejected"
        assert row["caption"]["error"] == "is not an image of a known format"
        assert ask_stub(stub, models, images, "--max-failures", 1).exit_code == 0
        Image.new("RGB", (9, 9)).save(images / "nevus" / "001.png")
        assert ask_stub(stub, models, images).exit_code == 0
    assert len(stub.requests) == 6
    assert "error" not in rows_of(images)[3]["caption"] and rows_of(images)[3]["text"]


def test_existing_texts_unknown_keys_and_the_order_stay(images, models):
    names = ["nevus/003.png", "melanoma/000.png", "nevus/001.png"]
    rows = [
        {"file_name": names[0], "text": "Mine.", "label": "nevus", "odd": [1, {"ü": None}]},
        {"z": 1, "file_name": names[1], "label": "melanoma", "group_id": 7, "text": None},
        {"file_name": names[2], "label": "nevus", "text": "  "},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (images / "metadata.jsonl").write_text("\n".join(lines), "utf-8")  # no end to the last line
    with serve(good) as stub:
        result = ask_stub(stub, models, images)
    assert result.exit_code == 0 and len(stub.requests) == 2
    after = (images / "metadata.jsonl").read_text("utf-8").splitlines()
    assert after[0] == lines[0]
    found = [json.loads(line) for line in after]
    assert (
        list(found[1])[:4] == ["z", "file_name", "label", "group_id"] and found[1]["group_id"] == 7
    )
    assert found[1]["text"].startswith("A dermoscopic") and found[2]["text"].strip()


def test_the_same_command_again_asks_nothing_and_changes_nothing(images, models):
    with serve(good) as stub:
        ask_stub(stub, models, images)
        before = (images / "metadata.jsonl").stat().st_mtime_ns
        result = ask_stub(stub, models, images, "--json")
    assert json.loads(result.stdout)["captioned"] == 0
    assert len(stub.requests) == 6
    assert (images / "metadata.jsonl").stat().st_mtime_ns == before


def test_other_settings_are_refused_with_the_first_difference(images, models):
    with serve(good) as stub:
        ask_stub(stub, models, images)
        before = (images / "metadata.jsonl").read_bytes()
        result = ask_stub(stub, models, images, "--style", "simple")
        assert result.exit_code == 2
        assert "style was 'visual' and is now 'simple'" in result.stderr
        assert "--recaption" in result.stderr
        assert (images / "metadata.jsonl").read_bytes() == before
        assert ask_stub(stub, models, images, "--concurrency", 2).exit_code == 0


def test_recaption_redoes_the_rows_it_names_and_no_others(images, models):
    (images / "metadata.jsonl").write_text(
        "".join(
            json.dumps({"file_name": f"{LABELS[i % 2]}/{i:03d}.png", "label": LABELS[i % 2], **row})
            + "\n"
            for i, row in enumerate(
                [
                    {"text": "Mine."},
                    {"text": "A", "caption": {"status": "simple", "faults": ["too long"]}},
                    {"text": "B", "caption": {"status": "simple"}},
                    {"text": "C", "caption": {"status": "ok"}},
                ]
            )
        )
    )
    kept = {
        "rejected": ["Mine.", "B", "C"],
        "simple": ["Mine.", "C"],
        "all": ["Mine."],
        "all --overwrite-edits": [],
    }
    for which, texts in kept.items():
        folder = images.with_name(which)
        shutil.copytree(images, folder)
        with serve(good) as stub:
            assert ask_stub(stub, models, folder, "--recaption", *which.split()).exit_code == 0
        left = [row["text"] for row in rows_of(folder) if "round brown" not in row["text"]]
        assert left == texts


def edit(images, row, text):
    """Change one text as an editor does, and nothing else."""
    rows = rows_of(images)
    rows[row]["text"] = text
    lines = [json.dumps(fields, ensure_ascii=False) + "\n" for fields in rows]
    (images / "metadata.jsonl").write_text("".join(lines), "utf-8")


@pytest.mark.parametrize("options", [[], ["--recaption", "simple"], ["--recaption", "rejected"],
                                     ["--recaption", "all", "--seed", "1"]])  # fmt: skip
def test_a_text_that_a_person_changed_is_kept_counted_and_shown(images, models, options):
    with serve(lambda body: "I cannot help with that.") as stub:
        ask_stub(stub, models, images, "--attempts", 1)  # simple captions
        edit(images, 1, "A flat brown nevus, seen by me.")
        rows = rows_of(images)
        rows[2]["caption"] = {"status": "rejected", "error": "truncated"}
        edit(images, 2, "A lesion that I describe.")
        stub.reply = good
        result = ask_stub(stub, models, images, "--attempts", 1, "--json", *options)
    assert result.exit_code == 0
    found = rows_of(images)
    assert [found[row]["text"] for row in (1, 2)] == [
        "A flat brown nevus, seen by me.", "A lesion that I describe.",
    ]  # fmt: skip
    assert {found[row]["caption"]["status"] for row in (1, 2)} == {"edited"}
    assert json.loads(result.stdout)["statuses"]["edited"] == 2
    page = (images / "review.html").read_text("utf-8")
    assert "<th scope='row'>edited</th>" in page and "A flat brown nevus, seen by me.</p>" in page
    assert "edited by hand" in result.stderr or "a person wrote or edited" in result.stderr


def test_an_image_that_was_replaced_is_captioned_anew(images, models):
    with serve(good) as stub:
        ask_stub(stub, models, images)
        edit(images, 3, "Mine.")
        for name in ("melanoma/000.png", "nevus/001.png"):
            Image.new("RGB", (30, 30), "white").save(images / name)
        result = ask_stub(stub, models, images, "--json")
        assert json.loads(result.stdout)["captioned"] == 1 and len(stub.requests) == 7
        told = "1 images have changed since they were captioned, such as melanoma/000.png"
        assert told in result.stderr
        assert "1 images have changed since a person edited their texts" in result.stderr
        assert rows_of(images)[3]["text"] == "Mine."
        assert json.loads(ask_stub(stub, models, images, "--json").stdout)["captioned"] == 0


def test_an_edit_is_overwritten_where_that_is_asked_for_by_name(images, models):
    with serve(good) as stub:
        ask_stub(stub, models, images)
        edit(images, 1, "Mine.")
        assert ask_stub(stub, models, images, "--overwrite-edits").exit_code == 2
        again = ("--recaption", "all", "--overwrite-edits", "--seed", 1)
        result = ask_stub(stub, models, images, *again)
    assert result.exit_code == 0 and "1 texts that a person wrote or edited" in result.stderr
    row = rows_of(images)[1]
    assert "round brown" in row["text"] and row["caption"]["status"] == "ok"


def test_an_edit_between_a_stop_and_the_next_run_is_kept(images, models):
    with serve(good) as stub:
        ask_stub(stub, models, images)
        stub.reply = lambda body: 404 if len(stub.requests) > 10 else good(body)
        again = ("--recaption", "all", "--seed", 5, "--concurrency", 1)
        assert ask_stub(stub, models, images, *again).exit_code == 1
        done = [row for row, fields in enumerate(rows_of(images))
                if str(fields["caption"]["seed"]) in fields["text"]]  # fmt: skip
        edit(images, done[0], "Mine.")
        edit(images, 5, "Mine too.")
        stub.reply = good
        assert ask_stub(stub, models, images, *again).exit_code == 0
    texts = [row["text"] for row in rows_of(images)]
    assert (texts[done[0]], texts[5]) == ("Mine.", "Mine too.")
    assert sum("round brown" in text for text in texts) == 4


@pytest.mark.parametrize("in_place", [True, False])  # as editors do the one or the other
def test_a_text_changed_while_a_run_is_at_work_is_kept_and_joined_by_the_next(
    images, models, in_place
):
    def reply(body):
        if len(stub.requests) == 9:
            if not in_place:
                shutil.copy(images / "metadata.jsonl", images / "copy")
                (images / "copy").replace(images / "metadata.jsonl")
            edit(images, 0, "Mine.")
        return good(body)

    with serve(good) as stub:
        ask_stub(stub, models, images)
        stub.reply = reply
        again = ("--recaption", "all", "--seed", 5, "--concurrency", 1)
        result = ask_stub(stub, models, images, *again)
        assert result.exit_code == (2 if in_place else 1)
        assert ("changed while in use" if in_place else "changed by someone") in result.stderr
        assert ask_stub(stub, models, images, *again).exit_code == 0
    rows = rows_of(images)
    assert rows[0]["text"] == "Mine." and rows[0]["caption"]["status"] == "edited"
    assert not list(images.glob(".*"))


def test_recaptioning_all_again_after_it_finished_asks_nothing(images, models):
    again = ("--recaption", "all", "--seed", 1)
    with serve(good) as stub:
        ask_stub(stub, models, images)
        assert ask_stub(stub, models, images, *again).exit_code == 0
        before = rows_of(images)
        result = ask_stub(stub, models, images, *again)
        assert result.exit_code == 0 and len(stub.requests) == 12
        assert "another --seed gives others" in result.stderr and rows_of(images) == before
        table = images.parent / "labels.csv"
        table.write_text("file_name,label\nnevus/001.png,melanoma\n")
        assert ask_stub(stub, models, images, *again, "--labels", table).exit_code == 0
    assert len(stub.requests) == 13  # the text whose label is another now


def test_a_row_that_fails_anew_keeps_its_text(images, models):
    with serve(good) as stub:
        ask_stub(stub, models, images)
        before = [row["text"] for row in rows_of(images)]
        (images / "nevus" / "001.png").write_bytes(b"no image")
        result = ask_stub(stub, models, images, "--recaption", "all", "--seed", 1)
    assert result.exit_code == 3
    after = [row["text"] for row in rows_of(images)]
    assert [one == two for one, two in zip(before, after, strict=True)] == [False] * 3 + [
        True, False, False,
    ]  # fmt: skip


def test_the_styles_of_the_ablation_need_no_model(images, tmp_path):
    for style, texts in (
        ("simple", {"A dermoscopic image of nevus", "A dermoscopic image of melanoma"}),
        ("empty", {""}),
    ):
        out = images / f"{style}.jsonl"
        options = ("--style", style, "--profile", "dermoscopy", "--out", out, "--offline")
        assert caption(images, *options, "--base", tmp_path / "none").exit_code == 0
        assert {row["text"] for row in rows_of(out)} == texts
        assert (images / f"{style}.review.html").is_file()
        assert caption(images, *options).exit_code == 0  # no base was used: another is as good
    assert not (images / "metadata.jsonl").exists()


def test_the_ablation_beside_a_captioned_folder_gets_texts_of_its_own(images, models):
    with serve(good) as stub:
        assert ask_stub(stub, models, images).exit_code == 0
    options = ("--style", "simple", "--profile", "dermoscopy", "--out", images / "simple.jsonl")
    assert caption(images, *options).exit_code == 0
    assert {row["text"] for row in rows_of(images / "simple.jsonl")} == {
        "A dermoscopic image of nevus", "A dermoscopic image of melanoma",
    }  # fmt: skip
    assert all("round brown" in row["text"] for row in rows_of(images))


def test_a_manifest_elsewhere_names_images_that_resolve(images, models, tmp_path):
    above, beside = tmp_path / "texts.jsonl", tmp_path / "other" / "texts.jsonl"
    beside.parent.mkdir()
    with serve(good) as stub:
        for out in (above, beside):
            assert ask_stub(stub, models, images, "--out", out).exit_code == 0
            assert ask_stub(stub, models, images, "--out", out).exit_code == 0  # nothing to do
    assert len(stub.requests) == 12
    assert all(record.path.is_file() for record in read_manifest(above))
    assert all(record.path.is_file() for record in read_manifest(beside, root=images))
    assert sorted(path.name for path in images.iterdir()) == ["melanoma", "nevus"]


def test_an_image_folder_that_cannot_be_written_to_is_said_at_once(images, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    result = caption(images, "--style", "simple")
    assert result.exit_code == 2 and "--out" in result.stderr


def test_new_images_are_named_and_added_on_request(images, models):
    with serve(good) as stub:
        ask_stub(stub, models, images)
        Image.new("RGB", (30, 30)).save(images / "nevus" / "new.png")
        result = ask_stub(stub, models, images)
        assert result.exit_code == 0 and len(rows_of(images)) == 6
        assert "1 images" in result.stderr and "--add-new" in result.stderr
        assert ask_stub(stub, models, images, "--add-new").exit_code == 0
    assert rows_of(images)[6]["file_name"] == "nevus/new.png" and len(stub.requests) == 7


def test_labels_come_from_a_table(images, models, tmp_path):
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label"])
        writer.writerows([[f"{index:03d}", "basal_cell"] for index in range(6)])
    with serve(good) as stub:
        assert ask_stub(stub, models, images, "--labels", table).exit_code == 0
    assert {row["label"] for row in rows_of(images)} == {"basal_cell"}
    assert all("image of basal cell," in row["text"] for row in rows_of(images))


def test_texts_of_labels_that_have_changed_are_named(images, models, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("file_name,label\nnevus/001.png,melanoma\n")
    with serve(good) as stub:
        assert "do not begin" not in ask_stub(stub, models, images).stderr
        result = ask_stub(stub, models, images, "--labels", table)
    assert "1 texts do not begin with the template caption of their label" in result.stderr
    assert rows_of(images)[3]["label"] == "melanoma" and "nevus" in rows_of(images)[3]["text"]


def test_no_path_of_this_machine_stands_in_the_manifest(images, models, tmp_path):
    (images / "nevus" / "001.png").write_bytes(b"no image")
    profile = tmp_path / "own.toml"
    profile.write_text('simple = "A scan of {label}"\nflips = false\n')
    options = ("--model", models["model"], "--base", models["base"], "--max-new-tokens", 4)
    assert caption(images, *options, "--profile", profile, "--attempts", 1).exit_code == 3
    assert str(tmp_path) not in (images / "metadata.jsonl").read_text("utf-8")
    assert models["model"] not in (images / "metadata.jsonl").read_text("utf-8")
    assert {row["caption"]["profile"] for row in rows_of(images)} == {"own.toml"}


def test_columns_of_the_manifest_reach_the_prompt_and_a_wrong_name_is_refused(images, models):
    (images / "metadata.jsonl").write_text(
        '{"file_name": "nevus/001.png", "site": "left arm"}\n{"file_name": "nevus/003.png"}\n'
    )
    with serve(good) as stub:
        result = ask_stub(stub, models, images, "--context", "Body site: {sit}.")
        assert result.exit_code == 2 and "no row has a column sit" in result.stderr
        assert ask_stub(stub, models, images, "--context", "Body site: {site}.").exit_code == 0
    starts = sorted(prompt_of(body).split(".")[0] for body in stub.requests)
    assert starts[0] == "Body site: left arm" and starts[1].startswith("Write one caption")


@pytest.mark.parametrize("looks", [True, False])
def test_the_audit_tells_whether_the_model_looks(images, models, looks):
    def reply(body):
        seen = hashlib.sha256(image_of(body)).hexdigest()[:8] if looks else "the same"
        return f"{beginning(body)}, brown as {seen}."

    with serve(reply) as stub:
        result = ask_stub(stub, models, images, "--audit", 4, "--json")
    audit = json.loads(result.stdout)["audit"]
    assert audit["images"] == 4 and audit["repeat_same"] == 1
    assert (audit["blank_same"], audit["other_same"]) == ((0, 0) if looks else (1, 1))
    assert ("hardly uses" in result.stderr) is not looks
    assert "Does the model look at the image?" in (images / "review.html").read_text("utf-8")


def test_an_audit_of_a_model_that_only_thinks_is_no_proof_of_anything(images, models):
    with serve(lambda body: think_only(body) if not body["temperature"] else good(body)) as stub:
        result = ask_stub(stub, models, images, "--audit", 2, "--json")
    assert json.loads(result.stdout)["audit"] == {} and "hardly uses" not in result.stderr


def test_texts_of_the_former_default_model_are_not_continued_by_another(images, models):
    options = ("--model", models["model"], "--base", models["base"], "--max-new-tokens", 4)
    assert caption(images, *options, "--attempts", 1).exit_code == 0
    file = images / "caption.toml"
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("model")]
    file.write_text("\n".join(lines), "utf-8")
    result = caption(images, *options[2:], "--attempts", 1, "--offline")
    assert result.exit_code == 2
    assert "model was 'llava-hf/llama3-llava-next-8b-hf' and is now 'Qwen/" in result.stderr


def test_an_audit_that_fails_is_no_proof_of_anything(images, models):
    with serve(lambda body: 400 if body["temperature"] == 0 else good(body)) as stub:
        result = ask_stub(stub, models, images, "--audit", 2, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["audit"] == {}
    assert "audit: needs at least 2 images" in result.stderr and "hardly uses" not in result.stderr


def test_the_review_needs_nothing_from_outside(images, models):
    with serve(lambda body: good(body) + " <script>alert(1)</script>") as stub:
        ask_stub(stub, models, images, "--review", 3)
    page = (images / "review.html").read_text("utf-8")
    assert page.count("<img src='data:image/jpeg;base64,") == 3
    assert re.findall(r"(?:src|href)=['\"]?\w+:", page) == ["src='data:"] * 3
    assert page.count("<script") == 2 and "&lt;script&gt;" in page  # the two are its own


def test_a_missing_model_or_base_is_exit_4_before_any_work(images, models):
    before = sorted(images.rglob("*"))
    result = caption(images, "--offline", "--base", models["base"])
    assert result.exit_code == 4 and DEFAULT_CAPTIONER in result.stderr
    result = caption(images, "--offline", "--base", models["base"], "--config", "paper")
    assert result.exit_code == 4 and "llama3-llava-next-8b-hf" in result.stderr
    result = caption(images, "--offline", "--model", models["model"])
    assert result.exit_code == 4 and "PixArt" in result.stderr
    assert sorted(images.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--audit", 1), "--audit 1: needs 2"),
        (("--audit", 2, "--style", "empty"), "--audit 2: needs --style visual"),
        (("--top-p", 0), "--top-p must be above 0"),
        (("--allow-remote",), "--allow-remote: needs --endpoint"),
        (("--endpoint", "http://localhost", "--load-in", "4bit"), "have no effect with --endpoint"),
        (("--add-new", "--out", "x.jsonl"), "--add-new: completes"),
        (("--context", "Site {a b}."), "not the name of a column"),
        (("--profile", "none"), "no such profile"),
    ],
)
def test_wrong_requests_are_one_line_and_exit_code_2(images, options, message):
    result = caption(images, *options)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and message in result.stderr


def test_a_server_off_the_loopback_is_refused_before_any_work(images, models):
    result = caption(images, "--endpoint", "http://10.1.2.3:8000", "--base", models["base"])
    assert result.exit_code == 2 and "--allow-remote" in result.stderr
    assert not (images / "metadata.jsonl").exists()


def test_a_server_that_dies_ends_the_run_and_the_texts_so_far_are_kept(images, models):
    answered = []

    def reply(body):
        answered.append(body)
        return good(body) if len(answered) <= 3 else 404

    with serve(reply) as stub:
        result = ask_stub(stub, models, images, "--concurrency", 1)
        assert result.exit_code == 1 and "404" in result.stderr
        assert sum("text" in row for row in rows_of(images)) == 3
        stub.reply = good
        assert ask_stub(stub, models, images, "--concurrency", 1).exit_code == 0
    assert all("text" in row for row in rows_of(images)) and len(stub.requests) == 7


def test_rows_that_failed_before_the_server_was_mended_are_asked_again(images, models):
    with serve(lambda body: 400 if len(stub.requests) < 3 else 404) as stub:
        assert ask_stub(stub, models, images, "--concurrency", 1).exit_code == 1
        stub.reply = good
        assert ask_stub(stub, models, images, "--concurrency", 1).exit_code == 0
    assert all("text" in row for row in rows_of(images))


def test_a_stop_signal_saves_and_the_same_command_goes_on(images, models):
    def reply(body):
        if len(stub.requests) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return good(body)

    with serve(reply) as stub:
        result = ask_stub(stub, models, images, "--concurrency", 1)
        assert result.exit_code == 75
        done = sum("text" in row for row in rows_of(images))
        assert 2 <= done <= 4 and len(rows_of(images)) == 6
        stub.reply = good
        assert ask_stub(stub, models, images, "--concurrency", 1).exit_code == 0
    assert all("text" in row for row in rows_of(images))
    assert len(stub.requests) <= 8 and not list(images.glob(".*"))


def test_an_interrupted_recaptioning_goes_on_where_it_was(images, models):
    with serve(good) as stub:
        ask_stub(stub, models, images)
        stub.reply = lambda body: 404 if len(stub.requests) > 10 else good(body)
        again = ("--recaption", "all", "--seed", 5, "--concurrency", 1)
        assert ask_stub(stub, models, images, *again).exit_code == 1
        stub.reply = good
        assert ask_stub(stub, models, images, *again).exit_code == 0
    assert len(stub.requests) == 6 + 6 + 1
    assert len({row["caption"]["seed"] for row in rows_of(images)}) == 6


# Imports everything once, by captioning a first folder; then a process for each folder it is told.
ZYGOTE = """
import contextlib, os, signal, sys
from medart_cli.cli import main

def caption(folder):
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
        main(["caption", folder, *sys.argv[2:]])

caption(sys.argv[1])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for folder in sys.stdin:
    pid = os.fork()
    if pid == 0:
        caption(folder.strip())
        os._exit(0)
    print(pid, flush=True)
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_kill_9_at_any_moment_loses_tears_and_reorders_nothing(models, tmp_path):
    images = make_images(tmp_path / "images", 240)
    order = [record.file_name for record in read_data(images)]
    moments, finished = random.Random(0), []

    def slow(body):  # else a busy machine lets a run finish before it is killed
        time.sleep(0.01)
        return good(body)

    with serve(slow) as stub:
        command = [sys.executable, "-c", ZYGOTE, make_images(tmp_path / "first", 2)]
        command += ["--endpoint", stub.url, "--base", models["base"], "--profile", "dermoscopy"]
        command += ["--concurrency", "2", "--quiet"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([str(word) for word in command], bufsize=1, **pipes) as zygote:
            for _ in range(20):
                zygote.stdin.write(f"{images}\n")
                pid = int(zygote.stdout.readline())
                until = len(stub.requests) + moments.randint(0, 5)
                while len(stub.requests) < until and is_alive(pid):
                    time.sleep(0.001)
                time.sleep(moments.uniform(0, 0.01))
                os.kill(pid, signal.SIGKILL)
                while is_alive(pid):
                    time.sleep(0.001)
                if (images / "metadata.jsonl").exists():
                    rows = rows_of(images)  # every line is whole
                    assert [row["file_name"] for row in rows] == order
                finished.append(count_finished(images))
            zygote.stdin.close()
        asked = len(stub.requests)
        assert ask_stub(stub, models, images, "--concurrency", 2).exit_code == 0
    assert finished == sorted(finished)  # nothing that was finished is lost
    assert 10 < finished[-1] < 240 and len(set(finished)) > 5  # the kills met the work
    assert len(stub.requests) - asked == 240 - finished[-1]  # and nothing is done twice
    rows = rows_of(images)
    assert [row["file_name"] for row in rows] == order
    assert all(row["text"].startswith("A dermoscopic image of") for row in rows)
    assert sorted(path.name for path in images.iterdir() if path.is_file()) == [
        "caption.toml", "metadata.jsonl", "review.html",
    ]  # fmt: skip


def count_finished(images):
    """Count the rows with a text: in the manifest, and whole lines of the journal."""
    path = images / ".metadata.jsonl.journal"
    names = {json.loads(line)["file_name"] for line in whole_lines(path)}
    if (images / "metadata.jsonl").exists():
        names |= {row["file_name"] for row in rows_of(images) if "text" in row}
    return len(names)


def whole_lines(path):
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1].splitlines()


def test_no_connection_is_tried_offline(images, models, monkeypatch):
    tried = []

    def refuse(*address, **_):
        tried.append(address)
        raise OSError("cut")

    for name in ("connect", "connect_ex", "sendto", "sendmsg"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # only our own option
    small = ("--base", models["base"], "--max-new-tokens", 4, "--attempts", 1)
    result = caption(images, "--model", models["model"], *small, "--offline", "--audit", 2)
    assert result.exit_code == 0 and len(rows_of(images)) == 6
    hub = ("--model", "llava-hf/llama3-llava-next-8b-hf", "--recaption", "all")
    assert caption(images, *hub, *small, "--offline").exit_code == 4
    assert tried == []
    assert caption(images, *hub, *small).exit_code == 4
    assert tried != []  # without --offline the guard has something to catch


def test_datasets_reads_what_is_written(images, models):
    with serve(good) as stub:
        ask_stub(stub, models, images)
    loaded = load_dataset("imagefolder", data_dir=str(images), split="train")
    assert len(loaded) == 6
    assert {row["text"] for row in loaded} == {row["text"] for row in rows_of(images)}


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared images are not there")
def test_real_images_are_captioned_with_the_manifest_elsewhere(models, tmp_path):
    small = tmp_path / "set"
    for path in sorted(DATA.glob("*/*.jpg"))[::120]:
        (small / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, small / path.parent.name)
    with serve(good) as stub:
        result = ask_stub(stub, models, small, "--out", tmp_path / "texts.jsonl")
    assert result.exit_code == 0
    rows = list(read_manifest(tmp_path / "texts.jsonl"))
    assert len(rows) == 6 and all(row.path.is_file() for row in rows)


def label_simply(images, table, *options):
    result = caption(images, "--style", "simple", "--labels", table, *options)
    return result, rows_of(images) if (images / "metadata.jsonl").is_file() else None


def test_a_table_gives_all_that_a_manifest_knows(images, tmp_path):
    table = tmp_path / "table.csv"
    lines = [f"{index:03d}.png;P{index // 2};{'Training' if index < 4 else 'Testing'};wart;7;"
             for index in range(5)]  # fmt: skip
    lines = ["file_name;group_id;split;label;age;text", *lines, "005.png;P2;Testing;wart;;a wart"]
    table.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    result, rows = label_simply(images, table)
    assert result.exit_code == 0, result.stderr
    assert "columns used: label, group_id, split, text; not used: age" in result.stderr
    assert "empty cells: 5 of text" in result.stderr
    rows = {row["file_name"][-7:-4]: row for row in rows}
    assert [rows[f"{index:03d}"]["group_id"] for index in range(6)] == [
        "P0", "P0", "P1", "P1", "P2", "P2",
    ]  # fmt: skip
    assert [row["split"] for _, row in sorted(rows.items())] == ["train"] * 4 + ["test"] * 2
    assert {row["label"] for row in rows.values()} == {"wart"}
    assert rows["005"]["text"] == "a wart" and "caption" not in rows["005"]
    assert rows["000"]["text"] == "A medical image of wart"
    again, same = label_simply(images, table)
    assert again.exit_code == 0 and {row["file_name"]: row for row in same} == {
        row["file_name"]: row for row in rows.values()
    }


def test_a_text_of_a_table_takes_the_place_of_ours_and_its_record(images, tmp_path):
    assert caption(images, "--style", "simple").exit_code == 0
    table = tmp_path / "table.csv"
    table.write_text("file_name,text\n001.png,seen by a doctor\n")
    result, rows = label_simply(images, table)
    assert result.exit_code == 0, result.stderr
    changed = [row for row in rows if row["text"] == "seen by a doctor"]
    assert [row["file_name"] for row in changed] == ["nevus/001.png"]
    assert "caption" not in changed[0] and sum("caption" in row for row in rows) == 5


def test_a_table_that_cannot_be_meant_is_refused_before_anything_is_written(images, tmp_path):
    table = tmp_path / "table.csv"
    for text, message in (
        ('file_name,label\n000.png,"mel\n001.png,nev\n', "table.csv:2: column label has a quoting"),
        ("file;label\n000.png;mel\n", "its columns are: file, label; rename the one that is meant"),
        (
            "file_name,label\n000.png,a\n001.png,b\n000,b\n",
            "csv:4: 'melanoma/000.png' has a different",
        ),
        ("file_name,split\n000.png,sometimes\n", "table.csv:2: split 'sometimes' is not train"),
    ):
        table.write_text(text)
        result, rows = label_simply(images, table)
        assert result.exit_code == 2 and rows is None
        assert message in result.stderr.splitlines()[-1]


def make_many(folder, count, labels):
    for index in range(count):
        (folder / labels[index % len(labels)]).mkdir(parents=True, exist_ok=True)
        name = folder / labels[index % len(labels)] / f"{index:03d}.png"
        Image.new("RGB", (8, 8), (5 * index, 90, 100)).save(name)
    return folder


def test_spoken_names_of_classes_reach_the_prompt_the_text_and_the_rules(models, tmp_path):
    folder = make_many(tmp_path / "set", 6, ("mel", "nv", "df"))
    file = tmp_path / "classes.toml"
    file.write_text('nv = "nevus"\n[mel]\nname = "melanoma"\nsynonyms = ["black cancer"]\n')

    def reply(body):
        if "of nevus" in prompt_of(body):
            return f"{beginning(body)}, brown, much like a black cancer."
        return good(body)

    with serve(reply) as stub:
        result = ask_stub(stub, models, folder, "--classes", file, "--attempts", 1)
    assert result.exit_code == 0 and "labels df look like codes" in result.stderr
    texts = {row["label"]: row["text"] for row in rows_of(folder)}
    assert texts["mel"].startswith("A dermoscopic image of melanoma, a round brown spot")
    assert texts["nv"] == "A dermoscopic image of nevus"
    assert rows_of(folder)[-1]["caption"]["faults"] == ["names another class: melanoma"]


@pytest.mark.parametrize(
    ("text", "message"),
    [('other = "x"', "names none of the labels, such as 'other'; labels: melanoma, nevus"),
     ("x", "cannot be read as TOML")],
)  # fmt: skip
def test_a_file_of_classes_that_fits_nothing_is_refused(images, tmp_path, text, message):
    (tmp_path / "classes.toml").write_text(text)
    result = caption(images, "--style", "simple", "--classes", tmp_path / "classes.toml")
    assert result.exit_code == 2 and message in result.stderr
    assert not (images / "metadata.jsonl").exists()


def test_labels_that_are_worded_alike_and_classes_without_rows_are_said(tmp_path):
    folder = make_many(tmp_path / "set", 4, ("basal_cell", "basal-cell"))
    (tmp_path / "classes.toml").write_text('basal_cell = "basal cell"\nother = "x"\n')
    options = ("--style", "simple", "--classes", tmp_path / "classes.toml")
    told = caption(folder, *options).stderr
    assert "labels basal-cell and basal_cell are both called 'basal cell'" in told
    assert "no row has the label other" in told


def test_a_synonym_that_names_another_class_is_said_and_a_name_that_was_given_is_no_code(tmp_path):
    folder = make_many(tmp_path / "set", 4, ("nv", "mel"))
    (tmp_path / "classes.toml").write_text('nv = {name = "nae", synonyms = ["Tan"]}\nmel = "tan"\n')
    told = caption(folder, "--style", "simple", "--classes", tmp_path / "classes.toml").stderr
    assert "labels mel and nv are both called 'tan'" in told and "codes" not in told


def test_a_run_whose_first_answers_are_refused_stops_early_and_keeps_what_it_has(models, tmp_path):
    folder = make_many(tmp_path / "set", 42, ("DRUSEN", "CNV", "DME"))

    def reply(body):
        other = "drusen" if "of DME" in prompt_of(body) else "DME"
        return f"{beginning(body)}, with signs of {other}."

    options = ("--profile", "oct", "--concurrency", 3)
    with serve(reply) as stub:
        result = ask_stub(stub, models, folder, *options)
        assert result.exit_code == 1 and len(stub.requests) < 42
        told = result.stderr.splitlines()[-1]
        count = re.search(r"(\d+) of the first 20 answers are refused: each names another", told)
        assert count and 12 <= int(count[1]) <= 16  # 14 images of CNV come before those of DME
        assert "signs of DME." in told and "findings" in told and "--classes" in told
        kept = sum("text" in row for row in rows_of(folder))
        assert kept >= 20 - int(count[1])
        stub.reply = lambda body: f"{beginning(body)}, with drusen at one edge."
        assert ask_stub(stub, models, folder, *options, "--max-refused", 1).exit_code == 0
    flags = [row["caption"].get("flags") for row in rows_of(folder) if row["label"] != "DRUSEN"]
    assert flags.count(["mentions drusen, which is a class"]) == 28
    assert {row["caption"]["status"] for row in rows_of(folder)} == {"ok"}


def test_a_run_that_ends_in_template_captions_alone_says_so_early_and_has_failed(models, tmp_path):
    folder = make_many(tmp_path / "set", 12, ("mel", "nv"))
    with serve(lambda body: "No.") as stub:
        result = ask_stub(stub, models, folder, "--attempts", 1, "--concurrency", 1)
        lines = result.stderr.splitlines()
        early = [line for line in lines if "10 of the first 10 answers are refused" in line]
        assert len(early) == 1 and "does not begin with" in early[0] and "--model" in early[0]
        assert result.exit_code == 1 and "all 12 texts are the template caption" in lines[-1]
        assert (folder / "review.html").is_file()
        again = ask_stub(stub, models, folder, "--attempts", 1)
        assert again.exit_code == 1 and len(stub.requests) == 12  # nothing was left to ask
        accepted = ask_stub(stub, models, folder, "--attempts", 1, "--max-refused", 1)
        assert accepted.exit_code == 0


def test_after_an_early_stop_other_settings_go_on_with_what_was_refused(models, tmp_path):
    folder = make_many(tmp_path / "set", 24, ("mel", "nv"))
    file = tmp_path / "classes.toml"
    file.write_text('nv = "nevus"\nmel = "melanoma"\n')
    options = ("--concurrency", 3, "--attempts", 1)
    with serve(lambda body: "No." if len(stub.requests) > 3 else good(body)) as stub:
        assert ask_stub(stub, models, folder, *options).exit_code == 1
        kept = [row["text"] for row in rows_of(folder) if "round brown" in row.get("text", "")]
        assert 1 <= len(kept) <= 3
        stub.reply = good
        changed = (*options, "--classes", file)
        result = ask_stub(stub, models, folder, *changed)
        assert result.exit_code == 2 and "--recaption" in result.stderr
        result = ask_stub(stub, models, folder, *changed, "--recaption", "rejected")
    assert result.exit_code == 0, result.stderr
    texts = [row["text"] for row in rows_of(folder)]
    assert all("round brown" in text for text in texts) and {*kept} <= {*texts}
    assert sum("of melanoma," in text or "of nevus," in text for text in texts) == 24 - len(kept)


def test_a_short_run_in_which_most_is_refused_is_warned_of(images, models):
    with serve(lambda body: "I cannot help with that.") as stub:
        result = ask_stub(stub, models, images, "--attempts", 1)
    assert result.exit_code == 0
    assert "6 of the first 6 answers are refused: each does not begin with" in result.stderr


def test_flags_leave_a_row_that_a_person_has_edited(images, models):
    with serve(lambda body: f"{beginning(body)}, 5 mm wide.") as stub:
        ask_stub(stub, models, images)
        assert rows_of(images)[0]["caption"]["flags"] == ["gives a measure: 5 mm"]
        edit(images, 0, "Mine.")
        assert ask_stub(stub, models, images).exit_code == 0
    assert "flags" not in rows_of(images)[0]["caption"]


def test_flags_and_reasons_of_refusals_are_counted_at_the_end(images, models):
    def reply(body):
        return f"{beginning(body)}, 5 mm wide" + ("." if "nevus" in prompt_of(body) else ", her.")

    with serve(reply) as stub:
        told = ask_stub(stub, models, images, "--attempts", 1).stderr
    assert "texts: 3 ok, 3 simple" in told and "3 captions have flags for a reviewer" in told
    assert "template captions stand where the answer: tells who the patient is (3)" in told


def test_a_profile_to_start_from_is_printed_and_read_back(images, tmp_path):
    result = CliRunner().invoke(app, ["caption", "--profile-template"])
    assert result.exit_code == 0 and result.stderr == ""
    own = tmp_path / "own.toml"
    own.write_text(result.stdout, encoding="utf-8")
    done = caption(images, "--style", "simple", "--profile", own)
    assert done.exit_code == 0, done.stderr
    assert rows_of(images)[0]["text"] == "A medical image of melanoma"
    # What the comments say works too, and is the default where they say so.
    lines, inside = [], False
    for line in result.stdout.splitlines():
        key = re.match(r"# \w+ = ", line)
        lines.append(line.removeprefix("# ") if key or inside else line)
        inside = (inside or line.startswith("# prompt")) and not line.endswith('one given."""')
    own.write_text("\n".join(lines), encoding="utf-8")
    profile = read_profile(str(own))
    assert profile.prompt == PROMPT and profile.context == ("Body site: {site}.",)
    assert profile.findings and profile.doubtful and profile.language == "en"
    assert set(KEY_TYPES) == {line.split(" ")[0] for line in lines if " = " in line
                              and line[0].isalpha()} | {"attributes"}  # fmt: skip


def test_an_answer_that_was_cut_behind_its_caption_is_whole(images, models):
    def reply(body):
        text = f"{good(body)}\n\nLet me know if y"
        choice = {"message": {"content": text}, "finish_reason": "length"}
        return 200, {"choices": [choice]}, {}

    with serve(reply) as stub:
        ask_stub(stub, models, images)
    assert len(stub.requests) == 6 + 1  # the first is asked for at length: does the model think?
    assert {row["caption"]["status"] for row in rows_of(images)} == {"ok"}

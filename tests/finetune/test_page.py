import pytest
from PIL import Image

from medart_cli.data.images import save_png, tile_images
from medart_cli.finetune.page import (
    MOST_STEPS,
    answer_training,
    show_previews,
    tell_losses,
    word_run,
)

FACTS = {
    "trained": ["transformer"], "base_name": "hub/base", "method": "lora", "patients": None,
    "data": {"images": 8, "labels": {"nevus": 8}}, "status": "done",
    "inputs": [{"source": "data/cells"}],
}  # fmt: skip


def measured(*losses, **more):
    rows = [{"step": 10 * i, "val_loss": loss} for i, loss in enumerate(losses)]
    return rows + [{"step": i + 1, "loss": 1.0} | more for i in range(8)]


@pytest.mark.parametrize(
    ("losses", "mark", "text"),
    [
        ((1.0, 0.5, 0.4), "good", "fell from 1 to 0.4, and has not risen"),
        ((1.0, 0.5, 0.505), "good", "has not risen"),
        ((1.0, 0.4, 0.6), "bad", "lowest at step 10 (0.4) and has risen to 0.6 since"),
        ((1.0, 1.0), "unclear", "has not fallen"),
        ((1.0, float("nan")), "bad", "no number at step 10"),
    ],
)
def test_the_held_out_loss_says_whether_the_model_still_learns(losses, mark, text):
    (found, *_) = answer_training(FACTS, measured(*losses))
    assert found.mark == mark and text in found.text


def test_without_held_out_images_the_page_says_what_cannot_be_seen():
    rows = [{"step": i, "loss": 1 / i, "color_loss": 1.0} for i in range(1, 9)]
    loss, heldout, color = answer_training(FACTS, rows)
    assert [loss.mark, heldout.mark, color.mark] == ["good", "unclear", "unclear"]
    assert "--val-fraction" in heldout.text and "color loss has not fallen" in color.text


def test_a_gap_to_the_training_images_is_no_proof_but_a_reason_to_look():
    for interval, words in (([0.01, 0.2], "look for near-copies"), ([-0.1, 0.2], "nor ruled out")):
        heldout = {"interval": interval, "memorized": 0.1, "images": 12}
        facts = FACTS | {"figures": {"heldout": heldout}}
        told = answer_training(facts, measured(1.0, 0.5))[1]
        assert told.mark == "unclear" and words in told.text


def test_the_first_line_says_what_is_trained_on_how_many_images():
    facts = FACTS | {"heldout": {"data": {"images": 2}, "patients": None}}
    assert word_run(facts, measured(1.0)) == (
        "Trained: transformer of base (lora) on 8 real images (cells; 1 label, patients unknown; 2 "
        "others held out); optimizer step 8, done. The losses do not say whether pictures look "
        "real: see the previews."
    )
    assert tell_losses(measured(1.0, 0.5)) == (
        "Chart: loss 1 at step 1, 1 at step 8; held-out loss 1 at step 0, 0.5 at step 10"
    )


def test_previews_are_rows_of_one_prompt_over_the_steps(tmp_path):
    colors, captions = ("red", "lime", "blue"), ["one", "two", "two"]
    for step in range(1, 21):
        sheet = tile_images([Image.new("RGB", (16, 16 + 8 * (c == "red")), c) for c in colors])
        path = tmp_path / f"step-{step:06d}.png"
        save_png(path, sheet, {"synthetic": True, "step": step, "captions": captions})
    (tmp_path / "step-000000.png").write_bytes(path.read_bytes())
    save_png(tmp_path / "step-000000.png", sheet)  # of before prompts were kept
    rows = show_previews(sorted(tmp_path.glob("*.png")))
    assert [row.title for row in rows] == captions
    told = [picture.caption for picture in rows[0].pictures]
    assert told[-1] == "step 20" and len(told) == MOST_STEPS - 1
    assert rows[1].pictures[0].instead.endswith("of: two")
    assert show_previews([]) == []

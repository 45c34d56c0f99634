import json

import pytest

from medart_cli import stop
from medart_cli.finetune import train
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.previews import count_previews, preview_due

SHORT = ("--resolution", 16, "--preview-count", 1, "--hldf-every", 0, "--freeze-text-encoder")


@pytest.fixture
def finetune(medart, small_base, images, tmp_path):
    def run(out, steps, every, code=0):
        found, _, errors = medart(
            "finetune", images, "--base", small_base, "--out", tmp_path / out, *SHORT,
            "--steps", steps, "--preview-every", every,
        )  # fmt: skip
        assert found == code, errors
        return errors

    return run


@pytest.fixture
def previews(tmp_path):
    def read(out):
        folder = tmp_path / out / "previews"
        return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}

    return read


def names(*steps):
    return [f"step-{step:06d}.png" for step in steps]


@pytest.mark.parametrize(
    ("every", "total", "steps"),
    [(2, 5, [2, 4, 5]), (2, 4, [2, 4]), (500, 3, [3]), (1, 2, [1, 2]), (0, 3, [])],
)
def test_a_preview_is_due_every_so_many_steps_and_once_at_the_last(tmp_path, every, total, steps):
    config = FinetuneConfig(data="-", out=tmp_path, preview_every=every)
    assert [it for it in range(1, total + 1) if preview_due(config, it, total)] == steps
    assert count_previews(config, total) == len(steps)


def test_a_run_that_was_stopped_shows_the_previews_of_an_uninterrupted_one(
    finetune, previews, monkeypatch
):
    finetune("whole", 3, 2)
    drawn, draw = [], train.draw_preview

    def stop_before_the_last(work, step, total):
        drawn.append(step)
        if step == 3:
            raise stop.Stopped("stopped by SIGTERM")
        draw(work, step, total)

    monkeypatch.setattr(train, "draw_preview", stop_before_the_last)
    finetune("parts", 3, 2, code=75)
    assert drawn == [1, 2, 3] and [*previews("parts")] == names(2)
    monkeypatch.undo()
    finetune("parts", 3, 2)
    assert previews("parts") == previews("whole") and [*previews("whole")] == names(2, 3)


def test_a_run_made_longer_keeps_the_preview_of_its_former_end(finetune, previews, tmp_path):
    finetune("run", 3, 2)
    before = previews("run")
    finetune("run", 5, 2)
    after = previews("run")
    assert [*after] == names(2, 3, 4, 5)
    assert {name: after[name] for name in before} == before
    assert "step 5" in (tmp_path / "run/report.html").read_text("utf-8")


def test_a_finished_run_that_lacks_its_last_preview_draws_it(finetune, previews, tmp_path):
    finetune("run", 1, 0)
    assert previews("run") == {}
    weights = (tmp_path / "run/run.json").read_text()
    assert "already finished" not in finetune("run", 1, 500)
    assert [*previews("run")] == names(1)
    trained = [
        json.loads(text)["checkpoint"]
        for text in (weights, (tmp_path / "run/run.json").read_text())
    ]
    assert trained[0] == trained[1]
    assert "already finished" in finetune("run", 1, 500)

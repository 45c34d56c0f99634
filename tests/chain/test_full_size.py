"""PixArt-XL with T5-XXL at full size, random weights, on a CPU: a quarter of an hour, 20 GB."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FORMATS = ("nf4", "int8", "bf16")


@pytest.mark.nightly
def test_the_full_size_base_takes_both_steps_in_each_format_and_less_memory_in_smaller_ones(
    tmp_path,
):
    words = "-m tests.bench.bench_full --base pixart --device cpu --solver-steps 2 --resolution 256"
    ended = subprocess.run(
        [sys.executable, *words.split(), "--place", tmp_path, "--base-format", *FORMATS],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    sys.stdout.write(ended.stdout)
    rows = re.findall(
        r"\| pixart in (\w+) \| LoRA, also on the text encoder \| step \| \S+ \| (\S+) \|",
        ended.stdout,
    )
    assert [name for name, _ in rows] == list(FORMATS)
    peaks = [float(gb) for _, gb in rows]
    assert peaks == sorted(peaks) and peaks[0] < 0.6 * peaks[-1]

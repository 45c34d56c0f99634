"""Draw images: run folder + prompts -> SYN/*.png, SYN/metadata.jsonl, a contact sheet.

T5 reads the prompts first and is then released, a thousand rows at a time. An image's noise depends
on the seed and its row alone, and rows share a batch with the same rows always; so neither a stop
nor the number of processes or shards changes a bit of it.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import PartialState

from medart_cli.data.manifest import (
    repair_manifest,
)
from medart_cli.data.output import Output, open_output
from medart_cli.log import log
from medart_cli.models.device import (
    hush_libraries,
    join_processes,
)
from medart_cli.options import parse_shard
from medart_cli.ranks import own_part
from medart_cli.sample.draw import build_drawing, draw_all
from medart_cli.sample.folder import finish, finished_rows, list_files, say_what_is_left
from medart_cli.sample.options import SampleConfig
from medart_cli.sample.prompts import Prompts, read_prompts
from medart_cli.sample.source import Source, demonstration_mark, find_source, merge
from medart_cli.versions import read_versions


def run(config: SampleConfig) -> dict[str, Any]:
    """Draw an image for each prompt; skip those that are there already."""
    hush_libraries()
    device, state = join_processes(config.device), PartialState()
    source = find_source(config)
    if config.merge_to is not None and state.is_main_process:
        merge(source, config.merge_to)
    if config.out is None:
        return {"result": str(config.merge_to), "merged": str(config.merge_to)}
    rows = read_prompts(config)
    part = own_part(parse_shard(config.shard))
    output = describe_output(config, config.out, source, rows)
    with open_output(output) if state.is_main_process else nullcontext():
        files = list_files(config, config.out, part)
        if state.is_main_process or config.shard:
            for path in files:
                repair_manifest(path)
        state.wait_for_everyone()
        done = finished_rows(config.out, files, rows)
        say_what_is_left(config.out, done)
        state.wait_for_everyone()  # nobody draws before all have read what is done
        drawn = draw_all(build_drawing(config, source, device), rows, part, done)
        state.wait_for_everyone()
        if config.shard is None:  # also by the other processes
            drawn = int((~done).sum())
        summary = {
            "result": str(config.out), "images": len(rows), "drawn": drawn,
            "failures": 0, "inputs": [rows.account.facts()] if rows.account else [],
            "run": source.mark, "run_folder": str(source.trained.resolve()),
            **demonstration_mark(source), "versions": read_versions(),
        }  # fmt: skip
        if config.shard is not None:
            log.info("%s is done; when all parts are, leave out --shard to join them", config.shard)
        elif state.is_main_process:
            finish(source, config.out, summary)
    return summary


def describe_output(config: SampleConfig, out: Path, source: Source, rows: Prompts) -> Output:
    """Say what the folder belongs to: the settings, the checkpoint, and what is drawn."""
    settings = config.settings() | {"_checkpoint": source.mark}
    return Output(
        out, "sample", settings, config.name_run_only() | {"_rows"}, config.overwrite,
        inputs=(config.run, config.from_data, config.prompts),
        part=parse_shard(config.shard)[0] if config.shard else 0,
    )  # fmt: skip

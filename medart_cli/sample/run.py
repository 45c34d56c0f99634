"""Generate images: run folder + prompts -> SYN/*.png, SYN/metadata.jsonl, a contact sheet.

The text encoder reads the prompts first and is then released, a thousand rows at a time. An image's
noise depends on the seed and its row alone, and rows share a batch with the same rows always; so
neither a stop nor the number of processes or shards changes a bit of it.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from medart_cli import stop
from medart_cli.data.cache import make_cache
from medart_cli.data.manifest import (
    MANIFEST_NAME,
    PARTS_NAME,
    repair_manifest,
)
from medart_cli.data.output import Output, open_output
from medart_cli.log import log
from medart_cli.models.bases import check_format
from medart_cli.models.offload import check_offload
from medart_cli.options import parse_shard
from medart_cli.ranks import is_first, own_part, wait_for_all
from medart_cli.sample.folder import finish, finished_rows, list_manifests, say_what_is_left
from medart_cli.sample.held import read_held
from medart_cli.sample.options import SampleConfig
from medart_cli.sample.prompts import Prompts, read_prompts
from medart_cli.sample.shapes import check_buckets
from medart_cli.sample.source import (
    Source,
    choose_format,
    demonstration_mark,
    find_source,
    merge,
)
from medart_cli.versions import read_versions


def run(config: SampleConfig) -> dict[str, Any]:
    """Generate an image for each prompt; skip those that exist already."""
    source = find_source(config)
    if config.merge_to is not None and is_first():
        merge(source, config.merge_to)
    if config.out is None:
        return {"result": str(config.merge_to), "merged": str(config.merge_to)}
    check_format(choose_format(config, source))
    check_offload(config.offload, config.precision, choose_format(config, source))
    rows = read_prompts(config, source.facts, read_held(source.trained, source.facts))
    check_buckets(config, source, rows)
    part = own_part(parse_shard(config.shard))
    output = describe_output(config, config.out, source, rows)
    begun = [config.out / name for name in (MANIFEST_NAME, PARTS_NAME)]
    if config.overwrite or not any(path.exists() for path in begun):
        check_device(config)  # before anything is wiped or begun
    with open_output(output) if is_first() else nullcontext():
        files = list_manifests(config, config.out, part)
        if is_first() or config.shard:
            for path in files:
                repair_manifest(path)
        wait_for_all()
        done = finished_rows(config.out, files, rows)
        say_what_is_left(config.out, done)
        wait_for_all()  # nobody draws before all have read what is done
        drawn = 0
        if not done.all():
            with stop.at_once():  # loads torch and diffusers, which takes seconds
                from medart_cli.sample.draw import draw_all

            drawn = draw_all(config, source, (rows, part), done)
        wait_for_all()
        if config.shard is None:  # also by the other processes
            drawn = int((~done).sum())
        summary = {
            "result": str(config.out), "images": len(rows), "drawn": drawn,
            "failures": 0, "inputs": [rows.account.facts()] if rows.account else [],
            "run": source.mark, "run_folder": str(source.trained.resolve()),
            "base_format": choose_format(config, source),
            **demonstration_mark(source), "versions": read_versions(),
        }  # fmt: skip
        if config.shard is not None:
            log.info("shard %s is done; when all are, run without --shard to join", config.shard)
        elif is_first():
            finish(source, config.out, summary, fresh=drawn > 0)
    return summary


def check_device(config: SampleConfig) -> None:
    """Refuse a device or number format that cannot draw; this loads torch.

    Raises:
        ConfigError: There is no such device, or it does not have the format; or --compile is asked
            for and there is no compiler.
    """
    with stop.at_once():
        from medart_cli.models.device import find_precision, join_processes
    device = join_processes(config.device)
    find_precision(config.precision, device)
    if config.compile:
        with stop.at_once():
            from medart_cli.models.compiled import check_compiler
        check_compiler(device, make_cache(None) / "compiled")


def describe_output(config: SampleConfig, out: Path, source: Source, rows: Prompts) -> Output:
    """Say what the folder belongs to: the settings, the checkpoint, and what is drawn."""
    settings = config.settings() | {"_checkpoint": source.mark}
    return Output(
        out, "sample", settings, config.name_run_only() | {"_rows"}, config.overwrite,
        inputs=(config.run, config.from_data, config.prompts),
        part=parse_shard(config.shard)[0] if config.shard else 0,
    )  # fmt: skip

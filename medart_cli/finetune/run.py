"""Fine-tune PixArt with HLDF: captioned images -> RUN/ (weights, checkpoints, previews, card)."""

from contextlib import nullcontext
from typing import Any

from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.output import Output, check_output, open_output
from medart_cli.finetune.hldf import choose_every, plan_hldf
from medart_cli.finetune.keep import announce, finish
from medart_cli.finetune.optimizer import check_optimizer
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.plan import say_how_often, settle_hldf
from medart_cli.finetune.resume import resume
from medart_cli.finetune.rows import count_steps, describe_data, read_rows
from medart_cli.finetune.setup import (
    build_accelerator,
    build_optimizer,
    build_work,
    cache_captions,
    cache_images,
    check_captions,
)
from medart_cli.finetune.train import train
from medart_cli.log import log
from medart_cli.models.bases import find_base
from medart_cli.models.device import (
    hush_libraries,
)


def run(config: FinetuneConfig) -> dict[str, Any]:
    """Train adapters or all weights on a folder of captioned images; go on where a run stopped."""
    hush_libraries()
    check_optimizer(config.optimizer)
    accelerator = build_accelerator(config)
    check_optimizer(config.optimizer, accelerator.device)
    rows, failures, account = read_rows(config)
    base = find_base(config.base, offline=config.offline)
    output = describe_output(config)
    if check_output(output):
        checkpoints.refuse_lost(config.out)

    work = build_work(config, base, rows, accelerator)
    check_captions(work)
    failures += cache_images(work)
    total = count_steps(config, len(work.rows), accelerator.num_processes)
    work.facts |= describe_data(work.rows) | {"settings": output.settings}
    work.facts["inputs"] = [account.facts()]
    settle_hldf(work, choose_every(plan_hldf(config), total))
    cache_captions(work)
    build_optimizer(work, total)
    # Only now: nothing is wiped for a request that cannot work.
    with open_output(output) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        first = resume(work)
        announce(work, first)

        say_how_often(work, total)
        log.info("training %s: steps %d to %d", config.method, first + 1, total)
        train(work, first, total)
        return finish(work, max(first, total), failures)


def describe_output(config: FinetuneConfig) -> Output:
    """Say what the run folder belongs to; with a constant rate a run may be made longer.

    The base may have been moved: `resume` compares its weights.
    """
    may_differ = {"base"} | ({"steps", "epochs"} if config.lr_schedule == "constant" else set())
    return Output(
        config.out, "finetune", config.settings(), config.name_run_only() | may_differ,
        config.overwrite, inputs=(config.data, config.base), formerly=config.formerly,
    )  # fmt: skip

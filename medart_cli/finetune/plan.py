"""How HLDF is planned: how often it runs, and its activation checkpointing by free memory.

A file of its own only so that train.py shows the training loop alone.
"""

from dataclasses import asdict, replace
from typing import get_args

import torch
from torch import Tensor

from medart_cli.finetune import optimizer as optimizers
from medart_cli.finetune.hldf import FEWEST, plan_hldf
from medart_cli.finetune.work import Work, count_weights
from medart_cli.log import log
from medart_cli.models.optimizers import OPTIMIZERS


def settle_hldf(work: Work, auto: int) -> None:
    """Put a number in the place of `--hldf-every auto`, and note how the color loss is made."""
    if work.auto_hldf:
        work.config = replace(work.config, hldf_every=str(auto))
    hldf = plan_hldf(work.config)
    told = asdict(hldf) | {"statistics": list(hldf.statistics)}
    work.facts["hldf"] = told if hldf.every else None


def say_how_often(work: Work, total: int) -> None:
    """Say how many color losses the run will have; warn where those are few."""
    hldf = plan_hldf(work.config)
    if not hldf.every:
        return
    times, enough = total // hldf.every, min(FEWEST, total)
    if times < enough:
        log.warning(
            "HLDF runs only %d times in %d steps (--hldf-every %d); --hldf-every auto or %d gives "
            "%d or more", times, total, hldf.every, max(1, total // FEWEST), enough,
        )  # fmt: skip
    else:
        log.info("HLDF runs %d times in %d steps (--hldf-every %d)", times, total, hldf.every)


def plan_recompute(work: Work, pass_bytes: int, embeds: Tensor) -> str:
    """Choose the HLDF checkpointing for `auto`, from what the first noise loss stored.

    With FSDP all processes take the most frugal choice of any: their passes must be the same.
    """
    config, family, hldf = work.config, work.family, plan_hldf(work.config)
    free = torch.cuda.mem_get_info(work.accelerator.device)[0]
    # Later there are gradients and the optimizer's state, and with the score the noise loss's
    # gradients.
    gradients = 8 if hldf.loss == "score" else 4
    free -= (gradients + OPTIMIZERS[config.optimizer].state_bytes) * count_weights(work)
    free -= config.batch_size * family.decoder_bytes(work.vae, work.facts["resolution"])
    side = work.facts["resolution"] / family.latent_scale(work.vae)
    inputs = config.batch_size * family.count_inputs(work.transformer, side) * embeds.element_size()
    choice = optimizers.choose_recompute(
        free, 2 * pass_bytes, 2 * inputs,
        hldf.with_gradient * hldf.grad_steps,
    )  # fmt: skip
    if work.sharded:
        choices = get_args(optimizers.Recompute)  # from most memory to least
        mark = torch.tensor([choices.index(choice)], device=work.accelerator.device)
        choice = choices[int(work.accelerator.gather(mark).max())]
    log.info("HLDF activation checkpointing: %s (%.1f GB free)", choice, free / 1e9)
    return choice


def rehearsal_due(work: Work, first: int, total: int) -> bool:
    """Say whether HLDF will need a GPU's memory later than at the first step."""
    every = plan_hldf(work.config).every
    later = every > 0 and total // every > (first + 1) // every
    return work.accelerator.device.type == "cuda" and later and (first + 1) % every > 0

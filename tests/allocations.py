"""What PyTorch allocates on a CPU, as its profiler counts it: the counterpart of an estimate."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def count_peak(run: Callable[[], object]) -> int:
    """Return the most bytes that a call had allocated and not freed."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        run()
    now = most = 0
    events = [it for it in prof.profiler.kineto_results.events() if it.name() == "[memory]"]
    for event in sorted(events, key=lambda it: it.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most

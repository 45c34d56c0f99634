"""Errors a user can fix: one line `place: what is wrong; what to do`, and an exit code."""


class MedartError(Exception):
    """Base of every error that is shown as one line instead of a traceback."""

    exit_code = 1


class RunError(MedartError):
    """The request was right, but the run failed: a disk is full, a loss is not a number."""


class ImageError(MedartError):
    """An image file cannot be turned into a picture that is surely right."""


class ConfigError(MedartError):
    """An option, a path or a settings file cannot work."""

    exit_code = 2


class ManifestError(MedartError):
    """A manifest line is unreadable or lacks a field the stage needs."""

    exit_code = 2


class TooManyFailuresError(MedartError):
    """The stage finished, but more rows failed than `--max-failures` allows."""

    exit_code = 3


class MissingModelError(MedartError):
    """A model or weight file that the run needs is not there and may not be fetched."""

    exit_code = 4


class Stopped(MedartError):
    """A signal asked the run to stop; what was done is saved."""

    exit_code = 75


FULL_GPU = (  # what the libraries of a GPU say besides torch.OutOfMemoryError
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def find_full_memory(error: BaseException) -> str | None:
    """Return what is out of memory, if that is what an error means: `GPU` or `machine`.

    torch is not imported here, so its error is known by its name.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in names or any(text in str(error) for text in FULL_GPU):
        return "GPU"
    full = isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate" in str(error)
    return "machine" if full else None

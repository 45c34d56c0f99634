"""The kinds of arrays that measures take and give, by the type of their numbers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
AnyArray = npt.NDArray[np.floating]
Features = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Digests = npt.NDArray[np.bytes_]  # (N,) SHA-256 of files' bytes, 32 bytes each: dtype S32
Groups = Sequence[str] | Indices  # whose an image is, or its label: names or codes

import threading

import numpy as np
import pytest
import torch

from kit.device import shortages_named
from kit.errors import KitError


def test_memory_that_is_not_enough_is_named_with_what_helps():
    with pytest.raises(KitError, match=r"memory is not enough.*train.batch_size"), shortages_named():
        torch.empty(2**50)
    with pytest.raises(KitError, match=r"tried to allocate 20 GB.*data.feed=stream"), shortages_named():
        raise torch.OutOfMemoryError("CUDA out of memory: tried to allocate 20 GB")
    for words in ("CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"):
        with pytest.raises(KitError, match=f"memory is not enough: {words[:20]}.*close what else uses the device"), shortages_named():
            raise torch.AcceleratorError(words) if words.endswith("memory") else RuntimeError(words)
    with pytest.raises(KitError, match=r"memory is not enough.*Unable to allocate.*ulimit"), shortages_named():
        np.empty(2**50)
    before = threading.stack_size(2**45)  # more than a machine has, as a thread's stack is under a low `ulimit -v`
    try:
        with pytest.raises(KitError, match=r"memory is not enough: can't start new thread"), shortages_named():
            threading.Thread(target=print).start()
    finally:
        threading.stack_size(before)


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="must match"), shortages_named():
        torch.ones(2) + torch.ones(3)

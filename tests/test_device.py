import pytest
import torch

from kit.device import shortages_named
from kit.errors import KitError


def test_memory_that_is_not_enough_is_named_with_what_helps():
    with pytest.raises(KitError, match=r"memory is not enough.*train.batch_size"), shortages_named():
        torch.empty(2**50)
    with pytest.raises(KitError, match=r"tried to allocate 20 GB.*data.feed=stream"), shortages_named():
        raise torch.OutOfMemoryError("CUDA out of memory: tried to allocate 20 GB")


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="must match"), shortages_named():
        torch.ones(2) + torch.ones(3)

"""A function compiled by torch (Inductor): what passes over maps one by one is fused, for other last bits and some time at each start.

By default Inductor chooses kernels by timing them, and a session that goes on could get others than the one before it. Here they are
chosen by rule: the same machine gives the same bits.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from kit.config.schema import Train
from kit.errors import KitError
from kit.world import World

Result = TypeVar("Result")

KINDS = 64  # that one function is compiled in: another where a term begins or ends; torch's own limit is 8, and more run uncompiled


def is_fused(train: Train, world: World) -> bool:
    """Whether a plan's step is compiled. Of several processes none does: a compiled all-reduce has another gradient, and batch norm over
    all of them learnt something else."""
    return bool(train.compile) and world.alone


def fused(function: Callable[..., Result]) -> Callable[..., Result]:
    """The same function of tensors, compiled when it is first called and again when what it computes changes. What was compiled before is
    forgotten, so that a stage compiles what it would compile in a session of its own.

    Raises:
        KitError: from the function that is returned, where there is no compiler.
    """
    import torch._dynamo  # with Inductor seconds that a run without it need not wait
    import torch._inductor.config

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of every machine without a GPU
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = KINDS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._inductor.config.deterministic = True
    compiled = torch.compile(function, dynamic=False)

    def call(*tensors: object) -> Result:
        try:
            return compiled(*tensors)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise KitError(
                f"train.compile: torch can't compile the step here ({str(error).partition(chr(10))[0][:160]}). On a CPU it needs a C++ "
                "compiler such as g++, on a GPU Triton and a C compiler. Or leave it out, in another --out: --set train.compile=null."
            ) from None

    return call

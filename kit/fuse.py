"""A function compiled by torch (Inductor): what passes over maps one by one is fused, for other last bits and some time at each start.

By default Inductor chooses kernels by timing them, and a session that goes on could get others than the one before it. Here they are
chosen by rule: the same machine gives the same bits.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from kit.config.schema import Train
from kit.errors import KitError, Suspended, in_brief
from kit.world import World

Result = TypeVar("Result")
Fuse = Callable[[Callable[..., Any]], Callable[..., Any]]

WORTH = 2e10  # pixels of views that a plan has a GPU look at: on paper two minutes of a T4; an H100's host compiled for 24 s
RECOMPILES = 64  # compiled variants of one function (one for each set of active terms); torch stops at 8


def with_compile_decided(train: Train, photos: int, side: int, device: torch.device, world: World) -> Train:
    """A plan that says whether its steps are compiled. Left open, they are on a GPU, where the plan is long: a matter of the recipe and of
    no clock, so that a run and its repetition are the same.

    Of several processes none compiles: a compiled all-reduce has another gradient, and batch norm over all of them learnt something else.
    """
    long = device.type == "cuda" and train.epochs * photos * side**2 >= WORTH
    return train.model_copy(update={"compile": world.alone and (long if train.compile is None else train.compile)})


def fused(function: Callable[..., Result], say: Callable[[str], None] | None = None) -> Callable[..., Result]:
    """The same function of tensors, compiled when it is first called and again when what it computes changes. What was compiled before is
    forgotten, so that a stage compiles what it would compile in a session of its own.

    Args:
        say: called with the reason if compiling fails; the function then runs uncompiled. None: that is an error, since compiling was
            asked for.
    Raises:
        KitError: from the function that is returned, where it can't be compiled and `say` is None.
    """
    import torch._dynamo  # with Inductor seconds that a run without it need not wait
    import torch._functorch.config
    import torch._inductor.config

    def give_up(why: str, remedy: str) -> Callable[..., Result]:
        if say is None:
            raise KitError(f"train.compile: {why}. {remedy}, or leave it out, in another --out: --set train.compile=false.") from None
        say(f"{why}: steps are taken kernel by kernel")
        return function

    if not hasattr(torch._inductor.config, "deterministic"):  # a torch before 2.10
        return give_up(f"torch {torch.__version__} can't be told to choose kernels by rule", "Take a newer one")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of every machine without a GPU
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = RECOMPILES
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._functorch.config.force_non_lazy_backward_lowering = True  # now, and not in a backward pass, where nothing here would see it fail
    torch._inductor.config.deterministic = True
    torch._inductor.config.realize_reads_threshold = 8  # else the sum of a hint's gradient and what comes from behind is kept, in float32
    compiled = torch.compile(function, dynamic=False)

    def call(*tensors: object) -> Result:
        nonlocal compiled
        try:
            return compiled(*tensors)
        except (KitError, Suspended, torch.OutOfMemoryError):
            raise
        except Exception as error:
            # while a step is recorded, it is the recording that fails: the step goes on compiled, without one
            recorded = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
            if recorded or not (say or isinstance(error, torch._dynamo.exc.TorchDynamoException)):
                raise
            needs = "On a CPU install a C++ compiler such as g++, on a GPU Triton and a C compiler"
            compiled = give_up(f"torch can't compile the step here ({in_brief(error)})", needs)
            return compiled(*tensors)

    return call

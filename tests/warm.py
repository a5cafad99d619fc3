"""The command in a process of its own, which is forked off one that has loaded torch. To load it takes seconds, in which no signal could do
harm; what is forked is killed and waited for as any other. What signals do to a process from its start is asked of real ones."""

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import torch

FORKS = multiprocessing.get_context("forkserver")
LOADED = ["kit.cli.main", "kit.pipeline", "torch._dynamo"]
PATIENCE = 300  # s, after which a command that hangs is ended


class Command:
    """`kit` with these words in `place`. stdout: its lines as they come, its errors among them."""

    def __init__(self, place: Path, *words: str, threads: int = 1):
        FORKS.set_forkserver_preload(LOADED)  # here: the kit's own workers are forked off such a process, too, that has loaded less
        said, say = FORKS.Pipe(duplex=False)
        self.process = FORKS.Process(target=begin, args=(say, place, words, threads))
        self.process.start()
        self.stdout = os.fdopen(os.dup(said.fileno()), errors="replace")

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> tuple[int, str]:
        """(exit code, or the signal's number below zero; the rest of what it says)."""
        rest = self.stdout.read()
        self.stdout.close()
        self.process.join()
        return self.process.exitcode, rest


def begin(say: Connection, place: Path, words: tuple[str, ...], threads: int) -> None:
    from kit.cli.main import main

    os.chdir(place)
    for stream in (1, 2):
        os.dup2(say.fileno(), stream)
    say.close()
    sys.stdout, sys.stderr = (os.fdopen(stream, "w") for stream in (1, 2))  # the first process's write to a file, with its place in it
    signal.alarm(PATIENCE)
    torch.set_num_threads(threads)
    sys.argv = ["kit", *words]
    main()

"""Successive halving (Jamieson and Talwalkar 2016; without waiting for the others, Li et al. 2020), by Optuna: an arm that lags behind
those before it at the same epoch is stopped there.

What the journal holds is told to Optuna anew at every start, so a study goes on from its journal alone.
"""

from typing import Any

from kit.errors import KitError
from kit.session import Watch
from kit.studies.journal import Entry

FIRST = 5  # the first look is after a fifth of the plan
FACTOR = 3  # one arm of three goes on from each look; the next comes after three times as many epochs


def import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise KitError("--halving is done by Optuna: pip install optuna, or leave it out and every arm runs to its end.") from None
    return optuna


class Halving:
    """Who goes on, of arms of one plan."""

    def __init__(self, epochs: int, entries: list[Entry]):
        """entries: of the journal, those that have a curve.

        Raises:
            KitError: Optuna is not installed.
        """
        optuna = import_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=max(1, epochs // FIRST), reduction_factor=FACTOR)
        self.study = optuna.create_study(direction="maximize", pruner=pruner)
        for entry in entries:
            self.watch()("distil", [{"epoch": i, "accuracy": accuracy} for i, accuracy in enumerate(entry["curve"], 1)])

    def watch(self) -> Watch:
        """What is asked after each epoch of one arm: (stage, its history so far) → why it is stopped, or None."""
        trial, told = self.study.ask(), 0

        def look(stage: str, history: list[dict[str, Any]]) -> str | None:
            nonlocal told
            for line in history[told:] if stage == "distil" else []:
                told += 1
                trial.report(line["accuracy"], line["epoch"])
                if trial.should_prune():
                    return f"it lags behind the other arms after epoch {line['epoch']}"
            return None

        return look

"""Where an epoch's seconds went."""

from kit.train.budget import Budget

KINDS = ("step", "evaluate", "save", "wait")  # where a stage's seconds go


class Pace:
    """Of one stage, by the budget's clock."""

    def __init__(self, budget: Budget, stage: str):
        self.budget, self.stage, self.since, self.before = budget, stage, budget.clock(), budget.spent.copy()

    def restart(self, images: int) -> dict[str, float]:
        """{"seconds", "images_per_second", and seconds by kind} since the last call; then from zero."""
        now, spent = self.budget.clock(), self.budget.spent.copy()
        seconds = now - self.since
        kinds = {kind: round(spent[f"{self.stage} {kind}"] - self.before[f"{self.stage} {kind}"], 3) for kind in KINDS}
        self.since, self.before = now, spent
        return {"seconds": round(seconds, 3), "images_per_second": round(images / seconds, 1) if seconds else 0.0, **kinds}

"""Seed 001: the course's four steps in a row, architecture, distillation, slimming, fewer bits."""

from kit.config.schema import Config
from kit.studies.hw7 import DISTILLED, LABELS, REDUCTION, course, course_ground
from kit.studies.study import Arm, Study, kept_answers

EPOCHS, FINETUNE = 12, 2
PLANS = ((5, 0.95), (10, 0.95), (5, 0.9))  # prunes, and the rate of each


def slimmed(rate: float, times: int) -> float:
    """The share of parameters that the course's code leaves: `width_mult` scales the fourth to the seventh width."""
    import torch  # takes seconds, and `kit --help` names all studies

    from kit.models.students import STUDENTS, build_student, count_parameters

    widths = list(STUDENTS["hw7"].widths)
    widths[3:7] = [int(width * rate**times) for width in widths[3:7]]
    with torch.device("meta"):
        return count_parameters(build_student("hw7", widths, 11)) / STUDENTS["hw7"].parameters


def slim(count: int, rate: float, restart: bool, finetune_epochs: int) -> Config:
    """The course's count as a share, so that other numbers of classes are pruned alike. By γ and each layer alike, as in the course, which
    however leaves the narrow layers whole."""
    prune = {"keep": slimmed(rate, count), "steps": count, "restart": restart, "scope": "layer", "gamma_penalty": 0.0}
    return course("hw7", DISTILLED, prune=prune | {"finetune_epochs": finetune_epochs, "finetune_lr": 1e-3})


def hw7_pipeline() -> Study:
    slim_arms = []
    for count, rate in PLANS:
        for restart in (False, True):
            name = f"{'restarted' if restart else 'cumulative'}-{count}x{rate}"
            how = "each from the whole student" if restart else "each from the one before"
            says, twin = f"{count} prunes at {rate}, {how}", f"cumulative-{count}x{rate}" if restart else ""
            published = "0.71" if (count, rate, restart) == (5, 0.95, False) else ""
            slim_arms += [
                Arm(name, slim(count, rate, restart, 5), f"{says}, fine-tuned", begins="distilled", against=twin, curve=name),
                Arm(
                    f"{name}-flawed",
                    slim(count, rate, restart, 0),
                    f"{says}, as with the course's optimiser, which holds the network from before",
                    published,
                    begins="distilled",
                    against=name,
                    curve=f"{name}-flawed",
                ),
            ]
    packs = {
        "bits-8-course": ({"method": "course"}, "distilled, the course's 8 bits: a minimum and a maximum a tensor"),
        "bits-8": ({"bits": 8}, "distilled, 8 bits with a scale and a shift a channel"),
    }
    arms = (
        Arm("architecture", course("hw7", LABELS), "depthwise and pointwise convolutions, labels alone"),
        Arm("distilled", course("hw7", DISTILLED, pack={"bits": 16, "method": "half"}), "under the teacher, packed in 16 bits", "0.8137"),
        *(Arm(name, course("hw7", DISTILLED, pack=how), says, begins="distilled") for name, (how, says) in packs.items()),
        *slim_arms,
    )
    question = (
        "What does each of the course's steps cost and bring: architecture, distillation, slimming (one prune after the other, or each "
        "from the whole student; by count and rate), 16 and 8 bits; and what does the course's optimiser lose, which after a prune still "
        "holds the network from before, so that nothing but batch norm's averages is fitted? Published: the given checkpoint's accuracy "
        "on Food-11's validation photos, and the end of the course's own log of slimming, which began at 0.80."
    )
    remarks = (
        "**What agrees.** With the course's optimiser, which trains nothing after a prune, accuracy falls, as its log does, and the "
        "further behind one that holds the pruned network, the more goes at once. With that one a third of the parameters goes for nothing "
        "that chance would not take. 16 and 8 bits cost nothing either, and a scale and a shift a channel are no better here than the "
        "course's minimum and maximum a tensor, which take fewer bytes.",
        "**What isn't told apart, and why.** Pruning from the whole student each time is neither better nor worse than one prune after the "
        "other, where fine-tuning follows. After five prunes at 0.95, one after the other, the course's optimiser is behind its beginning, "
        "and not told from fine-tuning. It falls less than in the course's log: that began with a student trained to its end, which had "
        "more to lose. The course's pickles of this student have 522,958 bytes in 16 bits and 268,471 in 8; `student.kit` has fewer, since "
        "what it holds is entropy-coded.",
    )
    reduction = f"{EPOCHS} epochs, {FINETUNE} after each prune, {REDUCTION}"
    return Study("hw7-pipeline", question, arms, "distilled", reduce, reduction, remarks)


def reduce(config: Config) -> Config:
    return kept_answers(course_ground(config, EPOCHS, FINETUNE))

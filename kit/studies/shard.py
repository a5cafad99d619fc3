"""A share of a study's arms for a machine that shares nothing with the others, as a Kaggle session is.

Arms are dealt out in turn, each with all that it needs, so what several shares need is trained in each of them. A share leaves a journal of
its own; its lines are appended to the study's, and tables know no difference. Beside it lies the share itself, by which the next session
knows its own output among those of others.
"""

import hashlib
import re
import shutil
from pathlib import Path

from pydantic import ValidationError

from kit.config.fields import Count, Section
from kit.console import counted
from kit.device import usable_cards
from kit.errors import KitError
from kit.files import cache_folder, make_folder, write_durably
from kit.studies.catalogue import choose, find_study
from kit.studies.runner import Place, Say, Setting, in_turn, run_study
from kit.studies.spread import over_ray
from kit.studies.study import Study
from kit.train.budget import Budget

ORDER = "KIT_STUDY"  # the variable that holds a share as JSON
LEFT = "share.json"  # a share, in its output
LONGEST = 50  # characters of a kernel's title


class Share(Section):
    """arms: empty for all. shard: k/n, every n-th of them from the k-th on."""

    study: str
    arms: tuple[str, ...] = ()
    shard: str = "1/1"
    seeds: Count = 1
    setting: Setting = "full"

    def chosen(self) -> Study:
        """The study with these arms, and those that they need.

        Raises:
            KitError: there is no such study, arm or shard.
        """
        study, match = find_study(self.study), re.fullmatch(r"(\d+)/(\d+)", self.shard)
        number, of = map(int, match.groups()) if match else (0, 0)
        names = (self.arms or [arm.name for arm in study.arms])[max(0, number - 1) :: of or 1]
        if not (1 <= number <= of and names):
            raise KitError(f"--shard {self.shard} is no share of {counted(len(self.arms or study.arms), 'arm')}: write k/n, such as 2/4.")
        return choose(study, names)

    def title(self) -> str:
        """Its kernel's, of its own for every share and as short as Kaggle wants it. Arms are cut, and names that differ in a sign alone
        make one slug: a share that is told by more than its shard ends in a digest."""
        ends = [self.shard.replace("/", " of ")] if self.shard != "1/1" else []
        if self.arms or self.seeds != 1:
            ends.append(hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:6])
        end = " ".join(["", *ends])
        return " ".join(["kit study", self.study, *self.arms])[: LONGEST - len(end)].rstrip() + end


def carry_out(order: str | None, inputs: Path, working: Path, budget: Budget, say: Say) -> bool:
    """A session's share: photos from `inputs`, runs and the journal in `working`; whether it is done. Where the inputs hold an earlier
    output of the same share, what that finished is not run again, and what it had begun goes on; those of others are left alone.

    Raises:
        KitError: there is no order, or none that can be carried out.
    """
    try:
        share = Share.model_validate_json(order or "")
    except ValidationError:
        raise KitError(f"{ORDER} says nothing that can be run. Push this kernel with: kit push study --study NAME.") from None
    study, own = share.chosen(), share.model_dump_json().encode()
    if not (working / LEFT).exists():
        for file in sorted(inputs.rglob(LEFT)):
            if file.read_bytes() == own:
                say(f"going on with {file.parent}")
                for path in file.parent.rglob("*"):
                    if path.is_file() and path != file:  # contents alone, the share last: with an input mount's modes nothing could go on
                        place = working / path.relative_to(file.parent)
                        shutil.copyfile(path, make_folder(place.parent) / place.name)
                break
            say(f"{file.parent} is another share's and left alone")
        write_durably(make_folder(working) / LEFT, own)
    first = study.arms[0].config.train.seed
    return run_study(
        study,
        Place(working / f"{share.study}.jsonl", working / "arms"),
        inputs,
        cache=cache_folder(None),
        budget=budget,
        seeds=range(first, first + share.seeds),
        setting=share.setting,
        say=say,
        teachers=(),
        how=over_ray if usable_cards() > 1 else in_turn,
    )

"""The CSV, and what Kaggle would refuse about it."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from kit.config.competitions import FOOD11, Competition, competition
from kit.console import counted
from kit.data.layout import find_dataset
from kit.errors import KitError, in_brief
from kit.files import write_durably

LONGEST = 1_000  # bytes of a first line that are looked at
COLLAPSED = 0.1  # of the share that the other classes have in training: where fewer rows are theirs it is no classifier's answer


def ids_for(names: tuple[str, ...], rules: Competition) -> list[str]:
    """The rows' ids, in order: the photos' names without their ending, or their places where the competition counts from 0."""
    return [str(Path(name).with_suffix("")) if rules.padded_ids else str(i) for i, name in enumerate(names)]


def write_csv(path: Path, ids: list[str], classes: np.ndarray, rules: Competition) -> None:
    table = pd.DataFrame({rules.columns[0]: ids, rules.columns[1]: classes})
    write_durably(path, table.to_csv(index=False, lineterminator="\n").encode())


def refuse_other_table(path: Path, rules: Competition) -> None:
    """Leave alone what no `write_csv` has left, such as the table of the labels.

    Raises:
        KitError: the file begins otherwise.
    """
    with suppress(OSError), open(path, "rb") as file:  # there is none; or writing says what is wrong with it
        first = file.readline(LONGEST).decode(errors="replace").strip()
        if first and first != ",".join(rules.columns):
            raise KitError(
                f"{path} holds something else than predictions and would be replaced: it begins with {first!r:.60}. Give --out another "
                "name."
            )


def read_csv(path: Path) -> pd.DataFrame:
    """A submission as text: pandas would read the id 0000 as 0.

    Raises:
        KitError: there is none, or it is no CSV.
    """
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise KitError(f"There is no submission {path}. Give a run's folder, one of submissions/, or a CSV.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise KitError(f"{path} is no CSV in UTF-8 ({in_brief(error)}). Take the run's own submission.csv.") from None


def problems(
    table: pd.DataFrame, rules: Competition, classes: int, ids: list[str] | None = None, training: np.ndarray | None = None
) -> list[str]:
    """Everything that makes a submission worthless, in words; empty when it can be submitted.

    Args:
        classes: how many there are.
        ids: of the evaluation folder, in order; None where the folder is not at hand: then the competition's count decides.
        training: how many photos each class has there; None where they are not at hand: as many each, of many classes.
    """
    if list(table.columns) != list(rules.columns):
        return [f"the columns are {list(table.columns)}, wanted are {list(rules.columns)}"]
    found = []
    given, answers = table[rules.columns[0]].tolist(), table[rules.columns[1]]
    wanted = ids or expected_ids(rules)
    rows = rules.rows or (len(wanted) if wanted else len(given))
    if len(given) != rows:
        found.append(f"{counted(len(given), 'row')}, wanted are {rows:,}")
    if wanted and given != wanted:
        found.append(describe_ids(given, wanted))
    if len(set(given)) < len(given):
        found.append(f"{counted(len(given) - len(set(given)), 'id comes', 'ids come')} more than once")
    valid = {str(i) for i in range(classes)}
    if wrong := sorted(set(answers) - valid):
        found.append(f"classes that do not exist: {', '.join(map(repr, wrong[:5]))}; there are 0 to {classes - 1}")
    counts = answers.value_counts()
    if classes > 1 and len(given) >= 20 and counts.index[0] in valid:
        most, others = counts.iloc[0], 1.0 if training is None else 1 - training[int(counts.index[0])] / training.sum()
        if 1 - most / len(given) < COLLAPSED * others:
            found.append(f"class {counts.index[0]} is the answer in {most:,} of {len(given):,} rows: the model has collapsed")
    return found


def expected_ids(rules: Competition) -> list[str] | None:
    """What the ids must be where only the count is known: 0000, 0001, … of the course's photos, or 0, 1, …; None where photos have other
    names."""
    if not rules.rows or (rules.padded_ids and rules.classes != FOOD11):
        return None
    width = len(str(rules.rows)) if rules.padded_ids else 0
    return [f"{i:0{width}d}" for i in range(rules.rows)]


def describe_ids(given: list[str], wanted: list[str]) -> str:
    """Tell apart lost padding, another order, and other ids."""
    if sorted(given) == sorted(wanted):
        return "the ids are in another order than the evaluation photos"
    if [i.lstrip("0") or "0" for i in given] == [i.lstrip("0") or "0" for i in wanted]:
        lost, whole = next(pair for pair in zip(given, wanted, strict=True) if pair[0] != pair[1])
        return f"the ids have lost their padding: {lost!r} instead of {whole!r} (read them with dtype=str)"
    missing, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    parts = [f"{counted(len(missing), 'id is', 'ids are')} missing, such as {missing[0]!r}"] if missing else []
    parts += [f"{counted(len(extra), 'id is', 'ids are')} unknown, such as {extra[0]!r}"] if extra else []
    return " and ".join(parts) or "the ids are not those of the evaluation photos"


def check(path: Path, name: str, data: Path | None = None) -> list[str]:
    """`problems` of a CSV on disk.

    Args:
        name: the competition's.
        data: the photos lie in or below this folder; None where they are not at hand.
    Raises:
        KitError: the photos alone tell how many classes there are, and are not at hand.
    """
    rules, ids, training = competition(name), None, None
    classes = len(rules.classes) if rules.classes else None
    if data is not None:
        dataset = find_dataset(data, rules.classes, None, 0)
        ids, classes = ids_for(dataset.evaluation.names, rules), len(dataset.classes)
        training = dataset.training.per_class(classes)
    if classes is None:
        raise KitError(f"The competition {name!r} names no classes: give --data, whose evaluation folder and classes are then compared.")
    return problems(read_csv(path), rules, classes, ids, training)

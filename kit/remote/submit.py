"""`kit submit`: a CSV handed in once, with its making in the message, and its score written into the ledger.

Kaggle counts submissions by the day, so nothing is sent twice: a CSV is known by the first digits of its sha256, which stand in the
message, in whichever ledger or on Kaggle itself.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import ledger
from kit.config.competitions import COMPETITIONS, ON_KAGGLE, Competition, check_limits, competition
from kit.errors import KitError
from kit.files import locked, sha256_of
from kit.names import MADE_WITH, PROVENANCE, SUBMISSION
from kit.remote.client import Kaggle, Refused
from kit.remote.credentials import hide
from kit.remote.output import read_provenance
from kit.submission import check

DIGITS = 12  # of the sha256 that a message bears
LAG = 15.0  # seconds that Kaggle's list is given to show a submission whose answer was lost
PAUSE = 10.0  # seconds between two looks at a score
LOOKS = 180  # at most
WHEN = "%Y-%m-%d %H:%M:%S"  # in UTC, as Kaggle's list has it
Say = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """A CSV that may be handed in. provenance: where it came from, empty where that is not known."""

    csv: Path
    rules: Competition
    competition: str
    provenance: dict[str, Any]
    sha256: str

    @property
    def mark(self) -> str:
        return f"csv {self.sha256[:DIGITS]}"

    def message(self) -> str:
        """What Kaggle's list shows: run, commit, parameters, bytes, validation accuracy, and the CSV's digest."""
        made, parts = self.provenance, []
        if made:
            parts = [f"{made['recipe']} ({made.get('state')})", f"commit {made.get('commit')}"]
            parts += [f"{made['parameters']:,} parameters"] if made.get("parameters") else []
            parts += [f"{made['bytes']:,} bytes"] if made.get("bytes") else []
            parts += [f"validation {made['validation_accuracy']:.4f}"] if made.get("validation_accuracy") is not None else []
        return ", ".join([*parts, self.mark])


def read_entry(place: Path, name: str | None, say: Say, data: Path | None = None) -> Entry:
    """The CSV that `place` is or holds, checked by its run or here.

    Args:
        name: the competition's; None for the one that the run was for.
        data: the photos lie in or below this folder; None where they are not at hand.
    Raises:
        KitError: it can't be submitted, with all that is wrong with it.
    """
    csv = place / SUBMISSION if place.is_dir() else place
    if not csv.is_file():
        raise KitError(f"There is no {csv}. Give a run's folder, one of submissions/, or a CSV.")
    sha256, made = sha256_of(csv), provenance_of(csv)
    name = name or made.get("competition") or "hw13-2023"
    if made and made.get("csv_sha256") != sha256:
        say(f"note: {csv} is not the file that provenance.json beside it tells of; it is handed in without a history")
        made = {}
    rules = competition(name)
    if not rules.slug:
        raise KitError(f"The competition {name!r} is not one on Kaggle. Name yours: --competition {' or '.join(ON_KAGGLE)}.")
    checked = name == made.get("competition") and "problems" in made and data is None  # by its run, which had the photos
    if found := [*([] if checked else check(csv, name, data)), *faults_of_making(made, name)]:
        raise KitError(f"{csv} can't be submitted: {'; '.join(dict.fromkeys(found))}.")
    return Entry(csv, rules, name, made, sha256)


def faults_of_making(made: dict[str, Any], name: str) -> list[str]:
    """What is wrong with a CSV by its making: what its run found or, of one for another competition, that one's limits."""
    if name == made.get("competition"):
        return list(made.get("problems", []))
    over = check_limits(name, made.get("parameters") or 0, made.get("bytes"))
    return over + [problem for problem in made.get("problems", []) if problem.startswith(MADE_WITH)]


def provenance_of(csv: Path) -> dict[str, Any]:
    """Where a CSV came from, as the file beside it tells; empty where there is none.

    Raises:
        KitError: a field is not of the type that a run writes.
    """
    file = csv.parent / PROVENANCE
    made = read_provenance(file.read_bytes(), str(file), "Move it away, and the CSV has no history") if file.is_file() else {}
    return made if "recipe" in made else {}


def submit(entry: Entry, kaggle: Kaggle, folder: Path, *, wait: bool = True) -> Any:
    """Hand a CSV in, and wait for its score.

    Args:
        folder: of the ledger, which gets a line at once and the score when it is there.
    Returns:
        Kaggle's submission, with public_score; None where it was not waited for.
    Raises:
        KitError: it was handed in before, none are left today, or Kaggle refused.
    """
    with locked(entry.csv, wait=lambda: kaggle.say(f"another kit submit is at work with {entry.csv}; waiting for it")):
        try:
            failed = refuse_twice(entry, kaggle, folder)
            left = allowed_today(kaggle, entry.rules)
            ref = create(kaggle, entry, upload(kaggle, entry), failed)
        except Refused as refusal:
            if refusal.code != 403:
                raise
            raise KitError(f"Kaggle refuses {entry.csv} (403): {how_to_join(entry.rules)}.") from None
        try:
            ledger.enter(folder, line(entry) | {"ref": ref, "handed_in": time.strftime(WHEN, time.gmtime())})
        finally:  # on a full disk, too
            kaggle.say(f"handed in to {entry.rules.slug} as {ref}: {entry.message()}; {left - 1} more today")
    return wait_for_score(entry, kaggle, folder, failed) if wait else None


def how_to_join(rules: Competition) -> str:
    return f"join {rules.slug} and accept its rules, https://www.kaggle.com/competitions/{rules.slug}/rules"


def line(entry: Entry) -> dict[str, Any]:
    """What the ledger says of a CSV."""
    place, known = entry.csv.resolve().parent, {"competition": entry.competition, "csv_sha256": entry.sha256}
    name = place.parent.name if place.name == "output" else place.name  # every chain has an output
    return {"submission": name} | entry.provenance | known


def refuse_twice(entry: Entry, kaggle: Kaggle, folder: Path) -> set[int]:
    """The numbers of those of this CSV's submissions that Kaggle could not score: they are no reason against another.

    Raises:
        KitError: there is one that was scored, or still may be.
    """
    before = next((one for one in ledger.read(folder) if one["csv_sha256"] == entry.sha256 and one["ref"]), None)
    if before and before["public_score"]:
        raise KitError(
            f"{entry.csv} was handed in on {before['handed_in']} as {before['ref']}, public score {before['public_score']}. It would score "
            "the same again."
        )
    found = alike(entry, kaggle)
    failed = {one.ref for one in found if one.status.name == "ERROR"}
    if there := next((one for one in found if one.ref not in failed), None):
        keep(entry, folder, there)
        when = f" on {there.date:%Y-%m-%d}" if there.date else ""
        raise KitError(f"{entry.csv} was handed in{when} as {there.ref}, Kaggle's list says. It is in the ledger now.")
    if before and before["ref"] not in map(str, failed):
        raise KitError(f"{entry.csv} was handed in on {before['handed_in']} as {before['ref']}; `kit ledger` fetches its score.")
    return failed


def alike(entry: Entry, kaggle: Kaggle) -> list[Any]:
    """This CSV's submissions in Kaggle's list, newest first."""
    there = [one for one in submissions(kaggle, entry.rules) if entry.mark in (one.description or "")]
    return sorted(there, key=lambda one: one.ref, reverse=True)


def find(entry: Entry, kaggle: Kaggle, failed: set[int]) -> Any:
    """The newest of them, those that failed before apart; None where it isn't there."""
    return next((one for one in alike(entry, kaggle) if one.ref not in failed), None)


def submissions(kaggle: Kaggle, rules: Competition) -> list[Any]:
    """All of this account's, newest first."""
    from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

    wanted = ApiListSubmissionsRequest()
    found: list[Any] = []
    wanted.competition_name, wanted.page_size = rules.slug, 100
    while True:
        answer = kaggle.ask(lambda client: client.competitions.competition_api_client.list_submissions(wanted))
        found += answer.submissions or []
        if not answer.next_page_token:
            return found
        wanted.page_token = answer.next_page_token


def allowed_today(kaggle: Kaggle, rules: Competition) -> int:
    """Raises:
    KitError: none: today, ever, or by an account that has not joined, of which Kaggle tells zeros.
    """
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionLimitsRequest

    wanted = ApiGetSubmissionLimitsRequest()
    wanted.competition_name = rules.slug
    limits = kaggle.ask(lambda client: client.competitions.competition_api_client.get_submission_limits(wanted))
    if limits.num_allowed_now > 0:
        return limits.num_allowed_now
    if limits.limited_by_total:
        why = f"takes no more submissions: {limits.num_total} were handed in, which is its limit"
    elif limits.num_today:
        why = f"takes no more submissions today ({limits.num_today} were handed in). The day begins anew at 00:00 UTC"
    else:
        why = f"takes no submission of this account. If it is not over, {how_to_join(rules)}"
    raise KitError(f"{rules.slug} {why}. Nothing was sent.")


def upload(kaggle: Kaggle, entry: Entry) -> str:
    """Kaggle's token for the uploaded CSV."""
    from kagglesdk.competitions.types.competition_api_service import ApiStartSubmissionUploadRequest

    content, wanted = entry.csv.read_bytes(), ApiStartSubmissionUploadRequest()
    wanted.competition_name, wanted.file_name, wanted.content_length = entry.rules.slug, entry.csv.name, len(content)
    wanted.last_modified_epoch_seconds = int(entry.csv.stat().st_mtime)
    answer = kaggle.ask(lambda client: client.competitions.competition_api_client.start_submission_upload(wanted))
    kaggle.transfer(entry.csv.name, answer.create_url, content)
    return answer.token


def create(kaggle: Kaggle, entry: Entry, token: str, failed: set[int]) -> str:
    """The submission's number. Sent again only when Kaggle's list does not have it. failed: earlier ones of the same CSV."""
    from kagglesdk.competitions.types.competition_api_service import ApiCreateSubmissionRequest

    wanted = ApiCreateSubmissionRequest()
    wanted.competition_name, wanted.blob_file_tokens, wanted.submission_description = entry.rules.slug, token, entry.message()

    def send() -> str:
        answer = kaggle.once(lambda client: client.competitions.competition_api_client.create_submission(wanted))
        if ref := answer.ref or arrived():
            return str(ref)
        raise KitError(hide(f"Kaggle did not take {entry.csv}: {answer.message or 'it says nothing more'}."))

    def arrived() -> str | None:
        there = find(entry, kaggle, failed)
        return str(there.ref) if there else None

    return kaggle.deliver(send, arrived, "the submission", LAG)


def wait_for_score(entry: Entry, kaggle: Kaggle, folder: Path, failed: set[int]) -> Any:
    """Raises:
    KitError: Kaggle could not score it, or has not in half an hour.
    """
    for _ in range(LOOKS):
        there = find(entry, kaggle, failed)
        state = there.status.name if there else "PENDING"
        if state == "ERROR":
            raise KitError(hide(f"Kaggle could not score {entry.csv} ({there.ref}): {there.error_description or 'no reason given'}."))
        if state == "COMPLETE":
            keep(entry, folder, there)
            private = f", private score {there.private_score}" if there.private_score else ""
            kaggle.say(f"public score {there.public_score or 'not shown'}{described_gap(entry, there)}{private}")
            return there
        kaggle.sleep(PAUSE)
    raise KitError(f"{entry.csv} is handed in, without a score after {LOOKS * PAUSE / 60:.0f} minutes. `kit ledger` asks for it later.")


def described_gap(entry: Entry, there: Any) -> str:
    gap = ledger.gap({"validation_accuracy": str(entry.provenance.get("validation_accuracy")), "public_score": there.public_score or ""})
    return "" if gap is None else f", validation said {entry.provenance['validation_accuracy']:.4f} ({gap:+.4f})"


def keep(entry: Entry, folder: Path, there: Any) -> None:
    when = {"handed_in": there.date.strftime(WHEN)} if there.date else {}
    ledger.enter(folder, line(entry) | when | scores_of(there) | {"ref": str(there.ref)})


def scores_of(there: Any) -> dict[str, str]:
    """Those that Kaggle tells of a submission, by the ledger's columns."""
    scores = {"public_score": there.public_score, "private_score": there.private_score}
    return {name: score for name, score in scores.items() if score}


def fetch_scores(kaggle: Kaggle, folder: Path) -> None:
    """Ask Kaggle for the scores that the ledger still lacks; a CSV that it could not score is said."""
    waiting = [one for one in ledger.read(folder) if ledger.lacks_a_score(one) and one["competition"] in COMPETITIONS]
    for name in dict.fromkeys(one["competition"] for one in waiting):
        there = {str(one.ref): one for one in submissions(kaggle, competition(name))}
        for one in (one for one in waiting if one["competition"] == name and one["ref"] in there):
            found = there[one["ref"]]
            if found.status.name == "ERROR":
                kaggle.say(
                    hide(f"Kaggle could not score {one['submission']} ({found.ref}): {found.error_description or 'no reason given'}.")
                )
            if scores := scores_of(found):
                ledger.enter(folder, {"csv_sha256": one["csv_sha256"]} | scores)

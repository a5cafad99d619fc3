"""Arms of a study, as many as a session of nine hours holds: `kit push study --study hw13 --shard 1/4` says which.

What it leaves is runs and a journal, NAME.jsonl, whose lines belong at the end of the study's own at home (docs/studies/README.md):
`kit pull study`, with the same words, fetches it. To go on where a session stopped, push again with the same words: the share's own output
is attached to it.
"""

import os
import sys

from kit.errors import KitError
from kit.remote.kernel import places, session_seconds
from kit.studies.shard import ORDER, carry_out
from kit.train.budget import Budget

if __name__ == "__main__":  # worker processes import this file too
    try:
        carry_out(os.environ.get(ORDER), *places(), Budget(session_seconds("8h30m")), print)
    except KitError as error:
        sys.exit(f"error: {error}")

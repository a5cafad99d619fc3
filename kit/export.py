"""`kit export`: a run's student, or any file of weights, in another program's format."""

from pathlib import Path

from kit.compress.foreign import write_foreign
from kit.stages.weights import find_weights


def export(source: Path, form: str, out: Path) -> str:
    """Write the weights of a run's folder or a file; returns what to say.

    Raises:
        KitError: there are none, or no such format.
    """
    found = find_weights(source)
    size = write_foreign(out, form, found.weights)
    return f"{out}: {form}, {len(found.weights)} tensors of {found.origin}, {size:,} bytes"

"""Every stage on photos that the kit draws itself: whether Kaggle's image can run a bundle, without a GPU, data or a competition.

`kit bundle smoke` makes build/main.py of this, the script that is pushed; docs/kaggle.md says how.
"""

import tempfile
from pathlib import Path

from kit.config.recipes import recipe
from kit.data.draw import draw_dataset
from kit.remote.kernel import session

if __name__ == "__main__":  # worker processes import this file too
    photos = draw_dataset(Path(tempfile.gettempdir()) / "photos")  # not into the output, of which Kaggle lists 500 files
    session(recipe("sample"), data=photos, budget="8h30m")

"""What lies in one folder, read once: a disk or a mount is slow to list thousands of photos, and slower to be asked of each."""

import errno
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kit.errors import KitError

PHOTO = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
UNLABELLED = ("unlabelled", "unlabeled")
OF_A_MAC = "__MACOSX"  # a Mac's zip has the same folders once more in it, with a ._name.jpg of the Mac's own for each photo
LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", ":zone.identifier")  # the last beside each file that Windows gave to WSL

Entries = list[os.DirEntry[str]]


@dataclass(frozen=True)
class Folder:
    """Each ordered by name, without what is hidden.

    photos: files by their names' endings. strangers: other files, such as a phone's .heic or a link to nothing, but not what systems
    leave in any folder. places: folders that may be classes.
    """

    path: Path
    photos: tuple[Path, ...]
    strangers: tuple[Path, ...]
    places: tuple[Path, ...]

    @cached_property
    def below(self) -> tuple["Folder", ...]:
        """The folders at `places`, read when they are first asked for."""
        return tuple(read_folder(place) for place in self.places)

    @property
    def with_photos(self) -> tuple["Folder", ...]:
        """Those below that hold any."""
        return tuple(folder for folder in self.below if folder.photos)


def read_folder(path: Path) -> Folder:
    """The folder at `path`.

    Raises:
        KitError: a photo's name or its folder's is no UTF-8, as of an archive that was made elsewhere: no CSV and no student.kit could hold
            it. Or a link leads nowhere, as where large files were not fetched. Or it is a pipe or the like, which would be waited for.
    """
    with os.scandir(path) as found:
        entries = sorted((entry for entry in found if entry.name[0] != "."), key=lambda entry: entry.name)
    folders: Entries = []
    photos: Entries = []
    others: Entries = []
    for entry in entries:
        kind = folders if is_folder(entry) else photos if os.path.splitext(entry.name)[1].lower() in PHOTO else others
        kind.append(entry)
    check_photos(photos)
    return Folder(
        path,
        tuple(map(Path, photos)),
        tuple(Path(entry) for entry in others if not entry.name.lower().endswith(LEFT_BY_SYSTEMS)),
        tuple(Path(entry) for entry in folders if entry.name not in (*UNLABELLED, OF_A_MAC)),
    )


def check_photos(photos: Entries) -> None:
    irregular = [entry for entry in photos if not entry.is_file(follow_symlinks=False)]  # told by the folder, too
    if gone := next((entry.path for entry in irregular if not os.path.exists(entry.path)), None):
        raise KitError(f"{gone} is a link to {os.readlink(gone)}, which is not there. Fetch the photos themselves, or remove the link.")
    if pipe := next((entry.path for entry in irregular if not entry.is_file()), None):
        raise KitError(f"{pipe} is no file but a pipe, a socket or a device, which can't be a photo. Remove it or rename it.")
    if odd := next((entry.path for entry in photos if os.fsencode(entry.path) != entry.path.encode(errors="replace")), None):
        raise KitError(f"The name of {odd!a} is no UTF-8. Rename it, and what else came with it.")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Told by the folder that it is in: no photo is asked, but for links. One that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False

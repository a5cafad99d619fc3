"""A private Kaggle data set as a place for a run's state: a folder's files uploaded as its next version."""

from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.remote.client import Kaggle, Refused

LOOKS = 60  # at a new version, until Kaggle has unpacked it
PAUSE = 10.0  # seconds between two
LICENCE = "other"  # a data set must name one; nobody else sees it


def upload(kaggle: Kaggle, ref: str, files: list[Path], note: str) -> None:
    """Make `files` the newest version of the data set `ref` (owner/slug), which is made where it isn't there; folders are left out.

    Raises:
        KitError: Kaggle refused, or can't be reached.
    """
    tokens = [upload_file(kaggle, file) for file in files]
    answer = kaggle.ask(  # taken or not, where no answer comes: a second version with the same files does no harm
        lambda client: send(client.datasets.dataset_api_client, kaggle, ref, tokens, note)
    )
    if answer.error:
        raise KitError(f"Kaggle did not take a version of the data set {ref}: {answer.error}.")
    wait_until_ready(kaggle, ref)


def send(service: Any, kaggle: Kaggle, ref: str, tokens: list[str], note: str) -> Any:
    from kagglesdk.datasets.types.dataset_api_service import (
        ApiCreateDatasetRequest,
        ApiCreateDatasetVersionRequest,
        ApiCreateDatasetVersionRequestBody,
        ApiDatasetNewFile,
    )

    files = []
    for token in tokens:
        files.append(ApiDatasetNewFile())
        files[-1].token = token
    owner, slug = ref.split("/")
    if status(kaggle, ref) is None:
        new = ApiCreateDatasetRequest()
        new.owner_slug, new.slug, new.title = owner, slug, slug.replace("-", " ")
        new.license_name, new.is_private, new.files = LICENCE, True, files
        return service.create_dataset(new)
    version = ApiCreateDatasetVersionRequest()
    version.owner_slug, version.dataset_slug, version.body = owner, slug, ApiCreateDatasetVersionRequestBody()
    version.body.version_notes, version.body.files, version.body.delete_old_versions = note, files, True
    return service.create_dataset_version(version)


def upload_file(kaggle: Kaggle, file: Path) -> str:
    """Kaggle's token for an uploaded file."""
    from kagglesdk.blobs.types.blob_api_service import ApiBlobType, ApiStartBlobUploadRequest

    content, wanted = file.read_bytes(), ApiStartBlobUploadRequest()
    wanted.type, wanted.name, wanted.content_length = ApiBlobType.DATASET, file.name, len(content)
    wanted.last_modified_epoch_seconds = int(file.stat().st_mtime)
    answer = kaggle.ask(lambda client: client.blobs.blob_api_client.start_blob_upload(wanted))
    kaggle.transfer(file.name, answer.create_url, content)
    return answer.token


def status(kaggle: Kaggle, ref: str) -> str | None:
    """How far Kaggle is with the newest version: READY, FAILED or a name of what it does; None where there is no such data set."""
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetStatusRequest

    wanted = ApiGetDatasetStatusRequest()
    wanted.owner_slug, wanted.dataset_slug = ref.split("/")
    try:
        return kaggle.ask(lambda client: client.datasets.dataset_api_client.get_dataset_status(wanted)).status.name
    except Refused as refusal:
        if refusal.code in (403, 404):
            return None
        raise


def wait_until_ready(kaggle: Kaggle, ref: str) -> None:
    for _ in range(LOOKS):
        match status(kaggle, ref):
            case "READY":
                return
            case "FAILED" | "DELETED" as state:
                raise KitError(f"Kaggle says {state} of the data set {ref}. Look at its page.")
        kaggle.sleep(PAUSE)
    raise KitError(f"The data set {ref} is not ready after {LOOKS * PAUSE / 60:.0f} minutes. Look at its page.")

"""A folder onto the Hub, with the user's own login."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stylenat.hub import LOG_IN, HubModel, refusing
from stylenat.publishing.folder import CARD, CONFIG, DIRECTIONS, PAGE, SCORES
from stylenat.publishing.grid import FILE as GRID
from stylenat.text import listed

# What an earlier model may have left there, and this one may not have.
OURS = [CONFIG, SCORES, GRID, DIRECTIONS, Path(DIRECTIONS).stem + ".*.png", f"{PAGE}/*"]
SILENT_SECONDS = 300.0  # a commit of many files takes the Hub a while


@contextmanager
def _talking_to(place: HubModel) -> Iterator[None]:
    """Within the block, what the Hub refuses is a ValueError, and so is its silence.

    By itself huggingface_hub waits for an answer for ever.
    """
    from huggingface_hub.utils import get_session

    session = get_session()
    before = session.timeout
    session.timeout = SILENT_SECONDS
    try:
        with refusing(place, writing=True):
            yield
    finally:
        session.timeout = before


def check_login(place: HubModel) -> None:
    """Raises ValueError unless the user is logged in, by a login that the Hub accepts."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise ValueError(f"{place} can only be written to by whoever is logged in: {LOG_IN}")
    with _talking_to(place):
        HfApi().whoami()


def _check_card(path: Path) -> None:
    """Raises ValueError if the Hub refuses the card, before anything is made there.

    Only the Hub knows, for example, which licences it has. (ModelCard.validate would ask
    huggingface.co, whatever HF_ENDPOINT says, in early releases.)
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    card = {"content": path.read_text(encoding="utf-8"), "repoType": "model"}
    address = f"{constants.ENDPOINT}/api/validate-yaml"
    answer = get_session().post(address, json=card, headers=build_hf_headers())
    if answer.status_code == 400:
        faults = [str(fault.get("message")) for fault in answer.json().get("errors", [])]
        raise ValueError(f"the Hub refuses the card: {listed(faults)}")
    hf_raise_for_status(answer)


def upload_folder(folder: Path, place: HubModel, *, private: bool) -> str:
    """Make the repository and the branch unless they are there, and commit the folder's files.

    Files that an earlier call left there, and that this folder lacks, are removed; others stay.
    Returns the address of the commit. Raises ValueError if the Hub refuses the login or the card,
    and if the repository should be private and is not.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    name = place.repository
    with _talking_to(place):
        _check_card(folder / CARD)
        hub.create_repo(name, private=private or None, exist_ok=True)
        if private and not hub.model_info(name).private:
            raise ValueError(
                f"{place} is public already, and --private makes new repositories alone: make it "
                "private on its page, or leave --private out"
            )
        if place.revision is not None:
            hub.create_branch(name, branch=place.revision, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=name,
            folder_path=folder,
            revision=place.revision,
            commit_message="Upload a StyleNAT model",
            delete_patterns=list(OURS),
        )
    return commit.commit_url

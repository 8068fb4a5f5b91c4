"""A folder onto the Hub, with the user's own login."""

from __future__ import annotations

from pathlib import Path

from stylenat.hub import LOG_IN, HubModel, refusing
from stylenat.publishing.folder import CARD, CONFIG, DIRECTIONS, PAGE, SCORES
from stylenat.publishing.grid import FILE as GRID

# What an earlier model may have left there, and this one may not have.
OURS = [CONFIG, SCORES, GRID, DIRECTIONS, Path(DIRECTIONS).stem + ".*.png", f"{PAGE}/*"]


def check_login(place: HubModel) -> None:
    """Raises ValueError unless the user is logged in, by a login that the Hub accepts."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise ValueError(f"{place} can only be written to by whoever is logged in: {LOG_IN}")
    with refusing(place, writing=True):
        HfApi().whoami()


def upload(folder: Path, place: HubModel, *, private: bool) -> str:
    """Make the repository and the branch unless they are there, and commit the folder's files.

    Files that an earlier call left there, and that this folder lacks, are removed; others stay.
    Returns the address of the commit. Raises ValueError if the Hub refuses the login or the card,
    and if the repository should be private and is not.
    """
    from huggingface_hub import HfApi, ModelCard

    hub = HfApi()
    name = place.repository
    with refusing(place, writing=True):
        # Before anything is made; the Hub knows which licences there are, for example.
        ModelCard.load(folder / CARD).validate()
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

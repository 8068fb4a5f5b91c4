"""`stylenat push`: a model and all that is known of it, in a folder and on the Hugging Face Hub."""

from stylenat.publishing.folder import Publication, write_folder
from stylenat.publishing.upload import check_login, upload_folder

__all__ = ["Publication", "check_login", "upload_folder", "write_folder"]

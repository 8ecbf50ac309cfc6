"""Downloads of a client: weights as one file, and language models as folders."""

from __future__ import annotations

from pathlib import Path

from sweeper.client.archive import DISCARDED, NAME, check_new, unpack_folder
from sweeper.client.connection import Connection
from sweeper.client.encoding import at
from sweeper.errors import SpecError
from trainables.io.atomic import replace_atomic

MODEL_SECONDS = 900.0
"""Longest wait for a model folder, which a process of the service writes first."""


class Downloads(Connection):
    """A connection that writes the winner of a sweep to this machine."""

    def download_weights(self, sweep: str, path: str | Path) -> Path:
        """Write the best merged weights to a safetensors file, whole or not at all, and return its path.

        Raises:
            ClientError: The service stores no weights (status 404).
            SpecError: The file cannot be written.
        """
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        try:
            self._http.retry(lambda _: self._fetch(f"{at(sweep)}/best/weights", part))
            replace_atomic(part, path)
        except OSError as error:
            raise SpecError(f"cannot write {path}: {error.strerror or error}") from None
        finally:
            part.unlink(missing_ok=True)
        return path

    def save_model(self, sweep: str, folder: str | Path, rank: int | None = None) -> float | None:
        """Write the best merged language model as a folder that `from_pretrained` loads, whole or not at all.

        Args:
            sweep: The sweep's id.
            folder: Folder to make.
            rank: For trials with an adapter: write an adapter of this rank. A base that the sweep trained comes along
                in the folder `base`; a base in a folder of the server is named, and stays there.

        Returns:
            The share of the merged update's squared norm that an adapter lacks; None for a whole model.

        Raises:
            ClientError: The winner is no language model, the service stores no weights of it, or it refuses.
            SpecError: The folder exists or cannot be written, or the archive is damaged.
        """
        folder = Path(folder)
        check_new(folder)
        part = folder.with_name(f".{folder.name}.part")
        name = folder.name if NAME.fullmatch(folder.name) else None
        wanted = {"rank": rank, "name": name}
        try:
            headers = self._http.retry(lambda _: self._fetch(f"{at(sweep)}/best/model", part, wanted, MODEL_SECONDS))
            unpack_folder(part, folder)
        except OSError as error:
            raise SpecError(f"cannot write {folder}: {error.strerror or error}") from None
        finally:
            part.unlink(missing_ok=True)
        discarded = headers.get(DISCARDED)
        return None if discarded is None else float(discarded)

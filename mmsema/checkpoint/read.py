"""Read checkpoint files without ever running code from them, and say what a wrong file looks like."""

import codecs
import collections
import fcntl
import hashlib
import os
import pickle
import re
import sys
import threading
import warnings
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Tuple, Union
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.fileio import get_local_path
from mmengine.logging import HistoryBuffer, print_log


def _statistic(owner: type, name: str) -> object:
    """All that ``getattr`` may do in a checkpoint: look up the four methods that mmengine's HistoryBuffer pickles."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL builtins.getattr of {name}")
    return getattr(owner, name)


# what mmengine's training checkpoints hold beside tensors and plain Python: the logged scalars
_ALLOWED = {
    "mmengine.logging.history_buffer.HistoryBuffer": HistoryBuffer,
    "builtins.getattr": _statistic,
    "collections.Counter": collections.Counter,  # milestones of a schedule; PyTorch allows it since 2.4
    "_codecs.encode": codecs.encode,  # bytes of NumPy scalars, as NumPy 1 writes them; PyTorch allows it too
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    # all dtypes of numbers and texts, by character; not that of objects
    **{f"numpy.dtypes.{type(np.dtype(char)).__name__}": type(np.dtype(char)) for char in "?bBhHiIlLqQefdUS"},
}
_multiarray = getattr(np, "_core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "core").multiarray
for _module in ("numpy._core", "numpy.core"):  # of numpy 2 and 1
    _ALLOWED[f"{_module}.multiarray._reconstruct"] = _multiarray._reconstruct
    _ALLOWED[f"{_module}.multiarray.scalar"] = _multiarray.scalar
_reading = threading.Lock()  # torch's list of what is allowed is one for all threads, and a context's end empties it
_TORCH_TAKES_ALLOWED = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the text is one line that says what it looks like."""


def _looks_like(head: bytes) -> str:
    """What a file's first bytes say of a file that torch cannot read."""
    start = head.lstrip().lower()
    if not head:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it looks like a git-lfs pointer: fetch the real file with git lfs pull"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it looks like an HTML page: the download led to a web page, not to the file"
    if head.startswith(b"PK\x03\x04"):
        return "it looks truncated: a PyTorch file whose end is missing or damaged; download it again"
    if head[8:9] == b"{":
        return "it looks like a safetensors file: PyTorch's own format is expected"
    return f"it does not look like a PyTorch checkpoint (it starts with {head[:12]!r})"


class _AllowedUnpickler(pickle.Unpickler):
    """For torch before 2.6, whose safe loading takes no list of ours: only what is on a list can be named."""

    def find_class(self, module: str, name: str) -> object:
        full_name = f"{module}.{name}".replace("__builtin__", "builtins")
        allowed = {**torch._weights_only_unpickler._get_allowed_globals(), **_ALLOWED}
        if full_name not in allowed:
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {full_name}")
        return allowed[full_name]


class _AllowedPickle:
    """The module-like object that torch.load takes as ``pickle_module``."""

    Unpickler = _AllowedUnpickler

    @staticmethod
    def load(file: BinaryIO, **options: Any) -> object:
        return _AllowedUnpickler(file, **options).load()


def _torch_load(path: str) -> object:
    if _TORCH_TAKES_ALLOWED:
        with _reading, torch.serialization.safe_globals([(item, name) for name, item in _ALLOWED.items()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    _refuse_scripts(path)  # which torch.load would run, whatever its pickle module allows
    return torch.load(path, map_location="cpu", pickle_module=_AllowedPickle, weights_only=False)


def _refuse_scripts(path: str) -> None:
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped and "constants.pkl" in torch._C.PyTorchFileReader(path).get_all_records():
        raise RuntimeError("a TorchScript archive")


def _download(url: str) -> Tuple[Path, bool]:
    """The file of a URL in torch's own cache of downloads, and whether it was fetched now: once for a machine.

    As in torch and mmengine a file is known by its name; a query makes it another one.
    """
    parts = urlparse(url)
    query = f"{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}-" if parts.query else ""
    file = Path(torch.hub.get_dir(), "checkpoints", query + Path(parts.path).name)
    if file.is_file():
        print_log(f"{url} was downloaded before, {file} is used", logger="current")
        return file, False
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file.with_name(f".{file.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if file.is_file():  # another process had the lock
                return file, False
            torch.hub.download_url_to_file(url, str(file), progress=sys.stderr.isatty())
    except (OSError, HTTPException) as error:
        raise CheckpointError(f"checkpoint {url} cannot be downloaded to {file}: {error}") from error
    return file, True


@contextmanager
def _local_file(path: str) -> Iterator[Tuple[str, str]]:
    """A file with the content, and how to call it in messages."""
    if path.startswith(("http://", "https://")):
        file, fetched = _download(path)
        try:
            yield str(file), path if fetched else f"{path} (kept as {file}; remove that to download it again)"
        except CheckpointError:
            if fetched:  # torch does not notice a download that ends early
                file.unlink(missing_ok=True)
            raise
    elif "://" in path:
        with get_local_path(path) as local:
            yield str(local), path
    elif Path(path).is_file():
        yield path, path
    else:
        raise CheckpointError(f"checkpoint {path} is not a file")


def _check_hash(checkpoint: dict, path: str, local: str, shown: str) -> None:
    """Compare a name that ends in ``-<8 hex digits>.pth`` with the content's SHA-256, if it was meant as one.

    Ours are. Of others it may be a commit, or mmengine's ``published_keys``, which hash something else.
    """
    expected = re.search(r"-([0-9a-f]{8})\.pth$", path)
    if not expected or expected[1].isdecimal():  # a date or a number
        return
    digest = hashlib.sha256(Path(local).read_bytes()).hexdigest()
    if digest.startswith(expected[1]):
        return
    differs = f"its name says SHA-256 {expected[1]}..., its content has {digest[:8]}..."
    meta = checkpoint.get("meta")
    if isinstance(meta, dict) and "mmsema_version" in meta:
        raise CheckpointError(
            f"checkpoint {shown} ({os.path.getsize(local)} bytes) is damaged: {differs}; download it again"
        )
    warnings.warn(f"checkpoint {shown}: {differs}; if that is meant as one, download it again", stacklevel=3)


def read_checkpoint(path: Union[str, Path]) -> dict:
    """Read a checkpoint file (or URL) without ever running code from it.

    Downloads are kept where torch and mmengine keep them (``$TORCH_HOME/hub/checkpoints``) and found there. Files that
    ``publish_model`` wrote, with ``-<8 hex digits>.pth`` at the end, are checked against that SHA-256.

    Raises:
        CheckpointError: the file cannot be used; one line says what it looks like.
    """
    path = os.path.expanduser(path)
    with _local_file(path) as (local, shown):
        size = os.path.getsize(local)
        with open(local, "rb") as file:
            head = file.read(256)
        try:
            checkpoint = _torch_load(local)
        except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, KeyError, ... here
            blocked = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))
            if isinstance(error, pickle.UnpicklingError) and blocked and head[:2] in (b"PK", b"\x80\x02"):
                reason = f"it wants {blocked[1]}, which is neither a tensor nor plain data; loading that could run code"
            elif isinstance(error, pickle.UnpicklingError) and head[:2] == b"PK":
                reason = f"it holds more than tensors and plain data: {' '.join(str(error).split())[:300]}"
            elif "TorchScript" in str(error):
                reason = "it is a TorchScript archive, which holds code beside its weights"
            else:
                reason = _looks_like(head)
            raise CheckpointError(f"checkpoint {shown} ({size} bytes) is refused: {reason}") from error
        if not isinstance(checkpoint, dict):
            raise CheckpointError(f"checkpoint {shown} holds a {type(checkpoint).__name__}, not a dict of tensors")
        _check_hash(checkpoint, path, local, shown)
    return checkpoint

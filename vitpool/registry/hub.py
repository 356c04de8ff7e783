# SPDX-License-Identifier: Apache-2.0
"""Files of the Hugging Face hub, by way of huggingface_hub (extra `hub`).

The cache, tokens, endpoint, proxies and offline mode are its own, by its own
environment variables. Only its patience is ours, unless HF_HUB_ETAG_TIMEOUT sets it.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import Any

# Seconds the hub has to answer; with what comes before it the one-line error must be
# out within 5 s, and huggingface_hub by itself retries for 20 s and more.
HUB_TIMEOUT = 3.5
_SILENCE = 60.0  # having not answered, the hub is not asked again for so many seconds
_unreachable: dict[str, float] = {}  # endpoint -> monotonic time of the last failure


class HubUnreachableError(ConnectionError):
    """The hub did not answer and its cache lacks the file; the message is one line."""


class HubError(OSError):
    """The hub answered, but not with the file; the message is one line."""


def _split_repo(repo: str) -> tuple[str, str | None]:
    name, at, revision = repo.partition("@")
    if not name or name.count("/") > 1 or "@" in revision or (at and not revision):
        raise ValueError(
            f"hub id: {repo!r}, allowed is 'org/name' or 'org/name@revision'"
        )
    return name, revision or None


def _one_line(error: BaseException) -> str:
    """The innermost reason, in one line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return " ".join(str(error).split()) or type(error).__name__


def _ask(call: Any, timeout: float) -> BaseException | None:
    """Run call() in a thread; return what it raised, TimeoutError when it is late.

    A thread, since a resolver that hangs cannot be interrupted otherwise.
    """
    result: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
            result.append(None)
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    return result[0] if result else TimeoutError(f"no answer in {timeout:g} s")


def download(repo: str, filename: str, *, cache_dir: str | None = None) -> str:
    """Path of a file of `org/name[@revision]` in the hub's cache, fetched if need be.

    Without an answer from the hub the cached file serves, and a cached file of a commit
    needs none. Raises HubUnreachableError where there is none, HubError for an unknown
    or closed repository or revision, FileNotFoundError where it has no such file,
    ImportError without huggingface_hub.
    """
    name, revision = _split_repo(repo)
    local = (
        "download config.json and the weights elsewhere and give 'local-dir:/path/to/"
        "folder'"
    )
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise ImportError(
            f"hf-hub:{repo} needs huggingface_hub (pip install huggingface_hub); or "
            f"{local}"
        ) from error

    def fetch(**options: Any) -> str:
        return hub.hf_hub_download(
            name, filename, revision=revision, cache_dir=cache_dir, **options
        )

    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        with contextlib.suppress(errors.LocalEntryNotFoundError):
            return fetch(local_files_only=True)  # a commit's files never change
    endpoint = constants.ENDPOINT
    failure: BaseException | None
    if constants.HF_HUB_OFFLINE:
        failure = ConnectionError("HF_HUB_OFFLINE is set")
    elif time.monotonic() - _unreachable.get(endpoint, -_SILENCE) < _SILENCE:
        failure = ConnectionError("it did not answer a moment ago")
    else:
        url = hub.hf_hub_url(name, filename, revision=revision)
        timeout = HUB_TIMEOUT
        if constants.HF_HUB_ETAG_TIMEOUT != constants.DEFAULT_ETAG_TIMEOUT:
            timeout = constants.HF_HUB_ETAG_TIMEOUT
        failure = _ask(lambda: hub.get_hf_file_metadata(url, timeout=timeout), timeout)
        if failure is None:
            try:
                return fetch()
            except Exception as error:
                if getattr(error, "errno", None):
                    raise  # this machine's: a full disk, a cache that is not ours
                raise HubUnreachableError(
                    f"{endpoint} did not give the whole of {filename} of {name} "
                    f"({_one_line(error)})"
                ) from error
        if isinstance(failure, errors.EntryNotFoundError):
            raise FileNotFoundError(f"hf-hub:{repo} has no {filename}") from failure
        if isinstance(failure, errors.RevisionNotFoundError):
            raise HubError(f"{endpoint}: {name} has no revision {revision!r}")
        if isinstance(failure, errors.GatedRepoError):
            raise HubError(
                f"{endpoint}: {name} is gated: accept its terms at {endpoint}/{name}, "
                "then set HF_TOKEN or run `hf auth login`"
            )
        if _status(failure) in (401, 403, 404):
            raise HubError(
                f"{endpoint} refuses hf-hub:{repo} (HTTP {_status(failure)}): check "
                "the name; a closed model needs HF_TOKEN or `hf auth login`"
            ) from failure
        _unreachable[endpoint] = time.monotonic()
    try:
        return fetch(local_files_only=True)
    except errors.LocalEntryNotFoundError:
        raise HubUnreachableError(
            f"cannot reach {endpoint} for {filename} of {name} ({_one_line(failure)}), "
            f"and its cache has no copy; {local}"
        ) from failure


def _status(error: Any) -> int | None:
    """The HTTP status behind an error, where there was an answer."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return None if status is None else int(status)

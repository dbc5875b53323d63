# SPDX-License-Identifier: GPL-3.0-or-later
"""Models from Hugging Face, or a mirror of it (`HF_ENDPOINT`): `hf:ORG/REPO/PATH/FILE.gguf`.

The hub tells commit, size and SHA-256 of the file; the bytes come through `fetch` like any URL's.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from rbee.adapters.sources.base import Located, SourceFile, safe_filename
from rbee.core.errors import InvalidRequest, NotFound, RbeeError, Unauthorized, Unreachable

DEFAULT_ENDPOINT = "https://huggingface.co"
_PREFIX = "hf:"


class HuggingFace:
    """`token_file` comes before `HF_TOKEN` and the token that `hf auth login` keeps."""

    name = "Hugging Face"

    def __init__(self, token_file: Path | None = None) -> None:
        self._token_file = token_file

    def supports(self, source: str) -> bool:
        return source.lower().startswith(_PREFIX)

    async def locate(self, source: str, revision: str | None) -> Located:
        """Asks the hub once (a HEAD request). Codes: not_found, model_gated, model_private_or_missing,
        unauthorized, unreachable."""
        repo, file = parse(source)
        endpoint = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")
        token = await asyncio.to_thread(self._token)
        found = await asyncio.to_thread(_metadata, endpoint, repo, file, revision or "main", token)
        commit: str | None = found.commit_hash
        etag: str | None = found.etag
        one = SourceFile(
            filename=safe_filename(file),
            url=_url(endpoint, repo, file, commit or revision or "main"),
            size=found.size,
            # For a file of git-lfs the hub's tag is its SHA-256; for a small one it is a git hash.
            sha256=etag if etag is not None and len(etag) == 64 else None,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )
        return Located(files=(one,), commit=commit)

    def _token(self) -> str | None:
        if self._token_file is not None and self._token_file.is_file():
            if self._token_file.stat().st_mode & 0o077:
                raise Unauthorized(
                    f"The token file {self._token_file} can be read by others.", mend=f"chmod 600 {self._token_file}"
                )
            return self._token_file.read_text().strip() or None
        import huggingface_hub

        kept: str | None = huggingface_hub.get_token()
        return kept


def parse(source: str) -> tuple[str, str]:
    """Repository and file of `hf:ORG/REPO/PATH`. Raises InvalidRequest."""
    parts = [p for p in source[len(_PREFIX) :].split("/") if p]
    if len(parts) < 3 or any(p in (".", "..") for p in parts):
        raise InvalidRequest(
            f"The source {source!r} names no file.",
            mend="Write hf:ORG/REPO/FILE.gguf, as the repository's page lists it.",
        )
    return "/".join(parts[:2]), "/".join(parts[2:])


def _url(endpoint: str, repo: str, file: str, revision: str) -> str:
    import huggingface_hub

    made: str = huggingface_hub.hf_hub_url(repo, file, revision=revision, endpoint=endpoint)
    return made


def _metadata(endpoint: str, repo: str, file: str, revision: str, token: str | None) -> Any:
    # Imported late: it is large, and a hive that never downloads does without it.
    import huggingface_hub
    from huggingface_hub import errors

    url = _url(endpoint, repo, file, revision)
    where = f"{endpoint}/{repo}"
    try:
        return huggingface_hub.get_hf_file_metadata(url, token=token or False, endpoint=endpoint)
    except errors.GatedRepoError:
        raise RbeeError(
            f"The repository {repo} is gated.",
            code="model_gated",
            mend=f"Accept its terms at {where} and give the hive a token (HF_TOKEN, or a file hf-token of mode 0600 "
            "in its configuration directory).",
        ) from None
    except errors.RevisionNotFoundError:
        raise NotFound(f"The repository {repo} has no revision {revision!r}.", mend=f"See {where}.") from None
    except errors.EntryNotFoundError:
        raise NotFound(
            f"The repository {repo} has no file {file!r} at {revision}.", mend=f"See {where}/tree/{revision}."
        ) from None
    except errors.RepositoryNotFoundError:
        who = "the token given may not read it" if token else "it is private, and no token was given"
        raise RbeeError(
            f"There is no repository {repo} at {endpoint}, or {who}.",
            code="model_private_or_missing",
            mend="Check the name; for a private one give the hive a token that can read it.",
        ) from None
    except errors.HfHubHTTPError as e:
        status = e.response.status_code
        if status in (401, 403):
            raise Unauthorized(f"{endpoint} refuses the token.", mend="Make a new one and put it in place.") from None
        raise Unreachable(f"{endpoint} answers {status} for {repo}.", mend="Try again later.") from None
    except errors.HFValidationError as e:
        raise InvalidRequest(f"{repo!r} is no repository name: {e}") from None
    except Exception as e:
        # Its HTTP library's own errors (no connection, timeout) share no public base with an OSError.
        raise Unreachable(f"{endpoint} cannot be reached: {e}.", mend="Check the hive's network.") from e

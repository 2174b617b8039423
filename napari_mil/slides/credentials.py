"""Who one is to an S3 server: without any credentials a bucket that is open to all can still be read."""

from __future__ import annotations

import time
from functools import lru_cache

#: Settings of fsspec for s3 (`FSSPEC_S3_…`) that say it.
_SAID = {"anon", "key", "secret", "token", "profile"}
#: So long the answer counts: to find none may take a second, and they may be given meanwhile.
_KNOWN_S = 60


def anonymous() -> bool:
    """Whether nothing says who one is."""
    return _nobody(int(time.monotonic()) // _KNOWN_S)


@lru_cache(maxsize=1)
def _nobody(_when: int) -> bool:
    import botocore.session
    import fsspec
    from botocore.exceptions import BotoCoreError

    if _SAID & fsspec.config.conf.get("s3", {}).keys():
        return False
    try:
        return botocore.session.get_session().get_credentials() is None
    except BotoCoreError:  # s3fs says so
        return False


def missing(error: BaseException) -> bool:
    """Whether an error is that credentials are incomplete or have run out."""
    name = type(error).__name__
    return type(error).__module__.startswith(("botocore", "aiobotocore")) and any(
        word in name for word in ("Credential", "Token", "Profile")
    )

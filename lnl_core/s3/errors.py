"""What boto3 raises, as errors that name the path and the mend and never a key; and what is worth another attempt.

The texts of boto3's errors are not passed on: some servers repeat in them what the request was signed with.
"""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.exceptions import ConnectionError as ConnectionFailed

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from lnl_core.s3.paths import S3Path

FAILED = (BotoCoreError, ClientError, ConnectionError, TimeoutError)  # Python's own two: lost while a body is read
# A multipart upload that a restarted server has forgotten is begun anew.
_PASSING = frozenset({"SlowDown", "Throttling", "RequestTimeout", "NoSuchUpload", "ConditionalRequestConflict"})
_CONNECTION = (
    HTTPClientError,
    ConnectionFailed,
    IncompleteReadError,
    ChecksumError,
    CredentialRetrievalError,
    ConnectionError,
    TimeoutError,
)


class NoSuchObject(ConfigError):
    """There is no object of this name."""


class Unreachable(ConfigError):
    """The endpoint did not reply, or replied only with errors of its own, for as long as was allowed."""


class ObjectChanged(ContractError):
    """The object was overwritten while it was read."""


class TooLarge(ContractError):
    """The object has more bytes than its reader allows; none of them was read."""

    def __init__(self, path: S3Path, size: int, at_most: int) -> None:
        super().__init__(f"{path}: {size} bytes, at most {at_most}")
        self.size = size


def may_pass(error: BaseException) -> bool:
    """Is it worth another attempt: a lost connection, a timeout, an overloaded or restarting server?"""
    if isinstance(error, ClientError):
        return status(error) >= 500 or status(error) in (408, 429) or code(error) in _PASSING
    return isinstance(error, _CONNECTION) and not isinstance(error, SSLError)


def code(error: BaseException) -> str:
    """`NoSuchKey`, or the class of an error that no server sent."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return type(error).__name__


def status(error: ClientError) -> int:
    """The HTTP status; 0 where there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def explained(error: BaseException, path: S3Path, where: str) -> Exception:
    """The error for the user; `where` is the endpoint."""
    if may_pass(error):
        return Unreachable(
            f"{path}: {where} does not reply ({code(error)}); check AWS_ENDPOINT_URL, the network and the server, "
            "then run again: it goes on where it stopped"
        )
    if isinstance(error, ClientError):
        return _refused(error, path, where)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return ConfigError(
            f"{path}: no complete credentials ({code(error)}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE (docs/s3.md)"
        )
    if isinstance(error, SSLError):
        return ConfigError(f"{path}: the certificate of {where} is not trusted; name its authority in AWS_CA_BUNDLE")
    return ConfigError(f"{path}: {where}: the request cannot be made ({code(error)}); check the AWS settings")


def _refused(error: ClientError, path: S3Path, where: str) -> Exception:
    reason, number = code(error), status(error)
    if number == 412:
        return ObjectChanged(f"{path}: was overwritten while it was read; run again")
    if reason == "NoSuchBucket":
        return ConfigError(f"{path}: {where} has no bucket {path.bucket!r}; make it or correct the path")
    if number == 404:
        return NoSuchObject(f"{path}: no such object, or no such bucket; correct the path")
    if reason in ("ExpiredToken", "ExpiredTokenException", "RequestExpired"):
        return ConfigError(f"{path}: the credentials have expired ({reason}); renew them, then run again")
    if reason == "RequestTimeTooSkewed":
        return ConfigError(f"{path}: this machine's clock is wrong ({reason}); set it, then run again")
    if number in (301, 307, 400) and reason in ("PermanentRedirect", "301", "AuthorizationHeaderMalformed"):
        return ConfigError(f"{path}: the bucket is in another region ({reason}); set AWS_DEFAULT_REGION to its region")
    if number in (401, 403):
        return ConfigError(
            f"{path}: {where} refuses access ({reason}); check the credentials and their permissions on the bucket "
            "(docs/s3.md)"
        )
    return ConfigError(f"{path}: {where} refuses the request ({number} {reason}); see docs/s3.md for S3 clones")

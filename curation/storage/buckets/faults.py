"""What goes wrong between us and a bucket: whether trying again may help, and what to tell people of it.

    fault = fault_of(error, "s3")
    fault.kind is Kind.TRANSIENT        # 503, throttled, timed out, cut off: try again
    str(fault)                          # "503 SlowDown: Please reduce your request rate."

obstore's errors hold the server's whole answer and a dump of its own structures: of those only the status,
the provider's code and message, and the address are shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

_STATUS = re.compile(r"status code: (\d{3}) ?([A-Za-z ]*): ?(.*)", re.DOTALL)
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_ADDRESS = re.compile(r"performing \w+ (https?://\S+) in ")
_HTTP_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
_SYSTEM = re.compile(r"(?:message|error): \"([^\"]+)\"")
_NEVER_SENT = frozenset({"Unknown"})
"""obstore's kind of a request that was never sent, such as one to an address that is none."""
_DEBUG = "\n\nDebug source:"
_MAX_BODY = 200

_TAG = re.compile(r"<[^>]*>")
_TLS = re.compile(r"InvalidMessage|InvalidCertificate|invalid peer certificate|HandshakeFailure")
_CREDENTIAL_SERVERS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
NO_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or AWS_SKIP_SIGNATURE=true for a "
    "public bucket",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_SKIP_SIGNATURE=true for a "
    "public container",
}
"""What a sentence about missing credentials ends with, per kind of provider."""


class Kind(Enum):
    """What a fault asks for."""

    TRANSIENT = "try again"
    EXPIRED = "credentials that were good once"
    UNSUPPORTED = "the store does not know what was asked for"
    OUT_OF_RANGE = "the object ends before the range that was asked for"
    NO_BUCKET = "there is no such bucket"
    FINAL = "anything else that trying again does not help against"


_STATUSES = {
    408: Kind.TRANSIENT,
    416: Kind.OUT_OF_RANGE,
    425: Kind.TRANSIENT,
    429: Kind.TRANSIENT,
    501: Kind.UNSUPPORTED,
    505: Kind.FINAL,
}
_CODES = {
    "BandwidthLimitExceeded": Kind.TRANSIENT,
    "ConditionalRequestConflict": Kind.TRANSIENT,
    "OperationAborted": Kind.TRANSIENT,
    "RequestLimitExceeded": Kind.TRANSIENT,
    "RequestThrottled": Kind.TRANSIENT,
    "RequestTimeout": Kind.TRANSIENT,
    "SlowDown": Kind.TRANSIENT,
    "Throttling": Kind.TRANSIENT,
    "ThrottlingException": Kind.TRANSIENT,
    "TooManyRequests": Kind.TRANSIENT,
    "ExpiredToken": Kind.EXPIRED,
    "ExpiredTokenException": Kind.EXPIRED,
    "TokenRefreshRequired": Kind.EXPIRED,
    "NotImplemented": Kind.UNSUPPORTED,
    "NoSuchBucket": Kind.NO_BUCKET,
    "ContainerNotFound": Kind.NO_BUCKET,
}
"""What providers give with statuses of 4xx, too; a code counts before the status."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One failed request.

    Attributes:
        says: What happened, without a name of the object.
        is_ambiguous: The server may have carried the request out.
    """

    says: str
    kind: Kind = Kind.FINAL
    is_ambiguous: bool = False

    def __str__(self) -> str:
        return self.says


def fault_of(error: BaseException, scheme: str) -> Fault:
    """What an error of obstore means, raised by a request to a bucket of this kind of provider."""
    text, _, debug = str(error).partition(_DEBUG)
    address = _ADDRESS.search(text)
    if address is not None and urlsplit(address[1]).hostname in _CREDENTIAL_SERVERS:
        return _fault_of_credentials(text, scheme)
    status = _STATUS.search(text)
    if status is not None:
        return _fault_of_answer(int(status[1]), status[2], status[3])
    kind = _HTTP_KIND.search(debug)
    if kind is not None:
        return _fault_of_connection(kind[1], debug, _host_of(address[1]) if address else "the server")
    return Fault(" ".join(text.split())[:_MAX_BODY])


def _fault_of_answer(number: int, reason: str, body: str) -> Fault:
    code, message = _CODE.search(body), _MESSAGE.search(body)
    name = code[1] if code else reason
    said = message[1] if message else " ".join(_TAG.sub(" ", body).split())[:_MAX_BODY]
    says = f"{number} {name}: {said}" if said else f"{number} {name}"
    kind = _kind_of_answer(number, name)
    if kind is Kind.EXPIRED:
        says = f"{says.rstrip('.')}; renew the credentials and start again, what is done is kept"
    return Fault(says, kind, is_ambiguous=number >= 500 or number == 408)


def _kind_of_answer(number: int, name: str) -> Kind:
    if name in _CODES:
        return _CODES[name]
    if number in _STATUSES:
        return _STATUSES[number]
    return Kind.TRANSIENT if number >= 500 else Kind.FINAL


def _fault_of_connection(kind: str, debug: str, host: str) -> Fault:
    if kind == "Timeout":
        return Fault(f"{host} does not answer in time", Kind.TRANSIENT, is_ambiguous=True)
    if kind == "Connect":
        if _TLS.search(debug):
            return Fault(f"{host} does not speak TLS, or not as it should")
        system = _SYSTEM.search(debug)
        return Fault(f"{host} can't be reached" + (f": {system[1]}" if system else ""), Kind.TRANSIENT)
    if kind in _NEVER_SENT:
        return Fault(f"{host} can't be asked: is the address right?")
    return Fault(f"{host}: the connection broke off", Kind.TRANSIENT, is_ambiguous=True)


def _fault_of_credentials(text: str, scheme: str) -> Fault:
    """A server that gives credentials to its machines has none, or is not there."""
    status = _STATUS.search(text)
    if status is not None and int(status[1]) >= 500:
        return Fault(f"the server that gives credentials answers {status[1]}", Kind.TRANSIENT)
    return Fault(f"no credentials: {NO_CREDENTIALS[scheme]}")


def _host_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")

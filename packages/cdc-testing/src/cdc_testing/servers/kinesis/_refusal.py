from typing import final


@final
class Refusal(Exception):
    """The service's own answer to a request that it does not carry out.

    Args:
        code: The exception's name in the service model, such as "ResourceNotFoundException".
        message: What the client reads.
        status: The HTTP status; the service answers its own faults with 500, everything else with 400.
    """

    def __init__(self, code: str, message: str = "", *, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def invalid(message: str) -> Refusal:
    """An argument that is well-formed and yet wrong here."""
    return Refusal("InvalidArgumentException", message)


def malformed(message: str) -> Refusal:
    """An argument that breaks a constraint of the service model."""
    return Refusal("ValidationException", f"1 validation error detected: {message}")


def not_found(message: str) -> Refusal:
    """A stream, shard or consumer that is not there."""
    return Refusal("ResourceNotFoundException", message)


def in_use(message: str) -> Refusal:
    """A stream or consumer whose state does not allow it."""
    return Refusal("ResourceInUseException", message)


def limit_exceeded(message: str) -> Refusal:
    """More of something than an account or stream may have."""
    return Refusal("LimitExceededException", message)


def throttled(message: str) -> Refusal:
    """More than a shard may write or read in this second."""
    return Refusal("ProvisionedThroughputExceededException", message)

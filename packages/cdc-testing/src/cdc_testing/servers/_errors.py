class ServerError(Exception):
    """A test server could not do what was asked.

    Args:
        what: What happened, one line.
        where: The server, directory or program concerned.
        remedy: What the reader can do about it.
        log: The last lines that the server wrote, empty where it wrote none.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "", log: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy
        self.log = log

    def __str__(self) -> str:
        parts = [f"{self.what} ({self.where})" if self.where else self.what]
        if self.remedy:
            parts.append(f"remedy: {self.remedy}")
        if self.log:
            parts.append(f"end of the server's log:\n{self.log}")
        return "\n".join(parts)


class ServerUnavailableError(ServerError):
    """The programs that the server needs are not on this machine; tests skip, in CI they fail."""


class ServerStartError(ServerError):
    """The server was there but did not come up."""


class ServerTimeoutError(ServerError):
    """The server did not start or stop within the time given; it may still do so."""

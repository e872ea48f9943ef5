"""Exit 0 when the server in this container takes requests, 1 when it does not: the image's HEALTHCHECK."""

import http.client
import os
import sys

TIMEOUT = 4.0
"""Seconds; less than the HEALTHCHECK's own, which would kill without a word."""


def main() -> int:
    """Ask /health/ready on the port that the server was given."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("LYRE_PORT") or 8000), timeout=TIMEOUT)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        sys.stdout.write(answer.read(1000).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(str(error))
        return 1
    finally:
        connection.close()
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())

"""How many files and connections the process may hold open."""

from typing import Final

try:
    import resource
except ImportError:  # not on Windows, which has no such limit
    resource = None

ENOUGH: Final = 65_536
"""Nobody needs more, and some programs of others walk through all that they might have."""


def allow_connections() -> None:
    """Raises the soft limit, 1,024 on most systems, as far as the hard one lets it.

    Idle connections alone could use it up, and then nobody would be answered, health checks included.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

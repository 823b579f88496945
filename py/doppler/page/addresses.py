"""What an address is of: a file, or the folder of a checkpoint. Pure text: nothing is fetched."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit, urlunsplit

HUB = "huggingface.co"  # whose pages are not at the addresses of the files that they show
CHECKPOINT_FILES = (".safetensors", ".json", ".jinja")


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

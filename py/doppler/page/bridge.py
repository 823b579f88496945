"""What web/worker.js calls: JSON in and out, errors as data, since a traceback is no message.

The answer is JSON text, {"result": …} or {"error": {"name", "message"}}.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from doppler.api.api import Api
from doppler.errors import DopplerError
from doppler.page.host import PageHost

api: Api | None = None


async def call(method: str, args: str, emit: Callable[[str], Any], files: Any) -> str:
    """Runs a method of the page's protocol (api/messages.py).

    `args` and the events that `emit` gets are JSON; `files` a JavaScript array of Files, or None.
    """
    global api
    api = api or Api(PageHost())
    try:
        result = await api.call(method, json.loads(args), lambda it: emit(json.dumps(it)), files)
        return json.dumps({"result": result}, default=asdict)
    except DopplerError as error:
        return _error(type(error).__name__, str(error))
    except Exception as error:
        traceback.print_exc()  # to the console: this one is ours to mend
        text = f"{type(error).__name__}: {error}; this is a fault of Doppler's, see the console"
        return _error("InternalError", text)


def _error(name: str, message: str) -> str:
    return json.dumps({"error": {"name": name, "message": message}})

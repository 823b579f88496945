"""The JavaScript global scope inside Pyodide: objects of the browser, typed as Any.

Only what py/doppler imports needs a name here; every attribute exists as far as mypy knows.
"""

from typing import Any

def __getattr__(name: str) -> Any: ...

"""A person's own network, named on the command line as `package.module:function`."""

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pas.errors import PasError


def from_entry(entry: str, args: Mapping[str, Any]) -> nn.Module:
    """Import `package.module`, call `function(**args)` and return the network that it makes.

    The current directory is searched too, so a file beside the command works. This runs the person's code:
    call it with what was typed on the command line, never with what a bundle says.

    Raises:
        PasError: the text has another form, the import fails, the function takes other arguments, or it returns something else
            than a network.
    """
    module_name, colon, function_name = entry.partition(":")
    if not (module_name and colon and function_name):
        raise PasError(f"model.entry={entry!r} should read package.module:function, for example mynets.vgg:make")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise PasError(f"model.entry={entry}: {error}; looked in {here} and the installed packages") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise PasError(f"model.entry={entry}: {module.__file__} has no function {function_name}")
    try:
        inspect.signature(function).bind(**args)
    except TypeError as error:
        given = ", ".join(args)
        raise PasError(f"model.entry={entry}: {function_name} must take the arguments {given}, but: {error}") from error
    model = function(**args)
    if not isinstance(model, nn.Module):
        raise PasError(f"model.entry={entry}: returned {type(model).__name__}, a torch.nn.Module is needed")
    return model

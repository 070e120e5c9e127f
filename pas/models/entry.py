"""A person's own network, named on the command line as `package.module:function`."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pas.errors import PasError, place


def from_entry(entry: str, args: Mapping[str, Any]) -> nn.Module:
    """Import `package.module`, call `function(**args)` and return the network that it makes.

    The current directory is searched too, so a file beside the command works. This runs the person's code:
    call it with what was typed on the command line, never with what a bundle says.

    Raises:
        PasError: the text has another form, the import or the function fails, or it returns something else than a network.
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
    except Exception as error:  # a module can fail in any way while it is imported
        raise _failed(entry, "importing it", error) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise PasError(f"model.entry={entry}: {module.__file__} has no function {function_name}")
    try:
        model = function(**args)
    except Exception as error:  # and so can a function
        raise _failed(entry, f"called with {', '.join(f'{name}={value!r}' for name, value in args.items())}", error) from error
    if not isinstance(model, nn.Module):
        raise PasError(f"model.entry={entry}: returned {type(model).__name__}, a torch.nn.Module is needed")
    return model


def _failed(entry: str, when: str, error: Exception) -> PasError:
    reason = next(iter(str(error).splitlines()), "")
    return PasError(f"model.entry={entry}: {when}: {type(error).__name__}: {reason}{place(error)}")

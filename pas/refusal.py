"""What Hydra and OmegaConf refuse, said in one line: which setting, and what is allowed there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

Keys = Callable[[str], Sequence[str]]
Words = Callable[[re.Match[str], Keys], str]
TYPES = {
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
    "bool": "true or false",
    "String": "text",
}


def refusal(error: Exception, keys: Keys) -> str:
    """One line for an exception of Hydra or OmegaConf. `keys` lists the settings under a dotted path."""
    text = "\n".join(str(one) for one in (error, *_causes(error)))
    for pattern, words in _KNOWN:
        match = re.search(pattern, text, re.DOTALL)
        if match:
            return words(match, keys)
    return " ".join(str(error).split())


def near(word: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: the ones like it, or all."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"choose from {', '.join(known)}" if known else "there are none here"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What led to an error, each once: an error that was raised again while another was handled can be among its own causes."""
    seen, cause = {id(error)}, error.__cause__ or error.__context__
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__


def _unknown_key(match: re.Match[str], keys: Keys) -> str:
    where, _, key = match["path"].rpartition(".")
    if match["path"] == "method.source.source":
        return "method.source: a control takes its widths from a method that searches or decides, not from another control"
    if where == "model.args":
        return f"{match['path']}: to hand the model an argument write +{match['path']}=VALUE"
    groups = [] if where else [f"{group}.{key}" for group in keys("") if key in keys(group)]
    hint = f"did you mean {' or '.join(groups)}?" if groups else near(key, keys(where))
    return f"{match['path']}: there is no such setting; {hint}"


def _unknown_choice(match: re.Match[str], _: Keys) -> str:
    group, choice = match["path"].rpartition("/")[::2]
    known = match["known"].split()
    if group == "hydra/launcher" and choice.startswith("submitit_"):
        return f"{group}={choice}: needs the package hydra-submitit-launcher: pip install hydra-submitit-launcher"
    return f"{group}={choice}: {near(choice, known)}"


def _wrong_type(match: re.Match[str], _: Keys) -> str:
    return f"{match['path']}={match['value']}: must be {TYPES.get(match['wanted'], match['wanted'])}"


def _wrong_list(match: re.Match[str], _: Keys) -> str:
    return f"{match['path']}: must be a list, {match['path']}=[one,two]"


def _missing(match: re.Match[str], _: Keys) -> str:
    return f"{match['path']}: a value is needed, {match['path']}=VALUE"


def _null(match: re.Match[str], _: Keys) -> str:
    return f"{match['path']}=null: a value is needed"


def _no_variable(match: re.Match[str], _: Keys) -> str:
    return f"{match['path']} refers to {match['name']}, which the environment doesn't have: export {match['name']}=..."


def _no_target(match: re.Match[str], _: Keys) -> str:
    return f"the configuration refers to {match['name']}, which doesn't exist"


def _sweep(match: re.Match[str], _: Keys) -> str:
    return f"{match['text']}: add -m to run a sweep over these values"


def _syntax(match: re.Match[str], _: Keys) -> str:
    return f"{' '.join(match['text'].split())}: can't be read; write KEY=VALUE, a text with blanks or commas in quotes that end"


def _no_file(match: re.Match[str], _: Keys) -> str:
    path = PurePosixPath(match["path"])
    return f"{path.parent}={path.name}: there is no such file; `pas search --help` lists the choices"


def _no_group(match: re.Match[str], _: Keys) -> str:
    if match["path"] == "method@method.source":
        return f"{match['path']}: only method=random and method=scratch take their widths from another method"
    return f"{match['path']}: there is nothing of this name to choose; `pas search --help` lists the groups"


def _no_merge(match: re.Match[str], _: Keys) -> str:
    key = match["text"].lstrip("+~").partition("=")[0]
    return f"{match['text']}: {key} holds settings of its own; write {key}.NAME=VALUE"


PATH = r"full_key: (?P<path>[\w.]+)"
_KNOWN: tuple[tuple[str, Words], ...] = (
    (r"issing mandatory value: (?P<path>[\w.]+)", _missing),
    (r"Environment variable '(?P<name>\w+)' not found[^\n]*\n\s+" + PATH, _no_variable),
    (r"Interpolation key '(?P<name>[\w.]+)' not found", _no_target),
    (r"Ambiguous value for argument '(?P<text>[^']*)'", _sweep),
    (r"Error parsing override '(?P<text>[^\n]*)'\n", _syntax),
    (r"LexerNoViableAltException: (?P<text>[^\n]*)\n", _syntax),
    (r"Key '[^'\n]+' (?:is not in struct|not in '\w+')\s+" + PATH, _unknown_key),
    (
        r"Could not find '(?P<path>[\w/.\-]+)'\s+Available options in '[^']*':\n(?P<known>.*?)\nConfig search",
        _unknown_choice,
    ),
    (r"Value '(?P<value>[^$]*?)' of type '\w+' could not be converted to (?P<wanted>\w+).*?" + PATH, _wrong_type),
    (r"Value '(?P<value>[^$]*?)' is not a valid (?P<wanted>\w+).*?" + PATH, _wrong_type),
    (r"is not a ListConfig, list or tuple\.\s+" + PATH, _wrong_list),
    (r"is not Optional\s+" + PATH, _null),
    (r"Could not load '(?P<path>[\w/.\-]+)'", _no_file),
    (r"Could not override '(?P<path>[\w@/.\-]+)'", _no_group),
    (r"Error merging override (?P<text>\S+)", _no_merge),
)

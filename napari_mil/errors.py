"""Errors a person can act on: one sentence that says what failed, the value, what was expected and what to
do.
"""

from __future__ import annotations

_LONGEST = 1500


class MILError(Exception):
    """Something the user can understand and mend.

    The window shows it as a notification, the command line as one line with exit status 2. Anything that is
    not a MILError is a defect and keeps its traceback. What a damaged file put into the sentence is made
    printable, and so long a sentence is shortened in its middle.
    """

    def __str__(self) -> str:
        text = printable(super().__str__())
        cut = _LONGEST // 2
        return text if len(text) <= _LONGEST else f"{text[:cut]} … {text[-cut:]}"


class SlideError(MILError, OSError):
    """An image cannot be opened or read as a slide."""


class TissueError(MILError, ValueError):
    """No tissue, or no tiles, where some are needed."""


class BagError(MILError, ValueError):
    """Features, cells and grid do not belong together."""


class LabelError(MILError, ValueError):
    """A label, a label tree or a label file is not usable."""


class ModelError(MILError, ValueError):
    """A method, configuration, checkpoint or card is not usable, or does not fit the bag."""


class ProjectError(MILError, OSError):
    """The project folder or its ledger cannot be read or written."""


class UnavailableError(ProjectError):
    """The ledger refuses for now (locked, disk full, server gone): the same may work in a moment."""


class DeviceError(MILError, RuntimeError):
    """A device is missing or its memory does not suffice."""


class SaidWarning(UserWarning):
    """What a person said cannot be read any more: it is as if it had never been said."""


def printable(text: str) -> str:
    r"""A text with what no line of a screen or a log can hold written out.

    >>> printable("a\nb \x1b[31m\udce9"), printable("Größe 日本")
    ('a\\nb \\x1b[31m\\udce9', 'Größe 日本')
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def reason(error: BaseException) -> str:
    r"""The first thing that an error says, without its full stop: to be put into a sentence.

    >>> reason(ValueError("not a ZIP archive. This is an internal error.\nIf you see it, ..."))
    'not a ZIP archive'
    """
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = said.strip().splitlines()
    first = lines[0].split(". ")[0].strip(" .") if lines else ""
    return first or type(error).__name__

"""Errors a person can act on: one sentence that says what failed, the value, what was expected and what to
do.
"""

from __future__ import annotations


class MILError(Exception):
    """Something the user can understand and mend.

    The window shows it as a notification, the command line as one line with exit status 2. Anything that is
    not a MILError is a defect and keeps its traceback.
    """


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


class DeviceError(MILError, RuntimeError):
    """A device is missing or its memory does not suffice."""

"""The window: the only folder that knows napari, magicgui and Qt.

`reader` and `layers` are pure (plain data in, layer tuples out). `desk` is the state in front of one
viewer's user, with one way
to change it. `job` runs long verbs off the GUI thread. `sections` are the six folds of the workbench.
"""

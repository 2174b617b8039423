"""Files of other programs, one module per format, both ways.

Every format holds x (column) before y (row); the flip, and the shift to the origin that other programs see,
happen in `space` and nowhere else. Readers check everything before they return: an import is all or nothing.
"""

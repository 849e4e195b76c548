"""Databases of other programs: of the original storage layer, of freqtrade and of vnpy."""

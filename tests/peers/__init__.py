"""The performance figures beside those of other libraries, which only ``nox -s peers`` installs."""

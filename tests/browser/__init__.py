"""The HTML report in Debian's Chromium, which only ``nox -s browser`` runs."""

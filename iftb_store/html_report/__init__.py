"""The HTML report: one file with figures, charts and tables, which makes no request; `iftb_store.report` writes it.

``lightweight-charts.js`` is version 5.2.1 of TradingView's library of that name, from npm, unchanged; its licence, Apache-2.0,
is in ``lightweight-charts.LICENSE``, and asks for the visible link that its charts have.
"""

"""A local server that speaks the part of Binance's REST interface which `iftb-store fill` uses through ccxt, and misbehaves.

``python -m tests.exchange.binance_server PORT ARGUMENTS…`` runs a command with ccxt's class of Binance pointed at the server.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, urlsplit

from iftb_store.cli import main

START = datetime(2024, 1, 1, tzinfo=UTC)
MINUTE = 60_000
FIRST = int(START.timestamp() * 1000)
# as an exchange does, it has more digits than a float
PRICE = "42000.12345678"


class Exchange:
    """What the server has: minutes of BTCUSDT after `START`.

    Args:
        minutes: the minutes of which there is a candle.
        failures: how many requests of candles are answered with 429 first.
    """

    def __init__(self, minutes: Iterator[int] | range | list[int], *, failures: int = 0) -> None:
        self.minutes = sorted(minutes)
        self.failures = failures
        #: The queries of candles: (symbol, interval, startTime in minutes after `START`, limit).
        self.asked: list[tuple[str, str, int, int]] = []
        self.port = 0

    def list_markets(self) -> dict[str, Any]:
        filters = [{"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"}]
        names = {"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}
        market = {**names, "isSpotTradingAllowed": True, "permissions": ["SPOT"], "filters": filters, "orderTypes": ["LIMIT"]}
        return {"timezone": "UTC", "serverTime": FIRST, "rateLimits": [], "symbols": [market]}

    def list_candles(self, query: dict[str, list[str]]) -> list[list[Any]]:
        since, limit = int(query["startTime"][0]), min(int(query["limit"][0]), 500)
        minute = (since - FIRST) // MINUTE
        self.asked.append((query["symbol"][0], query["interval"][0], minute, limit))
        found = [number for number in self.minutes if number >= minute][:limit]
        return [
            [FIRST + number * MINUTE, PRICE, "42001", "41999.5", f"42000.{number:08}", "0.10000001", 0, "1", 5, "1", "1", "0"]
            for number in found
        ]


@contextmanager
def serve(exchange: Exchange) -> Iterator[int]:
    """Run the server in a thread; yield its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status = 200
            body: Any
            if parts.path.endswith("/exchangeInfo"):
                body = exchange.list_markets()
            elif parts.path.endswith("/klines"):
                if exchange.failures:
                    exchange.failures -= 1
                    status, body = 429, {"code": -1003, "msg": "Too many requests"}
                else:
                    body = exchange.list_candles(parse_qs(parts.query))
            else:
                status, body = 404, {"code": -1, "msg": f"no {parts.path}"}
            written = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(written)))
            self.end_headers()
            self.wfile.write(written)

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    exchange.port = server.server_address[1]
    try:
        yield exchange.port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_local(port: int) -> type[Any]:
    """Return ccxt's class of Binance, which asks the server at a port of this machine."""
    ccxt: Any = import_module("ccxt.async_support")

    class LocalBinance(ccxt.binance):  # type: ignore[misc]
        def describe(self) -> Any:
            local = {"urls": {"api": {"public": f"http://127.0.0.1:{port}/api/v3"}}, "rateLimit": 1}
            return self.deep_extend(super().describe(), local, {"options": {"fetchMarkets": {"types": ["spot"]}}})

    return LocalBinance


if __name__ == "__main__":
    module: Any = import_module("ccxt.async_support")
    module.binance = make_local(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))

"""Small databases of other programs: their table definitions, with a few rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

# the definitions are written by hand after those of the programs; {} is the type that differs between the engines
VNPY = """
    CREATE TABLE dbbardata (
        id {id} NOT NULL PRIMARY KEY, symbol VARCHAR(255) NOT NULL, exchange VARCHAR(255) NOT NULL, datetime {time} NOT NULL,
        interval VARCHAR(255) NOT NULL, volume REAL NOT NULL, turnover REAL NOT NULL, open_interest REAL NOT NULL,
        open_price REAL NOT NULL, high_price REAL NOT NULL, low_price REAL NOT NULL, close_price REAL NOT NULL);
    CREATE UNIQUE INDEX dbbardata_key ON dbbardata (symbol, exchange, interval, datetime);
    CREATE TABLE dbtickdata (id {id} NOT NULL PRIMARY KEY, symbol VARCHAR(255) NOT NULL, last_price REAL NOT NULL)"""
VNPY_ROWS = """
    INSERT INTO dbbardata VALUES
        (1, 'rb2405', 'SHFE', '2024-02-01 09:00:00', '1m', 12.5, 46000, 7, 3850.1, 3852.5, 3849.9, 3851.3),
        (2, 'rb2405', 'SHFE', '2024-02-01 09:01:00', '1m', 0.1, 0.3, 7, 3851.3, 3851.3, 3851.3, 3851.3),
        (3, 'rb2405', 'SHFE', '2024-02-01 00:00:00', 'd', 1, 2, 7, 1, 2, 1, 2),
        (4, 'rb2405', 'SHFE', '2024-02-01 09:00:00', 'tick', 1, 2, 7, 1, 2, 1, 2);
    INSERT INTO dbtickdata VALUES (1, 'rb2405', 3850.1)"""

ORIGINAL = """
    CREATE TABLE ohlcv (
        id {serial}, symbol VARCHAR(20) NOT NULL, exchange VARCHAR(50) NOT NULL, timeframe VARCHAR(10) NOT NULL,
        timestamp {time} NOT NULL, open NUMERIC(20,8) NOT NULL, high NUMERIC(20,8) NOT NULL, low NUMERIC(20,8) NOT NULL,
        close NUMERIC(20,8) NOT NULL, volume NUMERIC(20,8) NOT NULL, quote_volume NUMERIC(20,8), trades_count INTEGER,
        created_at {time}, UNIQUE (symbol, exchange, timeframe, timestamp));
    CREATE TABLE trades (
        id {serial}, trade_id VARCHAR(100), symbol VARCHAR(20) NOT NULL, exchange VARCHAR(50) NOT NULL,
        side VARCHAR(10) NOT NULL, action VARCHAR(20) NOT NULL, entry_price NUMERIC(20,8) NOT NULL, exit_price NUMERIC(20,8),
        quantity NUMERIC(20,8) NOT NULL, leverage NUMERIC(5,2), realized_pnl NUMERIC(20,8), fee NUMERIC(20,8),
        decision_reasons {json}, entry_time {time} NOT NULL, exit_time {time}, created_at {time}, model_version VARCHAR(10));
    CREATE TABLE positions (
        id {serial}, symbol VARCHAR(20) NOT NULL, exchange VARCHAR(50) NOT NULL, side VARCHAR(10) NOT NULL,
        entry_price NUMERIC(20,8) NOT NULL, quantity NUMERIC(20,8) NOT NULL, margin NUMERIC(20,8) NOT NULL,
        entry_time {time} NOT NULL, status VARCHAR(20) NOT NULL, created_at {time});
    CREATE TABLE system_events (
        id {serial}, event_type VARCHAR(50) NOT NULL, severity VARCHAR(20) NOT NULL, message TEXT NOT NULL, details {json},
        created_at {time})"""
ORIGINAL_ROWS = """
    INSERT INTO ohlcv VALUES
        (1, 'BTCUSDT', 'binance', '1h', '2024-02-01 00:00:00', 42580.1, 42650, 42510.5, 42600.25, 7.125, NULL, 9,
            '2024-02-01 01:00:00.5'),
        (2, 'BTCUSDT', 'binance', '1h', '2024-02-01 01:00:00', 0.00000001, 0.3, 0.00000001, 0.1, 0, 12.5, NULL, NULL),
        (3, 'BTCUSDT', 'binance', '1H', '2024-02-01 01:00:00', 1, 1, 1, 1, 0, NULL, NULL, NULL);
    INSERT INTO trades VALUES
        (1, 'TRD-1', 'BTCUSDT', 'binance', 'long', 'close', 42580.1, 42600, 0.01, 5, 0.199, 0.02, '{{"signal": "macd"}}',
            '2024-02-01 00:00:00', '2024-02-01 02:00:00', '2024-02-01 00:00:00', 'v1'),
        (2, 'TRD-2', 'BTCUSDT', 'binance', 'SELL', 'open', 42600, NULL, 0.01, NULL, NULL, NULL, NULL, '2024-02-01 03:00:00', NULL,
            '2024-02-01 03:00:00', NULL),
        (3, 'TRD-3', 'BTCUSDT', 'binance', 'sideways', 'open', 1, NULL, 1, 1, NULL, 0, NULL, '2024-02-01 03:00:00', NULL,
            '2024-02-01 03:00:00', NULL);
    INSERT INTO positions VALUES
        (1, 'BTCUSDT', 'binance', 'long', 42580.1, 0.01, 100, '2024-02-01 00:00:00', 'open', '2024-02-01 00:00:00'),
        (2, 'BTCUSDT', 'binance', 'long', 42600, 0.02, 200, '2024-02-01 03:00:00', 'open', '2024-02-01 03:00:00');
    INSERT INTO system_events VALUES
        (7, 'trade_executed', 'info', 'done', '{{"price": 50000}}', '2024-02-01 00:00:00.123456')"""

FREQTRADE = """
    CREATE TABLE trades (
        id INTEGER NOT NULL PRIMARY KEY, exchange VARCHAR(25) NOT NULL, pair VARCHAR(25) NOT NULL, base_currency VARCHAR(25),
        stake_currency VARCHAR(25), is_open BOOLEAN NOT NULL, fee_open FLOAT NOT NULL, fee_close FLOAT, open_rate FLOAT,
        close_rate FLOAT, close_profit FLOAT, close_profit_abs FLOAT, stake_amount FLOAT NOT NULL, amount FLOAT,
        open_date DATETIME NOT NULL, close_date DATETIME, stop_loss FLOAT, exit_reason VARCHAR(255), strategy VARCHAR(100),
        enter_tag VARCHAR(255), timeframe INTEGER, leverage FLOAT, is_short BOOLEAN NOT NULL, liquidation_price FLOAT,
        funding_fees FLOAT, realized_profit FLOAT);
    CREATE TABLE orders (
        id INTEGER NOT NULL PRIMARY KEY, ft_trade_id INTEGER, ft_order_side VARCHAR(25) NOT NULL, ft_pair VARCHAR(25) NOT NULL,
        ft_is_open BOOLEAN NOT NULL, order_id VARCHAR(255) NOT NULL, status VARCHAR(255), side VARCHAR(25), price FLOAT,
        average FLOAT, amount FLOAT, filled FLOAT, remaining FLOAT, cost FLOAT, order_date DATETIME, order_filled_date DATETIME,
        order_update_date DATETIME);
    CREATE TABLE trade_custom_data (id INTEGER NOT NULL PRIMARY KEY, ft_trade_id INTEGER, cd_key VARCHAR(255), cd_value TEXT);
    CREATE TABLE pairlocks (id INTEGER NOT NULL PRIMARY KEY, pair VARCHAR(25))"""
FREQTRADE_ROWS = """
    INSERT INTO trades VALUES
        (1, 'binance', 'BTC/USDT', 'BTC', 'USDT', 0, 0.001, 0.001, 40000, 41000, 0.022975, 9.19, 400, 0.01,
            '2024-02-01 00:00:00.000000', '2024-02-01 05:00:00.000000', 38000, 'roi', 'Trend', 'breakout', 5, 1, 0, NULL, 0, 0),
        (2, 'binance', 'ETH/USDT:USDT', 'ETH', 'USDT', 1, 0.0005, 0.0005, 2300.5, NULL, NULL, NULL, 115.025, 0.1,
            '2024-02-01 06:00:00.000000', NULL, 2400, NULL, 'Trend', NULL, 5, 2, 1, 3300, -0.01, 1.5);
    INSERT INTO orders VALUES
        (1, 1, 'buy', 'BTC/USDT', 0, 'A1', 'closed', 'buy', 40000, 40000, 0.01, 0.01, 0, 400, '2024-02-01 00:00:00.000000',
            '2024-02-01 00:00:01.000000', NULL),
        (2, 1, 'stoploss', 'BTC/USDT', 0, 'A2', 'canceled', 'sell', 38000, NULL, 0.01, 0, 0.01, 0, '2024-02-01 00:00:02.000000',
            NULL, NULL),
        (3, 1, 'sell', 'BTC/USDT', 0, 'A3', 'closed', 'sell', 41000, 41000, 0.01, 0.01, 0, 410, '2024-02-01 04:59:59.000000',
            '2024-02-01 05:00:00.000000', NULL),
        (4, 2, 'sell', 'ETH/USDT:USDT', 0, 'A4', 'closed', 'sell', 2300.5, 2300.5, 0.1, 0.1, 0, 230.05,
            '2024-02-01 06:00:00.000000', '2024-02-01 06:00:00.000000', NULL);
    INSERT INTO trade_custom_data VALUES (1, 1, 'note', '"x"')"""


def fill_in(definitions: str, engine: str) -> list[str]:
    """Return the statements for an engine: sqlite or postgresql."""
    if engine == "sqlite":
        words = {"id": "INTEGER", "serial": "INTEGER PRIMARY KEY AUTOINCREMENT", "time": "DATETIME", "json": "JSON"}
    else:
        words = {"id": "SERIAL", "serial": "BIGSERIAL PRIMARY KEY", "time": "TIMESTAMP", "json": "JSONB"}
    return [statement for statement in definitions.format(**words).split(";") if statement.strip()]


def make_sqlite(path: Path, *scripts: str) -> str:
    """Create an SQLite database and return its URL."""
    run_sqlite(path, (statement for script in scripts for statement in fill_in(script, "sqlite")))
    return f"sqlite:///{path}"


def run_sqlite(path: Path, statements: Iterable[str]) -> None:
    """Run statements in an SQLite database."""
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()

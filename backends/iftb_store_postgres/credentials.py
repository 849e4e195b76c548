"""Keeps passwords out of tracebacks, and checks the TLS files that a URL names."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, SupportsIndex

from iftb_store.errors import refuse_pickling

_FILES = ("sslrootcert", "sslcrl", "sslcert", "sslkey")


class Hidden(str):
    """A secret text whose repr is ``'***'``, so that printing the variables of a frame does not reveal it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        refuse_pickling(self)

    def bare(self) -> str:
        """Return the text as a plain str, because asyncpg refuses subclasses of str."""
        return str(self)


def forget_variables(error: BaseException) -> None:
    """Clear the local variables in the frames of an exception and of its causes, because one of them holds a password."""
    chain: list[BaseException | None] = [error]
    known: set[int] = set()
    while chain:
        if (one := chain.pop()) is not None and id(one) not in known:
            known.add(id(one))
            traceback.clear_frames(one.__traceback__)
            chain += [one.__cause__, one.__context__]


def tls_problem(options: Mapping[str, str], password: str | None) -> str | None:
    """Return a message that says why a TLS file of the options cannot be used, or None if all files can be used.

    ``password`` decrypts the file of the private key.
    """
    authorities = options.get("sslrootcert")
    options = {name: value for name, value in options.items() if (name, value) != ("sslrootcert", "system")}
    for name in _FILES:
        try:
            if name in options:
                Path(options[name]).read_bytes()
        except OSError as error:
            return f"{name} {options[name]}: {error.strerror}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("sslrootcert", "sslcrl"):
        try:
            if name in options:
                context.load_verify_locations(cafile=options[name])
        except ssl.SSLError:
            return f"{name} {options[name]} contains no certificate in PEM format"
    try:
        if "sslcert" in options:
            context.load_cert_chain(options["sslcert"], options.get("sslkey"), lambda: password or "")
    except ssl.SSLError:
        return (
            f"sslcert {options['sslcert']} cannot be used: it needs its private key in sslkey, and in sslpassword the password "
            "of the key, if it has one"
        )
    if options.get("sslmode", "").startswith("verify-") and not authorities:
        return (
            f"sslmode={options['sslmode']} needs the certificate of the authority that signed the server's: add "
            "sslrootcert=FILE, or sslrootcert=system for the authorities that the operating system trusts"
        )
    return None

"""The project's sessions: `nox` runs all that must pass, `nox -s tests` one of them, `nox -s pythons` the other Pythons."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

nox.needs_version = ">=2026.10"
# the tests come last, so that a run ends with their summary
nox.options.sessions = ["lint", "docs", "demo", "wheel", "types_and_tests"]
nox.options.reuse_venv = "yes"
# nox makes a missing Python an error where CI is set; `pythons` runs where they are installed
nox.options.error_on_missing_interpreters = False

LEAST_COVERAGE = 95
# what takes long, and longer where it is traced; all else covers the lines and branches well enough
UNTRACED = (
    "faults or (hostile and not databases) or sabotage or shipped or roles or model or examples or benchmarks or readme or plans"
    " or dumps or memory or test_any_ or (TestPostgres and not loop)"
    " or (TestSQLite and not (session or task or stream or loop or cancel))"
)
SOAKED = (
    "tests/faults",
    "tests/lake/test_writers_killed.py",
    "tests/security/test_hostile_corpus.py",
    "tests/repositories/test_model.py",
    "tests/test_hostile_corpus.py",
    "tests/files/test_hostile_dumps.py",
    "tests/files/test_hostile_files.py",
    "tests/backends/test_hostile_urls.py",
)
# the tests of the wheel itself, and some of the suite
INSTALLED = "the_package or migrate or driver or insert_many or arrow"
# without a server, a child process or many rounds
UNIT_TESTS = (
    "tests/test_architecture.py",
    "tests/repositories/test_arrow_input.py",
    "tests/test_checks.py",
    "tests/test_config.py",
    "tests/transfer/test_digests.py",
    "tests/files/test_klines.py",
    "tests/test_scope.py",
    "tests/transfer/test_verify.py",
)
# checks the accessibility of a page
AXE = "axe-core@4.14.1"
# what users' type checkers read; `nox -s full` has pyright check all else too
READ_BY_USERS = ("iftb_store", "backends", "migrations", "examples")
CHECKED_BESIDE_THE_PACKAGES = ("tests", "examples", "benchmarks", "hatch_build.py", "noxfile.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: the rules and the format."""
    _install_locked(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types by mypy --strict, and by pyright what users read of it: the packages and examples; and a test of what they find."""
    _check_types(session)
    # where the type checkers are not installed, `tests` skips those that run them
    session.run("pytest", "-q", "tests/test_types.py")


@nox.session
def docs(session: nox.Session) -> None:
    """The site of docs/, in site/: without a broken link or reference, and without a request to another host."""
    _install_locked(session, "docs", "--no-compile")
    # the builder's notice of its successor
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})
    loaded = re.compile(r"<(?!a\b)[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>|url\([\"']?(?:https?:)?//")
    pages = [path for suffix in ("html", "css") for path in Path("site").rglob(f"*.{suffix}")]
    foreign = [f"{path}: {found}" for path in pages for found in loaded.findall(path.read_text(encoding="utf-8"))]
    if foreign:
        session.error("the site loads from other hosts:\n" + "\n".join(foreign))


@nox.session
def demo(session: nox.Session) -> None:
    """The main job from end to end on SQLite, with its driver alone installed."""
    _install_locked(session, "demo", "--no-compile")
    _install_itself(session)
    session.run("iftb-store", "demo")


@nox.session
def examples(session: nox.Session) -> None:
    """Every script of examples/, each on its engine, told one by one; `tests` runs them too."""
    _install_locked(session, "tests")
    _install_itself(session)
    session.run("pytest", "-v", "tests/test_examples.py")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build, install into an empty environment away from the checkout, run the shipped suite and the commands there.

    Only a part of the suite, as all of it runs in the checkout, on the same code.
    """
    session.install("build")
    # compiled where they are imported
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    with tempfile.TemporaryDirectory() as folder:
        away = Path(folder).resolve()
        session.run("python", "-m", "build", "--outdir", folder, silent=True)
        (built,) = away.glob("*.whl")
        check = shutil.copy("tests/installed.py", away)
        session.run("python", "-m", "venv", "--without-pip", str(away / "env"))
        scripts = away / "env" / ("Scripts" if sys.platform == "win32" else "bin")
        wanted = (f"{built}[sqlite,duckdb,testing]", "pytest-xdist")
        session.run("python", "-m", "pip", "--python", str(scripts / "python"), "install", "-q", "--no-compile", *wanted)
        with session.chdir(away):
            session.run(str(scripts / "iftb-store"), "demo", external=True)
            chosen = session.posargs or (
                "-k",
                "not hostile and not test_any_ and (insert_many or arrow or migrate or driver or the_package)",
            )
            session.run(str(scripts / "pytest"), "-q", "-n", "2", str(check), *chosen, external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests on all three engines with this Python, with one of each hostile value, sabotage and fault."""
    _install_tests(session)
    _run_tests(session)


@nox.session
def types_and_tests(session: nox.Session) -> None:
    """What `types` and `tests` do, in one environment: what the tests need is a part of what the type checkers read."""
    _check_types(session)
    _run_tests(session)


@nox.session
def full(session: nox.Session) -> None:
    """All tests with every hostile value, sabotage and fault, and the branches that they cover: before an issue is resolved."""
    session.env["IFTB_STORE_FULL"] = "1"
    _install_locked(session, "types", "--no-compile")
    _install_itself(session)
    session.run("pyright")
    _run_tests(session, traced=True)


@nox.session
def quick(session: nox.Session) -> None:
    """An answer within minutes: the rules, the packages' types, the suite on SQLite without random values, and unit tests."""
    _install_locked(session, "types", "--no-compile")
    _install_locked(session, "lint")
    _install_itself(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("pytest", "-n", "2", "-q", "tests/test_conformance.py", "-k", "TestSQLite and not hostile and not test_any_")
    session.run("pytest", "-n", "2", "-q", *UNIT_TESTS)


@nox.session(python=["3.11", "3.12", "3.13"])
def pythons(session: nox.Session) -> None:
    """The tests on each supported Python that is installed: `nox -s pythons-3.13` for one."""
    _install_tests(session)
    _run_tests(session)


@nox.session
def pgbouncer(session: nox.Session) -> None:
    """The PostgreSQL backend behind PgBouncer in session and in transaction mode; needs Debian's package of that name."""
    # beside the programs of an administrator, whose folder is on root's path alone
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
    if shutil.which("pgbouncer", path=folders) is None:
        session.error("PgBouncer is not installed; on Debian: apt-get install pgbouncer")
    _install_locked(session, "tests")
    _install_itself(session)
    chosen = session.posargs or ("-n", "2", "--dist", "worksteal")
    env = {"IFTB_STORE_TEST_PGBOUNCER": "1", "PATH": os.pathsep.join((session.bin, folders))}
    session.run("pytest", "tests/pgbouncer", *chosen, env=env)


@nox.session
def browser(session: nox.Session) -> None:
    """The HTML report in Debian's Chromium, with Playwright from PyPI and axe-core from npm."""
    if shutil.which("chromium") is None or shutil.which("npm") is None:
        session.error("Chromium or npm is not installed; on Debian: apt-get install chromium npm")
    _install_locked(session, "tests")
    session.install(*_group("browser"))
    _install_itself(session)
    folder = session.create_tmp()
    session.run("npm", "pack", "--silent", "--pack-destination", folder, AXE, external=True, silent=True)
    (packed,) = Path(folder).glob("axe-core-*.tgz")
    shutil.unpack_archive(packed, folder)
    env = {"IFTB_STORE_TEST_AXE": str(Path(folder, "package", "axe.min.js").resolve())}
    session.run("pytest", "-n", "0", "tests/browser", *session.posargs, env=env)


@nox.session
def peers(session: nox.Session) -> None:
    """The performance figures beside those of quantstats and empyrical on the same daily returns."""
    _install_locked(session, "tests")
    session.install(*_group("peers"))
    _install_itself(session)
    session.run("pytest", "-n", "0", "tests/peers", *session.posargs, env={"IFTB_STORE_TEST_PEERS": "1"})


@nox.session
def lake(session: nox.Session) -> None:
    """The whole suite on Delta lakes, in a folder and in a bucket of a moto server, and all faults of their own."""
    _install_locked(session, "tests")
    _install_itself(session)
    chosen = session.posargs or ("-n", "2", "--dist", "worksteal")
    words = ("tests/lake", "tests/test_conformance.py", "-k", "lake or Lake")
    session.run("pytest", *words, *chosen, env={"IFTB_STORE_FULL": "1"})


@nox.session
def readers(session: nox.Session) -> None:
    """Other programs that read a lake: Sail, Polars with its own reader of Delta, and ClickHouse's engine in the process."""
    _install_locked(session, "tests")
    _install_itself(session)
    # no lock file has them: they are large, and nothing else needs them
    session.install("--no-deps", "chdb-core>=26.9,<27", "polars-deltalake>=1.3,<2")
    session.run("pytest", "tests/lake/test_other_readers.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Ours beside the raw drivers, the ORM and the peers: a whole run writes docs/performance.md; `-- --quick` takes minutes."""
    session.install("-e", ".[all]", *_group("bench"))
    if session.posargs:
        session.run("python", "-m", "benchmarks", *session.posargs)
        return
    session.run("python", "-m", "benchmarks", "--json", "benchmarks/last_run.json", "--chart", "docs/pictures/performance.png")
    session.run("python", "-m", "benchmarks.transfer", "--rows", "2000000", "--json", "benchmarks/last_transfer.json")
    session.run("python", "-m", "benchmarks.growth", "--json", "benchmarks/last_growth.json")
    session.run("python", "-m", "benchmarks.report", "benchmarks/last_run.json")


@nox.session
def soak(session: nox.Session) -> None:
    """Faults, random programmes and hostile dumps with their long counts, hours of them, and one table of what they did.

    `-- --fault "server killed"` runs one fault; other words go to pytest. IFTB_STORE_SOAK_SCALE=0.01 takes a hundredth of
    the rounds. A whole run puts its table into docs/reliability.md.
    """
    _install_locked(session, "tests")
    _install_itself(session)
    words = list(session.posargs)
    page = () if words else ("docs/reliability.md",)
    if "--fault" in words:
        at = words.index("--fault")
        words[at : at + 2] = ["-k", " and ".join(words[at + 1].split())]
    if not any(Path(word.partition("::")[0]).exists() for word in words):
        words = [*SOAKED, *words]
    with tempfile.TemporaryDirectory() as folder:
        report = str(Path(folder, "report.jsonl"))
        Path(report).touch()
        env = {"IFTB_STORE_SOAK": "1", "IFTB_STORE_SOAK_REPORT": report}
        try:
            session.run("pytest", "-n", "2", *words, env=env)
        finally:
            session.run("python", "-m", "tests.faults.table", report, *page)


@nox.session
def stub(session: nox.Session) -> None:
    """Write the types of the blocking façade anew, iftb_store/sync.pyi: after a change of a public method."""
    _install_locked(session, "tests")
    _install_locked(session, "lint")
    _install_itself(session)
    session.run("python", "-m", "tests.support.sync_stub")


@nox.session
def lock(session: nox.Session) -> None:
    """Write the lock files anew, for each Python and system: what changed in pyproject.toml; all of it with `-- --upgrade`."""
    session.install("uv")
    for name, held in nox.project.load_toml("pyproject.toml")["tool"]["iftb-store"]["locks"].items():
        chosen = [word for kind in ("extra", "group") for one in held[f"{kind}s"] for word in (f"--{kind}", one)]
        kept = ("--generate-hashes", "--no-annotate", "--no-header", "--quiet", "--output-file", f"locks/{name}.txt")
        # a group that stands alone is read without the package's own dependencies
        source = ("pyproject.toml",) if held["extras"] else ()
        session.run("uv", "pip", "compile", "--universal", "--python-version", "3.11", *kept, *chosen, *source, *session.posargs)


def _check_types(session: nox.Session) -> None:
    # hardly anything of it is run
    _install_locked(session, "types", "--no-compile")
    _install_itself(session)
    # each uses one processor
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(session.run, "pyright", *READ_BY_USERS)
        session.run("mypy")
        session.run("mypy", *CHECKED_BESIDE_THE_PACKAGES)
        beside.result()


def _install_tests(session: nox.Session) -> None:
    _install_locked(session, "tests", "--no-compile")
    _install_itself(session)


def _run_tests(session: nox.Session, *, traced: bool = False) -> None:
    # without compiled modules, each of hundreds of child processes would compile the packages anew
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    if session.posargs:
        session.run("pytest", "-n", "2", *session.posargs)
        return
    # one more than the least number of processors, as many tests wait for a process or a lock
    together = ("-n", "3", "--dist", "worksteal")
    if not traced:
        session.run("pytest", *together)
        return
    session.run("pytest", *together, "-k", UNTRACED)
    measured = ("--cov", "--cov-report=term", f"--cov-fail-under={LEAST_COVERAGE}")
    session.run("pytest", *together, "-k", f"not ({UNTRACED})", *measured)


def _install_locked(session: nox.Session, name: str, *options: str) -> None:
    """Install what a lock file names, each file of which must have one of its hashes."""
    session.install("--require-hashes", *options, "-r", f"locks/{name}.txt")


def _install_itself(session: nox.Session) -> None:
    session.install("--no-deps", "--no-build-isolation", "-e", ".")


def _group(*names: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *names)

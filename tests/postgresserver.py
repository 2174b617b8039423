"""A real PostgreSQL server of our own for tests: a data folder, a socket, nobody's password."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import quote

import psutil

OWNER = "tester"
#: The user that must show a password, so that refusing one can be tested.
GUARDED = "guarded"


def binaries() -> Path | None:
    """The folder of initdb and postgres, or None where they are not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "postgres").exists() and (f / "initdb").exists()), None)


class Server:
    """Started when made; `kill` and `start` are what a crash and a restart are."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="napari-mil-pg-"))
        self.user = self._someone()
        if self.user is not None:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        self._run(
            "initdb", "--auth=trust", f"--username={OWNER}", "--encoding=UTF8", "--locale=C", "--no-sync",
            "-D", str(self.folder / "data"),
        )  # fmt: skip
        hba = self.folder / "data" / "pg_hba.conf"
        hba.write_text(f"local all {GUARDED} scram-sha-256\nlocal all all trust\n")
        self.start()

    @staticmethod
    def _someone() -> pwd.struct_passwd | None:
        """The server does not run as root: who else there is."""
        if os.getuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return pwd.getpwnam("postgres" if "postgres" in names else "nobody")

    def _as_user(self) -> dict[str, object]:
        if self.user is None:
            return {"cwd": self.folder}
        return {
            "cwd": self.folder,
            "user": self.user.pw_uid,
            "group": self.user.pw_gid,
            "extra_groups": [],
        }

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            [self.programs / program, *words], check=True, capture_output=True, timeout=120, **self._as_user()
        )

    def start(self) -> None:
        """Start it on its data; returns when it answers."""
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "fsync": "off"}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", str(self.folder / "data"), *words],
                stdout=log, stderr=log, start_new_session=True, **self._as_user(),
            )  # fmt: skip
        end = time.monotonic() + 60
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.05)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.dsn("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def dsn(self, database: str, user: str = OWNER) -> str:
        """What psycopg takes."""
        return f"host={self.folder} dbname={database} user={user}"

    def address(self, database: str, user: str = OWNER) -> str:
        """What a ledger takes."""
        return f"postgresql://{user}@/{database}?host={quote(str(self.folder), safe='')}"

    def database(self) -> str:
        """A new, empty database; its name."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        return name

    def execute(self, database: str, *statements: str) -> list[object]:
        """Run statements as the owner, as somebody with a database tool could; rows of the last one."""
        import psycopg

        rows: list[object] = []
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def kill(self) -> None:
        """kill -9 of the server and all its processes: a power cut, as far as it can tell."""
        everybody = [*psutil.Process(self.process.pid).children(recursive=True), self.process]
        self.process.kill()  # first, or it would end the transactions of the others in an orderly way
        for one in everybody:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait(30)
        psutil.wait_procs(everybody[:-1], 30)

    def stop(self) -> None:
        """End it and remove its data."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

"""Programs in Java: what they need fetched with Maven, our own file compiled, all of it kept in the cache."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

from cdc_testing.servers.postgres import cache_directory

from ._process import need_program, run_tool

# DynamoDB Local 2 and the KCL 3 want 17 and 8; every JDK that is still looked after has 17.
_RELEASE = "17"
_FETCH_SECONDS = 600.0
_COMPILE_SECONDS = 120.0
# Pinned like every other tool: the one that a Maven takes by itself changes with its version.
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_MANIFEST_LINE_BYTES = 70


def build_java_program(
    name: str, *, pom: Path, source: Path, main_class: str, manifest: Mapping[str, str] | None = None
) -> Path:
    """Return a folder with `NAME.jar`, runnable by `java -jar`, and beside it `NAME_lib` with what it needs.

    From the cache, or made now: the pom's dependencies fetched with Maven (which checks their checksums), the
    source compiled against them.

    - `manifest`: further lines of the archive's manifest.

    Raises:
        ServerUnavailableError: if there is no Maven or JDK, or one of them fails.
    """
    digest = hashlib.sha256(pom.read_bytes() + source.read_bytes()).hexdigest()[:12]
    target = cache_directory() / f"java-{name}-{digest}"
    if target.is_dir():
        return target
    maven = need_program("mvn", why=f"{name} is fetched with Maven")
    compiler = need_program("javac", why=f"{name} needs a JDK of version {_RELEASE} or later")
    # Beside its place and renamed: somebody who looks now sees all of it or nothing.
    with tempfile.TemporaryDirectory(prefix=".java-", dir=target.parent) as scratch:
        root = Path(scratch, "program")
        libraries = root / f"{name}_lib"
        classes = Path(scratch, "classes")
        libraries.mkdir(parents=True)
        shutil.copy(pom, Path(scratch, "pom.xml"))
        argv = [maven, "--batch-mode", "--quiet", "--strict-checksums", _COPY]
        argv += ["-DincludeScope=runtime", f"-DoutputDirectory={libraries}"]
        run_tool(argv, what=f"Maven, fetching {name},", cwd=Path(scratch), timeout_seconds=_FETCH_SECONDS)
        argv = [compiler, "--release", _RELEASE, "-cp", f"{libraries}/*", "-d", str(classes), str(source)]
        run_tool(argv, what=f"compiling {name}", cwd=Path(scratch), timeout_seconds=_COMPILE_SECONDS)
        names = " ".join(f"{libraries.name}/{path.name}" for path in sorted(libraries.glob("*.jar")))
        lines = {"Manifest-Version": "1.0", "Main-Class": main_class, "Class-Path": names}
        _write_archive(root / f"{name}.jar", classes, {**lines, **(manifest or {})})
        root.chmod(0o755)
        try:
            root.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def _write_archive(path: Path, classes: Path, manifest: Mapping[str, str]) -> None:
    with ZipFile(path, "w") as archive:
        text = "".join(_folded(f"{name}: {value}") for name, value in manifest.items())
        archive.writestr("META-INF/MANIFEST.MF", text)
        for file in sorted(classes.rglob("*.class")):
            archive.write(file, file.relative_to(classes))


def _folded(line: str) -> str:
    # At most 72 bytes a line, continued by a space (JAR File Specification, "Notes on Manifest and Signature Files").
    parts = [line[:_MANIFEST_LINE_BYTES]]
    parts += [
        " " + line[at : at + _MANIFEST_LINE_BYTES - 1]
        for at in range(_MANIFEST_LINE_BYTES, len(line), _MANIFEST_LINE_BYTES - 1)
    ]
    return "".join(f"{part}\r\n" for part in parts)

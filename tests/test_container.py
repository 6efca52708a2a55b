"""Both Dockerfiles, built on bases that stand in for NVIDIA's images, and a job in what comes out.

A stand-in is Debian with packages of this environment, at the image's versions where those are known. docker/README.md
says what it cannot show.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.container
ROOT = Path(__file__).parents[1]
PROGRAMS = ("buildah", "debootstrap")
DEBIAN = ("bookworm", "python3,python3-pip,python3-setuptools,python3-wheel,python-is-python3,ca-certificates")
PACKAGES = "usr/local/lib/python3.11/dist-packages"
# As read in the source of bionemo-framework, tag v2.7.
OLD = (
    *("nemo-toolkit==2.6.0rc0", "megatron-core==0.14.0rc2", "nemo-run==0.3.0", "bionemo-scdl==0.1.2"),
    *("transformers==4.53.3", "tokenizers==0.21.4", "inquirerpy==0.3.4", "pfzy==0.3.4"),
)
# Packages that cannot be installed without CUDA are there by name alone.
BY_NAME = {"transformer_engine": "2.3.0.dev0+9d4e11e", "apex": "0.1"}
OF_TORCH = (
    *("torch", "numpy", "filelock", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe"),
    "fsspec",
)


class Buildah:
    """Images and containers that live in a folder, and need no daemon."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.options = (
            *("--root", str(folder / "storage"), "--runroot", str(folder / "run")),
            *("--storage-driver", os.environ.get("STORAGE_DRIVER", "overlay")),
        )

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(["buildah", *self.options, *arguments], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()

    def run(self, container: str, *command: str, options: Iterable[str] = ()) -> str:
        return self("run", "--isolation", "chroot", *options, container, "--", *command)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory) -> Iterator[Buildah]:
    if missing := [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]:
        pytest.skip(f"{', '.join(missing)} not installed: apt-get install buildah debootstrap")
    if os.geteuid() or sys.version_info[:2] != (3, 11):
        pytest.skip("needs root, and the Python of Debian bookworm, 3.11")
    made = Buildah(tmp_path_factory.mktemp("buildah"))
    yield made
    for container in made("containers", "--quiet").split():
        made("rm", container)
    shutil.rmtree(made.folder)


@pytest.fixture(scope="module")
def debian(buildah) -> Path:
    """The files of a Debian with Python, pip, and an account of number 1000."""
    files = buildah.folder / "debian"
    suite, packages = DEBIAN
    program = shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin")
    done = subprocess.run(
        [str(program), "--variant=minbase", f"--include={packages}", suite, files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    subprocess.run(["chroot", files, "useradd", "--create-home", "--uid", "1000", "ubuntu"], check=True)
    # Registries may be reached through certificates of this machine's own.
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(authorities, files / authorities.relative_to("/"))
    return files


@pytest.fixture(scope="module")
def stand_in(buildah, debian) -> Callable[..., str]:
    """Make a base of packages of this environment, and of ``more`` from PyPI; return its name."""

    def make(name: str, packages: Iterable[str], more: Iterable[str] = ()) -> str:
        container = buildah("from", "scratch")
        files = Path(buildah("mount", container))
        subprocess.run(["cp", "-a", f"{debian}/.", files], check=True)
        for package in packages:
            copy_package(package, files / PACKAGES)
        for package, version in BY_NAME.items():
            record = files / PACKAGES / f"{package}-{version}.dist-info"
            record.mkdir(parents=True)
            (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
            (record / "RECORD").touch()
        # As NVIDIA's images, which have no environment of Python's either.
        settings = {"PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"}
        buildah("config", *(word for item in settings.items() for word in ("--env", "=".join(item))), container)
        if more:
            buildah.run(container, "pip", "install", "--quiet", "--no-deps", "--no-cache-dir", *more)
        buildah("commit", "--quiet", "--format", "docker", "--rm", container, name)
        return f"localhost/{name}"

    return make


def copy_package(name: str, target: Path) -> None:
    package = metadata.distribution(name)
    for file in package.files or ():
        if ".." not in file.parts:
            destination = target / file
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(package.locate_file(file)), destination)


def environment() -> list[str]:
    """Return the packages of this environment that are not of this project."""
    own = {path.name for path in (ROOT / "sub-packages").iterdir()}
    return [package.name for package in metadata.distributions() if package.name not in own]


def plain(name: str) -> str:
    return name.partition("==")[0].lower().replace("_", "-").replace(".", "-")


def build(buildah: Buildah, dockerfile: str, base: str) -> str:
    """Build a Dockerfile; return a container of its image."""
    name = dockerfile.lower()
    buildah(
        *("build", "--isolation", "chroot", "--format", "docker", "--file", f"docker/{dockerfile}"),
        *("--build-arg", f"BASE_IMAGE={base}", "--tag", name, "."),
    )
    return buildah("from", f"localhost/{name}")


def versions(buildah: Buildah, container: str) -> dict[str, str]:
    listed = buildah.run(container, "pip", "list", "--format=freeze").split()
    return {plain(line): line.partition("==")[2] for line in listed}


def test_the_bionemo_image_trains_after_newer_nemo_and_megatron_were_laid_over_its_own(buildah, stand_in):
    added = (ROOT / "constraints" / "container.txt").read_text().splitlines()
    lacking = {plain(line) for line in added if "==" in line}
    base = stand_in("bionemo", [name for name in environment() if plain(name) not in lacking], OLD)
    container = build(buildah, "Dockerfile", base)
    found = versions(buildah, container)
    assert (found["nemo-toolkit"], found["megatron-core"]) == ("2.7.3", "0.15.3")
    assert (found["torch"], found["transformer-engine"], found["apex"]) == (
        *(metadata.version("torch"), *BY_NAME.values()),
    )
    job = ("--volume", f"{ROOT / 'recipes'}:/recipes:ro", "--user", "1000:1000")
    printed = buildah.run(container, "/recipes/demo/run.sh", "demo", options=job)
    assert "PDCorr" in printed
    made = Path(buildah("mount", container)) / "workspace" / "scale" / "demo"
    assert {(made / name).stat().st_uid for name in ("run", "predicted.h5ad", "report")} == {1000}


def test_the_pytorch_image_gets_nemo_and_megatron_and_keeps_its_torch(buildah, stand_in):
    base = stand_in("pytorch", OF_TORCH)
    found = versions(buildah, build(buildah, "Dockerfile.pytorch", base))
    assert (found["nemo-toolkit"], found["megatron-core"]) == ("2.7.3", "0.15.3")
    assert (found["torch"], found["transformer-engine"], found["apex"]) == (
        *(metadata.version("torch"), *BY_NAME.values()),
    )

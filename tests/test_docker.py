"""What the Dockerfiles must keep to; `make test-container` builds them."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))
GUARD = ROOT / "docker" / "guard.sh"
IMAGE = {
    "torch": "2.10.0a0+b558c986e8.nv25.11",
    "transformer_engine": "2.9.0+70f53666",
    "apex": "0.1",
    "nvidia-modelopt": "0.39.0",
    "protobuf": "6.33.0",
    "cuda-bindings": "13.0.3",
    "torchmetrics": "1.0",
    "numpy": "1.26.4",
}


@pytest.fixture
def guard(tmp_path):
    """Run guard.sh beside a pip that lists ``installed``."""

    def run(*arguments, installed=IMAGE) -> subprocess.CompletedProcess:
        listing = tmp_path / "listing"
        listing.write_text("".join(f"{name}=={version}\n" for name, version in installed.items()))
        pip = tmp_path / "pip"
        pip.write_text(f"#!/bin/sh\ncat {listing}\n")
        pip.chmod(0o755)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [GUARD, *arguments], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )

    return run


def test_the_guard_notes_the_gpu_stack_and_sees_what_changed(guard, tmp_path):
    stack = tmp_path / "stack.txt"
    assert guard("write", stack).returncode == 0
    assert [line.partition("==")[0] for line in stack.read_text().splitlines()] == [
        "apex", "cuda-bindings", "nvidia-modelopt", "protobuf", "torch", "transformer_engine",
    ]  # fmt: skip
    assert guard("check", stack, installed={**IMAGE, "numpy": "2.0", "megatron-core": "0.15.3"}).returncode == 0
    for wrong in ({**IMAGE, "torch": "2.13.0"}, {name: IMAGE[name] for name in IMAGE if name != "torch"}):
        done = guard("check", stack, installed=wrong)
        assert done.returncode == 1
        assert done.stderr == f"these packages of the base image were changed: torch=={IMAGE['torch']}\n"
    assert "has no torch" in guard("write", stack, installed={"numpy": "2.0"}).stderr


def test_the_pins_of_the_cpu_leave_the_gpu_stack_out(guard, tmp_path):
    stack = tmp_path / "stack.txt"
    guard("write", stack)
    pins = ROOT / "constraints" / "cpu.txt"
    kept = guard("pins", stack, pins).stdout.splitlines()
    left_out = {line.partition("==")[0] for line in pins.read_text().splitlines() if line not in kept}
    assert left_out == {"torch", "nvidia-modelopt", "protobuf", "cuda-bindings"}
    assert any(line.startswith("torchmetrics==") for line in kept)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_keeps_the_stack_of_its_base_and_runs_without_root(path):
    text = path.read_text()
    commands = re.sub(r"\s*\\\n\s*", " ", re.sub(r"(?m)^#.*\n", "", text))
    installs = re.findall(r"(?:PIP_CONSTRAINT=\S+ )?pip install .*?(?= && |\n)", commands)
    assert installs
    for command in installs:
        assert "--no-deps" in command or command.startswith("PIP_CONSTRAINT=/tmp/stack.txt "), command
        assert not re.search(r"\s(torch|transformer|apex|megatron|nemo|flash)", command), command
    assert commands.index("guard.sh write") < commands.index("pip install") < commands.index("guard.sh check")
    assert re.findall(r"(?m)^FROM (.*)$", commands) == ["${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}}"]
    users = re.findall(r"(?m)^USER (.*)$", commands)
    assert users[-1] == "${USER_ID}"
    assert "ARG USER_ID=1000\n" in commands
    for label in ("licenses", "version", "revision", "base.name", "base.digest"):
        assert f"org.opencontainers.image.{label}=" in commands
    assert "pip inspect" in commands
    copied = [word for line in re.findall(r"(?m)^COPY (.*) \S+$", commands) for word in line.split()]
    allowed = (ROOT / ".dockerignore").read_text()
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}\n" in allowed, f"the builder is not given {name}"


def test_what_is_added_to_the_bionemo_image_is_not_its_gpu_stack():
    stack = re.search(r"stack='(.*)'", GUARD.read_text())[1]
    added = (ROOT / "constraints" / "container.txt").read_text().splitlines()
    assert [line for line in added if re.match(stack, line, re.IGNORECASE)] == []

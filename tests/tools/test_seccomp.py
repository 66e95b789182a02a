"""The filter of system calls: read here as the kernel reads it, and given to the real kernel."""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.tools import seccomp

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def verdict(program: bytes, audit: int, number: int, argument: int = 0) -> int:
    """Run a filter program over one system call, as the kernel's classic BPF machine does."""
    data = struct.pack("<IIQQ", number, audit, 0, argument)
    lines = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, yes, no, value = lines[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += yes if holds else no


CALLS = {
    "x86_64": {"keyctl": 250, "ptrace": 101, "io_uring_setup": 425, "bpf": 321, "unshare": 272, "mount": 165},
    "aarch64": {"keyctl": 219, "ptrace": 117, "io_uring_setup": 425, "bpf": 280, "unshare": 97, "mount": 40},
}
USUAL = {"x86_64": {"read": 0, "openat": 257, "execve": 59}, "aarch64": {"read": 63, "openat": 56, "execve": 221}}
CLONE = {"x86_64": 56, "aarch64": 220}


@pytest.mark.parametrize("machine", AUDIT)
def test_the_filter_refuses_doors_into_the_kernel_and_nothing_usual(machine: str) -> None:
    program = seccomp.program(machine)
    assert program is not None
    audit = AUDIT[machine]
    assert {name: verdict(program, audit, number) for name, number in CALLS[machine].items()} == dict.fromkeys(
        CALLS[machine], EPERM
    )
    assert {name: verdict(program, audit, number) for name, number in USUAL[machine].items()} == dict.fromkeys(
        USUAL[machine], ALLOW
    )


@pytest.mark.parametrize("machine", AUDIT)
def test_processes_may_be_made_but_no_namespaces(machine: str) -> None:
    program = seccomp.program(machine)
    assert program is not None
    audit, clone = AUDIT[machine], CLONE[machine]
    assert verdict(program, audit, clone, 0x01200011) == ALLOW  # what fork asks for
    assert verdict(program, audit, clone, 0x003D0F00) == ALLOW  # what a thread asks for
    for flag in (0x00020000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(program, audit, clone, flag | 17) == EPERM
    assert verdict(program, audit, 435) == ENOSYS


@pytest.mark.parametrize("machine", AUDIT)
def test_calls_of_another_architecture_end_the_process(machine: str) -> None:
    program = seccomp.program(machine)
    assert program is not None
    assert verdict(program, 0x40000003, 4) == KILL
    assert verdict(program, AUDIT[machine], 0x40000000 + 101) == EPERM


def test_an_unknown_machine_has_no_filter() -> None:
    assert seccomp.program("sparc64") is None


HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), r"__NR_(\w+) (\d+)"),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"), r"__NR(?:3264)?_(\w+)\s+(\d+)"),
}


@pytest.mark.parametrize("machine", [each for each, (path, _) in HEADERS.items() if path.exists()])
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    path, pattern = HEADERS[machine]
    numbers = {name: int(number) for name, number in re.findall(pattern, path.read_text())}
    program = seccomp.program(machine)
    assert program is not None
    names = [row.split()[0] for row in seccomp.DENIED.strip().splitlines()]
    assert {name: verdict(program, AUDIT[machine], numbers[name]) for name in names} == dict.fromkeys(names, EPERM)
    refused = {name for name, number in numbers.items() if verdict(program, AUDIT[machine], number) != ALLOW}
    assert refused - {"clone3"} == set(names)


PROBE = """
import ctypes, os, struct, sys
program = bytes.fromhex(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
held = Program(len(program) // 8, program)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(held), 0, 0) == 0, ctypes.get_errno()
for number in map(int, sys.argv[2:]):
    ctypes.set_errno(0)
    libc.syscall(number, 0, 0, 0, 0, 0)
    print(ctypes.get_errno(), end=" ")
print(os.waitpid(os.fork() or os._exit(7), 0)[1] >> 8)
"""


def test_the_kernel_takes_the_filter_and_refuses_what_it_says() -> None:
    machine = os.uname().machine
    program = seccomp.program(machine)
    assert program is not None, f"there is no filter for {machine}: add its numbers to stepwell/tools/seccomp.py"
    numbers = [str(number) for number in CALLS[machine].values()]
    argv = [sys.executable, "-c", PROBE, program.hex(), *numbers]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "1 " * len(numbers) + "7\n", done.stderr

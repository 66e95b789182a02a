"""The system calls that a sandboxed command may not make, as a filter program for the Linux kernel.

It is a second wall: namespaces already hide files, processes and the network. The filter closes doors into
the kernel that namespaces leave open (keyrings, io_uring, ptrace, bpf, new namespaces). It is no allow-list.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_NEW_NAMESPACES = 0x7E020000
"""The flags of clone(2) that ask for a namespace."""
_X32 = 0x40000000
"""Numbers from here on are the second set of calls of x86-64; nothing uses it."""
_CLONE3 = 435


class _Architecture(NamedTuple):
    audit: int
    column: int
    clone: int


_ARCHITECTURES: Mapping[str, _Architecture] = MappingProxyType(
    {"x86_64": _Architecture(0xC000003E, 1, 56), "aarch64": _Architecture(0xC00000B7, 2, 220)}
)
"""By machine: how the kernel names it to a filter, its column below, its number of clone(2)."""

DENIED = """
acct                163  89
add_key             248 217
bpf                 321 280
chroot              161  51
clock_settime       227 112
delete_module       176 106
finit_module        313 273
fsconfig            431 431
fsmount             432 432
fsopen              430 430
fspick              433 433
init_module         175 105
io_uring_enter      426 426
io_uring_register   427 427
io_uring_setup      425 425
kexec_file_load     320 294
kexec_load          246 104
keyctl              250 219
mount               165  40
mount_setattr       442 442
move_mount          429 429
open_by_handle_at   304 265
open_tree           428 428
perf_event_open     298 241
pivot_root          155  41
process_vm_readv    310 270
process_vm_writev   311 271
ptrace              101 117
quotactl            179  60
reboot              169 142
request_key         249 218
setns               308 268
settimeofday        164 170
swapoff             168 225
swapon              167 224
syslog              103 116
umount2             166  39
unshare             272  97
userfaultfd         323 282
"""
"""Each call with its numbers on x86-64 and on ARM64, from the kernel's `unistd.h`."""


def program(machine: str) -> bytes | None:
    """Return the filter for a machine as `os.uname().machine` names it, or None for one it does not know."""
    architecture = _ARCHITECTURES.get(machine)
    if architecture is None:
        return None
    refused = (_RETURN, 0, 0, _ERRNO | _EPERM)
    lines = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture.audit), (_RETURN, 0, 0, _KILL)]
    lines += [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), refused]
    for row in DENIED.strip().splitlines():
        lines += [(_EQUAL, 0, 1, int(row.split()[architecture.column])), refused]
    # The flags of clone3(2) are in memory, where a filter cannot look; without it libraries use clone(2).
    lines += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    lines += [(_EQUAL, 0, 3, architecture.clone), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    lines += [(_ANY_BIT, 0, 1, _NEW_NAMESPACES), refused, (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)

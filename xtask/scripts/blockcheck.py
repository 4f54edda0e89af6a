"""Self-describing blocks, and what each block of a disk may hold after a history of writes.

A block names its volume, place, client and operation and carries a checksum, so that a read names exactly one
write. `Register` holds, for each block, the operations that a read may find there; it is told of acknowledgements,
of writes whose fate is unknown, and of reads, and notes every violation. It knows no network and no clock.
"""

import struct
import zlib

BLOCK = 4096
MAGIC = b"MOORBLK1"
HEADER = struct.Struct("<8s16sQQQQQI")  # magic, volume, block, client, op, connection, fill seed, blocks
CRC = struct.Struct("<I")
FILL = BLOCK - HEADER.size - CRC.size
ZEROES = bytes(BLOCK)


def encode(volume, block, client, op, connection, blocks):
    """The 4 KiB that operation `op` puts into `block`."""
    seed = (op * 0x9E3779B97F4A7C15 + block) & 0xFFFFFFFFFFFFFFFF
    head = HEADER.pack(MAGIC, volume.encode()[:16], block, client, op, connection, seed, blocks)
    fill = (seed.to_bytes(8, "little") * (FILL // 8 + 1))[:FILL]
    body = head + fill
    return body + CRC.pack(zlib.crc32(body))


def decode(volume, block, client, data):
    """Which operation wrote these bytes: (op, None), 0 for zeroes, or (None, what is wrong with them)."""
    if data == ZEROES:
        return 0, None
    body, crc = data[:-CRC.size], CRC.unpack(data[-CRC.size:])[0]
    if zlib.crc32(body) != crc:
        return None, "torn or damaged: checksum does not match (starts %s)" % data[:16].hex()
    magic, name, at, by, op, _connection, _seed, _blocks = HEADER.unpack_from(data)
    if magic != MAGIC:
        return None, "not a block of this test"
    if name.rstrip(b"\0") != volume.encode()[:16]:
        return None, "leaked from volume %r" % name
    if at != block:
        return None, "misplaced: belongs to block %d (operation %d)" % (at, op)
    if by != client:
        return None, "written by client %d (operation %d)" % (by, op)
    return op, None


class Register:
    """What each block may hold. Operation ids are positive; a zeroing operation is held as -id; 0 is the fresh disk."""

    def __init__(self, report=lambda block, text: None):
        self.report = report  # told of each violation as it is found
        self.candidates = {}  # block -> ids in the order of issue, the first of them certain to have been there
        self.floating = {}  # block -> ids abandoned on a live server, which may yet land once
        self.unknown = set()  # ids whose fate was unknown at least once
        self.fate = {}  # id -> "present" | "absent", settled by a read
        self.violations = []

    def acknowledged(self, value, blocks):
        for block in blocks:
            self.candidates[block] = [value]

    def unanswered(self, value, blocks, floats):
        self.unknown.add(value)
        for block in blocks:
            self.candidates.setdefault(block, [0]).append(value)
            if floats:
                self.floating.setdefault(block, set()).add(value)

    def another_server_serves(self):
        """Whatever floated was settled by the recovery that made another server primary."""
        self.floating.clear()

    def violation(self, block, text):
        self.violations.append({"block": block, "what": text})
        self.report(block, text)

    def settle(self, value, fate, block):
        if value not in self.unknown:
            return
        known = self.fate.setdefault(value, fate)
        if known != fate:
            self.violation(block, "operation %d is %s here but %s in another block or read" % (abs(value), fate, known))

    def observed(self, block, op):
        """A read returned what operation `op` wrote (0: zeroes). Says whether that is allowed."""
        held = self.candidates.get(block, [0])
        if op == 0:
            hits = [i for i, value in enumerate(held) if value <= 0]
        else:
            hits = [i for i, value in enumerate(held) if value == op]
        floats = self.floating.get(block, set())
        if not hits:
            landed = [value for value in floats if (value <= 0 if op == 0 else value == op)]
            if not landed:
                self.violation(block, "holds %s, allowed are %s" % (
                    "zeroes" if op == 0 else "operation %d" % op, [abs(value) for value in held]))
                return False
            floats.difference_update(landed)
            self.candidates[block] = landed
            return True
        for value in held[hits[-1] + 1:]:
            if value not in floats:
                self.settle(value, "absent", block)
        if len(hits) == 1:
            self.settle(held[hits[0]], "present", block)
            floats.discard(held[hits[0]])
        self.candidates[block] = [held[i] for i in hits]
        return True

    def to_json(self):
        return {
            "candidates": {str(block): held for block, held in self.candidates.items()},
            "floating": {str(block): sorted(held) for block, held in self.floating.items() if held},
            "unknown": sorted(self.unknown),
            "fate": {str(value): fate for value, fate in self.fate.items()},
        }

    @classmethod
    def from_json(cls, saved, report):
        self = cls(report)
        self.candidates = {int(block): held for block, held in saved["candidates"].items()}
        self.floating = {int(block): set(held) for block, held in saved["floating"].items()}
        self.unknown = set(saved["unknown"])
        self.fate = {int(value): fate for value, fate in saved["fate"].items()}
        return self


def selftest():
    """Each rule against a planted fault; returns what failed."""
    failures = []

    def expect(name, register, violations):
        if len(register.violations) != violations:
            failures.append("%s: %d violations, expected %d" % (name, len(register.violations), violations))

    register = Register()
    register.acknowledged(5, [7])
    register.observed(7, 5)
    expect("an acknowledged write that is there", register, 0)
    register.observed(7, 0)
    expect("an acknowledged write that is gone", register, 1)

    register = Register()
    register.acknowledged(1, [0])
    register.acknowledged(2, [0])
    register.observed(0, 1)
    expect("a stale read", register, 1)

    register = Register()
    register.acknowledged(1, [0])
    register.unanswered(2, [0], False)
    register.observed(0, 1)
    register.observed(0, 1)
    expect("an unknown write that did not happen", register, 0)
    register.observed(0, 2)
    expect("and appears after a read without it", register, 1)

    register = Register()
    register.acknowledged(1, [0, 1])
    register.unanswered(2, [0, 1], False)
    register.observed(0, 2)
    register.observed(1, 1)
    expect("half of one request", register, 1)

    register = Register()
    register.unanswered(2, [0], True)
    register.acknowledged(3, [0])
    register.observed(0, 3)
    register.observed(0, 2)
    expect("an abandoned write that lands once", register, 0)
    register.acknowledged(4, [0])
    register.observed(0, 2)
    expect("an abandoned write that lands twice", register, 1)

    register = Register()
    register.unanswered(2, [0], True)
    register.acknowledged(3, [0])
    register.another_server_serves()
    register.observed(0, 2)
    expect("an abandoned write that lands after the next recovery", register, 1)

    register = Register()
    register.acknowledged(1, [0])
    register.unanswered(-2, [0], False)
    register.observed(0, 0)
    register.observed(0, 1)
    expect("zeroes that go away again", register, 1)

    good = encode("demo", 9, 1, 3, 1, 1)
    for name, block, client, volume, data, want in [
        ("its own block", 9, 1, "demo", good, 3),
        ("zeroes", 9, 1, "demo", ZEROES, 0),
        ("misplaced", 8, 1, "demo", good, None),
        ("another volume's", 9, 1, "other", good, None),
        ("another client's", 9, 2, "demo", good, None),
        ("torn", 9, 1, "demo", good[:2048] + encode("demo", 9, 1, 4, 1, 1)[2048:], None),
    ]:
        if decode(volume, block, client, data)[0] != want:
            failures.append("decoding: %s" % name)
    return failures

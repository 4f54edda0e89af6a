#!/usr/bin/python3
"""A reconnecting NBD client that knows, for every block, what it may read there.

Every 4 KiB block it writes describes itself (volume, block, client, operation, fill, CRC), so a read names
exactly one write, and a lost, stale, torn, misplaced or foreign block shows at once. One operation at a
time touches a block; over all blocks many are in flight, on several connections.

    run       workload until "stop" on standard input, then a check of every block; JSON lines on stdout
    verify    check every block against the state that an earlier run saved
    witness   one read and one write, sent on a connection opened earlier, and how they were answered
    selftest  the rules below, against planted faults

Outcomes of a write: ok, or unknown (a disconnect, a time-out, an error reply). An unknown write may be
there or not, once and for all: what one read has settled no later read may take back. A write that this
client gave up on while its server lived may still land after newer ones, once, until a server other than
that one serves the volume.

Commands on standard input (run): "mark NAME" ends a window of statistics and prints it, "stop" ends the
workload. Commands for witness: "fire", then "report".
"""

import argparse
import errno
import json
import os
import random
import select
import sys
import time
import traceback

from blockcheck import BLOCK, Register, decode, encode, selftest


def emit(event, **fields):
    """One JSON line: the only thing this program writes to standard output."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def report_violation():
    """Prints the first violations as they are found; the verdict counts the rest."""
    printed = [0]

    def report(block, text):
        printed[0] += 1
        if printed[0] <= 20:
            emit("violation", block=block, what=text)
    return report


class Window:
    """Statistics between two marks."""

    def __init__(self, now):
        self.began = now
        self.ok = self.unknown = self.reads = self.disconnects = 0
        self.max_latency = 0.0
        self.last_ok = now
        self.longest_gap = 0.0
        self.errors = {}

    def completed(self, now, latency, err):
        self.max_latency = max(self.max_latency, latency)
        if err:
            name = errno.errorcode.get(err, str(err))
            self.errors[name] = self.errors.get(name, 0) + 1
        else:
            self.longest_gap = max(self.longest_gap, now - self.last_ok)
            self.last_ok = now

    def report(self, now, oldest):
        return {
            "seconds": round(now - self.began, 3), "ok": self.ok, "unknown": self.unknown, "reads": self.reads,
            "disconnects": self.disconnects, "errors": self.errors,
            "max_latency": round(max(self.max_latency, oldest), 4),
            "longest_gap": round(max(self.longest_gap, now - self.last_ok), 4),
        }


class Op:
    """One request in flight, owned by its connection until answered or abandoned."""

    __slots__ = ("kind", "value", "blocks", "buffer", "began", "settled")

    def __init__(self, kind, value, blocks, buffer, now):
        self.kind, self.value, self.blocks, self.buffer = kind, value, blocks, buffer
        self.began, self.settled = now, False


def fatal(callback):
    """libnbd prints what a callback raises and goes on; a checker that goes on after an error checks nothing."""
    def guarded(error):
        try:
            return callback(error)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(3)
    return guarded


def dial(address, export, patience):
    """A connected handle, or the reason why not. Never waits longer than `patience` seconds."""
    import nbd
    handle = nbd.NBD()
    handle.set_export_name(export)
    host, _, port = address.rpartition(":")
    until = time.monotonic() + patience
    try:
        if address.startswith("/"):
            handle.aio_connect_unix(address)
        else:
            handle.aio_connect_tcp(host, port)
        while handle.aio_is_connecting():
            left = until - time.monotonic()
            if left <= 0:
                return None, "no answer to the handshake in %.1f s" % patience
            handle.poll(max(1, int(left * 1000)))
        if handle.aio_is_ready():
            return handle, None
        return None, "refused"
    except nbd.Error as error:
        return None, str(error)


class Client:
    """The workload: connections to whichever server accepts the export, and the operations on them."""

    def __init__(self, options):
        self.o = options
        self.random = random.Random(options.seed)
        self.register = Register(report_violation())
        self.next_op = 1
        self.busy = set()
        self.connections = []
        self.inflight = []
        self.address = None
        self.connection_count = 0
        self.start_at = 0
        self.totals = Window(time.monotonic())
        self.window = Window(time.monotonic())
        self.refusals = {}
        self.stdin = b""
        self.stopping = False
        self.budget = 0.0
        self.budget_at = time.monotonic()

    # -- connections ---------------------------------------------------------------------------------

    def connect(self):
        """Tries each address in turn until one accepts the export; True when connected."""
        addresses = self.o.addr
        for step in range(len(addresses)):
            at = (self.start_at + step) % len(addresses)
            handle, why = dial(addresses[at], self.o.export, self.o.connect_timeout)
            if handle is None:
                if self.refusals.get(addresses[at]) != why:
                    self.refusals[addresses[at]] = why
                    emit("refused", address=addresses[at], why=why)
                continue
            handles = [handle]
            for _ in range(self.o.connections - 1):
                more, why = dial(addresses[at], self.o.export, self.o.connect_timeout)
                if more is None:
                    break
                handles.append(more)
            self.refusals.clear()
            self.start_at = at
            if self.address is not None and self.address != addresses[at]:
                self.register.another_server_serves()
            self.address = addresses[at]
            self.connection_count += 1
            self.connections = handles
            self.inflight = [set() for _ in handles]
            emit("connected", address=self.address, connections=len(handles), count=self.connection_count)
            return True
        return False

    def disconnect(self, why):
        """Drops every connection. What is still in flight was abandoned by us: the server may yet carry it out."""
        pending = [op for ops in self.inflight for op in ops]
        for op in pending:
            if not op.settled:
                self.settle(op, errno.ETIMEDOUT, floats=True)
        self.connections, self.inflight = [], []
        self.start_at = (self.start_at + 1) % len(self.o.addr)
        for window in (self.window, self.totals):
            window.disconnects += 1
        emit("disconnected", address=self.address, why=why, in_flight=len(pending))

    # -- operations ----------------------------------------------------------------------------------

    def settle(self, op, err, floats=False):
        op.settled = True
        now = time.monotonic()
        for window in (self.window, self.totals):
            window.completed(now, now - op.began, err)
            if op.kind == "read":
                window.reads += 1
            elif op.kind != "flush":
                if err:
                    window.unknown += 1
                else:
                    window.ok += 1
        self.busy.difference_update(op.blocks)
        if op.kind in ("write", "zero"):
            if err:
                self.register.unanswered(op.value, op.blocks, floats)
            else:
                self.register.acknowledged(op.value, op.blocks)
        elif op.kind == "read" and not err:
            self.check(op.blocks, op.buffer.to_bytearray())

    def check(self, blocks, data):
        for i, block in enumerate(blocks):
            piece = bytes(data[i * BLOCK:(i + 1) * BLOCK])
            op, wrong = decode(self.o.export, block, self.o.client, piece)
            if wrong is not None:
                self.register.violation(block, wrong)
            else:
                self.register.observed(block, op)

    def choose_blocks(self):
        for _ in range(64):
            count = 1 if self.random.random() < 0.7 else self.random.randint(1, self.o.max_blocks)
            first = self.o.first_block + self.random.randrange(self.o.blocks - count + 1)
            blocks = range(first, first + count)
            if not any(block in self.busy for block in blocks):
                return blocks
        return None

    def submit(self, lane):
        import nbd
        handle = self.connections[lane]
        dice = self.random.random() * 100
        now = time.monotonic()
        if dice < self.o.flush_percent:
            op = Op("flush", 0, (), None, now)
            self.inflight[lane].add(op)
            handle.aio_flush(completion=self.completion(lane, op))
            return True
        blocks = self.choose_blocks()
        if blocks is None:
            return False
        self.busy.update(blocks)
        offset, size = blocks[0] * BLOCK, len(blocks) * BLOCK
        flags = nbd.CMD_FLAG_FUA if self.random.random() * 100 < self.o.fua_percent else 0
        dice = self.random.random() * 100
        if dice < self.o.read_percent:
            op = Op("read", 0, blocks, nbd.Buffer(size), now)
            self.inflight[lane].add(op)
            handle.aio_pread(op.buffer, offset, completion=self.completion(lane, op))
            return True
        identity, self.next_op = self.next_op, self.next_op + 1
        if dice < self.o.read_percent + self.o.zero_percent:
            op = Op("zero", -identity, blocks, None, now)
            self.inflight[lane].add(op)
            handle.aio_zero(size, offset, completion=self.completion(lane, op), flags=flags)
            return True
        data = b"".join(
            encode(self.o.export, block, self.o.client, identity, self.connection_count, len(blocks))
            for block in blocks)
        op = Op("write", identity, blocks, nbd.Buffer.from_bytearray(bytearray(data)), now)
        self.inflight[lane].add(op)
        handle.aio_pwrite(op.buffer, offset, completion=self.completion(lane, op), flags=flags)
        return True

    def completion(self, lane, op):
        owner = self.inflight[lane]

        def done(error):
            if not op.settled:
                owner.discard(op)
                self.settle(op, error.value)
            return 1
        return fatal(done)

    def oldest_age(self, now):
        ages = [now - op.began for ops in self.inflight for op in ops]
        return max(ages, default=0.0)

    # -- the loop ------------------------------------------------------------------------------------

    def fill(self):
        """Tops every connection up to its depth. False when a connection turned out dead."""
        import nbd
        now = time.monotonic()
        if self.o.rate:
            self.budget = min(self.budget + (now - self.budget_at) * self.o.rate, self.o.rate / 10 + 1)
            self.budget_at = now
        for lane in range(len(self.connections)):
            while len(self.inflight[lane]) < self.o.depth:
                if self.o.rate:
                    if self.budget < 1:
                        return True
                    self.budget -= 1
                try:
                    if not self.submit(lane):
                        break
                except nbd.Error:
                    return False
        return True

    def poll(self, timeout):
        """One round of readiness over all connections and standard input. False when a connection died."""
        poller = select.poll()
        by_fd = {}
        for handle in self.connections:
            # One may have died while requests were submitted.
            if handle.aio_is_dead() or handle.aio_is_closed():
                return False
            direction = handle.aio_get_direction()
            events = (select.POLLIN if direction & 1 else 0) | (select.POLLOUT if direction & 2 else 0)
            fd = handle.aio_get_fd()
            by_fd[fd] = handle
            poller.register(fd, events)
        if not self.stopping:
            poller.register(0, select.POLLIN)
        alive = True
        for fd, events in poller.poll(int(timeout * 1000)):
            if fd == 0:
                self.command_ready()
                continue
            alive &= self.notify(by_fd[fd], events)
        return alive

    def notify(self, handle, events):
        import nbd
        try:
            direction = handle.aio_get_direction()
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR) and direction & 1:
                handle.aio_notify_read()
            elif events & select.POLLOUT and direction & 2:
                handle.aio_notify_write()
            elif events & (select.POLLHUP | select.POLLERR):
                return False
        except nbd.Error:
            return False
        return not (handle.aio_is_dead() or handle.aio_is_closed())

    def command_ready(self):
        piece = os.read(0, 4096)
        if not piece:
            self.stopping = True
        self.stdin += piece
        while b"\n" in self.stdin:
            line, _, self.stdin = self.stdin.partition(b"\n")
            words = line.decode().split()
            if words[:1] == ["stop"]:
                self.stopping = True
            elif words[:1] == ["mark"]:
                now = time.monotonic()
                emit("window", name=" ".join(words[1:]), **self.window.report(now, self.oldest_age(now)))
                self.window = Window(now)

    def turn(self, submit):
        """One turn: connect if need be, submit, wait for something, give up on what is overdue."""
        if not self.connections:
            if not self.connect():
                self.poll(0.02)
            return
        alive = self.fill() if submit else True
        alive = alive and self.poll(0.002 if self.o.rate and submit else 0.05)
        if not alive:
            self.disconnect("connection lost")
        elif self.oldest_age(time.monotonic()) > self.o.op_timeout:
            self.disconnect("no answer in %.1f s" % self.o.op_timeout)

    def run(self):
        while not self.stopping:
            self.turn(submit=True)
        while any(self.inflight):
            self.turn(submit=False)

    def verify(self, label):
        """Reads every block of the range, reconnecting as needed, and checks it."""
        first, end = self.o.first_block, self.o.first_block + self.o.blocks
        todo = [range(at, min(at + 64, end)) for at in range(first, end, 64)]
        until = time.monotonic() + self.o.verify_deadline
        while todo:
            if time.monotonic() > until:
                emit("failed", why="%s: %d ranges could not be read in %.0f s" % (
                    label, len(todo), self.o.verify_deadline))
                return False
            if not self.connections:
                if not self.connect():
                    time.sleep(0.02)
                continue
            todo = self.read_some(todo)
        emit("verified", pass_=label, blocks=self.o.blocks, violations=len(self.register.violations))
        return True

    def read_some(self, todo):
        """Reads the next few ranges at once; returns the ranges still to do."""
        import nbd
        now = time.monotonic()
        batch, rest = todo[:self.o.depth], todo[self.o.depth:]
        ops = []
        try:
            for blocks in batch:
                op = Op("read", 0, blocks, nbd.Buffer(len(blocks) * BLOCK), now)
                self.inflight[0].add(op)
                ops.append((op, self.connections[0].aio_pread(
                    op.buffer, blocks[0] * BLOCK, completion=self.verified(op))))
            while any(not op.settled for op, _ in ops):
                alive = self.poll(0.05)
                if not alive or time.monotonic() - now > self.o.op_timeout:
                    raise nbd.Error("read", 0)
        except nbd.Error:
            self.disconnect("connection lost while verifying")
            return todo
        return [op.blocks for op, _ in ops if op.value != 1] + rest

    def verified(self, op):
        owner = self.inflight[0]

        def done(error):
            owner.discard(op)
            op.settled = True
            if error.value == 0:
                op.value = 1
                self.check(op.blocks, op.buffer.to_bytearray())
            return 1
        return fatal(done)

    def finish(self, complete):
        now = time.monotonic()
        emit("done", complete=complete, violations=self.register.violations[:20],
             violation_count=len(self.register.violations), operations=self.next_op - 1,
             settled_present=sum(1 for fate in self.register.fate.values() if fate == "present"),
             settled_absent=sum(1 for fate in self.register.fate.values() if fate == "absent"),
             **self.totals.report(now, 0.0))
        return 0 if complete and not self.register.violations else 1


def save(client, path):
    with open(path, "w", encoding="utf-8") as out:
        json.dump({"next_op": client.next_op, "register": client.register.to_json()}, out)


def load(client, path):
    with open(path, encoding="utf-8") as source:
        saved = json.load(source)
    client.next_op = saved["next_op"]
    client.register = Register.from_json(saved["register"], report_violation())


def command_run(options):
    client = Client(options)
    if options.resume:
        load(client, options.resume)
    client.run()
    client.disconnect("end of the workload")
    client.start_at = (client.start_at - 1) % len(options.addr)
    # Twice: what the first pass settled, the second may not take back.
    complete = options.no_verify or (client.verify("first") and client.verify("second"))
    if options.state:
        save(client, options.state)
    return client.finish(complete)


def command_verify(options):
    client = Client(options)
    client.stopping = True
    load(client, options.state)
    complete = client.verify("first") and client.verify("second")
    return client.finish(complete)


def command_witness(options):
    """Two requests on a connection opened while the server was well; later, what became of them."""
    import nbd
    handle, why = dial(options.addr[0], options.export, options.connect_timeout)
    if handle is None:
        emit("failed", why=why)
        return 1
    emit("ready")
    if sys.stdin.readline().strip() != "fire":
        return 2
    answers = {}

    def answer(name):
        def done(error):
            answers[name] = "ok" if error.value == 0 else errno.errorcode.get(error.value, str(error.value))
            return 1
        return done

    offset = options.first_block * BLOCK
    fetched = nbd.Buffer(BLOCK)
    data = encode(options.export, options.first_block, options.client, 1, 1, 1)
    handle.aio_pread(fetched, offset, completion=answer("read"))
    handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset, completion=answer("write"))
    handle.aio_flush(completion=answer("flush"))
    emit("fired")
    poller = select.poll()
    poller.register(0, select.POLLIN)
    while True:
        try:
            # Returns at once on data, so that an answer's arrival is never waited for by the clock.
            handle.poll(20)
        except nbd.Error:
            pass
        if handle.aio_is_dead() or handle.aio_is_closed():
            for name in ("read", "write", "flush"):
                answers.setdefault(name, "disconnected")
        if poller.poll(20 if len(answers) == 3 else 0):
            break
    emit("report", **{name: answers.get(name, "unanswered") for name in ("read", "write", "flush")})
    return 0


def command_selftest(_options):
    failures = selftest()
    emit("selftest", failures=failures)
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "verify", "witness", "selftest"])
    parser.add_argument("--export", default="demo")
    parser.add_argument("--addr", action="append", default=[], help="HOST:PORT or /socket; repeat for each server")
    parser.add_argument("--first-block", type=int, default=0)
    parser.add_argument("--blocks", type=int, default=4096, help="4 KiB blocks under test")
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--depth", type=int, default=8, help="requests in flight on each connection")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--client", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0, help="requests per second; 0 for as many as go")
    parser.add_argument("--max-blocks", type=int, default=4, help="largest request, in blocks")
    parser.add_argument("--read-percent", type=float, default=30)
    parser.add_argument("--zero-percent", type=float, default=3)
    parser.add_argument("--fua-percent", type=float, default=5)
    parser.add_argument("--flush-percent", type=float, default=1)
    parser.add_argument("--op-timeout", type=float, default=30, help="seconds until a silent server is given up")
    parser.add_argument("--connect-timeout", type=float, default=0.5)
    parser.add_argument("--verify-deadline", type=float, default=60)
    parser.add_argument("--no-verify", action="store_true")
    parser.add_argument("--state", help="where run saves, and verify finds, what each block may hold")
    parser.add_argument("--resume", help="a state to go on from")
    options = parser.parse_args()
    commands = {"run": command_run, "verify": command_verify, "witness": command_witness, "selftest": command_selftest}
    sys.exit(commands[options.command](options))


if __name__ == "__main__":
    main()

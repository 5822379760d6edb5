#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs one test machine: the inner half of tests/vm/run, inside the build root.

machine.py RUN_DIR, with RUN_DIR/options.json and the tree of the run's own image
in RUN_DIR/tree. Exits with the command's status, or with one of the below."""

import ctypes
import json
import os
import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
import tty

SETUP, TIMEOUT, SPLAT = 123, 124, 125
START = b"\nuvisor-frames\n"
SQUASH = "-noappend -no-progress -quiet -b 16K -noI -noD -noF -noX -no-fragments " \
         "-all-time 0 -mkfs-time 0 -no-exports -no-xattrs -force-uid 0 -force-gid 0".split()

# What the kernel says when something is wrong with it. A program that is killed
# by a general protection fault ("traps: ...") is none of it.
SPLATS = re.compile(
    rb"WARNING: |BUG: |BUG kmalloc|BUG \w+ \(|Oops: |kernel BUG at|Kernel panic|"
    rb"INFO: task .* blocked|detected stalls?|self-detected stall|soft lockup|hard LOCKUP|"
    rb"KASAN: |KCSAN: |KFENCE: |UBSAN: |circular locking|suspicious RCU|refcount_t: |"
    rb"Bad page state|scheduling while atomic|unchecked MSR access|"
    rb"unable to handle|Unpatched return thunk|nobody cared|bad: scheduling|"
    rb"rcu: INFO|list_(add|del) corruption|memory leaks?\b|\bvm: ")
PANIC = re.compile(rb"Kernel panic|\bvm: ")

BOCHSRC = """\
display_library: rfb, options="timeout=0"
config_interface: textconfig
romimage: file=/usr/share/bochs/BIOS-bochs-latest, options=fastboot
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
memory: guest={memory}, host={memory}
cpu: model={model}, count=1:{cpus}:1, ips=200000000, quantum={quantum}, reset_on_triple_fault=0, \
ignore_bad_msrs=1, exclude_features="rdrand rdseed"
clock: sync=none, rtc_sync=0, time0=1700000000
vga: extension=none, update_freq=1, realtime=0
boot: cdrom
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
{disks}
com1: enabled=1, mode=file, dev={dir}/serial.log
{com2}
port_e9_hack: enabled=1, all_rings=1
log: {dir}/bochs.log
panic: action=fatal
error: action={errors}
info: action=ignore
debug: action=ignore
speaker: enabled=0
"""


class Frames:
    """Takes the agent's frames apart as they come in."""

    def __init__(self, sinks):
        self.sinks = sinks
        self.buffer = b""
        self.started = False
        self.status = None

    def feed(self, data):
        self.buffer += data
        if not self.started:
            at = self.buffer.find(START)
            if at < 0:
                return
            self.started = True
            self.buffer = self.buffer[at + len(START):]
        at = 0
        while self.status is None and len(self.buffer) - at >= 3:
            kind = self.buffer[at:at + 1]
            length = int.from_bytes(self.buffer[at + 1:at + 3], "little")
            if len(self.buffer) - at < 3 + length:
                break
            body = self.buffer[at + 3:at + 3 + length]
            at += 3 + length
            if kind == b"X":
                self.status = os.waitstatus_to_exitcode(int.from_bytes(body, "little"))
            elif kind in self.sinks:
                self.sinks[kind](body)
        self.buffer = self.buffer[at:]


def make_image(tree, image):
    """A squashfs; the same tree gives the same bytes, so that runs can be compared."""
    subprocess.run(["mksquashfs", tree, image] + SQUASH, check=True, stdout=subprocess.DEVNULL)


def qemu_args(o, paths, accel):
    """QEMU's command line, on this machine or in the machine."""
    args = ["qemu-system-x86_64", "-machine", "pc,accel=" + accel,
            "-cpu", "host" if accel == "kvm" else "max", "-smp", str(o["cpus"]),
            "-m", str(o["memory"]), "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-serial", "file:" + paths["serial"],
            "-kernel", paths["kernel"], "-initrd", paths["initrd"], "-append", o["args"],
            "-device", "virtio-serial-pci",
            "-chardev", "file,id=out,path=" + paths["out"],
            "-device", "virtserialport,chardev=out,name=out"]
    if paths.get("share"):
        args += ["-L", paths["share"] + "/seabios", "-L", paths["share"] + "/qemu"]
    if o["tty_port"]:
        args += ["-chardev", "socket,id=tty,host=127.0.0.1,port=%d" % o["tty_port"],
                 "-serial", "chardev:tty"]
    for image in paths["images"]:
        args += ["-drive", "if=virtio,format=raw,readonly=on,file=" + image]
    return args


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def prepare(o, run):
    """Makes the run's images and returns the command line of the machine."""
    inner = run + "/run.img"
    # Its debug information is most of it, and costs an emulated machine seconds.
    module = run + "/tree/usr/lib/modules/uvisor.ko"
    if os.path.exists(module):
        subprocess.run(["strip", "--strip-debug", module], check=True)
    make_image(run + "/tree", inner)
    kind = o["machine"]
    if kind in ("qemu", "tcg"):
        paths = {"serial": run + "/serial.log", "kernel": o["vmlinuz"], "initrd": o["initrd"],
                 "out": "/dev/stdout", "images": [o["root"], inner]}
        return qemu_args(o, paths, "kvm" if kind == "qemu" else "tcg")

    images = [o["root"], inner]
    memory, cpus = o["memory"], o["cpus"]
    if kind == "nested":
        # The outer machine's own image: this run's image as a file, and a command
        # that hands it to QEMU. The inner machine's console goes to stderr.
        outer = run + "/outer"
        os.makedirs(outer + "/usr/lib/uvisor/vm")
        os.rename(inner, outer + "/usr/lib/uvisor/run.img")
        shutil.copy(run + "/tree/usr/lib/uvisor/vm/agent", outer + "/usr/lib/uvisor/vm/agent")
        here = "/usr/lib/uvisor/inner/"
        # The inner machine's root is the outer one's: its init says which disk it is.
        paths = {"serial": "/dev/stderr", "kernel": here + "vmlinuz", "initrd": here + "initrd",
                 "out": "/dev/stdout", "share": "/usr/share",
                 "images": ["ROOT", "/usr/lib/uvisor/run.img"]}
        command = " ".join(shlex.quote(a) for a in qemu_args(o, paths, "kvm"))
        script = ("modprobe kvm-intel nested=1 enable_apicv=0 || exit %d\n"
                  "root=$(cat /run/vm-root)\n"
                  "exec %s\n" % (SETUP, command.replace("file=ROOT", "file=$root")))
        write(outer + "/usr/lib/uvisor/vm/outer.sh", script)
        write(outer + "/usr/lib/uvisor/vm/argv", "sh\0/usr/lib/uvisor/vm/outer.sh\0")
        write(outer + "/.layer-run", "")
        write(outer + "/.needs-qemu", "")
        make_image(outer, run + "/outer.img")
        images = [o["root"], run + "/outer.img", o["qemu"]]
        memory, cpus = 2048, 1

    slots = ("ata0-slave", "ata1-master", "ata1-slave")
    disks = ["ata0-master: type=cdrom, path=%s, status=inserted" % o["iso"]]
    disks += ["%s: type=cdrom, path=%s, status=inserted" % s for s in zip(slots, images)]
    com2 = ""
    if o["tty_port"]:
        com2 = "com2: enabled=1, mode=socket-client, dev=127.0.0.1:%d" % o["tty_port"]
    write(run + "/bochsrc", BOCHSRC.format(
        memory=memory, cpus=cpus, model=o["model"], quantum=o["quantum"], dir=run,
        disks="\n".join(disks), com2=com2, errors="report" if o["bochs_log"] else "ignore"))
    return ["bochs", "-q", "-f", run + "/bochsrc"]


def start(argv, run):
    """Starts the machine so that it ends with us, whatever ends us."""
    libc = ctypes.CDLL(None)
    log = open(run + "/machine.log", "wb")
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                            start_new_session=True,
                            preexec_fn=lambda: libc.prctl(1, signal.SIGKILL))


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data):]


class Clock:
    """Time that a machine has used. Emulation costs processor time, idle or not, so
    that is what counts: a busy computer does not make a test fail. A machine that
    sleeps is ended when it has taken four times as long by the clock."""

    def __init__(self, pid, limit):
        self.pid = pid
        self.limit = limit
        self.start = time.monotonic()

    def cpu(self):
        try:
            with open("/proc/%d/stat" % self.pid, encoding="utf-8") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            return 0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def over(self):
        return self.cpu() > self.limit or time.monotonic() - self.start > 4 * self.limit


class Run:
    """A machine from start to verdict."""

    def __init__(self, o, run):
        self.o = o
        self.run = run
        self.console = b""      # serial.log so far
        self.kernel_logs = b""  # what the agents sent at the end
        self.inner_console = open(run + "/inner-serial.log", "wb+") if o["machine"] == "nested" else None
        sinks = {b"O": lambda d: write_all(1, d), b"E": lambda d: write_all(2, d),
                 b"K": self.keep_log}
        self.splat = False
        self.frames = Frames(sinks)
        self.feed = self.frames.feed
        self.outer = None
        if o["machine"] == "nested":
            self.outer = Frames({b"O": self.frames.feed, b"E": self.inner_console_data,
                                 b"K": self.keep_log})
            self.feed = self.outer.feed

    def keep_log(self, data):
        self.kernel_logs += data

    def inner_console_data(self, data):
        self.inner_console.write(data)
        self.inner_console.flush()
        self.console += data

    def ended(self):
        return self.frames.status is not None or (self.outer and self.outer.status is not None)

    def say(self, text):
        write_all(2, ("vm: " + text + "\n").encode())

    def go(self):
        listener, term = None, None
        if self.o["interactive"]:
            listener = socket.create_server(("127.0.0.1", 0))
            self.o["tty_port"] = listener.getsockname()[1]
        argv = prepare(self.o, self.run)
        machine = start(argv, self.run)
        self.clock = Clock(machine.pid, self.o["timeout"])
        panicked = None
        select = selectors.DefaultSelector()
        select.register(machine.stdout, selectors.EVENT_READ, "out")
        if listener:
            select.register(listener, selectors.EVENT_READ, "listen")
        serial = None
        verdict = None
        guest = None
        try:
            while not self.ended():
                for key, _ in select.select(0.2):
                    if key.data == "out":
                        data = os.read(machine.stdout.fileno(), 65536)
                        if not data:
                            select.unregister(machine.stdout)
                            machine.wait()
                            break
                        self.feed(data)
                    elif key.data == "listen":
                        guest, _ = listener.accept()
                        select.register(guest, selectors.EVENT_READ, "guest")
                        select.unregister(listener)
                        if os.isatty(0):
                            term = termios.tcgetattr(0)
                            tty.setraw(0)
                        select.register(0, selectors.EVENT_READ, "stdin")
                    elif key.data == "guest":
                        write_all(1, guest.recv(4096))
                    elif key.data == "stdin":
                        data = os.read(0, 1024)
                        if data:
                            guest.sendall(data)
                        else:
                            select.unregister(0)
                if serial is None and os.path.exists(self.run + "/serial.log"):
                    serial = open(self.run + "/serial.log", "rb")
                if serial:
                    self.console += serial.read()
                if self.ended():
                    break
                if machine.poll() is not None:
                    verdict = SPLAT
                    self.say("the machine ended without a status")
                    break
                if panicked is None and PANIC.search(self.console):
                    panicked = time.monotonic()
                # The rest of a panic's report follows in no time.
                if panicked and time.monotonic() > panicked + 5:
                    verdict = SPLAT
                    break
                if self.clock.over():
                    verdict = TIMEOUT
                    break
            if guest:
                # The terminal is slower than the port that the status came by.
                guest.settimeout(0.5)
                try:
                    while data := guest.recv(4096):
                        write_all(1, data)
                except OSError:
                    pass
        finally:
            if term:
                termios.tcsetattr(0, termios.TCSADRAIN, term)
            machine.terminate()
            try:
                machine.wait(2)
            except subprocess.TimeoutExpired:
                machine.kill()
                machine.wait()
        if serial:
            self.console += serial.read()
        return self.judge(verdict)

    def judge(self, verdict):
        text = self.console + b"\n" + self.kernel_logs
        with open(self.run + "/kernel.log", "wb") as f:
            f.write(self.kernel_logs)
        if self.outer and self.outer.status is not None and self.frames.status is None:
            verdict = SETUP
            self.say("the inner machine ended without a status")
        if SPLATS.search(text):
            self.splat = True
            verdict = SPLAT
            self.say("the kernel complained:")
            self.show_around_splat(text)
        elif verdict == TIMEOUT:
            self.say("no end after %d s; the end of the console:" % self.o["timeout"])
        if verdict is not None:
            if verdict != SPLAT or not self.kernel_logs:
                self.show_tail("serial.log")
                self.show_tail("inner-serial.log")
                self.show_tail("machine.log")
            return verdict
        status = self.frames.status
        return 128 - status if status < 0 else status

    def show_around_splat(self, text):
        lines = text.splitlines()
        hits = [i for i, line in enumerate(lines) if SPLATS.search(line)]
        first = max(0, hits[0] - 5)
        for line in lines[first:first + 70]:
            write_all(2, b"  | " + line + b"\n")

    def show_tail(self, name):
        path = os.path.join(self.run, name)
        if not os.path.exists(path):
            return
        with open(path, "rb") as f:
            for line in f.read().splitlines()[-30:]:
                write_all(2, b"  " + name.encode() + b"| " + line + b"\n")


def main():
    run = sys.argv[1]
    with open(run + "/options.json", encoding="utf-8") as f:
        o = json.load(f)
    o["tty_port"] = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    code = SPLAT
    machine = Run(o, run)
    try:
        code = machine.go()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 141
    finally:
        # The command may well have such a status of its own.
        if code == SETUP or machine.frames.status is None or machine.splat or o["keep"]:
            write_all(2, ("vm: logs are in %s\n" % o["shown_dir"]).encode())
            for name in ("run.img", "outer.img", "tree", "outer"):
                path = os.path.join(run, name)
                if os.path.isdir(path):
                    shutil.rmtree(path)
                elif os.path.exists(path):
                    os.unlink(path)
        else:
            shutil.rmtree(run, ignore_errors=True)
    sys.exit(code)


main()

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# An interactive shell on a terminal of its own (uvctl run --tty): job control, keys, the window's size. What
# is typed and what comes back must be as natively.
#
# machines: bochs bochs2/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"

cat >driver.py <<'PROGRAM'
# Types to a program on a terminal, and prints what came of each line.
import fcntl, os, pty, re, select, signal, struct, sys, termios, time

pid, master = pty.fork()
if pid == 0:
    os.environ["PS1"] = "ready> "
    os.environ["TERM"] = "dumb"
    os.execvp(sys.argv[1], sys.argv[1:])
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 33, 77, 0, 0))

def until(text, seconds=60):
    seen, end = b"", time.monotonic() + seconds
    while text not in seen and time.monotonic() < end:
        if select.select([master], [], [], 0.5)[0]:
            try:
                data = os.read(master, 4096)
            except OSError:
                break
            if not data:
                break
            seen += data
    return seen

def show(name, seen):
    text = seen.decode(errors="replace").replace("\r", "")
    text = re.sub(r"\x1b\[\?2004[hl]", "", text)
    text = re.sub(r"\[(\d+)\] \d+", r"[\1] PID", text)
    print(name, repr(text), flush=True)

until(b"ready> ")
def line(text, then=b"ready> "):
    os.write(master, text.encode() + b"\n")
    show(text, until(then))

line("stty size")
line("echo $((6 * 7))")
line("sleep 300 & jobs")
line("kill %1; wait; jobs")
os.write(master, b"sleep 300; echo behind\n")
until(b"behind\r\n")
time.sleep(0.5)
os.write(master, b"\x03")
show("^C", until(b"ready> "))
line("echo $?")
os.write(master, b"sleep 300\n")
until(b"sleep 300\r\n")
time.sleep(0.5)
os.write(master, b"\x1a")
show("^Z", until(b"ready> "))
line("jobs")
line("bg; kill -TERM %1; wait %1 2>/dev/null; echo done")
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
os.kill(pid, signal.SIGWINCH)
time.sleep(0.5)
line("stty size")
os.write(master, b"cat\n")
until(b"cat\r\n")
os.write(master, b"typed\n")
until(b"typed\r\ntyped\r\n")
os.write(master, b"\x04")
show("^D", until(b"ready> "))
os.write(master, b"exit 7\n")
until(b"no such text", 5)
print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
PROGRAM

shell=(bash --norc --noprofile -i)
timeout 150 python3 driver.py "${shell[@]}" >native.out 2>&1
timeout 150 python3 driver.py uvctl run -it -- "${shell[@]}" >guest.out 2>&1
compare 0 0 out
report $? 'an interactive shell'
grep -q 'status 7' guest.out
report $? 'that really came to its end'

echo from outside | uvctl run -it -- cat >out 2>&1
grep -q 'from outside' out
report $? 'input that is no terminal'
uvctl run -t -- bash -c 'exit 3' >/dev/null 2>&1 </dev/null
grep -qx 3 <<<$?
report $? 'the status'

# The one that passes on is killed: so is the task.
setsid uvctl run -it -- bash -c 'trap "" HUP TERM; echo started; sleep 3351' >out 2>&1 < <(sleep 100) &
for _ in $(seq 100); do grep -q started out && break; sleep 0.1; done
kill -KILL "$(pgrep -f '^uvctl run.*3351' | head -n 1)"
for _ in $(seq 100); do pgrep -f '3351' >/dev/null || break; sleep 0.1; done
pgrep -af '3351' | sed 's/^/# left: /'
bad=1
pgrep -f '3351' >/dev/null || bad=0
report $bad 'nothing is left when it is killed'

finish

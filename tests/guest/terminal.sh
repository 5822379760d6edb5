#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# An interactive shell on a terminal of its own (uvctl run --tty): job control, keys, the window's size. What
# is typed and what comes back must be as natively.
#
# machines: bochs bochs2/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"

shell=(bash --norc --noprofile -i)
timeout 150 "$tests/typist" "${shell[@]}" >native.out 2>&1
timeout 150 "$tests/typist" uvctl run -it -- "${shell[@]}" >guest.out 2>&1
compare 0 0 out
report $? 'an interactive shell'
grep -q 'status 7' guest.out
report $? 'that really came to its end'

echo from outside | uvctl run -it -- cat >out 2>&1
grep -q 'from outside' out
report $? 'input that is no terminal'
# What it is called, and that the name is the terminal's; other names are not there.
uvctl run -it -- python3 -c '
import os
name = os.ttyname(0)
print(name == os.readlink("/proc/self/fd/0"), os.path.samestat(os.stat(name), os.fstat(0)))
print(os.isatty(os.open(name, os.O_RDWR)), os.path.exists("/dev/pts/4711"), os.access(name, os.W_OK))
' >out 2>&1 </dev/null
is 'the name of its terminal' 'True True
True False True' "$(tr -d '\r' <out)"
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

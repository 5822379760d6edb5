#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# machines: tcg l1tf
#
# Where the module cannot do its work it refuses to load, says why in one line, and
# leaves nothing: a CPU without VT-x, and one whose L1TF bug nothing mitigates.
number=0 failed=0
check() {
	local name=$1 result="not ok"
	shift
	number=$((number + 1))
	if "$@"; then result=ok; else failed=1; fi
	echo "$result $number - $name"
}

dmesg -C
refused() { ! insmod /lib/modules/uvisor.ko 2>/tmp/error; }
check "the module refuses to load" refused
# What the kernel itself says of modules from elsewhere is not ours.
dmesg | grep 'uvisor: ' | grep -vE 'taints kernel|tainting kernel' >/tmp/lines
check "it says why in one line" [ "$(wc -l </tmp/lines)" = 1 ]
sed 's/^/# /' /tmp/error /tmp/lines
nothing_left() { [ ! -e /sys/module/uvisor ] && [ ! -e /dev/uvisor ]; }
check "nothing is left of it" nothing_left
echo 1..$number
exit $failed

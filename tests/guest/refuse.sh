#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# machines: tcg
#
# Without VT-x the module refuses to load, says why in one line, and leaves nothing.
result() { if [ "$1" = 0 ]; then echo "ok $2"; else echo "not ok $2"; fi; }

dmesg -C
insmod /lib/modules/uvisor.ko 2>/tmp/error
[ $? -ne 0 ]; result $? "1 - the module refuses to load without VT-x"
# What the kernel itself says of modules from elsewhere is not ours.
dmesg | grep '^.*uvisor: ' | grep -vE 'taints kernel|tainting kernel' >/tmp/lines
[ "$(wc -l </tmp/lines)" = 1 ]; result $? "2 - it says why in one line"
sed 's/^/# /' /tmp/error /tmp/lines
[ ! -e /sys/module/uvisor ] && [ ! -e /dev/uvisor ]; result $? "3 - nothing is left of it"
echo 1..3

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The story of the demo: a hostile document makes a real converter run an attacker's code. Natively all of that works;
# in a micro-VM with the profile for documents nothing does, the document is converted all the same, and the report of
# the audit tells it.
#
# machines: programs/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
# shellcheck source=tests/guest/scene
. "$tests/scene"
unset UVCTL_PROFILE
export XDG_STATE_HOME=$work/state
mkdir papers && cd papers || exit 1
set_the_scene

# What a step's outcome was: `outcomes FILE` has a line for each, with its name.
outcomes() { sed -n 's/^attack: \([a-z]*\) *[^:]*:*[0-9]*: /\1 /p' "$1" | sed 's/SUCCEEDED.*/works/; s/failed.*\|ended.*/stopped/'; }

# --- Natively
LD_PRELOAD=$standin pdftotext invoice.pdf native.txt 2>../native.err
report $? 'natively, the document is converted'
outcomes ../native.err >../native.outcomes
is 'natively, the attack works' 'read works write works connect works fork works heap works code works write works' \
	"$(paste -sd' ' ../native.outcomes)"
is 'somebody got what it found' 'what it found' "$(cat /tmp/stolen)"
check 'a job is planted' test -s /etc/cron.d/job
grep -q 'Invoice 4711' native.txt
report $? 'its text is that of the document'
rm -f /etc/cron.d/job /tmp/stolen open-me.sh
mv native.txt ..

# --- In a micro-VM
uvctl run --require --profile document --overlay . --keep invoice --env LD_PRELOAD="$standin" \
	--audit ../invoice.audit -- pdftotext invoice.pdf invoice.txt 2>../guest.err
is 'in a micro-VM, it is converted as well' 0 $?
grep -v '^attack: ' ../guest.err | sed 's/^/# /'
outcomes ../guest.err >../guest.outcomes
is 'and of the attack only what goes to the overlay works' \
	'read stopped write stopped connect stopped fork stopped heap stopped code stopped write works' \
	"$(paste -sd' ' ../guest.outcomes)"
sed -n 's/^attack: /# /p' ../guest.err
check 'no job is planted' test ! -e /etc/cron.d/job
check 'nobody got anything' test ! -e /tmp/stolen
is 'the directory is as it was' 'invoice.pdf' "$(ls)"

# --- What is kept of it
is 'its changes are the text, and what the attack left' $'A\tinvoice.txt\nA\topen-me.sh' \
	"$(uvctl diff invoice --name-status | grep -v '^In ')"
uvctl commit invoice invoice.txt && uvctl discard invoice
report $? 'the one is committed, the rest is thrown away'
is 'only the text is there' $'invoice.pdf\ninvoice.txt' "$(ls)"
cmp ../native.txt invoice.txt
report $? 'and is what it is natively'

# --- What is told
uvctl report ../invoice.audit >../told
report $? 'there is a report'
sed 's/^/# /' ../told
head -n 1 ../told | grep -qx 'Nothing got through: 6 attempts were refused, by the kernel (3), extended page tables (2) and a limit (1)\.'
report $? 'it begins with what comes of it'
for line in 'read /root/.ssh/id_ed25519 ' 'write /etc/cron.d/job ' "connect to $attacker (tcp)                   ENETUNREACH, by the kernel" \
	'meet the limit of processes ' 'execute what it wrote to memory '; do
	grep -qF -- "- $line" ../told
	report $? "it has: ${line% }"
done
sed -n '/^What it did that it may/,$p' ../told >../may
grep -qF "run pdftotext invoice.pdf invoice.txt" ../may && grep -qF "write $PWD/invoice.txt" ../may
report $? 'and what the task was for'
uvctl report ../invoice.audit --html ../told.html && grep -q '^<!DOCTYPE html>' ../told.html && ! grep -qi '<script' ../told.html
report $? 'also as a page'

# --- Another converter
sed -i '/^%standin fork/d; /^%standin write open/d' invoice.pdf
LD_PRELOAD=$standin pdftoppm -r 20 invoice.pdf ../native 2>../native.err
uvctl run --require --profile document --overlay . --commit --yes --env LD_PRELOAD="$standin" \
	--audit ../page.audit -- pdftoppm -r 20 invoice.pdf page 2>../guest.err
is 'pdftoppm makes its picture' 0 $?
is 'whatever is tried: natively' 'read works write works connect works heap works code works' "$(outcomes ../native.err | paste -sd' ')"
is 'and in a micro-VM' 'read stopped write stopped connect stopped heap stopped code stopped' "$(outcomes ../guest.err | paste -sd' ')"
cmp ../native-1.ppm page-1.ppm
report $? 'which is the same'

end_the_scene
finish

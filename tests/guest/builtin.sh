#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The profiles that come along: real programs of the kind that each is for do under it what they do natively, and an
# attacker, which gets away with everything natively, does with no more than the profile says.
#
# machines: programs/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
unset UVCTL_PROFILE
chmod 755 "$work"

# suffices NAME [OPTION...] -- PROGRAM [ARG...]: the same status, output and directory `made` as natively, under a
# profile; what comes in is `input`.
suffices() {
	local name=$1 native status options=()
	shift
	while [ "$1" != -- ]; do options+=("$1"); shift; done
	shift
	rm -rf made && mkdir made
	"$@" >native.out 2>native.err <input
	native=$?
	find made -type f -print0 | sort -z | xargs -0 -r sha256sum >native.made
	rm -rf made && mkdir made
	uvctl run --require "${options[@]}" -- "$@" >guest.out 2>guest.err <input
	status=$?
	find made -type f -print0 | sort -z | xargs -0 -r sha256sum >guest.made
	[ $native = 0 ] || echo "# natively it fails: $(head -n 1 native.err)"
	compare 0 "$status" out err made && [ "$native" = 0 ]
	report $? "$name"
}

# --- What is stopped
mkdir -m 700 /root/private
echo secret >/root/private/secret
gcc -O1 -no-pie -Wall -Werror -o attacker "$tests/attacker.c" && cp attacker /root/private/other
report $? 'there is an attacker'
UVISOR_SECRET=x /root/private/other listen >port &
victim=$!
for _ in $(seq 100); do [ -s port ] && break; sleep 0.1; done
# A signal to itself would be none to another process.
attack() { env UVISOR_SECRET=x "$@" ./attacker "$victim" "$(cat port)" /root/private 2>&1; }

attack >natively
is 'natively it gets away with everything' 'works' "$(cut -d' ' -f2- natively | sort -u)"
attempts=$(wc -l <natively)
rm -f /tmp/uvisor-written

# stops PROFILE WHAT...: what the attacker gets away with is this, and nothing else.
stops() {
	local profile=$1
	shift
	attack uvctl run --require --profile "$profile" -- >attacked
	is "$profile: all attempts are made" "$attempts" "$(wc -l <attacked)"
	is "$profile: an attacker can: ${*:-nothing}" "$*" "$(sed -n 's/ works$//p' attacked | paste -sd' ')"
	grep -v ' works$' attacked | paste -sd, | sed 's/^/# /'
}
stops filter
stops image temporary
stops document users temporary fork
stops compiler users temporary fork code clock counter timer
stops python users temporary fork code clock counter timer
stops default users temporary fork code clock counter timer
stops shell users temporary fork code clock counter timer
stops host secret shadow users variable fork writable-code made-code code other-program clock counter timer
kill $victim

# --- What each suffices for
seq 1 3000 | awk '{ print $1, $1 % 7, "word" $1 * 31 % 97 }' >input
filter=(--profile filter)
suffices 'filter: gzip' "${filter[@]}" -- gzip -9n
suffices 'filter: xz with threads' "${filter[@]}" -- xz -0 -T2 --block-size=32KiB
suffices 'filter: sed' "${filter[@]}" -- sed -E 's/word([0-9])/\1-/; /5 /d'
suffices 'filter: sort' "${filter[@]}" -- sort -k2,2n -k3 --parallel=2
suffices 'filter: awk' "${filter[@]}" -- awk '{ sum[$2] += $1 } END { for (i = 0; i < 7; i++) print i, sum[i] }'
suffices 'filter: sha256sum' "${filter[@]}" -- sha256sum
suffices 'filter: grep' "${filter[@]}" -- grep -c 'word[1-3]'
echo '{"a": [1, 2, {"b": "c"}]}' >input
suffices 'filter: jq' "${filter[@]}" -- jq '.a[2].b'
suffices 'filter: a script of Python' "${filter[@]}" -- python3 -c 'import json, sys; print(json.load(sys.stdin)["a"])'

mkdir given
"$tests/pdf" 'What a profile gives' >given/page.pdf
document=(--profile document --ro given --rw made)
suffices 'document: pdftotext' "${document[@]}" -- pdftotext -layout given/page.pdf -
suffices 'document: pdftoppm' "${document[@]}" -- pdftoppm -r 20 given/page.pdf made/page
suffices 'document: a script that starts it' "${document[@]}" -- bash -c 'for f in given/*.pdf; do pdfinfo "$f" | grep Pages; done'

convert -size 48x32 gradient:red-blue -strip given/a.png
image=(--profile image --ro given --rw made)
suffices 'image: convert' "${image[@]}" -- convert given/a.png -rotate 30 -resize 50% -strip -define png:exclude-chunks=date,time made/b.png
suffices 'image: identify' "${image[@]}" -- identify -format '%w %h %m\n' given/a.png
font=$(find /usr/share/fonts -name '*Sans.ttf' | head -n 1)
suffices 'image: text' "${image[@]}" -- convert -size 64x24 -font "$font" -pointsize 12 label:text -colors 4 -strip ppm:-
suffices 'image: to another format' "${image[@]}" -- convert given/a.png -strip -quality 80 jpeg:-

cat >given/hello.c <<'END'
#include <math.h>
#include <stdio.h>
#include "hello.h"
int main(int argc, char **argv)
{
	printf("%s %.6f %d\n", HELLO, sqrt(argc), argv[argc] == 0);
	return 0;
}
END
echo '#define HELLO "hello"' >given/hello.h
suffices 'compiler: gcc compiles and links' --profile compiler --ro given --rw made -- \
	gcc -O2 -Wall -Igiven -o made/hello given/hello.c -lm
is 'compiler: what it made runs' 'hello 1.000000 1' "$(made/hello)"
suffices 'compiler: through a pipe, to an object' --profile compiler --ro given --rw made -- \
	gcc -O1 -pipe -g0 -c -o made/hello.o given/hello.c

cat >given/helper.py <<'END'
WORDS = ["a", "b"]
END
cat >given/script.py <<'END'
import csv, hashlib, io, json, pathlib, re, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
import helper

with tempfile.NamedTemporaryFile("w+") as made:
    csv.writer(made).writerows([[1, "x,y"], [2, "z"]])
    made.seek(0)
    print(list(csv.reader(made)))
with ThreadPoolExecutor(2) as pool:
    print(list(pool.map(lambda text: hashlib.sha256(text.encode()).hexdigest()[:8], helper.WORDS)))
print(re.sub(r"(\d+)", r"<\1>", "a1b22"), json.dumps({"k": [1.5, None]}))
print(subprocess.run([sys.executable, "-S", "-c", "print(6 * 7)"], capture_output=True, text=True).stdout)
pathlib.Path(sys.argv[1], "made.txt").write_text("made\n")
END
export PYTHONDONTWRITEBYTECODE=1
suffices 'python: a script with modules' --profile python --ro given --rw made -- python3 given/script.py made

ordinary=(--ro given --rw made)
suffices 'default: tar' "${ordinary[@]}" --ro /usr/bin -- tar -cf made/a.tar --sort=name --mtime=@0 --owner=0 --group=0 given
suffices 'default: ls -l, with names of users' "${ordinary[@]}" -- ls -ln given
suffices 'default: date' -- date -d @86400
# shellcheck disable=SC2016
suffices 'host: a script with pipelines' --profile host --rw made -- \
	bash -c 'ls /etc | sort | head -n 3; find /usr/share/zoneinfo -name "B*" | wc -l; echo x >made/x; cat /root/private/secret'

shell=(bash --norc --noprofile -i)
timeout 150 "$tests/typist" "${shell[@]}" >native.out 2>&1
timeout 150 "$tests/typist" uvctl run --require --profile shell -it -- "${shell[@]}" >guest.out 2>&1
compare 0 0 out
report $? 'shell: at a terminal, with job control'
grep -q 'status 7' guest.out
report $? 'shell: to its end'
# shellcheck disable=SC2016
suffices 'shell: a script' --profile shell --rw made -- \
	bash -c 'for i in 1 2 3; do echo $i; done | sed s/2/two/ >made/x; (exit 3) || echo "$?"; seq 5 | xargs -n 2 echo; wc -l <made/x'

finish

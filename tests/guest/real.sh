#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Large programs of Debian's, each natively in one copy of a directory and in a micro-VM in another: what they print,
# how they end, and what is in the directory afterwards must be the same. A table has what each cost: exits, and ticks of
# the machine's clock.
#
# machines: programs/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
# shellcheck source=tests/guest/costs
. "$tests/costs"
export PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
umask 022

mkdir start
cd start || exit 1
seq 1 20000 >numbers
python3 - >text <<'END'
import random
random.seed(7)
words = ["alpha", "beta", "gamma", "delta", "Epsilon", "zeta", "eta"]
for i in range(4000):
    print(i, *random.choices(words, k=8))
END
mkdir -p dir/sub
cp text dir/one
head -n 100 text >dir/sub/two
ln -s one dir/link
cat >hello.c <<'END'
#include <math.h>
#include <pthread.h>
#include <stdio.h>
static void *work(void *arg) { *(double *)arg = sqrt(*(double *)arg); return arg; }
int main(int argc, char **argv)
{
	double x = 2;
	pthread_t thread;

	pthread_create(&thread, NULL, work, &x);
	pthread_join(thread, NULL);
	printf("hello from %s: %.12f %d\n", argv[argc - 1], x, argc);
	return 5;
}
END
"$tests/pdf" 'Real programs, as tests' 'second line' >page.pdf
cd ..

# same NAME SCRIPT: bash runs the script natively, and in a micro-VM; both have a directory and a /dev/shm to change.
same() {
	in_both "$1" bash -c "$2"
}

# --- bash
# shellcheck disable=SC2016
{
same 'bash: pipelines, subshells, traps, background jobs' '
	trap "echo trapped; echo \$x >>log" USR1 EXIT
	x=$(sort -rn numbers | head -n 3 | tr "\n" " ")
	(cd dir; x=inner; trap - EXIT; ls | wc -l; exit 4); echo "$? $x"
	for i in 3 1 2; do { sleep 0.0$i; echo "$i" >"job$i"; } & done
	wait; cat job?
	kill -USR1 $$
	while read -r n word rest; do [[ $word == Eps* ]] && ((count++)); done <text
	echo "$count ${PIPESTATUS[*]}"
	mapfile -t lines < <(grep -n gamma text | cut -d: -f1 | head -n 5); echo "${lines[@]}"
	diff <(sort numbers) <(sort -n numbers) | md5sum
	coproc { while read -r l; do echo "<$l>"; done; }; echo line >&"${COPROC[1]}"; read -r l <&"${COPROC[0]}"; echo "$l"'

# --- coreutils, findutils, tar, compressors
same 'coreutils' '
	sort -R --random-source=numbers text | sha256sum; shuf --random-source=numbers -n 3 numbers; comm -12 <(sort text) <(sort dir/one) | wc
	join <(sort text) <(sort dir/sub/two) | head -n 2; paste numbers text | tail -n 1; pr -l 20 dir/sub/two | tail -n 3
	split -n l/4 text part.; csplit -s numbers 100 {3}; cat part.* | cmp - text; fold -w 20 dir/sub/two | nl | tail -n 2
	cksum text; b2sum text; sha512sum text; base32 dir/sub/two | tail -n 1; numfmt --to=iec 1234567; df . >/dev/null; du -sb dir
	cp --reflink=auto --sparse=always -a dir copy; truncate -s 1M sparse; stat -c "%n %b %s" sparse; tsort <<<"a b b c"; timeout 0.2 sleep 5; echo $?
	stdbuf -oL head -n 1 text; nice -n 3 nice; env -C dir pwd | grep -c dir; mktemp -u x.XXXX | wc -c; nproc; tac numbers | head -n 1; od -c text | tail -n 2'
same 'sort in parallel, with files of its own' 'sort -S 100K --parallel=4 -T . text | sha256sum'
same 'findutils' '
	find . -type f -newer page.pdf -o -name "t*" | sort; find dir -type f -exec wc -l {} + | tail -n 1
	find . -name "t*" -print0 | xargs -0 -n 1 -P 4 sha256sum | sort; find . -size +10k -printf "%p %s %m\n" | sort; find dir -depth -name sub -execdir ls {} \;'
same 'tar' '
	tar -cf a.tar --sort=name --mtime=@0 --owner=0 --group=0 dir text; sha256sum a.tar; mkdir out; tar -xf a.tar -C out; tar -df a.tar
	tar -czf a.tgz dir; tar -tzvf a.tgz | wc -l; tar -cJf a.txz --mtime=@0 --sort=name dir; tar -xJf a.txz -O dir/sub/two | sha256sum
	tar -c --zstd --sort=name --mtime=@0 -f a.tzst dir; tar -x --zstd -f a.tzst -C out; rm a.tgz'
same 'xz and zstd with threads' '
	xz -T4 --block-size=64KiB -k text; xz -T4 -dc text.xz | cmp - text; xz -l text.xz | tail -n 1
	zstd -q -T4 -B64K -9 -k text; zstd -dc text.zst | cmp - text; bzip2 -k text; bzip2 -t text.bz2; sha256sum text.*'

# --- Languages
same 'perl' '
	perl -e "use strict; use POSIX; use Fcntl qw(:flock); use IO::Select; use Time::HiRes qw(alarm);
	open my \$in, q(<), q(text) or die; my %c; while (<\$in>) { \$c{\$_}++ for split } print map { qq(\$_ \$c{\$_}\n) } grep { !/\d/ } sort keys %c;
	my \$p = fork // die; if (!\$p) { exec q(echo), q(child) } waitpid \$p, 0; print \$? >> 8, qq(\n);
	\$SIG{ALRM} = sub { die qq(late\n) }; eval { alarm 0.1; select undef, undef, undef, 9 }; print \$@;
	pipe my \$r, my \$w; syswrite \$w, q(x); print scalar(IO::Select->new(\$r)->can_read(1)), qq(\n) if 0;
	open my \$o, q(>), q(made); flock \$o, LOCK_EX; print \$o qx(head -n 2 text); close \$o; print strftime(q(%F), gmtime 86400), qq(\n); exit 6"'
same 'sqlite3 with a write-ahead log' '
	sqlite3 base.db "PRAGMA journal_mode=WAL; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000) INSERT INTO t SELECT i, hex(i*i) FROM n; CREATE INDEX i ON t(b); SELECT count(*), sum(a) FROM t WHERE b > 5;"
	sqlite3 base.db "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA integrity_check"; sqlite3 base.db .dump | sha256sum; ls; rm base.db*'
same 'two processes and a write-ahead log' '
	sqlite3 base.db "PRAGMA journal_mode=WAL; CREATE TABLE t(a);"
	for i in 1 2 3; do (for j in 1 2 3 4 5; do sqlite3 -cmd ".timeout 20000" base.db "INSERT INTO t VALUES($i*10+$j)"; done) & done; wait
	sqlite3 base.db "SELECT count(*), sum(a) FROM t; PRAGMA journal_mode=DELETE; VACUUM"; rm base.db'
same 'gcc compiles a program, and it runs' 'gcc -O2 -Wall -pthread -o hello hello.c -lm && ./hello a; echo $?; gcc -S -O1 hello.c; gcc -c -g hello.c; gcc -fsyntax-only -Wall -Werror -xc - <<<"int main(void) { int x; }"'
same 'git: init, commit, clone, branch, merge, gc' '
	export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_AUTHOR_DATE=@0+0000 GIT_COMMITTER_DATE=@0+0000
	git init -q -b main made; cd made; cp ../text ../hello.c .; git add .; git commit -q -m first; git checkout -q -b other; sed -i 1d text; git commit -qam second
	git checkout -q main; echo x >x; git add x; git commit -qm third; git merge -q -m merge other; git log --oneline --graph; git fsck --strict; cd ..
	git clone -q made clone; git clone -q --no-local --depth 1 "file://$PWD/made" shallow; cd clone; git diff HEAD~1 --stat; git gc -q; git count-objects -v | grep -v size; git status --short; cd ..; rm -rf made/.git/index clone shallow'

# --- Pictures and sound
same 'pdftotext and pdftoppm' 'pdftotext -layout page.pdf -; pdftoppm -r 50 page.pdf page 2>/dev/null; pdfinfo page.pdf'
same 'ImageMagick' 'convert -size 160x120 gradient:red-blue -rotate 30 -blur 0x2 -strip a.ppm; convert a.ppm -resize 50% -strip -define png:exclude-chunks=date,time b.png; identify -format "%w %h %m\n" a.ppm b.png; convert b.png -colors 16 b.gif; compare -metric AE a.ppm a.ppm null: 2>&1'
same 'ffmpeg, which uses vector instructions' 'ffmpeg -v error -nostdin -f lavfi -i testsrc=duration=0.4:size=128x96:rate=10 -f lavfi -i sine=duration=0.4 -c:v mpeg4 -c:a aac -threads 4 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact a.mkv; ffprobe -v error -show_entries stream=codec_name,width,nb_read_frames -count_frames -of csv a.mkv; ffmpeg -v error -i a.mkv -f framemd5 -fflags +bitexact - </dev/null'

# --- Static ones, and those that make their code
same 'node, whose code is made while it runs' '
	node -e "
	const hot = n => { let s = 0; for (let i = 0; i < n; i++) s = (s * 31 + i) | 0; return s; };
	console.log(hot(3e6), [3, 1, 2].sort(), require(\"crypto\").createHash(\"sha256\").update(\"x\").digest(\"hex\"));
	const { Worker } = require(\"worker_threads\"); const fs = require(\"fs\");
	fs.writeFileSync(\"made\", JSON.stringify({ a: [1, { b: 2 }] }));
	new Worker(\"require(\\\"worker_threads\\\").parentPort.postMessage(6*7)\", { eval: true }).on(\"message\", m => console.log(\"worker\", m));
	require(\"child_process\").execFile(\"echo\", [\"child\"], (e, out) => setTimeout(() => console.log(e, out), 300));
	fs.promises.readFile(\"numbers\").then(b => console.log(b.length));
	process.on(\"exit\", () => { process.exitCode = 7; });
	WebAssembly.instantiate(Uint8Array.from([0,97,115,109,1,0,0,0])).then(m => setTimeout(() => console.log(Object.keys(m).join()), 500));"'
same 'Go: fzf, miller' 'seq 1 3000 | fzf -f 299 | head -n 3; mlr --icsv --ojson stats1 -a mean,p50,count -f a <<<"a,b
1,2
5,6"; mlr --icsv --opprint sort -nr 1 --implicit-csv-header numbers | head -n 3'
same 'Go: runsc' 'runsc --version | head -n 1; runsc help | wc -l; runsc --root ./state list; echo $?'
same 'Rust: a static program' 'rust-static text 2>&1 | sed "s/[0-9]* *) panicked/) panicked/"; echo "${PIPESTATUS[0]}"'
same 'Rust: ripgrep with threads' 'rg -j 4 -c gamma . --sort path; rg -j 4 --files | sort; rg -o "\b1\d{3}\b" numbers | tail -n 1'
same 'busybox applets' '
	for a in ash awk basename bc cat cksum cmp comm cp cut dc dd df dirname du echo env expand expr factor false find fold grep gunzip gzip head hexdump id install ln ls md5sum mkdir mkfifo mktemp mv nl nproc od paste patch pidof printf pwd readlink realpath rm rmdir sed seq sha1sum sha256sum shuf sort split stat strings sum tac tail tar tee test timeout touch tr true truncate tsort uname uniq unlink unxz vi wc which xargs xxd yes zcat; do busybox --list | grep -qx $a || echo "no $a"; done
	b="busybox"; $b ash -c "x=\$(echo a | $b cat); echo \$x; (exit 3); echo \$?"; $b awk "END { print NR }" text; $b bc <<<"2^70"; $b sort -n numbers | $b tail -n 1; $b md5sum text; $b tar cf - dir | $b tar tf - | $b sort
	$b find dir -type f | $b xargs $b sha1sum; $b gzip -kc text | $b gunzip | $b cmp - text; $b vi -c ":1d" -c ":wq" dir/sub/two </dev/null >/dev/null 2>&1; $b stat -c "%n %s" text; $b yes | $b head -n 2; $b timeout 1 $b sleep 9; echo $?; $b seq 3 | $b xargs -n 1 -P 2 $b echo | $b sort; $b xxd text | $b head -n 2; $b diff text dir/one; $b ps >/dev/null; $b id -u; $b mkdir -p m/n; $b touch m/n/o; $b mv m q; $b ln -s q/n l; $b cp -r q r; $b rm -r q'
}

costs
finish

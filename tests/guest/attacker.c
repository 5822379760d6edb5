// SPDX-License-Identifier: GPL-2.0
/*
 * Tries what a program should not get away with where it is confined, and prints of each attempt whether it worked, or
 * with which error it did not. Natively, as root, all must work.
 *
 *   attacker listen             listens on the loopback, prints its port, and waits to be killed
 *   attacker PID PORT DIR       attacks the process PID, and port PORT; DIR has `secret`, and a program `other`
 *
 * A program that it has become goes on with the attempt behind.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int victim, port;
static char *directory;
static char path[512];

static const char *in_directory(const char *name)
{
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return path;
}

/* Whether there is anything to read in a file. */
static int read_of(const char *file)
{
	/* A message of the kernel's is read as a whole. */
	static char bytes[8192];
	int fd = open(file, O_RDONLY | O_NONBLOCK), got;

	if (fd < 0)
		return -1;
	got = read(fd, bytes, sizeof(bytes));
	close(fd);
	return got;
}

static int secret(void) { return read_of(in_directory("secret")); }
static int shadow(void) { return read_of("/etc/shadow"); }
static int users(void) { return read_of("/etc/passwd"); }
static int kernel_log(void) { return read_of("/dev/kmsg"); }

static int environment_of_victim(void)
{
	char name[64];

	snprintf(name, sizeof(name), "/proc/%d/environ", victim);
	return read_of(name);
}

static int variable(void)
{
	if (!getenv("UVISOR_SECRET"))
		errno = ENOENT;
	return getenv("UVISOR_SECRET") ? 0 : -1;
}

static int write_to(const char *file)
{
	int fd = open(file, O_WRONLY | O_CREAT, 0644);

	return fd < 0 ? -1 : close(fd) | unlink(file);
}

static int make_file(void) { return write_to(in_directory("made")); }
static int temporary(void) { return write_to("/tmp/uvisor-made"); }

static int reach(void)
{
	struct sockaddr_in to = { AF_INET, htons(port), { htonl(INADDR_LOOPBACK) }, "" };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return fd < 0 ? -1 : connect(fd, (void *)&to, sizeof(to));
}

static int process(void)
{
	int child = fork();

	if (child == 0)
		_exit(0);
	return child < 0 ? -1 : waitpid(child, NULL, 0);
}

static int signal_victim(void) { return kill(victim, SIGCONT); }

static int trace(void)
{
	if (ptrace(PTRACE_ATTACH, victim, 0, 0))
		return -1;
	waitpid(victim, NULL, __WALL);
	return ptrace(PTRACE_DETACH, victim, 0, 0);
}

static int memory_of_victim(void)
{
	/* It is the same program at the same place. */
	char buffer[4];
	struct iovec to = { buffer, 4 }, from = { in_directory, 4 };

	return process_vm_readv(victim, &to, 1, &from, 1, 0);
}

static int writable_code(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
}

static int made_code(void)
{
	unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*code = 0xc3;
	if (mprotect(code, 4096, PROT_READ | PROT_EXEC))
		return -1;
	((void (*)(void))code)();
	return 0;
}

static sigjmp_buf behind;

static void go_on(int number) { siglongjmp(behind, number); }

/* Reads the code that it is. */
static int code(void)
{
	struct sigaction action = { .sa_handler = go_on }, before;
	int number;

	sigaction(SIGSEGV, &action, &before);
	number = sigsetjmp(behind, 1);
	if (!number)
		number = *(volatile unsigned char *)code ? 0 : SIGSEGV;
	sigaction(SIGSEGV, &before, NULL);
	errno = EFAULT;
	return number ? -1 : 0;
}

static int set_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return clock_settime(CLOCK_REALTIME, &now);
}

/* The shortest time between two readings of a clock that differ; it is precise if that is less than half a millisecond. */
static int precise(unsigned long long (*read_clock)(void), unsigned long long in_second)
{
	unsigned long long last = read_clock(), now, least = -1;

	for (int changes = 0; changes < 3; last = now) {
		now = read_clock();
		if (now == last)
			continue;
		if (now - last < least)
			least = now - last;
		changes++;
	}
	errno = ERANGE;
	return least < in_second / 2000 ? 0 : -1;
}

static unsigned long long ticks(void) { return __builtin_ia32_rdtsc(); }

static unsigned long long nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static unsigned long long until_timer(void)
{
	struct itimerval left;

	getitimer(ITIMER_REAL, &left);
	return 1000000000ULL - left.it_value.tv_sec * 1000000ULL - left.it_value.tv_usec;
}

/* How many ticks of the counter there are in a second, more or less. */
static unsigned long long frequency(void)
{
	unsigned long long start = nanoseconds(), before = ticks(), now;

	do
		now = nanoseconds();
	while (now - start < 20000000);
	return (ticks() - before) * 1000000000 / (now - start);
}

static int clock_of_time(void) { return precise(nanoseconds, 1000000000); }
static int counter(void) { return precise(ticks, frequency()); }

static int timer(void)
{
	struct itimerval long_one = { { 0, 0 }, { 1000, 0 } }, none = { { 0, 0 }, { 0, 0 } };
	int result;

	setitimer(ITIMER_REAL, &long_one, NULL);
	result = precise(until_timer, 1000000);
	setitimer(ITIMER_REAL, &none, NULL);
	errno = ERANGE;
	return result;
}

static int namespace(void) { return unshare(CLONE_NEWNS); }
static int mount_it(void) { return mount("none", in_directory("."), "tmpfs", 0, "") ? -1 : umount(path); }
static int device(void) { return mknod(in_directory("device"), S_IFCHR | 0600, makedev(1, 1)) ? -1 : unlink(path); }

/* What takes the place of this program by an attempt. */
static const char *becomes;

static int other_program(void)
{
	becomes = in_directory("other");
	return 0;
}

static int written_program(void)
{
	static char bytes[1 << 17];
	int from = open("/proc/self/exe", O_RDONLY), to = open("/tmp/uvisor-written", O_WRONLY | O_CREAT | O_TRUNC, 0755);
	int got = read(from, bytes, sizeof(bytes));

	if (from < 0 || to < 0 || got <= 0 || write(to, bytes, got) != got)
		return -1;
	close(to);
	becomes = "/tmp/uvisor-written";
	return 0;
}

static const struct {
	const char *name;
	int (*attempt)(void);
} attempts[] = {
	{ "secret", secret },
	{ "shadow", shadow },
	{ "users", users },
	{ "variable", variable },
	{ "make-file", make_file },
	{ "temporary", temporary },
	{ "reach", reach },
	{ "fork", process },
	{ "signal", signal_victim },
	{ "trace", trace },
	{ "memory", memory_of_victim },
	{ "environ", environment_of_victim },
	{ "writable-code", writable_code },
	{ "made-code", made_code },
	{ "code", code },
	{ "other-program", other_program },
	{ "written-program", written_program },
	{ "kernel-log", kernel_log },
	{ "set-clock", set_clock },
	{ "clock", clock_of_time },
	{ "counter", counter },
	{ "timer", timer },
	{ "namespace", namespace },
	{ "mount", mount_it },
	{ "device", device },
};

static int wait_there(void)
{
	struct sockaddr_in at = { AF_INET, 0, { htonl(INADDR_LOOPBACK) }, "" };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(fd, (void *)&at, len) || listen(fd, 9) || getsockname(fd, (void *)&at, &len))
		return 1;
	printf("%d\n", ntohs(at.sin_port));
	fflush(stdout);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	int count = sizeof(attempts) / sizeof(*attempts);
	int i = argc > 4 ? atoi(argv[4]) : 0;

	if (argc == 2)
		return wait_there();
	victim = atoi(argv[1]);
	port = atoi(argv[2]);
	directory = argv[3];
	/* It was an attempt to be here. */
	if (argc > 4)
		printf("%s works\n", attempts[i++].name);
	for (; i < count; i++) {
		int result = attempts[i].attempt();

		if (result >= 0 && becomes) {
			char next[16];

			snprintf(next, sizeof(next), "%d", i);
			fflush(stdout);
			execl(becomes, becomes, argv[1], argv[2], argv[3], next, NULL);
			result = -1;
		}
		becomes = NULL;
		printf("%s %s\n", attempts[i].name, result < 0 ? strerrorname_np(errno) : "works");
	}
	return 0;
}
